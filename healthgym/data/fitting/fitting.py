"""Fitting fills, transform and cells to the training patients, in memory independent of the rows.

The rows are read once and written as one file per real column, which is read a few dozen times.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.data.fitting.columns import (
    Array,
    Blocks,
    ColumnFile,
    count_of,
    extremes,
    group_ends,
    pooled_median,
)
from healthgym.data.fitting.decimals import decimals_of
from healthgym.data.fitting.fit_cells import fit_cells
from healthgym.data.fitting.stream import Patients, RowStore
from healthgym.data.fitting.transform import BOXCOX_EPS, Transform
from healthgym.data.tables.missing import Fills
from healthgym.errors import TableError, listed
from healthgym.schema import Schema, Variable
from healthgym.schema.cells import Cells, VariableCells

_SMALLEST = 1e-12
_LARGEST_EXACT = 1 << 24


def fit(
    store: RowStore, train: Patients, schema: Schema, source: str, folder: Path, least_patients: int
) -> tuple[Fills, Transform, Cells]:
    """Return the fills, the transform and the cells of the training patients.

    Args:
        store: all rows.
        train: the patients to fit to.
        schema: of the table.
        source: name of the table in messages.
        folder: for the column files.
        least_patients: least number of patients behind an end of the transform, and with values in a piece
            of a variable's cells.

    Raises:
        TableError: a variable has no value, or only one.
    """
    columns = _Columns(schema, folder)
    for block in train.blocks():
        columns.add(store, block)
    values = {
        v.name: columns.fill(v, train.lengths_N, least_patients)
        for v in schema.encoded
        if v.missing != "refuse"
    }
    if schema.gap and values[schema.gap.name] is None:
        raise TableError(
            f"{source}: no training patient has a second visit, so there is no time between visits to "
            f"learn. Write whole-number timesteps, without `kind: irregular` in the schema."
        )
    empty = [name for name, value in values.items() if value is None]
    if empty:
        raise TableError(
            f"{source}: column '{empty[0]}' has no value among the training patients. Remove it from the "
            "schema."
        )
    fills = Fills({name: value for name, value in values.items() if value is not None})
    filled = [columns.filled(variable, fills) for variable in schema.reals]
    ends = {v.name: extremes(each) for v, each in zip(schema.reals, filled, strict=True)}
    _refuse_constant(ends, schema, source)
    _refuse_tiny(ends, source)

    def keep(blocks: Iterator[Array]) -> Blocks:
        (folder / "logarithms").unlink(missing_ok=True)
        kept = ColumnFile(folder / "logarithms")
        for block in blocks:
            kept.append(block)
        return kept

    by_patient = [columns.by_row(variable, fills) for variable in schema.reals]
    means = [group_ends(column, train.lengths_N, least_patients) for column in by_patient]
    transform = Transform.fit_columns(filled, schema, keep, means)
    cells = fit_cells(by_patient, train.lengths_N, least_patients)
    for variable, column, own in zip(schema.reals, by_patient, cells.variables, strict=True):
        _refuse_inexact(variable, column, own, schema, source)
    return fills, transform, cells


class _Columns:
    """The training patients' columns: real ones in files, classes as counts of measured values.

    Args:
        schema: of the table.
        folder: for the files.
    """

    def __init__(self, schema: Schema, folder: Path) -> None:
        self._schema = schema
        self._carried = {v.name: ColumnFile(folder / f"carried-{r}") for r, v in enumerate(schema.reals)}
        self._measured = {
            v.name: ColumnFile(folder / f"measured-{r}")
            for r, v in enumerate(schema.reals)
            if v.missing != "refuse"
        }
        self._classes: dict[str, Counter[str]] = {
            v.name: Counter() for v in schema.categoricals if v.missing != "refuse"
        }

    def add(self, store: RowStore, patients: Patients) -> None:
        """Add the rows of some patients."""
        table, schema = store.read(patients), self._schema
        for name, column in self._measured.items():
            column.append(table[name].dropna().to_numpy(np.float64))
        for name, counts in self._classes.items():
            counts.update({str(k): int(n) for k, n in table[name].value_counts().items()})
        gaps = {v.name: np.nan if v.kind == "real" else v.labels[0] for v in schema.encoded}
        carried = Fills(gaps).carry_forward(table, schema, modelled=False)
        for name, column in self._carried.items():
            column.append(carried[name].to_numpy(np.float64))

    def fill(self, variable: Variable, lengths_N: NDArray[np.integer[Any]], least: int) -> float | str | None:
        """Return the fill of a gap at a patient's beginning; None if there is no value at all.

        A number is a mean or median over at least `least` patients, rounded as the recorded ones.
        """
        if variable.kind == "real":
            column = self._measured[variable.name]
            if not count_of(column):
                return None
            found = pooled_median(column, self._carried[variable.name], lengths_N, least)
            return round(found, decimals_of(column, abs(found) or 1.0))
        counts = self._classes[variable.name]
        return max(variable.labels, key=lambda label: counts[label]) if counts.total() else None

    def by_row(self, variable: Variable, fills: Fills) -> Blocks:
        """Return a real column with a value for each row: NaN where it is modelled as absent."""
        return self._carried[variable.name] if variable.missing == "model" else self.filled(variable, fills)

    def filled(self, variable: Variable, fills: Fills) -> Blocks:
        """Return a real column with gaps carried forward and filled; modelled gaps are left out."""
        column = self._carried[variable.name]
        if variable.missing == "model":
            return lambda: (block[~np.isnan(block)] for block in column())
        if variable.missing == "carry_forward":
            value = float(fills.values[variable.name])
            return lambda: (np.where(np.isnan(block), value, block) for block in column())
        return column


def _refuse_constant(found: Mapping[str, tuple[float, float]], schema: Schema, source: str) -> None:
    """A constant has no Box-Cox transform and nothing to learn; `found` has each lowest and highest value."""
    shifts = {v.name: BOXCOX_EPS + v.offset for v in schema.reals}
    constant = [name for name, (low, high) in found.items() if low + shifts[name] == high + shifts[name]]
    if constant:
        shown = listed(f"'{name}' = {found[name][0]:g}" for name in constant)
        raise TableError(
            f"{source}: these columns have the same value in every row of the training patients: {shown}. "
            "There is nothing to learn from them: remove them from the "
            f"schema.{_constant_time(constant, schema)}"
        )


def _refuse_tiny(found: Mapping[str, tuple[float, float]], source: str) -> None:
    """Box-Cox adds a constant (`BOXCOX_EPS`), beside which such values would not be told apart."""
    for name, (low, high) in found.items():
        if (size := max(abs(low), abs(high))) < _SMALLEST:
            raise TableError(
                f"{source}: no value of column '{name}' is larger than {size:g}; the largest should be at "
                f"least {_SMALLEST:g}, or rounding would change the values. Give the variable in a smaller "
                "unit, so that its numbers are larger."
            )


def _refuse_inexact(
    variable: Variable, column: Blocks, cells: VariableCells, schema: Schema, source: str
) -> None:
    """Cohorts have float32, which has 24 bits: 99,999,999 would become 100,000,000.

    Whole numbers must be exact, and single values that are frequent, such as a code for a missing value.
    """
    if variable in (schema.gap, schema.follow_up and schema[schema.follow_up.time]):
        return
    single = cells.low_P[cells.low_P == cells.high_P]
    for block in column() if cells.decimals == 0 else [single]:
        changed = block[(np.abs(block) > _LARGEST_EXACT) & (block.astype(np.float32) != block)]
        if len(changed):
            raise TableError(
                f"{source}: column '{variable.name}' has numbers that a synthetic cohort could not contain "
                f"exactly, such as {changed[0]:,.0f} (written as {np.float32(changed[0]):,.0f}): numbers "
                f"above {_LARGEST_EXACT:,} are rounded to 24 bits. Give the variable in a larger unit, such "
                "as thousands; if the number stands for a missing value, leave the cell empty."
            )


def _constant_time(constant: Sequence[str], schema: Schema) -> str:
    """Explain a constant time: the table has it in another form."""
    words = ""
    if schema.gap and schema.gap.name in constant:
        words += (
            f" '{schema.gap.name}' is the time between visits, always the same: number each patient's visits "
            f"0, 1, 2, ... and leave out `kind: irregular`."
        )
    if schema.follow_up and schema.follow_up.time in constant:
        words += (
            f" '{schema.follow_up.time}' stands for the time from the last row to the end of follow-up: it "
            f"says no more than the rows do, so leave out `follow_up` too."
        )
    return words
