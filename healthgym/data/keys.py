"""The key columns: who and when. Every patient's timesteps must be whole, once, and in order."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.problems import Problems
from healthgym.schema import Schema

_INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0*)?")


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
    timestep_N: NDArray[np.int64]
    order_N: NDArray[np.int64]

    @property
    def follows_N(self) -> NDArray[np.bool_]:
        """In sorted order: whether the row before is of the same patient."""
        patient_N = self.patient_N[self.order_N]
        return np.concatenate([[False], patient_N[1:] == patient_N[:-1]])


def read_keys(frame: pd.DataFrame, schema: Schema, problems: Problems) -> Keys | None:
    """Check both key columns; None if they are too damaged to go on."""
    patient, timestep = frame[schema.keys.patient], frame[schema.keys.timestep]
    no_patient = np.flatnonzero(patient.isna())
    problems.add("no patient", "Every row needs one.", schema.keys.patient, no_patient)
    number = pd.to_numeric(timestep, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(number) | (number != np.round(number)) | (np.abs(number) > 2**53))
    problems.add(
        "not a whole number",
        "Number each patient's timesteps 0, 1, 2, ...",
        schema.keys.timestep,
        bad,
        timestep.iloc[bad],
    )
    if len(no_patient) or len(bad):
        return None
    codes, uniques = pd.factorize(patient)
    ids, place = np.unique(_patient_ids(uniques), return_inverse=True)
    patient_N, timestep_N = place[codes], number.astype(np.int64)
    return Keys(ids, patient_N, timestep_N, np.lexsort((timestep_N, patient_N)))


def check_order(keys: Keys, schema: Schema, problems: Problems, sort: bool) -> None:
    """Note duplicates, unsorted rows and gaps."""
    follows, order = keys.follows_N, keys.order_N
    time = keys.timestep_N[order]
    step = np.diff(time, prepend=time[:1])

    def whom(rows: NDArray[Any], times: NDArray[Any]) -> list[str]:
        ids = keys.patient_ids[keys.patient_N[rows[:3]]]
        return [f"patient {i}, {schema.keys.timestep} {t}" for i, t in zip(ids, times[:3], strict=True)]

    duplicates = np.flatnonzero(follows & (step == 0))
    problems.add(
        "the same patient and timestep as an earlier row",
        "Keep one row of each.",
        rows=order[duplicates],
        details=whom(order[duplicates], time[duplicates]),
    )
    _check_sorted(keys, schema, problems, sort, whom)
    start = time.min()
    late = np.flatnonzero(~follows & (time != start))
    problems.add(
        f"patients that do not start at {schema.keys.timestep} {start} as others do, "
        f"so that timestep {start} is missing",
        "Add the missing rows, or number each patient's timesteps from the same start.",
        rows=order[late],
        details=whom(order[late], time[late]),
    )
    gaps = np.flatnonzero(follows & (step > 1))
    before = time[gaps] - step[gaps] + 1
    problems.add(
        "timesteps are missing before a row",
        "Add the missing rows (with empty values if the schema allows them), or renumber.",
        rows=order[gaps],
        details=[f"{who} is missing" for who in whom(order[gaps], before)],
    )


def _check_sorted(keys: Keys, schema: Schema, problems: Problems, sort: bool, whom: Any) -> None:
    """Note rows that come before their time, and patients whose rows are scattered."""
    seen = pd.factorize(keys.patient_N)[0]
    back = (np.diff(seen) < 0) | ((np.diff(seen) == 0) & (np.diff(keys.timestep_N) < 0))
    rows = np.flatnonzero(back) + 1
    if not sort:
        problems.add(
            f"rows are not sorted by {schema.keys.patient} and {schema.keys.timestep}",
            "Sort the table, or pass --sort to jobs/prepare.py if the order of rows means nothing.",
            rows=rows,
            details=whom(rows, keys.timestep_N[rows]),
        )


def _patient_ids(uniques: Any) -> NDArray[Any]:
    """Return ids as integers if all are whole numbers in plain writing, else as text."""
    words = [str(word) for word in uniques]
    if all(_INTEGER.fullmatch(word) for word in words):
        return np.array([int(word.split(".")[0]) for word in words], dtype=np.int64)
    return np.array(words, dtype=object)
