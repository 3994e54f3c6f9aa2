"""Copies that are not exact: near copies of whole patients, and courses repeated value by value.

N patients, T timesteps, W windows.
"""

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.patients import Vectors, k_nearest

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]

LARGEST_RATIO = 0.6
_EXPECTED = 0.01
_WINDOW = 16
_BLOCK = 500


def copy_ratios(queries: Vectors, train: Vectors, own_N: Floats) -> Floats:
    """Return each query's distance to its nearest training patient over that patient's to another one.

    Args:
        queries, train: patients as vectors.
        own_N: each training patient's distance to the nearest other one.
    """
    distance, nearest = k_nearest(queries, train, 1)
    own = own_N[nearest[:, 0]]
    return np.where(own > 0, distance[:, 0] / np.maximum(own, 1e-12), np.inf)


def nearest_other(vectors: Vectors) -> Floats:
    """Return each patient's distance to the nearest other one of the same set."""
    return k_nearest(vectors, vectors, 2)[0][:, -1]


def copy_limit(honest_ratios: Floats, num_queries: int) -> float:
    """Return the ratio below which one honest patient in a hundred cohorts would lie; at most 0.6.

    The smallest ratios of real patients who are no copies follow a power law, whose exponent is estimated
    from the smallest of them.

    Source: Hill, Annals of Statistics 1975.

    Args:
        honest_ratios: of real patients whom the cohort's maker never saw.
        num_queries: patients of the cohort.
    """
    ratios = np.sort(honest_ratios[np.isfinite(honest_ratios)])
    kept = int(np.clip(len(ratios) // 20, 5, 50))
    if len(ratios) <= kept or ratios[0] <= 0:
        return 0.0
    mean = float(np.mean(np.log(ratios[kept] / ratios[:kept])))
    share = _EXPECTED * len(ratios) / (kept * num_queries)
    limit = ratios[kept] * share ** max(mean, 1e-6)
    return float(min(LARGEST_RATIO, limit))


def course_hashes(panel: Panel, window: int) -> list[tuple[Hashes, NDArray[np.int64]]]:
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


def repeated_courses(
    real: list[tuple[Hashes, NDArray[np.int64]]], other: list[tuple[Hashes, NDArray[np.int64]]]
) -> int:
    """Return how many patients of `other` repeat a course of some patient of `real`, at any time."""
    patients = [
        owners[np.isin(hashes, known)] for (known, _), (hashes, owners) in zip(real, other, strict=True)
    ]
    return len(np.unique(np.concatenate(patients))) if patients else 0
