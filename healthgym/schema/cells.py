"""Cells of real variables: a discretisation of values, which a system can learn as classes.

The recorded values of a variable are pooled into *pieces*: a single value that at least k patients had
(zeros, integers, values on a rounding grid), or an interval that pools the rarer values of at least k
patients. Consecutive pieces make a *cell*, consecutive cells a *bin*: a system draws the bin, then the cell,
and a value is drawn from the pieces of the cell by their shares, on the variable's recorded grid.

No stored value belongs to fewer than k patients: values that cannot be pooled with enough others count as the
nearest piece, and the outer ends of the two extreme pieces are derived from a mean over at least k patients.

Legend: N rows, P pieces, C bins, J cells of a bin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from healthgym.config import LEAST_PATIENTS as LEAST_PATIENTS

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

NONE = 0x0FFF
"""Piece of a variable that has no value yet."""
HELD = 0x1000
"""Bit of a row whose value equals the patient's previous value."""
ABSENT = 0x2000
"""Bit of a row without a value; its piece is that of the previous value."""

MOST_PIECES = NONE
"""Largest number of pieces of a variable: more do not fit into the code of a row."""

MOST_DECIMALS = 6
"""Largest number of decimals that is distinguished, unless a variable's values are very small."""


_VALUES = ("low_P", "high_P", "step_P", "bounds")
_COUNTS = ("new_P", "all_P", "bin_P", "cell_P")
_SMALLEST_TAIL = 1e-4
_LARGEST_WHOLE = 2.0**53
_SMALLEST_WIDTH = 1e-4
_FAR = 100.0  # beyond every normal score


@dataclass(frozen=True)
class VariableCells:
    """The cells of one real variable.

    Args:
        low_P, high_P: lowest and highest value of each piece, in the variable's unit.
        step_P: distance between the values that may be drawn from a piece.
        bounds: lowest value of each piece after the first, shape (P - 1,).
        new_P: number of rows whose value differs from the patient's previous value, per piece.
        all_P: number of rows with the value, per piece.
        bin_P: bin of each piece, from 0, increasing.
        cell_P: cell of each piece within its bin, from 0, increasing.
        decimals: number of decimals of the recorded values.
        holds: whether the value repeats often enough for a separate decision "unchanged".
        patients: number of training patients with a value; 0 in files of version 0.1.0, which lack it.
    """

    low_P: Array
    high_P: Array
    step_P: Array
    bounds: Array
    new_P: Ints
    all_P: Ints
    bin_P: Ints
    cell_P: Ints
    decimals: int
    holds: bool
    patients: int = 0

    def __str__(self) -> str:
        single = int((self.low_P == self.high_P).sum())
        return (
            f"{single:,} single values and {self.num_pieces - single:,} intervals in {self.num_bins} bins, "
            f"from {self.low_P[0]:g} to {self.high_P[-1]:g}, {self.decimals} decimals"
        )

    @property
    def exact(self) -> bool:
        """Whether `decimals` is exact: six may stand for more, and float64 has 15 digits."""
        largest = float(max(abs(self.low_P[0]), abs(self.high_P[-1])))
        return self.decimals < MOST_DECIMALS and largest * 10.0**self.decimals < _LARGEST_WHOLE

    @property
    def num_pieces(self) -> int:
        """P."""
        return len(self.low_P)

    @property
    def num_bins(self) -> int:
        """C."""
        return int(self.bin_P[-1]) + 1

    @property
    def num_cells(self) -> int:
        """J, of the bin with most cells."""
        return int(self.cell_P.max()) + 1

    @cached_property
    def scores_P(self) -> Array:
        """Normal score of each piece: the standard normal quantile of its middle rank among all rows."""
        ends = np.cumsum(self.all_P) / self.all_P.sum()
        middle = ends - self.all_P / self.all_P.sum() / 2
        return np.asarray(stats.norm.ppf(np.clip(middle, _SMALLEST_TAIL, 1 - _SMALLEST_TAIL)))

    @cached_property
    def edges(self) -> Array:
        """Normal scores between consecutive bins, shape (C - 1,), strictly increasing."""
        mass_C = np.bincount(self.bin_P, self.all_P, self.num_bins)
        below = np.cumsum(mass_C)[:-1] / mass_C.sum()
        scores = stats.norm.ppf(np.clip(below, _SMALLEST_TAIL, 1 - _SMALLEST_TAIL))
        rising = np.arange(len(scores)) * _SMALLEST_WIDTH
        return np.asarray(np.maximum.accumulate(scores - rising) + rising)

    @cached_property
    def cell_edges(self) -> Array:
        """Normal scores around the cells of each bin, (C, J + 1), non-decreasing; the outermost are +-`_FAR`.

        A bin with fewer cells than J repeats its last edge.
        """
        first_P = np.r_[True, (np.diff(self.bin_P) > 0) | (np.diff(self.cell_P) > 0)]
        below_P = (np.cumsum(self.all_P) - self.all_P) / self.all_P.sum()
        below_P = np.clip(below_P, _SMALLEST_TAIL, 1 - _SMALLEST_TAIL)
        lower = np.asarray(stats.norm.ppf(below_P[first_P]))
        rising = np.arange(len(lower)) * _SMALLEST_WIDTH
        lower = np.maximum.accumulate(lower - rising) + rising
        lower[0] = -_FAR
        edges = np.empty((self.num_bins, self.num_cells + 1))
        for c in range(self.num_bins):
            inside = np.flatnonzero(self.bin_P[first_P] == c)
            end = lower[inside[-1] + 1] if inside[-1] + 1 < len(lower) else _FAR
            edges[c] = end
            edges[c, : len(inside)] = lower[inside]
        return edges

    def encode(self, values_N: Array) -> Ints:
        """Return the piece of each value, shape (N,)."""
        return np.asarray(np.searchsorted(self.bounds, values_N, side="right"), dtype=np.int64)

    def decode(self, piece_N: Ints, u_N: Array, not_N: Array | None = None) -> Array:
        """Draw a value from each piece.

        Args:
            piece_N: pieces.
            u_N: uniform numbers in [0, 1).
            not_N: a value to exclude, or NaN; ignored by pieces of a single value.
        """
        low, step = self.low_P[piece_N], self.step_P[piece_N]
        count = np.rint((self.high_P[piece_N] - low) / step) + 1
        if not_N is None:
            index = np.floor(u_N * count)
        else:
            barred = np.rint((not_N - low) / step)
            barred = np.where((barred >= 0) & (barred < count) & (count > 1), barred, np.inf)
            index = np.floor(u_N * (count - np.isfinite(barred)))
            index += index >= barred
        return np.asarray(np.round(low + np.minimum(index, count - 1) * step, self.decimals))

    def to_tree(self) -> dict[str, Any]:
        """Return the fitted numbers, for a file."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> "VariableCells":
        """Read the result of `to_tree`."""
        low, high, step, bounds = (np.asarray(tree[name], np.float64) for name in _VALUES)
        new, everything, bins, cells = (np.asarray(tree[name], np.int64) for name in _COUNTS)
        decimals, holds, patients = int(tree["decimals"]), bool(tree["holds"]), int(tree.get("patients", 0))
        return cls(low, high, step, bounds, new, everything, bins, cells, decimals, holds, patients)


@dataclass(frozen=True)
class Cells:
    """The cells of a cohort: of its R real variables and of its patients' lengths.

    Args:
        variables: of each real variable, in the schema's order.
        length: of the number of timesteps.
        least_patients: k, with which they were fitted; 10 in files of version 0.1.0, which lack it.
    """

    variables: tuple[VariableCells, ...]
    length: VariableCells
    least_patients: int = LEAST_PATIENTS

    @property
    def all(self) -> tuple[VariableCells, ...]:
        """Those of the variables and of the length."""
        return (*self.variables, self.length)

    def too_few(self, names: Sequence[str]) -> dict[str, int]:
        """Return the variables of which fewer than k training patients have a value, with their number."""
        patients = {name: each.patients for name, each in zip(names, self.variables, strict=True)}
        return {name: count for name, count in patients.items() if 0 < count < self.least_patients}

    def encode(self, raw_NR: Array, lengths_N: NDArray[np.integer[Any]]) -> NDArray[np.int16]:
        """Return each row's code of each variable: its piece, with the bits HELD and ABSENT, int16 (rows, R).

        Args:
            raw_NR: values of complete patients, one after the other, in the variables' units; NaN if missing.
            lengths_N: number of timesteps of each patient.

        Raises:
            ValueError: a variable has more than `MOST_PIECES`.
        """
        codes = np.empty(raw_NR.shape, np.int16)
        for r, cells in enumerate(self.variables):
            codes[:, r] = _codes(cells, raw_NR[:, r], lengths_N)
        return codes

    def to_tree(self) -> dict[str, Any]:
        """Return the fitted numbers, for a file."""
        named = {f"{r}": cells.to_tree() for r, cells in enumerate(self.variables)}
        return {
            "variables": named,
            "length": self.length.to_tree(),
            "least_patients": self.least_patients,
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> "Cells":
        """Read the result of `to_tree`."""
        named = tree.get("variables", {})
        variables = tuple(VariableCells.from_tree(named[f"{r}"]) for r in range(len(named)))
        least = int(tree.get("least_patients", LEAST_PATIENTS))
        return cls(variables, VariableCells.from_tree(tree["length"]), least)


def _codes(cells: VariableCells, values_N: Array, lengths_N: NDArray[np.integer[Any]]) -> Ints:
    if cells.num_pieces > MOST_PIECES:
        raise ValueError(f"{cells.num_pieces} pieces; codes have room for {MOST_PIECES}")
    present_N = ~np.isnan(values_N)
    before_N, inside_N = last_present(values_N, present_N, lengths_N)
    piece_N = np.where(present_N, cells.encode(np.where(present_N, values_N, 0.0)), NONE)
    # A missing value has the piece of the patient's last value, if there is one.
    last_N = np.where(present_N, np.arange(len(values_N)), before_N)
    piece_N = np.where(last_N >= 0, piece_N[last_N], NONE)
    single_P = cells.low_P == cells.high_P
    same_N = (piece_N == piece_N[before_N]) & single_P[np.minimum(piece_N, cells.num_pieces - 1)]
    held_N = inside_N & present_N & ((values_N == values_N[before_N]) | same_N)
    return np.asarray(piece_N + HELD * held_N + ABSENT * ~present_N, dtype=np.int64)


def last_present(
    values_N: Array, present_N: NDArray[np.bool_], lengths_N: NDArray[np.integer[Any]]
) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the row of the patient's last value before each row (-1: none), and whether there is one."""
    rows = np.arange(len(values_N))
    last = np.maximum.accumulate(np.where(present_N, rows, -1))
    before = np.concatenate([[-1], last[:-1]]) if len(rows) else last
    first = np.repeat(np.cumsum(lengths_N, dtype=np.int64) - lengths_N, lengths_N)
    inside = before >= first
    return np.where(inside, before, -1), inside


def to_lists(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of arrays as lists, for JSON."""
    return {
        name: to_lists(value) if isinstance(value, Mapping) else np.asarray(value).tolist()
        for name, value in tree.items()
    }
