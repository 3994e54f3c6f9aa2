"""Sufficient statistics: counts and sums over patients, computed shard by shard.

V = R + K variables, C = all classes: five bins per real variable, then the classes of each other one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.hashes import groups_of, hash_patients
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.scale import NUM_BINS
from healthgym.schema import Schema

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Combination = tuple[str, ...]


@dataclass(frozen=True)
class SufficientStatistics:
    """Counts and sums over the patients of a set; those of two sets together are the sum of both.

    Args:
        schema: what the columns mean.
        num_patients, num_rows: patients, and timesteps of all patients.
        together_CC: on how many timesteps two classes (or bins) hold together.
        pairs_VV, sums_VV, squares_VV, products_VV: over the timesteps where both variables are present:
            their number, sum of the first, sum of its squares, sum of products.
        transitions: per categorical variable, timesteps that went from class i to class j, shape (K, K).
        coverage: per combination of static variables, patients in each cell.
        lengths: patients per number of timesteps, shape (longest + 1,).
        hashes_N: one number per patient, equal for identical patients.
        groups_N: each patient's group by how many values are recorded, from `groups_of`.
        changing_static: per static variable, patients in whom it changes.
        missing: per variable, timesteps at which it is absent.
    """

    schema: Schema
    num_patients: int
    num_rows: int
    together_CC: Counts
    pairs_VV: Floats
    sums_VV: Floats
    squares_VV: Floats
    products_VV: Floats
    transitions: tuple[Counts, ...]
    coverage: dict[Combination, Counts]
    lengths: Counts
    hashes_N: NDArray[np.uint64]
    groups_N: NDArray[np.int8]
    changing_static: dict[str, int]
    missing: dict[str, int]

    def __add__(self, other: "SufficientStatistics") -> "SufficientStatistics":
        longest = max(len(self.lengths), len(other.lengths))
        return SufficientStatistics(
            schema=self.schema,
            num_patients=self.num_patients + other.num_patients,
            num_rows=self.num_rows + other.num_rows,
            together_CC=self.together_CC + other.together_CC,
            pairs_VV=self.pairs_VV + other.pairs_VV,
            sums_VV=self.sums_VV + other.sums_VV,
            squares_VV=self.squares_VV + other.squares_VV,
            products_VV=self.products_VV + other.products_VV,
            transitions=tuple(a + b for a, b in zip(self.transitions, other.transitions, strict=True)),
            coverage={name: cells + other.coverage[name] for name, cells in self.coverage.items()},
            lengths=_padded(self.lengths, longest) + _padded(other.lengths, longest),
            hashes_N=np.concatenate([self.hashes_N, other.hashes_N]),
            groups_N=np.concatenate([self.groups_N, other.groups_N]),
            changing_static=_sum(self.changing_static, other.changing_static),
            missing=_sum(self.missing, other.missing),
        )

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """The columns of C that belong to each variable."""
        widths = [NUM_BINS] * len(self.schema.reals) + [len(v.classes) for v in self.schema.categoricals]
        ends = np.cumsum(widths)
        return tuple(slice(int(end - width), int(end)) for end, width in zip(ends, widths, strict=True))

    def shares(self, position: int) -> Floats:
        """Return the share of each class of categorical variable `position`, over timesteps."""
        span = self.spans[len(self.schema.reals) + position]
        counts = np.diag(self.together_CC)[span]
        return np.asarray(counts / max(counts.sum(), 1))

    def table(self, first: int, second: int) -> Counts:
        """Return the contingency table of two variables, shape (classes, classes)."""
        return self.together_CC[self.spans[first], self.spans[second]]

    @cached_property
    def pearson_VV(self) -> Floats:
        """Pearson correlations between variables over all timesteps; NaN where one is constant."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.sums_VV / self.pairs_VV
            variance = self.squares_VV / self.pairs_VV - mean**2
            covariance = self.products_VV / self.pairs_VV - mean * mean.T
            variance[variance < 1e-12] = np.nan
            return np.asarray(np.clip(covariance / np.sqrt(variance * variance.T), -1, 1))


def statistics_of(panel: Panel, combinations: Sequence[Combination]) -> SufficientStatistics:
    """Sum over the patients of a panel."""
    rows = panel.values_rows
    known = np.isfinite(rows)
    filled, known_floats = np.where(known, rows, 0.0), known.astype(np.float64)
    schema = panel.schema
    return SufficientStatistics(
        schema=schema,
        num_patients=panel.num_patients,
        num_rows=len(rows),
        together_CC=_together(panel),
        pairs_VV=known_floats.T @ known_floats,
        sums_VV=filled.T @ known_floats,
        squares_VV=(filled**2).T @ known_floats,
        products_VV=filled.T @ filled,
        transitions=tuple(_transitions(panel, position) for position in range(len(schema.categoricals))),
        coverage={names: _cells(panel, names) for names in combinations},
        lengths=np.bincount(panel.lengths_N).astype(np.int64),
        hashes_N=hash_patients(panel),
        groups_N=groups_of(panel),
        changing_static=_changing_static(panel),
        missing={name: int(count) for name, count in zip(schema.names(), (~known).sum(axis=0), strict=True)},
    )


def _together(panel: Panel) -> Counts:
    """Count the timesteps at which two classes or bins hold together, shape (C, C)."""
    assert panel.scale is not None
    reals = panel.scale.bins(panel.reals_NTR[panel.present_NT])
    codes = panel.codes_NTK[panel.present_NT].astype(np.int64)
    widths = [NUM_BINS] * reals.shape[1] + [len(v.classes) for v in panel.schema.categoricals]
    indices = np.concatenate([reals, codes], axis=1)
    starts = np.cumsum([0, *widths])
    total = np.zeros((starts[-1], starts[-1]), dtype=np.int64)
    for begin in range(0, len(indices), 1 << 18):
        block = indices[begin : begin + (1 << 18)]
        hot = np.zeros((len(block), int(starts[-1])), dtype=np.float32)
        for position, start in enumerate(starts[:-1]):
            known = block[:, position] >= 0
            hot[np.flatnonzero(known), start + block[known, position]] = 1
        total += (hot.T @ hot).astype(np.int64)  # exact: fewer than 2^24 rows per block
    return total


def _transitions(panel: Panel, position: int) -> Counts:
    """Count the steps from class i to class j of one categorical variable."""
    codes = panel.codes_NTK[:, :, position].astype(np.int64)
    width = len(panel.schema.categoricals[position].classes)
    before, after = codes[:, :-1], codes[:, 1:]
    known = (before >= 0) & (after >= 0)
    pairs = before[known] * width + after[known]
    return np.bincount(pairs, minlength=width * width).reshape(width, width).astype(np.int64)


def _cells(panel: Panel, names: Combination) -> Counts:
    """Count the patients in each cell of some static variables, by their first timestep."""
    position_of = {variable.name: k for k, variable in enumerate(panel.schema.categoricals)}
    positions = [position_of[name] for name in names]
    shape = tuple(len(panel.schema.categoricals[position].classes) for position in positions)
    codes = panel.codes_NTK[:, 0, positions].astype(np.int64)
    known = codes[(codes >= 0).all(axis=1)]
    flat = np.ravel_multi_index(tuple(known.T), shape)
    return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.int64)


def _changing_static(panel: Panel) -> dict[str, int]:
    """Count, per static variable, the patients in whom it changes."""
    counts = {}
    for position, variable in enumerate(panel.schema.reals):
        if variable.static:
            values = panel.reals_NTR[:, :, position]
            known = np.isfinite(values) & panel.present_NT
            least = np.where(known, values, np.inf).min(axis=1)
            most = np.where(known, values, -np.inf).max(axis=1)
            counts[variable.name] = int((most - least > 1e-6 * np.maximum(1.0, np.abs(least))).sum())
    for position, variable in enumerate(panel.schema.categoricals):
        if variable.static:
            codes = panel.codes_NTK[:, :, position]
            least = np.where(codes < 0, np.iinfo(codes.dtype).max, codes).min(axis=1)
            counts[variable.name] = int((codes.max(axis=1) > least).sum())
    return counts


def _padded(counts: Counts, length: int) -> Counts:
    """Return counts with zeros up to `length`."""
    return np.pad(counts, (0, length - len(counts)))


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    """Add two dicts with the same keys."""
    return {name: count + second[name] for name, count in first.items()}
