"""Fit the cells of `healthgym.schema.cells` to the training patients, in memory independent of the rows.

Legend: N rows, P pieces.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.data.fitting.columns import Blocks, in_memory
from healthgym.data.fitting.decimals import decimals_of
from healthgym.data.fitting.ends import fit_ends
from healthgym.data.fitting.units import Rows, Units, count_units, known_values, typical_size, unit_of
from healthgym.schema.cells import (
    MOST_PIECES,
    Cells,
    Ints,
    VariableCells,
)

# A piece has about this part of the rows or more: the first one that gives few enough pieces.
_SHARES = (2048, 1024, 512)
_MOST_CELLS = 16  # of a bin
_FAR_MORE = 8  # times as many rows: a value that keeps a piece of its own beside a tail of too few patients
_HARDLY = 0.02  # a variable that repeats less often than this gets no "held" decision


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
    return Cells(variables, ended_where_reached(length, lengths_N, least_patients), least_patients)


def ended_where_reached(
    cells: VariableCells, lengths_N: NDArray[np.integer[Any]], least: int
) -> VariableCells:
    """End the cells of lengths at the greatest one that so many patients reach: none is beyond the data."""
    if len(lengths_N) < least:
        return cells
    low, high, step = cells.low_P.copy(), cells.high_P.copy(), cells.step_P.copy()
    reached = float(np.sort(lengths_N)[-least])
    if high[-1] > reached:
        low[-1], high[-1], step[-1] = min(low[-1], reached), reached, 1.0
    return replace(cells, low_P=low, high_P=high, step_P=step)


def fit_variable(
    column: Blocks, lengths_N: NDArray[np.integer[Any]], least_patients: int, num_bins: int
) -> VariableCells:
    """Fit the cells of one variable, in a few passes over its column; see `fit_cells`."""
    rows = Rows(column, lengths_N)
    units = count_units(rows, known_values(rows, least_patients))
    labels, atom_P = _pool(units, rows, least_patients)
    decimals = decimals_of(rows.new_values, typical_size(units))
    low, high, step, bounds = fit_ends(units, rows, labels, atom_P, decimals, least_patients)
    kept = np.maximum(labels, -1 - labels)  # an absorbed unit's label is -1 minus its piece
    new_P, all_P = (np.bincount(kept, each).astype(np.int64) for each in (units.new, units.all))
    bin_P, cell_P = _bins(new_P, num_bins)
    repeats = (units.all.sum() - units.new.sum()) / max(units.all.sum() - units.num_patients, 1)
    holds = bool(repeats > _HARDLY)
    return VariableCells(
        low, high, step, bounds, new_P, all_P, bin_P, cell_P, decimals, holds, units.num_patients
    )


def _pool(units: Units, rows: Rows, least: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the piece of each unit, and whether each piece is a single value.

    A unit that is counted in a piece without widening it has the label -1 minus that piece. There are at most
    `MOST_PIECES`.
    """
    for share in _SHARES:
        labels, atom_P = _pooled(units, rows, least, units.new.sum() / share)
        if len(atom_P) <= MOST_PIECES:
            break
    return labels, atom_P


def _pooled(units: Units, rows: Rows, least: int, fewest_rows: float) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the piece of each unit; a single value that is one has half of these rows or more."""
    atom = units.single & (units.patients >= least) & (units.new >= fewest_rows / 2)
    labels, counts = _pools(units, rows, atom, least, fewest_rows)
    joining = _beside_rare_tails(labels, counts, units, atom, least)
    if joining.any():
        atom = atom & ~joining
        labels, counts = _pools(units, rows, atom, least, fewest_rows)
    return _absorbed(labels, counts, units, atom, least)


def _pools(
    units: Units, rows: Rows, atom: NDArray[np.bool_], least: int, fewest_rows: float
) -> tuple[Ints, Ints]:
    """Return the pool of each unit, and the patients of each pool: enough except between single values."""
    labels = _first_pools(units, atom, least, fewest_rows)
    while True:
        counts = _patients_of(labels, units, rows)
        first = np.unique(labels, return_index=True)[1]
        poor = np.flatnonzero((counts < least) & ~atom[first])
        if not len(poor) or len(first) == 1:
            return labels, counts
        labels, changed = _merged(labels, poor[0::2], first, atom)
        if not changed:
            return labels, counts


def _beside_rare_tails(
    labels: Ints, counts: Ints, units: Units, atom: NDArray[np.bool_], least: int
) -> NDArray[np.bool_]:
    """Return the single values that form an interval with the values of too few patients beyond them.

    Else nobody would have these extreme values. A value that is far more frequent stays a piece of its own.
    """
    joining, first = np.zeros_like(atom), np.unique(labels, return_index=True)[1]
    rows = np.bincount(labels, units.new)
    for tail, beside in ((0, 1), (-1, -2)) if len(first) > 1 else ():
        unit = first[beside]
        if counts[tail] < least and atom[unit] and rows[beside] <= _FAR_MORE * rows[tail]:
            joining[unit] = True
    return joining


def _first_pools(units: Units, atom: NDArray[np.bool_], least: int, fewest_rows: float) -> Ints:
    """Return labels, increasing from 0, of groups with enough patients if no patient is counted twice."""
    labels, label, patients, new = np.empty(len(atom), np.int64), -1, least, np.inf
    for i, single in enumerate(atom.tolist()):
        if single or atom[i - 1] or (patients >= least and new >= fewest_rows):
            label, patients, new = label + 1, 0, 0.0
        labels[i] = label
        patients, new = patients + int(units.patients[i]), new + int(units.new[i])
    return labels


def _patients_of(labels: Ints, units: Units, rows: Rows) -> Ints:
    """Return the number of distinct patients of each label."""
    lookup = np.zeros(2 * len(units.known) + 1, np.int64)
    lookup[units.index] = labels
    count = int(labels[-1]) + 1
    patients = np.zeros(count, np.int64)
    for values, patient, _ in rows.new():
        label = lookup[unit_of(values, units.known)]
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
    labels: Ints, counts: Ints, units: Units, atom: NDArray[np.bool_], least: int
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
