"""The two anchors of a verdict: the noise between samples of real patients, and independent variables.

Both are computed from the real patients at the sizes at hand. The noise is a distribution, drawn by splitting
the real patients (training and holdout together, where there is a holdout) again and again into one set for
the training data and one for the cohort. In the independent cohort every variable has the courses of other
patients: each variable is distributed correctly, but all relations are lost.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.columns import Columns, fit_columns
from healthgym.evaluation.statistics.findings import LEAST_Z, Compared, compare_families, families_of
from healthgym.evaluation.statistics.panel import Panel, join
from healthgym.evaluation.statistics.relations import Families
from healthgym.seeds import permutation, stream

_SPLITS_OF_ERRORS = 8
_MOST_PATIENTS = 1000
_ROOM = 1.2


class Anchors:
    """Noise and independence for cohorts of one size.

    Args:
        train: real patients that the cohort was made from.
        holdout: real patients that its maker never saw, or None.
        num_synthetic: synthetic patients that are compared.
        num_splits: of the real patients, from which the noise of a metric is computed.
        seed: of splits and permutations.
    """

    def __init__(
        self, train: Panel, holdout: Panel | None, num_synthetic: int, num_splits: int, seed: int
    ) -> None:
        self.train = train
        self.num_synthetic = num_synthetic
        self.num_splits = num_splits
        self.seed = seed
        self._pool = join([train, holdout]) if holdout else train
        self._kept: dict[str, Any] = {}

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return what `compute` returned the first time it was asked under this key."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    @cached_property
    def columns(self) -> Columns:
        """What describes a patient, by the training data."""
        return fit_columns(self.train)

    @cached_property
    def families(self) -> Families:
        """The statistics of the training data."""
        return families_of(self.train, self.columns)

    def split(self, number: int, most: int | None = None) -> tuple[Panel, Panel]:
        """Return two disjoint sets of real patients, of the sizes of training data and cohort if they
        allow."""
        count = self._pool.num_patients
        other = min(self.num_synthetic, count // 2)
        first = min(self.train.num_patients, count - other)
        if most:
            first, other = min(first, most), min(other, most)
        order = permutation(count, self.seed, "noise", number)
        return self._pool.take(np.sort(order[:first])), self._pool.take(np.sort(order[first : first + other]))

    def widening(self, first: int, other: int) -> float:
        """Return by how much noise between sets of these sizes exceeds that at the sizes at hand."""
        at_hand = 1 / self.train.num_patients + 1 / self.num_synthetic
        return float(np.sqrt((1 / first + 1 / other) / at_hand))

    @cached_property
    def cut(self) -> float:
        """How many standard errors no statistic of real patients reaches among real patients.

        At least 5, and a fifth above the largest of eight splits: heavy tails and few patients make errors
        themselves uncertain.
        """
        largest = 0.0
        for number in range(_SPLITS_OF_ERRORS):
            first, other = self.split(number, _MOST_PATIENTS)
            compared = compare_families(
                families_of(first, self.columns),
                families_of(other, self.columns),
                first.num_patients / other.num_patients,
            )
            largest = max([largest, *(each.largest_z for each in compared.values())])
        return max(LEAST_Z, _ROOM * largest)

    def compared(self, cohort: Panel) -> dict[str, Compared]:
        """Put a cohort's statistics beside those of the training data."""
        ratio = self.train.num_patients / cohort.num_patients
        return compare_families(self.families, families_of(cohort, self.columns), ratio)

    @cached_property
    def independent(self) -> Panel:
        """As many patients as the cohort has, whose variables are independent."""
        rng = stream(self.seed, "which patients are independent")
        count = self.num_synthetic
        rows = rng.choice(self.train.num_patients, count, replace=count > self.train.num_patients)
        return independent(self.train.take(np.sort(rows)), self.seed)

    @cached_property
    def independent_compared(self) -> dict[str, Compared]:
        """The statistics of the independent cohort beside those of the training data."""
        return self.compared(self.independent)


def independent(panel: Panel, seed: int) -> Panel:
    """Return patients each of whose variables is another patient's, extended or cut to their own lengths."""
    reals, codes = panel.reals_NTR.copy(), panel.codes_NTK.copy()
    for array, what in ((reals, "real"), (codes, "class")):
        for position in range(array.shape[2]):
            order = permutation(panel.num_patients, seed, "independent", what, position)
            array[:, :, position] = _courses(array[:, :, position], panel, order)
    reals[~panel.present_NT] = np.nan
    codes[~panel.present_NT] = -1
    return Panel(panel.schema, reals, codes, panel.lengths_N, panel.scale)


def _courses(values_NT: NDArray[Any], panel: Panel, order: NDArray[np.int64]) -> NDArray[Any]:
    """Return the courses of other patients; a course that is too short stays at its last value."""
    steps = np.minimum(np.arange(panel.num_timesteps)[None, :], panel.lengths_N[order, None] - 1)
    return np.take_along_axis(values_NT[order], steps, axis=1)
