"""Expected number of chance copies, estimated from real patients who differ in one variable.

N patients, V variables, G groups of patients by how many values are recorded of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from healthgym.evaluation.statistics.hashes import NUM_GROUPS, groups_of, hash_courses, hash_patients, mix
from healthgym.evaluation.statistics.panel import Panel, join

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Groups = NDArray[np.int8]

_LEVEL = 0.01
_LEAST_PAIRS = 3


@dataclass(frozen=True)
class Coincidences:
    """How often patients outside the training data equal a training patient, by group of the latter.

    Args:
        rate_G: training patients whom one outsider is expected to equal.
        pairs_G: pairs of real patients, equal or almost, that the rate rests on.
    """

    rate_G: Floats
    pairs_G: Floats

    def at_most(self, num_patients: int) -> Counts:
        """Return how many of so many outsiders equal a training patient in 99 of 100 cohorts, shape (G,).

        The number is negative binomial: Poisson, with a mean known from `pairs_G` pairs only. Fewer than
        three pairs show no chance; they may be one person recorded twice.
        """
        known = (self.pairs_G >= _LEAST_PAIRS) & (self.rate_G > 0)
        expected, pairs = self.rate_G * num_patients, np.maximum(self.pairs_G, 1.0)
        limit = stats.nbinom.isf(_LEVEL, pairs, pairs / (pairs + expected))
        return np.where(known, limit, 0).astype(np.int64)


def coincidences(train: Panel, holdout: Panel | None, times: float = 1.0) -> Coincidences:
    """Estimate how often an outsider equals a training patient.

    Held-out patients who equal one are counted; in a small holdout nobody may, so real patients who equal
    each other in all variables but v are counted too. If P is the chance that two patients are equal and q
    that they agree in v, given equally many timesteps, the chance that v alone differs is P (1 / q - 1). P
    is the number of all these pairs over the sum of their exposures (maximum likelihood for Poisson counts).
    Variables in which no such pair differs are left out: they may be determined by others. Training patients
    who are equal among themselves are not counted: they may be recorded twice.

    Args:
        train: training patients, or a sample of them.
        holdout: held-out patients.
        times: training patients for each one of the sample.
    """
    reals = join([train, holdout]) if holdout else train
    count, size = train.num_patients, groups_of(train)
    courses_NV, whole_N = hash_courses(reals), hash_patients(reals)
    lengths_N = mix(reals.lengths_N.astype(np.uint64))
    equal_N, as_long_G = _others(whole_N), _by_group(_others(lengths_N)[:count], size)
    near_G, exposure_G = np.zeros(NUM_GROUPS), np.zeros(NUM_GROUPS)
    for course_N in courses_NV.T:
        differ_G = _by_group((_others(whole_N - course_N) - equal_N)[:count], size)
        agree_G = _by_group(_others(mix(course_N ^ lengths_N))[:count], size)
        with np.errstate(divide="ignore", invalid="ignore"):
            odds_G = as_long_G / agree_G - 1
        near_G += differ_G
        exposure_G += np.where(differ_G > 0, odds_G * (reals.num_patients - 1), 0)
    met_G = np.zeros(NUM_GROUPS)
    if holdout:
        met_G = _by_group(_times(whole_N[count:], whole_N[:count]), size)
        exposure_G += holdout.num_patients
    pairs_G = met_G + near_G
    rate_G = np.divide(pairs_G, exposure_G, out=np.zeros(NUM_GROUPS), where=exposure_G > 0)
    return Coincidences(times * rate_G, met_G + near_G / 2)  # pairs within the training data came twice


def _others(hashes_N: Hashes) -> Counts:
    """Return how many others have the same number."""
    return _times(hashes_N, hashes_N) - 1


def _times(hashes: Hashes, wanted: Hashes) -> Counts:
    """Return how often each wanted number is there."""
    values, counts = np.unique(hashes, return_counts=True)
    index = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return np.where(values[index] == wanted, counts[index], 0).astype(np.int64)


def _by_group(counts_N: Counts, group_N: Groups) -> Floats:
    return np.bincount(group_N, counts_N, NUM_GROUPS).astype(np.float64)


def copied_by_group(synthetic_N: Hashes, train_N: Hashes, group_N: Groups) -> Counts:
    """Return how many synthetic patients equal a training patient, by the latter's group, shape (G,)."""
    known, first = np.unique(train_N, return_index=True)
    index = np.minimum(np.searchsorted(known, synthetic_N), len(known) - 1)
    equal = known[index] == synthetic_N
    return np.bincount(group_N[first[index[equal]]], minlength=NUM_GROUPS).astype(np.int64)
