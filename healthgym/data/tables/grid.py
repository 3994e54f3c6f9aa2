"""Visits at irregular times on a grid: one row per interval, missing if an interval has no visit."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.encode import labelled
from healthgym.data.tables.problems import Problems
from healthgym.data.tables.visits import Rows
from healthgym.schema import Schema, Variable, measured_class
from healthgym.schema.timing import Grid


@dataclass
class GridCounts:
    """Counts of rows and intervals in putting a table on a grid.

    Args:
        rows: of the table.
        collided: rows that share an interval with another of the same patient.
        intervals: of all patients.
        empty: those without a row.
    """

    rows: int = 0
    collided: int = 0
    intervals: int = 0
    empty: int = 0

    def __str__(self) -> str:
        share = self.empty / max(self.intervals, 1)
        return (
            f"{self.rows:,} rows in {self.intervals:,} intervals: {self.collided:,} rows shared an interval "
            f"with another, {self.empty:,} intervals ({share:.1%}) have no row and are missing there"
        )


def on_grid(rows: Rows, schema: Schema, grid: Grid, counts: GridCounts) -> Rows:
    """Return one row per interval, from time 0 to each patient's last visit; those without a row are missing.

    A measured flag says whether any value of the interval was measured.
    """
    bin_N = np.maximum(np.floor(rows.times_N / grid.every + 1e-6), 0).astype(np.int64)
    patient_N = rows.patient_N
    new_N = np.r_[True, (np.diff(patient_N) != 0) | (np.diff(bin_N) != 0)]
    group_N = np.cumsum(new_N) - 1
    starts_G = np.flatnonzero(new_N)
    merged = _merged(rows.frame, schema, group_N, starts_G, grid.take)
    lengths_P = bin_N[rows.lasts_P] + 1
    firsts_P = np.cumsum(lengths_P) - lengths_P
    total = int(lengths_P.sum())
    source = np.full(total, -1)
    source[firsts_P[patient_N[starts_G]] + bin_N[starts_G]] = np.arange(len(starts_G))
    counts.rows += len(bin_N)
    counts.collided += int(np.isin(group_N, np.flatnonzero(np.bincount(group_N) > 1)).sum())
    counts.intervals += total
    counts.empty += int((source < 0).sum())
    first_group_P = group_N[rows.firsts_P]
    own_N = np.repeat(first_group_P, lengths_P)
    frame = _spread(merged, schema, source, own_N)
    standing = np.maximum(np.maximum.accumulate(source), own_N)  # messages name the row before a gap
    times_N = (np.arange(total) - np.repeat(firsts_P, lengths_P)).astype(np.float64)
    return Rows(frame, times_N, lengths_P, rows.rows_N[starts_G][standing], rows.ids_P)


def _merged(
    frame: pd.DataFrame, schema: Schema, group_N: NDArray[np.int64], starts_G: NDArray[np.int64], take: str
) -> pd.DataFrame:
    """Return one row per group of rows."""
    if len(starts_G) == len(frame):
        return frame
    flags = _flags(schema)
    numbers = pd.DataFrame({name: _numbers(frame[name], schema[str(name)]) for name in frame})
    grouped = numbers.groupby(group_N)
    merged = grouped.first() if take == "first" else grouped.last()
    several = np.isin(group_N, np.flatnonzero(np.bincount(group_N) > 1))
    if take == "median":
        for variable in schema.encoded:
            if variable.name in numbers and not variable.static:
                part = numbers.loc[several, variable.name].groupby(group_N[several])
                value = part.median() if variable.kind == "real" else part.agg(_most_frequent)
                merged.loc[value.index, variable.name] = value
    for name, flag in flags.items():
        measured = numbers[name] == measured_class(flag)
        merged[name] = np.where(
            measured.groupby(group_N).any(), measured_class(flag), 1 - measured_class(flag)
        )
    for variable in schema.categoricals:
        classes = merged[variable.name].fillna(-1).to_numpy().astype(np.int64)
        merged[variable.name] = labelled(classes, variable)
    return merged[list(frame.columns)].reset_index(drop=True)


def _spread(
    merged: pd.DataFrame, schema: Schema, source: NDArray[np.int64], own_N: NDArray[np.int64]
) -> pd.DataFrame:
    """Return a row per interval: its group of visits, or only statics and flags."""
    frame = merged.take(np.maximum(source, 0)).reset_index(drop=True)
    empty, flags = source < 0, _flags(schema)
    if not empty.any():
        return frame
    for name in frame:
        variable = schema[str(name)]
        if name in flags:
            codes = frame[name].cat.codes.to_numpy().copy()
            codes[empty] = 1 - measured_class(variable)
            frame[name] = labelled(codes, variable)
        elif variable.static:
            frame[name] = merged[name].take(own_N).reset_index(drop=True)
        else:
            frame[name] = frame[name].where(~empty)
    return frame


def _flags(schema: Schema) -> dict[str, Variable]:
    return {v.measured_flag: schema[v.measured_flag] for v in schema.variables if v.measured_flag}


def _numbers(column: pd.Series, variable: Variable) -> pd.Series:
    if variable.kind == "real":
        return column
    codes = column.cat.codes
    return codes.where(codes >= 0).astype(np.float64)


def _most_frequent(values: pd.Series) -> float:
    found = values.mode()
    return float(found.iloc[0]) if len(found) else np.nan


def check_grid(rows: Rows, schema: Schema, problems: Problems) -> None:
    """Report variables without `missing:` that have no value in some intervals."""
    for variable in schema.variables:
        if variable.missing == "refuse" and not variable.static:
            absent = np.flatnonzero(rows.frame[variable.name].isna().to_numpy())
            patient_N = rows.patient_N
            problems.add(
                "no value in an interval of the grid without a row",
                "Say `missing: carry_forward` or `missing: model` with a `measured_flag` in the schema, take "
                "a wider `every`, or take visits as they are with `kind: irregular`.",
                variable.name,
                rows.rows_N[absent],
                [f"patient {rows.ids_P[patient_N[i]]}, interval {rows.times_N[i]:g}" for i in absent[:3]],
            )
