"""Copies that are not exact: near copies of whole patients, and courses repeated value by value.

N patients, T timesteps, W windows.
"""

import math

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.hashes import groups_of
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.patients import Vectors, k_nearest

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]
Courses = list[tuple[Hashes, NDArray[np.int64]]]
"""Of each real variable a number for every course, and whose it is."""

LARGEST_RATIO = 0.5
FIRST_LONG_GROUP = 5  # of `groups_of`; records of one to three visits are alike by chance
FEWEST_VALUES = 1 << (FIRST_LONG_GROUP - 1)
_EXPECTED = 0.001  # near copies expected in a cohort without copies, by each of two distances
_TAILS = (5, 10, 20, 50)
_WINDOW = 16
_BLOCK = 500


def copy_ratios(queries: Vectors, train: Vectors, own_N: Floats) -> Floats:
    """Return each query's distance to its nearest training patient over that patient's to another one.

    Args:
        queries, train: patients as vectors.
        own_N: each training patient's distance to the nearest other one.
    """
    distance, nearest = k_nearest(queries, train, 1)
    return relative(distance[:, 0], nearest[:, 0], own_N)


def relative(distance_Q: Floats, nearest_Q: NDArray[np.int64], own_N: Floats) -> Floats:
    """Return distances to training patients over those patients' own to another one.

    Infinite where that distance is 0, that is, where the patient equals another one: what is near to both
    betrays neither.
    """
    own_Q = own_N[nearest_Q]
    return np.where(own_Q > 0, distance_Q / np.maximum(own_Q, 1e-12), np.inf)


def nearest_other(vectors: Vectors) -> Floats:
    """Return each patient's distance to the nearest other one of the same set."""
    return k_nearest(vectors, vectors, 2)[0][:, -1]


def of_long_records(own_N: Floats, panel: Panel) -> Floats:
    """Return distances of patients to the nearest other one, 0 of those with fewer than 16 values.

    Then `relative` has no ratio to them. Values that repeat the one before are not counted.
    """
    return np.where(groups_of(panel) >= FIRST_LONG_GROUP, own_N, 0.0)


def copy_limit(unrelated_ratios: Floats, num_queries: int, largest: float = LARGEST_RATIO) -> float:
    """Return the ratio below which one patient of a thousand cohorts without copies would lie.

    The smallest ratios of real patients who are not copies follow a power law, whose exponent is estimated
    from the 5, 10, 20 and 50 smallest of them; the strictest of these limits counts, since single pairs of
    real patients may be much more alike than all others. No ratio that a real patient reaches is a copy's.

    Source: Hill, Annals of Statistics 1975.

    Args:
        unrelated_ratios: of held-out patients.
        num_queries: patients of the cohort.
        largest: the limit is never above it: a table of thousands may hold a pair of real patients half as
            far apart as all others.
    """
    ratios = np.sort(unrelated_ratios[np.isfinite(unrelated_ratios)])
    if len(ratios) <= _TAILS[0] or ratios[0] <= 0:
        return 0.0
    limits = [largest, ratios[0]]
    for kept in (kept for kept in _TAILS if kept <= max(_TAILS[0], len(ratios) // 20)):
        exponent = max(float(np.mean(np.log(ratios[kept] / ratios[:kept]))), 1e-6)
        limits.append(ratios[kept] * (_EXPECTED * len(ratios) / (kept * num_queries)) ** exponent)
    return float(min(limits))


def course_hashes(panel: Panel, window: int) -> Courses:
    """Return, of each real variable, a number for every stretch of `window` values, and whose it is.

    Only stretches with at least half as many distinct values as timesteps count: others repeat by chance.
    """
    found = []
    weights = np.random.Generator(np.random.Philox(key=7)).integers(
        1, 2**63, window, dtype=np.uint64
    ) | np.uint64(1)
    for position, variable in enumerate(panel.schema.reals):
        hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        if not variable.static and panel.num_timesteps >= window:
            for start in range(0, panel.num_patients, _BLOCK):
                values = panel.reals_NTR[start : start + _BLOCK, :, position].astype(np.float32)
                windows = np.lib.stride_tricks.sliding_window_view(values, window, axis=1)
                distinct = (np.diff(np.sort(windows, axis=2), axis=2) > 0).sum(axis=2) + 1
                patient, offset = np.nonzero(np.isfinite(windows).all(axis=2) & (distinct >= window // 2))
                bits = np.ascontiguousarray(windows[patient, offset]).view(np.uint32).astype(np.uint64)
                hashes.append(((bits + np.uint64(1)) * weights).sum(axis=1, dtype=np.uint64))
                owners.append(patient + start)
        found.append((np.concatenate(hashes), np.concatenate(owners)))
    return found


def course_window(num_timesteps: int) -> int:
    """Return how long a repeated course must be: 16 timesteps, two thirds of shorter records."""
    return min(_WINDOW, max(2, round(2 * num_timesteps / 3)))


def repeated_courses(real: Courses, other: Courses) -> int:
    """Return how many patients of `other` repeat a course of some patient of `real`, at any time."""
    return len(_repeats(real, other))


def chance_courses(real: Courses, other: Courses) -> int:
    """Return how many patients of `other` repeat a course of some patient of `real` by chance.

    Those who repeat courses of two variables are left out: they are probably patients recorded twice, and
    would allow a cohort as many copies.
    """
    return int((_repeats(real, other) == 1).sum())


def _repeats(real: Courses, other: Courses) -> NDArray[np.int64]:
    """Return, of each patient of `other` who repeats a course, in how many variables."""
    patients = [
        np.unique(owners[np.isin(hashes, known)])
        for (known, _), (hashes, owners) in zip(real, other, strict=True)
    ]
    owners = np.concatenate([np.zeros(0, np.int64), *patients])
    return np.unique(owners, return_counts=True)[1]


def allowed_by_chance(by_chance: int, others: int, synthetic: int) -> float:
    """Return how many synthetic patients may do what `by_chance` of so many other real patients do.

    Twice as often, and once in ten times as many patients where nobody does. How many copies of whole
    patients chance explains is estimated from real patients who differ in one variable; that needs
    variables that are independent given the length of a record, and neighbouring values of one variable are
    not. So only real repetitions count here, and only courses with many distinct values do on either side.
    """
    return (2 * by_chance + 0.1) * synthetic / others if by_chance else math.floor(0.1 * synthetic / others)
