"""Classification of the words of a column: numbers, marks of missing values, limits, or text.

Legend: W distinct words.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from healthgym.data.describe.words import Column

EMPTY = frozenset(("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>"))
"""Settings with which a table is read by default (`healthgym.data.tables.reading`)."""
_MARKS = frozenset(
    (".", "..", "...", "-", "--", "?", "*", "#value!", "#div/0!", "na", "n/a", "n.a.", "nan", "null")
)
_MARKS_AMONG_NUMBERS = frozenset(
    ("unknown", "unk", "missing", "not done", "notdone", "nd", "n.d.", "k.a.", "none", "nil", "not measured",
     "not recorded", "not available", "no data", "x", "inf", "error", "hemolyzed", "haemolysed", "pending")
)  # fmt: skip
_LIMIT = re.compile(r"([<>≤≥]=?)\s*([+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?)")
_WITH_UNIT = re.compile(r"[+-]?\d+([.,]\d+)?\s*([^\d\s.,].{0,15})")
_BELOW_ZERO = (-9.0, -99.0, -999.0, -9999.0, -99999.0, -999999.0, -888.0, -777.0)
_LARGE = (888.0, 999.0, 8888.0, 9998.0, 9999.0, 99999.0, 999999.0)
_FEW_TEXTS = 0.02  # of a column's values that may be text among numbers


@dataclass(frozen=True)
class Reading:
    """How a column is read.

    Args:
        missing_W: whether each word means a missing value.
        numbers_W: the numbers, NaN for other words; all NaN if the column is text.
        read_as: the schema's `read_as` for words other than plain numbers and empty fields.
        doubts: what could not be decided.
    """

    missing_W: NDArray[np.bool_]
    numbers_W: NDArray[np.float64]
    read_as: dict[str, str | None] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return bool(np.isfinite(self.numbers_W).any())


def read(column: Column) -> Reading:
    """Return how a column is read: as numbers if nearly all of it are such."""
    words, counts = column.words, column.counts_W
    empty_W = np.array([word in EMPTY for word in words])
    marked_W = np.array([word.lower() in _MARKS and word not in EMPTY for word in words])
    missing_W = empty_W | marked_W
    numbers_W = np.where(missing_W, np.nan, column.numbers_W)
    limits = {w: found for w, word in enumerate(words) if (found := _LIMIT.fullmatch(word))}
    few_W = np.array([word.lower() in _MARKS_AMONG_NUMBERS for word in words]) & ~missing_W
    limit_W = np.array([w in limits for w in range(len(words))])
    text_W = np.isnan(numbers_W) & ~missing_W & ~few_W & ~limit_W
    values = int(counts[~missing_W & ~few_W].sum())
    several = np.isfinite(numbers_W).sum() >= 2 or (np.isfinite(numbers_W).any() and limit_W.any())
    # 0, 1 and unknown are three classes; 36.5, 37.1 and unknown are numbers, one of them missing.
    classes = few_W.any() and np.isfinite(numbers_W).sum() <= 5
    if not several or classes or counts[text_W].sum() > _FEW_TEXTS * max(values, 1):
        return _as_text(column, missing_W, marked_W, few_W)
    doubts = []
    read_as: dict[str, str | None] = {words[w]: None for w in np.flatnonzero(marked_W | few_W | text_W)}
    if text_W.any():
        shown = ", ".join(f"'{words[w]}' ({counts[w]:,} rows)" for w in np.flatnonzero(text_W)[:3])
        doubts.append(f"'{column.name}': {shown} among numbers: read as missing")
    for w, found in limits.items():
        value = _at_limit(found)
        read_as[words[w]] = f"{value:g}"
        numbers_W[w] = value
    missing_W = missing_W | few_W | text_W
    if limits:
        rows = int(counts[limit_W].sum())
        doubts.append(
            f"'{column.name}': {rows:,} rows hold a limit such as '{words[next(iter(limits))]}': below one, "
            "half of it is taken, above one, the limit; `read_as` says so"
        )
    return _without_sentinels(column, Reading(missing_W, numbers_W, read_as, tuple(doubts)))


def _as_text(
    column: Column,
    missing_W: NDArray[np.bool_],
    marked_W: NDArray[np.bool_],
    few_W: NDArray[np.bool_],
) -> Reading:
    words, counts = column.words, column.counts_W
    read_as: dict[str, str | None] = {words[w]: None for w in np.flatnonzero(marked_W)}
    doubts = []
    # The word None beside empty fields is a class: no drug, no symptom.
    nothing_W = np.array([word in ("None", "none") for word in words])
    if nothing_W.any() and counts[np.array([word == "" for word in words])].sum() > 0:
        missing_W = missing_W & ~nothing_W
    elif nothing_W.any():
        doubts.append(
            f"'{column.name}': 'None' is read as a missing value; declare it as a class if it is one"
        )
    with_unit = [found[2] for word in words if (found := _WITH_UNIT.fullmatch(word))]
    if len(with_unit) > 0.8 * max(1, len(words) - missing_W.sum()) and len(words) > 10:
        doubts.append(
            f"'{column.name}': numbers with the unit '{with_unit[0]}' in each field: take it out, and the "
            "column can be a real variable"
        )
    return Reading(missing_W, np.full(len(words), np.nan), read_as, tuple(doubts))


def _at_limit(found: "re.Match[str]") -> float:
    """Return the number for a value that is only known to be below or above a limit.

    Source: half of a limit of detection, Hornung and Reed, Appl. Occup. Environ. Hyg. 1990, 5:46-51.
    """
    limit = float(found[2])
    return limit / 2 if found[1][0] in "<≤" and limit > 0 else limit


def _without_sentinels(column: Column, reading: Reading) -> Reading:
    """Read numbers that mean a missing value, such as -999, as missing."""
    numbers, counts = reading.numbers_W, column.counts_W
    known = np.isfinite(numbers)
    suspects = known & np.isin(numbers, (*_BELOW_ZERO, *_LARGE, -1.0))
    rest = numbers[known & ~suspects]
    if not suspects.any() or not len(rest):
        return _with_doubtful_zero(column, reading)
    low, high = float(rest.min()), float(rest.max())
    sure, doubts = np.zeros(len(numbers), bool), list(reading.doubts)
    for w in np.flatnonzero(suspects):
        value, rows = numbers[w], int(counts[w])
        if value in _BELOW_ZERO:
            sure[w] = value < low - (0 if low >= 0 else 2 * (high - low))
        elif value == -1:
            sure[w] = low >= 2 and rows > 1
        else:
            sure[w] = value > 2 * high > 0 and rows > 1
        if not sure[w] and not low - 1 < value <= high:
            doubts.append(
                f"'{column.name}': {value:g} stands in {rows:,} rows, apart from {low:g} to {high:g}: if it "
                f"means that nothing was measured, write read_as: {{{value:g}: null}}"
            )
    read_as = reading.read_as | {column.words[w]: None for w in np.flatnonzero(sure)}
    left = Reading(reading.missing_W | sure, np.where(sure, np.nan, numbers), read_as, tuple(doubts))
    return _with_doubtful_zero(column, left)


def _with_doubtful_zero(column: Column, reading: Reading) -> Reading:
    """Note zeros that lie far below all other numbers."""
    numbers, counts = reading.numbers_W, column.counts_W
    zero, rest = numbers == 0, numbers[np.isfinite(numbers) & (numbers != 0)]
    if not zero.any() or len(rest) < 10:
        return reading
    share = counts[zero].sum() / max(1, counts[np.isfinite(numbers)].sum())
    if share > 0.5 or rest.min() < 0.25 * np.median(rest) or rest.min() <= 2:
        return reading
    note = (
        f"'{column.name}': 0 stands in {int(counts[zero].sum()):,} rows, and the rest begins at "
        f"{rest.min():g}: if it means that nothing was measured, write read_as: {{0: null}}"
    )
    return Reading(reading.missing_W, numbers, reading.read_as, (*reading.doubts, note))
