"""The key columns of patients and times. A patient's timesteps must be unique and in order."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.tables.dates import DAYS, as_date, days_in, has_dates, lacks_zone
from healthgym.data.tables.problems import Problems
from healthgym.schema import Schema
from healthgym.schema.timing import Irregular
from healthgym.words import one_form

_INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0*)?")


@dataclass(frozen=True)
class KeyRows:
    """The keys of some rows in the table's order.

    Args:
        words_R: the patient of each run of rows: int64 where that is how it is written, else text.
        lengths_R: rows of each run.
        timestep_N: each row's timestep, int64; where visits are at any time, its time, float64.
        dated, follow_dated: whether the times, or those of follow-up, were dates, and are days since 1970.
    """

    words_R: NDArray[Any]
    lengths_R: NDArray[np.int64]
    timestep_N: NDArray[Any]
    dated: bool = False
    follow_dated: bool = False


@dataclass(frozen=True)
class Keys:
    """Patients and timesteps of all rows, and the order that sorts them.

    Args:
        patient_ids: of each patient, ascending, integers if all are, else text.
        patient_N: each row's patient, an index into `patient_ids`.
        timestep_N: each row's timestep.
        order_N: row positions sorted by patient and timestep.
    """

    patient_ids: NDArray[Any]
    patient_N: NDArray[np.int64]
    timestep_N: NDArray[Any]
    order_N: NDArray[np.int64]

    @classmethod
    def of(cls, ids_R: NDArray[Any], lengths_R: NDArray[np.int64], timestep_N: NDArray[Any]) -> "Keys":
        """Sort rows whose runs are of these patients."""
        ids, place_R = np.unique(ids_R, return_inverse=True)
        patient_N = np.repeat(place_R, lengths_R)
        return cls(ids, patient_N, timestep_N, np.lexsort((timestep_N, patient_N)))

    @property
    def follows_N(self) -> NDArray[np.bool_]:
        """In sorted order: whether the previous row is of the same patient."""
        patient_N = self.patient_N[self.order_N]
        return np.concatenate([[False], patient_N[1:] == patient_N[:-1]])


def read_keys(frame: pd.DataFrame, schema: Schema, problems: Problems) -> KeyRows | None:
    """Check both key columns, each row for itself; None if they are too damaged to go on."""
    patient, timestep = frame[schema.keys.patient], frame[schema.keys.timestep]
    if pd.api.types.infer_dtype(patient).startswith("mixed"):  # lists, or text beside numbers
        patient = patient.map(one_form, na_action="ignore")
    codes, uniques = pd.factorize(patient)
    words = np.array([one_form(word) for word in uniques] + [""], dtype=object)  # the last: no patient
    no_patient = np.flatnonzero((words == "")[codes])
    problems.add("no patient", "Every row needs one.", schema.keys.patient, no_patient)
    number, dated, bad = _read_time(timestep, schema, problems)
    if len(no_patient) or len(bad):
        return None
    words = words[:-1]
    numbers = patient_ids([words])
    if numbers.dtype == np.int64 and (numbers.astype(str) == words).all():
        words = numbers
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    if schema.keys.visits is None:
        number = number.astype(np.int64)
    return KeyRows(words[codes[starts]], np.diff(starts, append=len(codes)), number, dated)


def _read_time(
    timestep: pd.Series, schema: Schema, problems: Problems
) -> tuple[NDArray[Any], bool, NDArray[np.int64]]:
    """Return each row's timestep or time, whether they were dates, and which rows have none."""
    key, form = schema.keys.timestep, schema.keys.visits.format if schema.keys.visits else ""
    dated = bool(schema.keys.visits) and has_dates(timestep, form)
    number = numbers_in(days_in(timestep, form) if dated else timestep)
    if schema.keys.visits:
        bad = np.flatnonzero(~np.isfinite(number))
        what, remedy = "neither a number nor a date", "Write numbers, or dates as 2001-03-25."
        if form:
            what, remedy = f"no date of the form {form}", "Correct it, or `format:` in the schema."
        if dated and len(lacking := np.flatnonzero(lacks_zone(timestep, form))):
            bad, what = lacking, "a date without a time zone, while other rows have one"
            remedy = "Write all with their time zone, or all without."
        if dated and schema.time_unit not in DAYS:
            days = np.arange(len(number))
            problems.add(
                "dates, which count in days",
                f"Say `unit: day` beside `kind` in the schema, not '{schema.time_unit}'.",
                key,
                days,
                timestep.iloc[:3],
            )
    else:
        bad = np.flatnonzero(~np.isfinite(number) | (number != np.round(number)) | (np.abs(number) > 2**53))
        what = "not a whole number"
        remedy = f"Number each patient's timesteps 0, 1, 2, ..., {ways_out(key)}"
    problems.add(what, remedy, key, bad, timestep.iloc[bad[:3]])
    return number, dated, bad


def ways_out(key: str) -> str:
    """Return the remedies for visits at irregular times in a schema."""
    return (
        f"or let the schema take visits at any time: `keys: {{timestep: {{column: {key}, kind: irregular, "
        f"unit: day}}}}` as they are, or with `kind: grid, every: 30, take: last` on a grid."
    )


def numbers_in(column: pd.Series) -> NDArray[np.float64]:
    """Return numbers, NaN where there is none; a date is no number."""
    if getattr(column.dtype, "kind", "") in "mMc":
        return np.full(len(column), np.nan)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def patient_ids(words: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Return all parts' ids together: integers if all are whole numbers in plain writing, else text."""
    parts = list(words)
    if all(part.dtype == np.int64 for part in parts):
        return np.concatenate(parts)
    text = [str(word) for part in parts for word in part]
    if all(_INTEGER.fullmatch(word) for word in text):
        return np.array([int(word.split(".")[0]) for word in text], dtype=np.int64)
    return np.array(text, dtype=object)


def check_order(keys: Keys, schema: Schema, problems: Problems, sort: bool, dated: bool = False) -> None:
    """Note duplicates and unsorted rows, and gaps between whole numbers; `dated` times are named as dates."""
    visits = schema.keys.visits
    follows, order = keys.follows_N, keys.order_N
    time = keys.timestep_N[order]
    step = np.diff(time, prepend=time[:1])

    def whom(rows: NDArray[Any], times: NDArray[Any]) -> list[str]:
        ids = keys.patient_ids[keys.patient_N[rows[:3]]]
        shown = [as_date(t) if dated else t for t in times[:3]]
        return [f"patient {i}, {schema.keys.timestep} {t}" for i, t in zip(ids, shown, strict=True)]

    duplicates = np.flatnonzero(follows & (step == 0))
    if visits and visits.kind == "grid":
        duplicates = duplicates[:0]
    problems.add(
        "the same patient and timestep as an earlier row",
        "Keep one row of each"
        + (", or put visits on a grid with `kind: grid`." if isinstance(visits, Irregular) else "."),
        None,
        order[duplicates],
        whom(order[duplicates], time[duplicates]),
    )
    _check_sorted(keys, schema, problems, sort, whom)
    if visits:
        return
    start = time.min()
    late = np.flatnonzero(~follows & (time != start))
    problems.add(
        f"patients that do not start at {schema.keys.timestep} {start} as others do, so that timestep "
        f"{start} is missing",
        "Add the missing rows, or number each patient's timesteps from the same start.",
        None,
        order[late],
        whom(order[late], time[late]),
    )
    gaps = np.flatnonzero(follows & (step > 1))
    before = time[gaps] - step[gaps] + 1
    problems.add(
        "timesteps are missing before a row",
        f"Add the missing rows (with empty values if the schema allows them), renumber, "
        f"{ways_out(schema.keys.timestep)}",
        None,
        order[gaps],
        [f"{who} is missing" for who in whom(order[gaps], before)],
    )


def _check_sorted(keys: Keys, schema: Schema, problems: Problems, sort: bool, whom: Any) -> None:
    """Note rows that come before their time, and patients whose rows are scattered."""
    seen = pd.factorize(keys.patient_N)[0]
    back = (np.diff(seen) < 0) | ((np.diff(seen) == 0) & (np.diff(keys.timestep_N) < 0))
    rows = np.flatnonzero(back) + 1
    if not sort:
        problems.add(
            f"rows are not sorted by {schema.keys.patient} and {schema.keys.timestep}",
            "Sort the table, or give --sort if the order of rows means nothing.",
            None,
            rows,
            whom(rows, keys.timestep_N[rows]),
        )
