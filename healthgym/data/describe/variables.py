"""The kind of each column that is not a key: real, binary or categorical, or left out.

Legend: N rows, W distinct words.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from healthgym.data.describe.keys import Keys, read_times
from healthgym.data.describe.names import is_identifier, is_row_counter, rank_as_time
from healthgym.data.describe.reading import Reading, read
from healthgym.data.describe.units import unit_of
from healthgym.data.describe.words import Column, Words

_MOST_CLASSES = 10  # of whole numbers
_MOST_WORDS = 256
_LONG_TEXT = 80
_RARE = 10
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Found:
    """What was found of one column.

    Args:
        name: of the column.
        kind: real, binary or categorical; empty if it is left out.
        evidence: in words.
        classes: {code: label} of a binary or categorical variable.
        static: whether it is constant within every patient.
        missing_N: which rows have no value.
        read_as: how words are read, as a schema has it.
        unit, offset: of a real variable.
        fill: `first`, if a patient's first value is meant for all its rows.
        flag: name of its measured flag, if values are missing.
        doubts: what could not be decided.
    """

    name: str
    kind: str
    evidence: str
    classes: dict[str, str] = field(default_factory=dict)
    static: bool = False
    missing_N: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    read_as: dict[str, str | None] = field(default_factory=dict)
    unit: str = ""
    offset: float = 0.0
    fill: str = ""
    flag: str = ""
    doubts: tuple[str, ...] = ()


def find_variables(table: Words, keys: Keys) -> list[Found]:
    """Return what each column is, but for the keys."""
    beside = [c for c in table.columns if c is not keys.patient and c is not keys.times.column]
    found = [_without_key_copies(column, keys) or _find(column, keys) for column in beside]
    found = [
        each if each.name.isprintable() else Found(each.name, "", "has a name that not every file can hold")
        for each in found
    ]
    found += [
        Found(name, "", "appears twice in the header: rename one of the columns") for name in table.twice
    ]
    return _with_flags(found, beside, keys)


def _without_key_copies(column: Column, keys: Keys) -> Found | None:
    """Return why a column is left out that says nothing beside the keys."""
    rows_N = np.arange(len(column.codes_N))
    if is_row_counter(column.name) and any(np.array_equal(column.numbers_N, rows_N + k) for k in (0, 1)):
        return Found(column.name, "", "numbers the rows")
    if column.name in keys.others and is_identifier(column.name):
        return Found(column.name, "", f"an identifier beside '{keys.patient.name}'")
    numbers = column.numbers_N
    if not np.isfinite(numbers).all():
        return _name_of_time(column, keys)
    time_N, order, same = keys.times.values_N, keys.order_N, keys.same_N
    if len(numbers) and np.allclose(numbers, time_N, rtol=1e-9, atol=1e-9):
        return Found(column.name, "", f"equals '{keys.times.column.name}' in every row")
    sorted_N = numbers[order]
    following = same[1:]
    if following.any():
        if np.allclose(sorted_N[:-1][following], time_N[order][1:][following], rtol=1e-9, atol=1e-9):
            return Found(column.name, "", f"is the '{keys.times.column.name}' of the patient's next row")
        starts = np.flatnonzero(~same)
        within = np.arange(len(same)) - np.repeat(starts, np.diff(np.append(starts, len(same))))
        if any(np.array_equal(sorted_N, within + first) for first in (0, 1)):
            return Found(column.name, "", "counts each patient's rows")
    return None


def _name_of_time(column: Column, keys: Keys) -> Found | None:
    """Return why a text column that repeats the time in words ("Visit 2" beside 2) is left out."""
    times = keys.times.column
    pairs = np.unique(np.stack([column.codes_N, times.codes_N]), axis=1).shape[1]
    if not rank_as_time(column.name) or not pairs == len(column.words) == len(times.words):
        return None
    return Found(column.name, "", f"says in words what '{times.name}' says")


def _find(column: Column, keys: Keys) -> Found:
    reading = read(column)
    present_W = ~reading.missing_W
    num_values = int(column.counts_W[present_W].sum())
    if not num_values:
        return Found(column.name, "", "has no value in any row", doubts=reading.doubts)
    if reading.numeric:
        return _numbers(column, reading, keys)
    distinct = int(present_W.sum())
    if distinct == 1 and (mark := _mark_of_presence(column, reading)):
        return _with_time(mark, column, replace(reading, missing_W=np.zeros_like(reading.missing_W)), keys)
    if distinct == 1:
        return Found(
            column.name, "", f"is '{column.words[int(np.argmax(present_W))]}' wherever it has a value"
        )
    dates = read_times(_present(column, present_W))
    if dates is not None and dates.format:
        why = "holds dates, which no variable can: give days since the patient's first row, if they matter"
        return Found(column.name, "", why)
    return _words(column, reading, keys, distinct, num_values)


def _mark_of_presence(column: Column, reading: Reading) -> Found | None:
    """Return a column that says yes where something is so, and is empty elsewhere, as a binary variable."""
    (word,) = (column.words[w] for w in np.flatnonzero(~reading.missing_W))
    empty = int(column.counts_W[reading.missing_W].sum())
    if not empty or word.lower() not in ("1", "true", "yes", "y", "x", "ja", "j"):
        return None
    no = {"1": "0", "True": "False"}.get(word, "no")
    said = f"'{word}' in {len(column.codes_N) - empty:,} rows, empty in the others, taken for '{no}'"
    doubt = (
        f"'{column.name}': an empty field is taken for '{no}'; if it means that nothing was recorded, leave "
        f"the column out"
    )
    read_as = {"": no} | dict.fromkeys(reading.read_as, no)
    return Found(column.name, "binary", said, {no: no, word: word}, read_as=read_as, doubts=(doubt,))  # type: ignore[arg-type]


def _present(column: Column, present_W: NDArray[np.bool_]) -> Column:
    """Return a column of the rows that have a value."""
    kept = np.flatnonzero(present_W)
    place_W = np.cumsum(present_W) - 1
    codes = column.codes_N[column.rows_with(present_W)]
    return Column(column.name, place_W[codes].astype(np.int32), tuple(column.words[w] for w in kept))


def _words(column: Column, reading: Reading, keys: Keys, distinct: int, num_values: int) -> Found:
    words = [column.words[w] for w in np.flatnonzero(~reading.missing_W)]
    static, _ = _static(column, reading, keys)
    of = keys.num_patients if static else num_values
    many = (
        distinct > _MOST_WORDS
        or (distinct > 20 and distinct > of / 10)
        or (distinct > 5 and distinct > 0.7 * of)
    )
    if many or max(map(len, words)) > _LONG_TEXT or any(not word.isprintable() for word in words):
        what = "an identifier or free text" if many else "free text"
        return Found(
            column.name,
            "",
            f"{distinct:,} different words, e.g. '{words[0][:40]}': {what}",
            doubts=reading.doubts,
        )
    counts = {column.words[w]: int(column.counts_W[w]) for w in np.flatnonzero(~reading.missing_W)}
    alike: dict[str, list[str]] = {}
    for word in words:
        alike.setdefault(word.casefold(), []).append(word)
    doubts = [
        f"'{column.name}': {' and '.join(repr(w) for w in several)} differ in capital letters only; if they "
        "mean the same, write them alike in the table"
        for several in alike.values()
        if len(several) > 1
    ]
    return _classes(column, replace(reading, doubts=(*reading.doubts, *doubts)), keys, sorted(words), counts)


def _numbers(column: Column, reading: Reading, keys: Keys) -> Found:
    known_W = np.isfinite(reading.numbers_W)
    values, counts = reading.numbers_W[known_W], column.counts_W[known_W]
    distinct, rows = len(np.unique(values)), int(counts.sum())
    if distinct == 1:
        return Found(column.name, "", f"is {values[0]:g} wherever it has a value", doubts=reading.doubts)
    static, _ = _static(column, reading, keys)
    whole = bool((values == np.round(values)).all())
    if is_identifier(column.name) and whole and distinct > 0.9 * (keys.num_patients if static else rows):
        return Found(column.name, "", f"{distinct:,} different numbers: an identifier by its name")
    limits = any(value is not None for value in reading.read_as.values())
    if distinct == 2 and not limits:
        return _number_classes(column, reading, keys, "two values")
    few = (distinct <= _MOST_CLASSES and rows >= 20 * distinct) or (distinct <= 5 and rows >= 5 * distinct)
    if whole and few and values.min() >= 0 and values.max() <= 30 and not limits:
        why = "few whole numbers, taken for classes (if they are amounts: kind: real, without classes)"
        return _number_classes(column, reading, keys, why)
    return _real(column, reading, keys)


def _number_classes(column: Column, reading: Reading, keys: Keys, why: str) -> Found:
    known = np.flatnonzero(np.isfinite(reading.numbers_W))
    ordered = sorted(known, key=lambda w: float(reading.numbers_W[w]))
    counts = {column.words[w]: int(column.counts_W[w]) for w in ordered}
    return _classes(column, reading, keys, [column.words[w] for w in ordered], counts, why)


def _classes(
    column: Column, reading: Reading, keys: Keys, words: list[str], counts: dict[str, int], why: str = ""
) -> Found:
    shown = ", ".join(f"{word} {counts[word]:,}" for word in words[:6]) + (", ..." if len(words) > 6 else "")
    said = f"{why}: {shown} rows" if why else f"words: {shown} rows"
    patients_W = {word: _patients_with(column, word, keys) for word in words}
    rare = [word for word in words if patients_W[word] < _RARE]
    if rare and keys.num_patients >= 10 * _RARE:
        shown = ", ".join(f"'{word}'" for word in rare[:4]) + (" and more" if len(rare) > 4 else "")
        said += f"; fewer than {_RARE} patients have {shown}"
    found = Found(
        column.name,
        "binary" if len(words) == 2 else "categorical",
        said,
        dict.fromkeys(words),  # type: ignore[arg-type]
        doubts=reading.doubts,
        read_as=dict(reading.read_as),
    )
    found = replace(found, classes={word: word for word in words})
    return _with_time(found, column, reading, keys)


def _patients_with(column: Column, word: str, keys: Keys) -> int:
    chosen_W = np.array([each == word for each in column.words])
    return len(np.unique(keys.patient_N[column.rows_with(chosen_W)]))


def _real(column: Column, reading: Reading, keys: Keys) -> Found:
    known_W = np.isfinite(reading.numbers_W)
    numbers_N = reading.numbers_W[column.codes_N]
    values = numbers_N[np.isfinite(numbers_N)]
    low, high, median = float(values.min()), float(values.max()), float(np.median(values))
    unit, why = unit_of(column.name, median)
    said = f"{int(known_W.sum()):,} different numbers, {low:g} to {high:g}" + (
        f"; unit: {why}" if unit else ""
    )
    offset = 0.0
    if low < 0:
        step = 10.0 ** np.floor(np.log10(-low))
        offset = float(next(k * step for k in (2, 5, 10, 20) if k * step > -1.2 * low))
        said += "; the offset makes it positive, for the Box-Cox transform"
    found = Found(
        column.name,
        "real",
        said,
        read_as=dict(reading.read_as),
        unit=unit,
        offset=offset,
        doubts=reading.doubts,
    )
    return _with_time(found, column, reading, keys)


# --- constant within a patient, and missing ----------------------------------------------------------


def _static(column: Column, reading: Reading, keys: Keys) -> tuple[bool, int]:
    """Return whether a column is constant within every patient, and in how many it changes."""
    order = keys.order_N
    value_W = reading.numbers_W if reading.numeric else np.arange(len(column.words), dtype=np.float64)
    known = ~reading.missing_W[column.codes_N[order]]
    value_N, patient_N = value_W[column.codes_N[order]][known], keys.patient_N[order][known]
    same = patient_N[1:] == patient_N[:-1]
    if not same.any():  # one value a patient: meant for all its rows if it stands in the first
        first_N = order[~keys.same_N]
        return bool(keys.same_N.any()) and np.array_equal(np.sort(first_N), np.sort(order[known])), 0
    changes = same & (value_N[1:] != value_N[:-1])
    return not changes.any(), len(np.unique(patient_N[1:][changes]))


def _with_time(found: Found, column: Column, reading: Reading, keys: Keys) -> Found:
    """Return a variable with its behaviour over time: constant or not, missing or not."""
    static, changing = _static(column, reading, keys)
    missing_N = column.rows_with(reading.missing_W)
    doubts, said = list(found.doubts), found.evidence
    several = int((keys.lengths_P > 1).sum())
    if static:
        said += f"; constant within all {several:,} patients of several rows"
        if several < 10:
            doubts.append(
                f"'{found.name}' is constant within the {several} patients who have several rows, too few to "
                "be sure"
            )
    elif changing <= max(1, several // 100) and several >= 100:
        doubts.append(
            f"'{found.name}' changes within {changing:,} of {several:,} patients only: if it should be "
            "constant, correct the table and write static: true"
        )
    if missing_N.any():
        said += (
            f"; {missing_N.mean():.1%} missing"
            if missing_N.mean() >= 0.0005
            else f"; {missing_N.sum():,} missing"
        )
    found = replace(found, static=static, missing_N=missing_N, evidence=said, doubts=tuple(doubts))
    return _static_with_gaps(found, keys) if static and missing_N.any() else found


def _static_with_gaps(found: Found, keys: Keys) -> Found:
    """Return what becomes of a constant variable that some rows, or patients, have no value of."""
    known_P = np.bincount(keys.patient_N, ~found.missing_N)
    without = known_P == 0
    if not without.any():
        said = f"{found.evidence}, but a row of each patient has it"
        return replace(found, fill="first", evidence=said, missing_N=np.zeros_like(found.missing_N))
    number = int(without.sum())
    if found.kind != "real" and (known_P[~without] == keys.lengths_P[~without]).all():
        classes = {**found.classes, NOT_RECORDED: NOT_RECORDED}
        said = f"{found.evidence}: {number:,} patients have none, which is a class of its own"
        marks: dict[str, str | None] = dict.fromkeys((*found.read_as, ""), NOT_RECORDED)
        kind = "categorical"
        none = np.zeros_like(found.missing_N)
        return replace(found, kind=kind, classes=classes, read_as=marks, evidence=said, missing_N=none)
    doubt = (
        f"'{found.name}' is constant but {number:,} patients have no value, and a static variable needs one: "
        "it is taken as one that may change. Fill it in and write static: true, or leave it so"
    )
    return replace(found, static=False, doubts=(*found.doubts, doubt))


def _with_flags(found: list[Found], columns: list[Column], keys: Keys) -> list[Found]:
    """Return variables that have missing values with the flags that say so: one for each pattern of gaps."""
    by_name = {column.name: column for column in columns}
    taken = {keys.patient.name, keys.times.column.name, *(each.name for each in found)}
    shared: dict[bytes, str] = {}
    named = []
    for each in found:
        if each.kind and each.missing_N.any():
            pattern = np.packbits(each.missing_N).tobytes()
            if pattern not in shared:
                shared[pattern] = _flag_of(each, found, by_name) or _new_name(f"{each.name} (M)", taken)
                taken.add(shared[pattern])
            each = replace(each, flag=shared[pattern])
        named.append(each)
    return named


def _flag_of(variable: Found, found: list[Found], columns: dict[str, Column]) -> str:
    """Return the column that says where a variable was measured, if there is one."""
    name = variable.name.lower()
    possible = {
        f"{name} (m)",
        f"{name}_m",
        f"{name}_measured",
        f"{name}_mask",
        f"mask_{name}",
        f"{name}_flag",
    }
    for each in found:
        if each.name.lower() in possible and each.kind == "binary" and set(each.classes) == {"0", "1"}:
            column = columns[each.name]
            if not each.missing_N.any() and np.array_equal(column.numbers_N == 1, ~variable.missing_N):
                return each.name
    return ""


def _new_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    return name
