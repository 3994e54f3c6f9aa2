"""Fit the cells of `healthgym.schema.cells` to the training patients, in memory independent of the rows.

Legend: N rows, P pieces.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.data.fitting.columns import Blocks, by_patients, count_of, in_memory, order_statistics
from healthgym.data.fitting.decimals import decimals_of
from healthgym.schema.cells import (
    MOST_PIECES,
    Array,
    Cells,
    Ints,
    VariableCells,
    last_present,
)

MOST_DISTINCT = 1 << 16  # values that are counted one by one; quantiles are used if there are more
NUM_QUANTILES = 4096
_SHARES = (
    2048,
    1024,
    512,
)  # a piece has about this part of the rows or more; the first that gives few enough
_MOST_CELLS = 16  # of a bin
_HARDLY = 0.02  # a variable that repeats less often than this gets no "held" decision
_GRIDS = (1, 2, 5, 10, 20, 25, 50, 100)  # in units of the last decimal
_MOSTLY = 0.8
_NOISE = 1e-3  # of the last decimal: a value so near to the grid is meant to be on it


def fit_cells(
    columns: Sequence[Blocks], lengths_N: NDArray[np.integer[Any]], least_patients: int, num_bins: int = 32
) -> Cells:
    """Fit the cells of all real variables and of the number of timesteps.

    Args:
        columns: for each real variable, its values of the training patients one after the other, NaN if
            missing.
        lengths_N: timesteps of each training patient.
        least_patients: k, the least number of patients with values in a piece.
        num_bins: target number of bins; values more frequent than a bin get additional bins of their own.
    """
    variables = tuple(fit_variable(column, lengths_N, least_patients, num_bins) for column in columns)
    ones_N = np.ones(len(lengths_N), np.int64)
    length = fit_variable(in_memory(lengths_N.astype(np.float64)), ones_N, least_patients, num_bins)
    return Cells(variables, _reached(length, lengths_N, least_patients), least_patients)


def _reached(cells: VariableCells, lengths_N: NDArray[np.integer[Any]], least: int) -> VariableCells:
    """End the cells of lengths at the greatest one that so many patients reach: none is beyond the data."""
    if len(lengths_N) < least:
        return cells
    low, high, step = cells.low_P[-1], cells.high_P.copy(), cells.step_P[-1]
    reached = float(np.sort(lengths_N)[-least])
    high[-1] = min(high[-1], low + np.floor(max(reached - low, 0.0) / step) * step)
    return replace(cells, high_P=high)


def fit_variable(
    column: Blocks, lengths_N: NDArray[np.integer[Any]], least_patients: int, num_bins: int
) -> VariableCells:
    """Fit the cells of one variable, in a few passes over its column; see `fit_cells`."""
    rows = _Rows(column, lengths_N)
    units = _count(rows, _known_values(rows, least_patients))
    labels, atom_P = _pool(units, rows, least_patients)
    decimals = decimals_of(rows.new_values, _typical(units))
    low, high, step, bounds = _ends(units, labels, atom_P, decimals)
    kept = np.maximum(labels, -1 - labels)  # an absorbed unit's label is -1 minus its piece
    new_P, all_P = (np.bincount(kept, each).astype(np.int64) for each in (units.new, units.all))
    bin_P, cell_P = _bins(new_P, num_bins)
    repeats = (units.all.sum() - units.new.sum()) / max(units.all.sum() - units.num_patients, 1)
    holds = bool(repeats > _HARDLY)
    return VariableCells(
        low, high, step, bounds, new_P, all_P, bin_P, cell_P, decimals, holds, units.num_patients
    )


@dataclass(frozen=True)
class _Rows:
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
class _Units:
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


def _known_values(rows: _Rows, least: int) -> Array:
    """Return all distinct values, or numbers between them and frequent ones if there are too many."""
    found = np.empty(0)
    for values in rows.new_values():
        found = np.union1d(found, values)
        if len(found) > MOST_DISTINCT:
            return _without_rare(_between(rows), rows, least)
    return found


def _between(rows: _Rows) -> Array:
    """Return numbers at evenly spaced ranks, midway between two values of the data unless these are equal."""
    last = count_of(rows.new_values) - 1
    rank = np.minimum(np.floor(np.linspace(0, 1, NUM_QUANTILES) * last), last - 1).astype(int)
    found = order_statistics(rows.new_values, [*rank, *(rank + 1)])
    below, above = found[: len(rank)], found[len(rank) :]
    return np.unique(below + (above - below) / 2)


def _without_rare(known: Array, rows: _Rows, least: int) -> Array:
    """Leave out numbers that are values of the data, but of fewer patients than may be told."""
    units = _count(rows, known)
    rare = units.index[units.single & (units.patients < least)] // 2
    kept = np.delete(known, rare)
    return kept if len(kept) else known[:1] / 2 + known[-1:] / 2


def _unit_of(values: Array, known: Array) -> Ints:
    index = np.searchsorted(known, values, side="left")
    same = known[np.minimum(index, len(known) - 1)] == values
    return np.asarray(2 * index + same, dtype=np.int64)


def _count(rows: _Rows, known: Array) -> _Units:
    num_units = 2 * len(known) + 1
    new, everything, patients = np.zeros((3, num_units), np.int64)
    total, num_patients = np.zeros(num_units), 0
    for values, patient, present in rows.new():
        unit = _unit_of(values, known)
        new += np.bincount(unit, minlength=num_units)
        total += np.bincount(unit, values, minlength=num_units)
        everything += np.bincount(_unit_of(present, known), minlength=num_units)
        patients += np.bincount(np.unique(patient * num_units + unit) % num_units, minlength=num_units)
        num_patients += len(np.unique(patient))
    index = np.flatnonzero(new)
    value = known[np.minimum(index // 2, len(known) - 1)]
    below = known[np.maximum(index // 2 - 1, 0)]
    low = np.where(index % 2, value, below)
    return _Units(
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


def _pool(units: _Units, rows: _Rows, least: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the piece of each unit, and whether each piece is a single value.

    A unit that is counted in a piece without widening it has the label -1 minus that piece. There are at most
    `MOST_PIECES`.
    """
    for share in _SHARES:
        labels, atom_P = _pooled(units, rows, least, units.new.sum() / share)
        if len(atom_P) <= MOST_PIECES:
            break
    return labels, atom_P


def _pooled(units: _Units, rows: _Rows, least: int, fewest_rows: float) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the piece of each unit; a single value that is one has half of these rows or more."""
    atom = units.single & (units.patients >= least) & (units.new >= fewest_rows / 2)
    labels, counts = _first_pools(units, atom, least, fewest_rows), units.patients
    while True:
        counts = _patients_of(labels, units, rows)
        first = np.unique(labels, return_index=True)[1]
        poor = np.flatnonzero((counts < least) & ~atom[first])
        if not len(poor) or len(first) == 1:
            break
        labels, changed = _merged(labels, poor[0::2], first, atom)
        if not changed:
            break
    return _absorbed(labels, counts, units, atom, least)


def _first_pools(units: _Units, atom: NDArray[np.bool_], least: int, fewest_rows: float) -> Ints:
    """Return labels, increasing from 0, of groups with enough patients if no patient is counted twice."""
    labels, label, patients, new = np.empty(len(atom), np.int64), -1, least, np.inf
    for i, single in enumerate(atom.tolist()):
        if single or atom[i - 1] or (patients >= least and new >= fewest_rows):
            label, patients, new = label + 1, 0, 0.0
        labels[i] = label
        patients, new = patients + int(units.patients[i]), new + int(units.new[i])
    return labels


def _patients_of(labels: Ints, units: _Units, rows: _Rows) -> Ints:
    """Return the number of distinct patients of each label."""
    lookup = np.zeros(2 * len(units.known) + 1, np.int64)
    lookup[units.index] = labels
    count = int(labels[-1]) + 1
    patients = np.zeros(count, np.int64)
    for values, patient, _ in rows.new():
        label = lookup[_unit_of(values, units.known)]
        patients += np.bincount(np.unique(patient * count + label) % count, minlength=count)
    return patients


def _merged(labels: Ints, poor: Ints, first: Ints, atom: NDArray[np.bool_]) -> tuple[Ints, bool]:
    """Merge each of some labels with the next pool, or else the previous; a pool between two atoms stays."""
    target, last = np.arange(len(first)), len(first) - 1
    for label in poor.tolist():
        if label < last and not atom[first[label + 1]] and target[label + 1] == label + 1:
            target[label + 1] = target[label]
        elif label and not atom[first[label - 1]]:
            target[label] = target[label - 1]
    joined = np.unique(target[labels], return_inverse=True)[1]
    return joined.astype(np.int64), bool((target != np.arange(len(first))).any())


def _absorbed(
    labels: Ints, counts: Ints, units: _Units, atom: NDArray[np.bool_], least: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """Count pools of too few patients in the piece nearest in value."""
    first = np.unique(labels, return_index=True)[1]
    enough = counts >= least
    if not enough.any():
        return np.zeros(len(labels), np.int64), np.array([False])
    middle = (units.low + units.high) / 2
    kept = np.flatnonzero(enough[labels])
    ends = np.clip(np.searchsorted(kept, np.arange(len(labels))), 1, max(len(kept) - 1, 1))
    before, after = kept[ends - 1], kept[np.minimum(ends, len(kept) - 1)]
    nearest = np.where(np.abs(middle - middle[before]) <= np.abs(middle[after] - middle), before, after)
    piece = np.cumsum(enough) - 1
    found = np.where(enough[labels], piece[labels], -1 - piece[labels[nearest]])
    return found.astype(np.int64), atom[first[enough]]


def _typical(units: _Units) -> float:
    """Return the median size of the values that are not 0; 1 if all are."""
    size, weight = np.abs(units.high), units.new * (units.high != 0)
    if not weight.sum():
        return 1.0
    order = np.argsort(size)
    return float(size[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)])


def _ends(
    units: _Units, labels: Ints, atom_P: NDArray[np.bool_], decimals: int
) -> tuple[Array, Array, Array, Array]:
    """Return the lowest and highest value of each piece, its step, and the bounds between pieces."""
    count, own, unit = len(atom_P), labels >= 0, 10.0**-decimals
    positions = np.flatnonzero(own)
    first = positions[np.unique(labels[own], return_index=True)[1]]
    last = positions[len(positions) - 1 - np.unique(labels[own][::-1], return_index=True)[1]]
    bounds = np.array([_bound(units, last[p], first[p + 1], decimals) for p in range(count - 1)])
    low, high, step = _values_of_single(units, first), _values_of_single(units, first), np.full(count, unit)
    for p in np.flatnonzero(~atom_P).tolist():
        part = slice(first[p], last[p] + 1)
        ends = _outer_ends(units, part, bounds[p - 1 : p] if p else bounds[:0], bounds[p : p + 1], unit)
        low[p], high[p], step[p] = _on_grid(units, part, *ends, unit)
    low, high = (np.round(each, decimals) + 0.0 for each in (low, high))  # no negative zero
    return low, high, step, bounds


def _values_of_single(units: _Units, first: Ints) -> Array:
    return units.high[first].copy()


def _bound(units: _Units, last: int, first: int, decimals: int) -> float:
    """Return the number with the fewest digits between a piece's last unit and the next one's first."""
    below, above = float(units.high[last]), float(units.low[first])
    if below < above:
        return _roundest(below, above, decimals)
    return float(np.nextafter(below, np.inf)) if units.single[last] else above


def _outer_ends(units: _Units, part: slice, before: Array, after: Array, unit: float) -> tuple[float, float]:
    """Return the ends of an interval between two bounds, of which one or both may not exist.

    Without a bound, the end is that of an interval with the mean of the values, so that it is no patient's
    own value.
    """
    mean = float(units.total[part].sum() / units.new[part].sum())
    if not len(before) and not len(after):
        middle = (units.low[part] + units.high[part]) / 2
        half = float(np.sqrt(3 * np.average((middle - mean) ** 2, weights=units.new[part])))
        low, high = mean - half, mean + half
    else:
        low = float(before[0]) if len(before) else np.nan
        high = float(after[0]) - unit if len(after) else 2 * mean - low
        low = 2 * mean - high if np.isnan(low) else low
    if units.low[0] >= 0:
        low = max(low, 0.0)
    return low, max(high, low)


def _roundest(above: float, most: float, decimals: int) -> float:
    """Return the number in (above, most] with the fewest digits.

    Where all have more decimals than were recorded, it is the one midway, which is nobody's value.
    """
    for digits in range(-9, decimals + 1):
        scaled = most * 10.0**digits
        whole = float(np.rint(scaled))
        if abs(whole - scaled) > 1e-12 * abs(scaled):  # otherwise they differ only by rounding
            whole = float(np.floor(scaled))
        if above < whole / 10.0**digits:
            return round(whole / 10.0**digits, max(digits, 0))
    scaled, middle = most * 10.0**decimals, above + (most - above) / 2
    return middle if abs(scaled - np.rint(scaled)) > _NOISE and above < middle else most


def _on_grid(units: _Units, part: slice, low: float, high: float, unit: float) -> tuple[float, float, float]:
    """Return the ends and the step of the coarsest grid with most values of a piece."""
    single = units.single[part]
    values, weights = units.high[part][single], units.new[part][single]
    for multiple in _GRIDS[::-1]:
        step = multiple * unit
        scaled = values / step
        on = (weights * (np.abs(scaled - np.rint(scaled)) < 1e-6 * np.maximum(np.abs(scaled), 1))).sum()
        bottom, top = np.ceil(low / step - 1e-9) * step, np.floor(high / step + 1e-9) * step
        if on > _MOSTLY * units.new[part].sum() and bottom <= top:
            return float(bottom), float(top), step
    bottom, top = np.ceil(low / unit - 1e-9) * unit, np.floor(high / unit + 1e-9) * unit
    return (float(bottom), float(top), unit) if bottom <= top else (low, low, unit)


def _bins(new_P: Ints, num_bins: int) -> tuple[Ints, Ints]:
    """Return the bin of each piece, and its cell in the bin: at most `_MOST_CELLS`, of similar shares."""
    share, heavy = new_P / new_P.sum(), 1 / num_bins
    bin_P, number, mass = np.empty(len(new_P), np.int64), -1, np.inf
    for p, own in enumerate(share.tolist()):
        if p == 0 or mass + own / 2 > heavy or own > heavy / 2:
            number, mass = number + 1, 0.0
        bin_P[p] = number
        mass = np.inf if own > heavy / 2 else mass + own
    cell_P = np.empty_like(bin_P)
    for b in range(number + 1):
        members = np.flatnonzero(bin_P == b)
        if len(members) <= _MOST_CELLS:
            cell_P[members] = np.arange(len(members))
            continue
        middle = (np.cumsum(share[members]) - share[members] / 2) / share[members].sum()
        cell_P[members] = np.unique((middle * _MOST_CELLS).astype(int), return_inverse=True)[1]
    return bin_P, cell_P
