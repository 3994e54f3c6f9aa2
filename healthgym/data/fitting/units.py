"""The values of a column counted, as the units that the pieces of cells are pooled from.

Legend: N rows, M known values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.data.fitting.columns import Blocks, by_patients, count_of, order_statistics
from healthgym.schema.cells import Array, Ints, last_present

MOST_DISTINCT = 1 << 16  # values that are counted one by one; numbers between them are used if there are more
NUM_QUANTILES = 4096


@dataclass(frozen=True)
class Rows:
    """A column with the patients of its rows."""

    column: Blocks
    lengths_N: NDArray[np.integer[Any]]

    def new(self) -> Iterator[tuple[Array, Ints, Array]]:
        """Yield for a few patients at a time the new values, their patients, and all present values."""
        for values_N, lengths_N in by_patients(self.column, self.lengths_N):
            present_N = ~np.isnan(values_N)
            before_N, inside_N = last_present(values_N, present_N, lengths_N)
            new_N = present_N & ~(inside_N & (values_N == values_N[before_N]))
            patient_N = np.repeat(np.arange(len(lengths_N)), lengths_N)
            yield values_N[new_N], patient_N[new_N], values_N[present_N]

    def new_values(self) -> Iterator[Array]:
        """Yield the new values, block by block."""
        return (values for values, _, _ in self.new())


@dataclass(frozen=True)
class Units:
    """The units that pieces are pooled from, by increasing value: single values, and intervals between them.

    Args:
        known: M values, increasing.
        index: of each unit that has rows: 2m + 1 is the value known[m], 2m the interval just below it.
        low, high: ends of each unit.
        new, all, patients: rows and patients of each.
        total: sum of the new values of each unit.
        num_patients: number of patients with any value.
    """

    known: Array
    index: Ints
    low: Array
    high: Array
    new: Ints
    all: Ints
    patients: Ints
    total: Array
    num_patients: int

    @property
    def single(self) -> NDArray[np.bool_]:
        """Whether each unit is a single value."""
        return np.asarray(self.index % 2 == 1)


def known_values(rows: Rows, least: int) -> Array:
    """Return all distinct values, or numbers between them and frequent ones if there are too many."""
    found = np.empty(0)
    for values in rows.new_values():
        found = np.union1d(found, values)
        if len(found) > MOST_DISTINCT:
            return _without_rare(_between(rows), rows, least)
    return found


def _between(rows: Rows) -> Array:
    """Return numbers at evenly spaced ranks, midway between two values of the data unless these are equal."""
    last = count_of(rows.new_values) - 1
    rank = np.minimum(np.floor(np.linspace(0, 1, NUM_QUANTILES) * last), last - 1).astype(int)
    found = order_statistics(rows.new_values, [*rank, *(rank + 1)])
    below, above = found[: len(rank)], found[len(rank) :]
    return np.unique(below + (above - below) / 2)


def _without_rare(known: Array, rows: Rows, least: int) -> Array:
    """Leave out numbers that are values of the data, but of fewer patients than may be told."""
    units = count_units(rows, known)
    rare = units.index[units.single & (units.patients < least)] // 2
    kept = np.delete(known, rare)
    return kept if len(kept) else known[:1] / 2 + known[-1:] / 2


def unit_of(values: Array, known: Array) -> Ints:
    """Return the index of each value's unit, see `Units`."""
    index = np.searchsorted(known, values, side="left")
    same = known[np.minimum(index, len(known) - 1)] == values
    return np.asarray(2 * index + same, dtype=np.int64)


def count_units(rows: Rows, known: Array) -> Units:
    """Count the rows and patients of each unit, given the known values."""
    num_units = 2 * len(known) + 1
    new, everything, patients = np.zeros((3, num_units), np.int64)
    total, num_patients = np.zeros(num_units), 0
    for values, patient, present in rows.new():
        unit = unit_of(values, known)
        new += np.bincount(unit, minlength=num_units)
        total += np.bincount(unit, values, minlength=num_units)
        everything += np.bincount(unit_of(present, known), minlength=num_units)
        patients += np.bincount(np.unique(patient * num_units + unit) % num_units, minlength=num_units)
        num_patients += len(np.unique(patient))
    index = np.flatnonzero(new)
    value = known[np.minimum(index // 2, len(known) - 1)]
    below = known[np.maximum(index // 2 - 1, 0)]
    low = np.where(index % 2, value, below)
    return Units(
        known,
        index,
        low,
        value,
        new[index],
        everything[index],
        patients[index],
        total[index],
        num_patients,
    )


def typical_size(units: Units) -> float:
    """Return the median size of the values that are not 0; 1 if all are."""
    size, weight = np.abs(units.high), units.new * (units.high != 0)
    if not weight.sum():
        return 1.0
    order = np.argsort(size)
    return float(size[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)])
