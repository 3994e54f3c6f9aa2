"""Times of visits: reading, checking, putting on a grid, and computing from generated gaps.

Times are relative to the patient's origin. A system learns the gap before each visit and the time from the
last row to the end of follow-up, so that every synthetic patient has visits in order and none after the end.

Legend: N rows, P patients, R real variables, K binary and categorical variables.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.tables.dates import DAYS
from healthgym.data.tables.problems import Problems
from healthgym.schema import Schema
from healthgym.schema.timing import Grid, Resolution, TimeForm, rounded

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Rows of whole patients, in the order of the keys.

    Args:
        frame: their variables.
        times_N: from each patient's origin, in the unit of the table.
        lengths_P: rows of each patient.
        rows_N: where each row stands, as messages count.
        ids_P: of the patients.
    """

    frame: pd.DataFrame
    times_N: Floats
    lengths_P: NDArray[Any]
    rows_N: NDArray[np.int64]
    ids_P: NDArray[Any]

    @property
    def firsts_P(self) -> NDArray[np.int64]:
        """Position of each patient's first row."""
        return np.asarray(np.cumsum(self.lengths_P, dtype=np.int64) - self.lengths_P)

    @property
    def patient_N(self) -> NDArray[np.int64]:
        """Each row's patient, counted from 0."""
        return np.repeat(np.arange(len(self.lengths_P)), self.lengths_P)

    @property
    def lasts_P(self) -> NDArray[np.int64]:
        """Position of each patient's last row."""
        return np.asarray(np.cumsum(self.lengths_P, dtype=np.int64) - 1)


# --- reading ---------------------------------------------------------------------------------------


class HasTimes(Protocol):
    """Keys of some rows."""

    @property
    def timestep_N(self) -> NDArray[Any]:
        """Each row's time."""

    @property
    def dated(self) -> bool:
        """Whether it was a date."""

    @property
    def follow_dated(self) -> bool:
        """Whether the end of follow-up was one."""


class TimeFinder:
    """Determines the form of a table's times while its rows are read.

    Args:
        schema: of the table.

    Attributes:
        starts_at_zero: whether every patient that was looked at starts at time 0.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._visits, self._follow = Resolution(schema.time_unit), Resolution(schema.follow_up_unit)
        self._dated: bool | None = None
        self._follow_dated: bool | None = None
        self.starts_at_zero = True
        self._earliest, self._longest = np.inf, 0.0

    @property
    def form(self) -> TimeForm:
        """The settings with which gaps are turned into times again."""
        visits, follow = self._schema.keys.visits, self._schema.follow_up
        return TimeForm(
            self._visits.per_unit if visits else 0.0,
            self._follow.per_unit if follow else 0.0,
            self.starts_at_zero and visits is not None,
            bool(self._dated),
            bool(self._follow_dated),
        )

    def see(self, keys: HasTimes, variables: pd.DataFrame, problems: Problems) -> None:
        """Take in rows as they stand in the table."""
        schema, follow = self._schema, self._schema.follow_up
        if schema.keys.visits:
            self._dated = self._same(self._dated, keys.dated, schema.keys.timestep, problems)
            self._visits.see(keys.timestep_N)
        if follow:
            self._follow_dated = self._same(self._follow_dated, keys.follow_dated, follow.time, problems)
            self._follow.see(variables[follow.time].to_numpy(np.float64))
            if keys.follow_dated and schema.follow_up_unit not in DAYS:
                problems.add(
                    "dates, which count in days",
                    f"Say `unit: day` in `follow_up` and of the variable, not '{schema.follow_up_unit}'.",
                    follow.time,
                    np.arange(len(variables)),
                )
            if keys.follow_dated and not keys.dated:
                problems.add(
                    "dates, while the rows' times are none",
                    f"Write it as '{schema.keys.timestep}' is written: as a number from the same origin, or "
                    f"both as dates with `kind: irregular` or `kind: grid`.",
                    follow.time,
                    np.arange(len(variables)),
                )

    def _same(self, before: bool | None, now: bool, column: str, problems: Problems) -> bool:
        problems.add(
            "dates in some rows and numbers in others",
            "Write all as dates or all as numbers.",
            column,
            np.arange(int(before is not None and before != now)),
        )
        return now

    @property
    def dated(self) -> bool:
        """Whether the rows' times are dates."""
        return bool(self._dated)

    @property
    def from_first(self) -> bool:
        """Whether time counts from each patient's first row."""
        visits = self._schema.keys.visits
        return visits is not None and (bool(self._dated) or visits.origin == "first")

    def rows(
        self,
        frame: pd.DataFrame,
        times_N: NDArray[Any],
        lengths_P: NDArray[Any],
        rows_N: NDArray[np.int64],
        ids_P: NDArray[Any],
    ) -> Rows:
        """Return rows of whole patients with times from their origins, and statics filled."""
        found = Rows(frame, times_N.astype(np.float64), lengths_P, rows_N, ids_P)
        if self._schema.keys.visits is None and self._schema.follow_up is None:
            return replace(found, frame=fill_statics(frame, self._schema, found.patient_N))
        frame = fill_statics(frame, self._schema, found.patient_N)
        if self.from_first:
            origin_N = np.repeat(found.times_N[found.firsts_P], lengths_P)
            found = replace(found, times_N=found.times_N - origin_N)
            follow = self._schema.follow_up
            if follow and self._follow_dated == self._dated:
                ends_N = frame[follow.time].to_numpy(np.float64) - origin_N * self._schema.time_ratio
                frame = frame.assign(**{follow.time: ends_N})
        return replace(found, frame=frame)

    def look(self, rows: Rows) -> None:
        """Take in whole patients."""
        first_P, last_P = rows.times_N[rows.firsts_P], rows.times_N[rows.lasts_P]
        self.starts_at_zero &= bool((first_P == 0).all())
        self._earliest = min(self._earliest, float(first_P.min()))
        self._longest = max(self._longest, float((last_P - first_P).max()))

    def check_origin(self, problems: Problems) -> None:
        """Note times that all lie farther from 0 than any patient's first row from the last."""
        visits = self._schema.keys.visits
        if visits and visits.origin == "auto" and self._earliest > self._longest > 0:
            problems.add(
                f"every patient's first time is {self._earliest:g} or more, and no patient spans more than "
                f"{self._longest:g}: time 0 seems to be none of theirs",
                "Say beside `kind` in the schema `origin: first` to count from each patient's first row, or "
                "`origin: zero` if 0 is right.",
                self._schema.keys.timestep,
                np.zeros(1, np.int64),
            )


# --- checks ----------------------------------------------------------------------------------------


def fill_statics(frame: pd.DataFrame, schema: Schema, patient_N: NDArray[np.int64]) -> pd.DataFrame:
    """Carry a patient's first known value to rows without one, where the schema says `fill: first`."""
    filled = {}
    for variable in schema.variables:
        if variable.fill is None or not frame[variable.name].isna().any():
            continue
        column = frame[variable.name]
        known = np.flatnonzero(column.notna().to_numpy())
        first_P = np.full(int(patient_N[-1]) + 1, -1)
        first_P[patient_N[known[::-1]]] = known[::-1]
        place_N = np.arange(len(frame))
        empty = column.isna().to_numpy()
        place_N[empty] = first_P[patient_N][empty]
        taken = column.take(np.maximum(place_N, 0)).set_axis(frame.index)
        filled[variable.name] = taken.where(place_N >= 0)
    return frame.assign(**filled) if filled else frame


def check_times(rows: Rows, schema: Schema, form: TimeForm, problems: Problems) -> None:
    """Note statics without any value, times before the origin, and rows after the end of follow-up."""

    def whom(positions: NDArray[np.int64], what: Floats, of: str) -> list[str]:
        patient_N = rows.patient_N
        return [f"patient {rows.ids_P[patient_N[i]]}, {of} {what[i]:g}" for i in positions[:3]]

    for variable in schema.variables:
        if variable.fill:
            empty = rows.firsts_P[rows.frame[variable.name].isna().to_numpy()[rows.firsts_P]]
            problems.add(
                "no value in any row of a patient",
                "Fill it in.",
                variable.name,
                rows.rows_N[empty],
                [f"patient {rows.ids_P[rows.patient_N[i]]}" for i in empty[:3]],
            )
    key = schema.keys.timestep
    if schema.keys.visits:
        before = np.flatnonzero(rows.times_N < 0)
        problems.add(
            "before time 0",
            "Count time from each patient's start; `origin: first` beside `kind` in the schema counts it "
            "from the patient's first row.",
            key,
            rows.rows_N[before],
            whom(before, rows.times_N, key),
        )
    if schema.gap and form.per_unit:
        steps_N = np.round(rows.times_N * form.per_unit)
        alike_N = (np.diff(steps_N, prepend=-1.0) == 0) & (np.diff(rows.times_N, prepend=-1.0) > 0)
        alike_N[rows.firsts_P] = False
        again = np.flatnonzero(alike_N)
        problems.add(
            f"the same time as in the row before, but for rounding: times have steps of 1/{form.per_unit:g} "
            f"{schema.time_unit}",
            "Keep one row of each, or put visits on a grid with `kind: grid`.",
            key,
            rows.rows_N[again],
            whom(again, rows.times_N, key),
        )
    if schema.follow_up and rows.frame[schema.follow_up.time].notna().all():
        waits_P = waits(rows, schema)
        late = np.flatnonzero(waits_P < -_tolerance(schema, form))
        ends = rows.frame[schema.follow_up.time].to_numpy(np.float64)
        last = rows.lasts_P[late]
        problems.add(
            f"follow-up ends before the patient's last row ('{key}' in {schema.time_unit}, follow-up in "
            f"{schema.follow_up_unit})",
            "Correct either, drop the rows after it, or correct the units in the schema (keys.timestep.unit, "
            "or timestep_unit, and follow_up.unit).",
            schema.follow_up.time,
            rows.rows_N[last],
            [f"{who}, last row at {rows.times_N[i]:g}" for who, i in zip(
                whom(last, ends, schema.follow_up.time), last[:3], strict=True)],
        )  # fmt: skip


def _tolerance(schema: Schema, form: TimeForm) -> float:
    """Half a step of the recorded precision of visits: times may have been rounded."""
    recorded = bool(schema.keys.visits and form.per_unit)
    return (0.5 / form.per_unit * schema.time_ratio if recorded else 0.0) + 1e-6


# --- what a system learns --------------------------------------------------------------------------


def waits(rows: Rows, schema: Schema) -> Floats:
    """Return each patient's time from the last row to the end of follow-up, in the unit of follow-up."""
    assert schema.follow_up
    end_P = rows.frame[schema.follow_up.time].to_numpy(np.float64)[rows.lasts_P]
    return np.asarray(end_P - rows.times_N[rows.lasts_P] * schema.time_ratio)


def gaps(times_N: Floats, firsts_P: NDArray[np.int64], per_unit: float) -> Floats:
    """Return the time from the visit before, in whole steps of the precision; a first visit's own time."""
    steps = np.round(times_N * per_unit) if per_unit else times_N
    gap_N = np.diff(steps, prepend=0.0)
    gap_N[firsts_P] = steps[firsts_P]
    return np.asarray(gap_N / per_unit if per_unit else gap_N)


def to_learn(rows: Rows, schema: Schema, form: TimeForm) -> pd.DataFrame:
    """Return the variables as a system sees them: with gaps, and with the wait as the time of follow-up.

    Where all patients start at time 0, a first visit has no gap.
    """
    changed: dict[str, Floats] = {}
    if schema.gap:
        changed[schema.gap.name] = gaps(rows.times_N, rows.firsts_P, form.per_unit)
        if form.starts_at_zero:
            changed[schema.gap.name][rows.firsts_P] = np.nan
    if schema.follow_up:
        wait_P = np.maximum(waits(rows, schema), 0.0)
        changed[schema.follow_up.time] = np.repeat(wait_P, rows.lengths_P)
    return rows.frame.assign(**changed)[list(schema.names())] if changed else rows.frame


# --- and back --------------------------------------------------------------------------------------


def visit_times(
    gap_N: NDArray[Any] | None,
    lengths_P: NDArray[Any],
    schema: Schema,
    form: TimeForm,
    first_timestep: int,
) -> NDArray[Any]:
    """Return the column of times, of patients one after the other.

    Args:
        gap_N: generated or prepared gaps, where visits are irregular. Two visits are at least a step of the
            recorded precision apart.
        lengths_P: rows of each patient.
        schema, form: what times are.
        first_timestep: number of each patient's first timestep.
    """
    firsts_P = np.cumsum(lengths_P, dtype=np.int64) - lengths_P
    within_N = np.arange(int(np.sum(lengths_P))) - np.repeat(firsts_P, lengths_P)
    visits = schema.keys.visits
    if isinstance(visits, Grid):
        return np.asarray(np.round((within_N + first_timestep) * visits.every, 9))
    if gap_N is None:
        return np.asarray(within_N + first_timestep)
    per = form.per_unit
    steps = np.round(gap_N.astype(np.float64) * per) if per else gap_N.astype(np.float64)
    steps = np.maximum(steps, 1.0 if per else 1e-6)
    steps[firsts_P] = 0.0 if form.starts_at_zero else np.maximum(steps[firsts_P] - (gap_N[firsts_P] <= 0), 0)
    total = np.cumsum(steps)
    total -= np.repeat(total[firsts_P] - steps[firsts_P], lengths_P)
    if per == 1.0:
        return np.asarray(total.astype(np.int64))
    return np.asarray(total / per if per else total)


def follow_times(wait_P: Floats, last_P: Floats, schema: Schema, form: TimeForm) -> Floats:
    """Return the time of follow-up of patients whose last row is at these times; never before it."""
    end_P = last_P * schema.time_ratio
    per = form.follow_per_unit
    found = rounded(end_P + np.maximum(wait_P, 0.0), per)
    return np.where(found < end_P, np.ceil(end_P * per) / per if per else end_P, found)


def decode_times(
    frame: pd.DataFrame, lengths_P: NDArray[Any], schema: Schema, form: TimeForm, first_timestep: int
) -> tuple[NDArray[Any], pd.DataFrame]:
    """Return the times of a prepared or generated table and its variables as the table had them."""
    gap_N = frame[schema.gap.name].to_numpy() if schema.gap else None
    times_N = visit_times(gap_N, lengths_P, schema, form, first_timestep)
    if schema.gap:
        frame = frame.drop(columns=schema.gap.name)
    if schema.follow_up and len(times_N):
        last = np.cumsum(lengths_P, dtype=np.int64) - 1
        wait_P = frame[schema.follow_up.time].to_numpy(np.float64)[last]
        ends_P = follow_times(wait_P, times_N[last].astype(np.float64), schema, form)
        frame = frame.assign(**{schema.follow_up.time: np.repeat(ends_P, lengths_P)})
    return times_N, frame


def with_gaps(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return a table, sorted by its keys, with the gap between visits; none at a first visit at time 0."""
    if schema.gap is None or schema.keys.timestep not in frame:
        return frame
    patients = frame[schema.keys.patient].to_numpy()
    times_N = frame[schema.keys.timestep].to_numpy(np.float64)
    firsts = np.flatnonzero(np.r_[True, patients[1:] != patients[:-1]]) if len(patients) else np.zeros(0, int)
    gap_N = gaps(times_N, firsts, 0.0)
    gap_N[firsts] = np.where(gap_N[firsts] == 0, np.nan, gap_N[firsts])
    return frame.assign(**{schema.gap.name: gap_N})
