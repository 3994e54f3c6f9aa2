"""Finding the columns of patients and times in a table, and the form of the times.

Legend: N rows, P patients.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.describe.names import (
    is_row_counter,
    rank_as_patient,
    rank_as_time,
    squeezed,
)
from healthgym.data.describe.words import Column, Words
from healthgym.data.tables.dates import moments
from healthgym.errors import TableError, listed, nearest
from healthgym.words import one_form

_FORMATS = (
    "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d", "%d-%b-%Y", "%d%b%Y", "%d %b %Y",
    "%d.%m.%y", "%d/%m/%y", "%m/%d/%y",
)  # fmt: skip
_CLOCKS = ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S", " %H:%M:%S.%f")
_ISO = r"\s*[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TRIED = 400  # words that a format is tried on first
_NAMES = {"parameter", "param", "paramcd", "variable", "item", "itemid", "test", "testname", "testcd",
          "lbtestcd", "label", "analyte", "measure", "measurement"}  # fmt: skip
_VALUES = {"value", "val", "valuenum", "result", "aval", "lbstresn", "messwert", "wert"}


@dataclass(frozen=True)
class Times:
    """A column of times.

    Args:
        column: where they stand.
        values_N: each row's time; dates are days since 1970.
        format: of dates, for `strptime`; "ISO" for ISO dates, empty for numbers.
        doubt: what could not be decided about it.
    """

    column: Column
    values_N: NDArray[np.float64]
    format: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Keys:
    """The columns of patients and times.

    Args:
        patient: the column of patients.
        times: the column of times.
        reasons: the evidence for the patient and the time.
        doubts: what could not be decided.
        others: other columns that could have been meant: identifiers, and times.
    """

    patient: Column
    times: Times
    reasons: tuple[str, str]
    doubts: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @cached_property
    def patient_N(self) -> NDArray[np.int64]:
        """Each row's patient, counted from 0 in the order in which they come."""
        return np.asarray(pd.factorize(self.patient.codes_N)[0], dtype=np.int64)

    @property
    def num_patients(self) -> int:
        """Number of patients."""
        return int(self.patient_N.max(initial=-1)) + 1

    @cached_property
    def lengths_P(self) -> NDArray[np.int64]:
        """Rows of each patient."""
        return np.bincount(self.patient_N)

    @cached_property
    def order_N(self) -> NDArray[np.int64]:
        """Rows in the order of patients and times."""
        return np.lexsort((self.times.values_N, self.patient_N))

    @cached_property
    def same_N(self) -> NDArray[np.bool_]:
        """In that order: whether the previous row is of the same patient."""
        patient_N = self.patient_N[self.order_N]
        return np.concatenate([[False], patient_N[1:] == patient_N[:-1]])

    @cached_property
    def gaps(self) -> NDArray[np.float64]:
        """Times between a patient's rows."""
        time_N = self.times.values_N[self.order_N]
        return np.asarray(np.diff(time_N, prepend=0.0)[self.same_N])

    @cached_property
    def sorted(self) -> bool:
        """Whether each patient's rows are consecutive and in the order of time."""
        patient_N, time_N = self.patient_N, self.times.values_N
        back = (np.diff(patient_N) < 0) | ((np.diff(patient_N) == 0) & (np.diff(time_N) < 0))
        return not back.any()


def find_keys(table: Words, patient: str | None = None, time: str | None = None) -> Keys:
    """Return the columns of patients and times.

    Args:
        table: the table.
        patient, time: names of these columns, if they are known.

    Raises:
        TableError: there are none, or the table is not of a kind that can be prepared.
    """
    for given, option in ((patient, "patient"), (time, "time")):
        if given is not None and one_form(given) not in table.names:
            raise TableError(
                f"{table.name}: there is no column '{given}'{nearest(given, table.names)}, which --{option} "
                f"names. The columns are {listed(table.names)}."
            )
    who, why_who, others = _patient(table, one_form(patient) if patient else None)
    when, why_when, other_times = _time(table, who, one_form(time) if time else None)
    found = Keys(who, when, (why_who, why_when), (when.doubt,) if when.doubt else (), (*others, *other_times))
    _refuse_long_form(table, found)
    return found


# --- patients --------------------------------------------------------------------------------------


def _patient(table: Words, given: str | None) -> tuple[Column, str, list[str]]:
    if given:
        return table[given], "as --patient says", []
    possible = [(column, _score_as_patient(column, table)) for column in table.columns]
    possible = sorted((pair for pair in possible if pair[1] > 0), key=lambda pair: -pair[1])
    named = sorted(
        (c for c in table.columns if rank_as_patient(c.name)), key=lambda c: -rank_as_patient(c.name)
    )
    if not possible and (each := next((c for c in named if len(c.words) == table.num_rows), None)):
        _refuse_one_row_each(table, each)
    if not possible and (each := next((c for c in named if len(c.words) == 1), None)):
        raise TableError(
            f"{table.name}: '{each.name}' is '{each.words[0]}' in every row: one patient is not enough to "
            "learn from. Give a table of many, or name their column: --patient COLUMN."
        )
    if not possible:
        raise TableError(
            f"{table.name}: no column looks like a patient identifier (a name such as patient, subject_id or "
            f"id, or values that repeat over consecutive rows). The columns are {listed(table.names)}. Name "
            "it: --patient COLUMN."
        )
    best = possible[0][0]
    number = len(best.words)
    why = (
        "by its name"
        if rank_as_patient(best.name) > 0
        else "no name says patient, but the rows of each value stand together"
    )
    others = [column.name for column, _ in possible[1:] if rank_as_patient(column.name) > 0]
    return best, f"{why}; {number:,} values in {table.num_rows:,} rows", others


def _score_as_patient(column: Column, table: Words) -> float:
    """Return a score of a column as the patients': by its name, or by runs of rows."""
    number, rows = len(column.words), table.num_rows
    if number < 2 or "" in column.words or is_row_counter(column.name):
        return 0.0
    rank = rank_as_patient(column.name)
    runs = int((np.diff(column.codes_N) != 0).sum()) + 1
    if not rank:
        together = runs == number and number >= 10 and 2 * number <= rows and 3 * number >= rows**0.5
        return 0.05 if together and not np.isnan(column.numbers_W).all() else 0.0
    # An identifier of rows is no patient's, unless each patient has one row.
    return rank - (0.9 if number == rows else 0.0) - (0.5 if number > 0.9 * rows else 0.0)


# --- times -----------------------------------------------------------------------------------------


def _time(table: Words, who: Column, given: str | None) -> tuple[Times, str, list[str]]:
    if given:
        times = read_times(table[given], who)
        if times is None:
            wrong = [
                w for w in table[given].words if np.isnan(table[given].numbers_W[table[given].words.index(w)])
            ]
            raise TableError(
                f"{table.name}: '{given}', which --time names, must have only numbers or only dates; it also "
                f"has {listed((repr(word) for word in wrong[:3]), 3)}."
            )
        return times, "as --time says", []
    _refuse_one_row_each(table, who)
    found = []
    for column in table.columns:
        if column is who or is_row_counter(column.name):
            continue
        times = read_times(column, who)
        score = _score_as_time(times, who) if times else 0.0
        if times and score > 0:
            found.append((times, score))
    if not found:
        raise TableError(
            f"{table.name}: no column looks like a time that increases within each '{who.name}' (a name such "
            "as time, hour, visit or date; numbers or dates in every row). The columns are "
            f"{listed(table.names)}. Name it: --time COLUMN; or number each patient's rows 0, 1, 2, ..."
        )
    found.sort(key=lambda pair: -pair[1])
    best = found[0][0]
    named = rank_as_time(best.column.name) > 0
    kind = f"dates ({best.format})" if best.format else "numbers"
    why = f"by its name; {kind}" if named else f"{kind} that increase within every patient"
    return best, why, [times.column.name for times, _ in found[1:] if rank_as_time(times.column.name) > 0]


def _score_as_time(times: Times, who: Column) -> float:
    rank, rises, unique = rank_as_time(times.column.name), *_course(times.values_N, who.codes_N)
    if unique < 0.2:
        return 0.0
    if not rank:
        return 2.2 if rises == unique == 1 else 0.0
    return rank + unique + rises + (0.3 if times.format else 0.0)


def _course(time_N: NDArray[np.float64], who_N: NDArray[np.int32]) -> tuple[float, float]:
    """Return the share of steps between a patient's rows that rise, and of times that a patient has once."""
    order = np.argsort(who_N, kind="stable")
    same = who_N[order][1:] == who_N[order][:-1]
    if not same.any():
        return 0.0, 0.0
    rises = float((np.diff(time_N[order])[same] > 0).mean())
    by_time = np.lexsort((time_N, who_N))
    same = who_N[by_time][1:] == who_N[by_time][:-1]
    return rises, float((np.diff(time_N[by_time])[same] > 0).mean())


def read_times(column: Column, who: Column | None = None) -> Times | None:
    """Return a column's times; None if it has a row without one."""
    if len(column.words) < 2 or "" in column.words:
        return None
    numbers = column.numbers_W
    if np.isfinite(numbers).all() and not _like_days(column):
        return Times(column, column.numbers_N)
    words = pd.Series(column.words)
    if words.str.match(_ISO).all():
        days_W = _days(words, "ISO8601")
        return None if days_W is None else Times(column, days_W[column.codes_N], "ISO")
    fits = [
        (each, days_W)
        for each in (f"{day}{clock}" for day in _FORMATS for clock in _CLOCKS)
        if _days(words.head(_TRIED), each) is not None and (days_W := _days(words, each)) is not None
    ]
    if not fits:
        return Times(column, column.numbers_N) if np.isfinite(numbers).all() else None
    found = [Times(column, days_W[column.codes_N], each) for each, days_W in fits]
    if len(found) > 1 and who is not None:  # 3/4: the reading in which rows follow one another
        found.sort(key=lambda times: -_course(times.values_N, who.codes_N)[0])
        first, second = (_course(times.values_N, who.codes_N)[0] for times in found[:2])
        if first == second:
            doubt = (
                f"'{column.name}': dates such as {column.words[0]} can be read as {found[0].format} or "
                f"{found[1].format}; the first was taken. Correct `format:` if it is wrong"
            )
            return Times(column, found[0].values_N, found[0].format, doubt)
    return found[0]


def _like_days(column: Column) -> bool:
    """Return whether numbers are dates such as 20240131."""
    return all(len(word) == 8 and word.isdigit() and "1900" <= word[:4] <= "2299" for word in column.words)


def _days(words: pd.Series, form: str) -> NDArray[np.float64] | None:
    """Return dates as days since 1970; None if a word is no date of this form."""
    dates = moments(words, form)
    if dates.isna().any():
        return None
    days = (dates - pd.Timestamp(0)) / pd.Timedelta(days=1)
    return np.asarray(days, dtype=np.float64)


# --- tables of another form ------------------------------------------------------------------------


def _refuse_one_row_each(table: Words, who: Column) -> None:
    """Refuse a table with one row per patient, with remedies."""
    if len(who.words) < table.num_rows:
        return
    stems: dict[str, list[str]] = {}
    for name in table.names:
        stem = name.rstrip("0123456789")
        if stem != name and stem.strip("_. -tTvV"):
            stems.setdefault(stem, []).append(name)
    groups = [names for names in stems.values() if len(names) > 1]
    ways = (
        f"Columns such as {listed(groups[0], 4)} seem to be one variable at several times. Make a row of "
        "each time, in pandas: pd.wide_to_long(table, "
        f"{sorted(s for s, n in stems.items() if len(n) > 1)[:3]}, i={who.name!r}, "
        "j='Timestep').reset_index()"
        if groups
        else "healthgym makes courses over time. For patients of one time only, add a column Timestep of "
        "zeros and name it: --time Timestep"
    )
    raise TableError(
        f"{table.name}: each '{who.name}' has one row, so that nothing changes over time. {ways}."
    )


def _refuse_long_form(table: Words, keys: Keys) -> None:
    """Refuse a table with one measurement per row, with the code that reshapes it."""
    names = [column.name for column in table.columns if squeezed(column.name) in _NAMES]
    values = [column.name for column in table.columns if squeezed(column.name) in _VALUES]
    duplicates = float((keys.gaps == 0).mean()) if len(keys.gaps) else 0.0
    if names and values and duplicates > 0.2:
        raise TableError(
            f"{table.name}: each row holds one measurement ('{values[0]}') of what '{names[0]}' names, and a "
            "table with a column for each is needed. In pandas: "
            f"table.pivot_table(index=[{keys.patient.name!r}, {keys.times.column.name!r}], "
            f"columns={names[0]!r}, values={values[0]!r}, aggfunc='last').reset_index()."
        )
