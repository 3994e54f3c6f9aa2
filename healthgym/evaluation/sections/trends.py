"""Trend and cycle of every patient, and how variables go together in each.

N patients, T timesteps, V variables.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import detrend
from statsmodels.nonparametric.smoothers_lowess import lowess

Floats = NDArray[np.float64]
Smoother = Callable[[Floats], Floats]

_LOESS_SPAN = 0.4
_CLIP = 0.999999
CONSTANT = 1e-10


def dynamic_correlations(
    values_NTV: Floats, smoother: Smoother, constant: float = CONSTANT
) -> tuple[Floats, Floats]:
    """Return the trend and the cycle correlation matrix of a cohort, shapes (V, V).

    trend = smoothed x, cycle = x - trend; Pearson r per patient and pair; pooled as tanh of the mean of
    artanh(r) weighted by n - 3, with |r| clipped to 0.999999 and constant columns left out.

    Source: Health Gym implementation series (2025).

    Args:
        values_NTV: NaN after a patient's end, and where missing.
        smoother: the trend of equally long patients without gaps, (N, T, V) -> (N, T, V).
        constant: a column whose deviation is below this (relative to its mean) is left out. The published
            code leaves a column out at exactly 0, so that the rounding error of a constant one often
            counts as a trend; 0 reproduces that.

    Returns:
        trend_VV, cycle_VV; NaN where no patient has both variables varying.
    """
    trends_NTV = smooth(values_NTV, smoother)
    cycles_NTV = values_NTV - trends_NTV
    return (
        pooled(*patient_correlations(trends_NTV, constant)),
        pooled(*patient_correlations(cycles_NTV, constant)),
    )


def smooth(values_NTV: Floats, smoother: Smoother) -> Floats:
    """Return every patient's trend; gaps take the last value before them for the purpose."""
    present_NT = np.asarray(np.isfinite(values_NTV).any(axis=2))
    lengths_N = np.where(present_NT.any(axis=1), values_NTV.shape[1] - present_NT[:, ::-1].argmax(axis=1), 0)
    trends = np.full_like(values_NTV, np.nan)
    for length in np.unique(lengths_N[lengths_N > 1]):
        chosen = np.flatnonzero(lengths_N == length)
        trends[chosen, :length] = smoother(_filled(values_NTV[chosen, :length]))
    trends[np.isnan(values_NTV)] = np.nan
    return trends


def linear(values_NTV: Floats) -> Floats:
    """Return the straight line of least squares through each patient's values."""
    return np.asarray(values_NTV - detrend(values_NTV, axis=1))


def loess(values_NTV: Floats) -> Floats:
    """Return a smooth trend: LOESS over 40% of the timesteps (Cleveland 1979, without robust rounds)."""
    smoothed: Floats = np.einsum("st,ntv->nsv", _loess_matrix(values_NTV.shape[1]), values_NTV)
    return smoothed


def patient_correlations(values_NTV: Floats, constant: float = CONSTANT) -> tuple[Floats, Floats]:
    """Return artanh(r) of each patient and pair and its weight n - 3, shapes (N, V, V).

    The weight is 0 where one of the two is constant, or fewer than four timesteps have both.
    """
    values_NVT = np.ascontiguousarray(values_NTV.transpose(0, 2, 1))
    known = np.isfinite(values_NVT)
    masks = known.astype(np.float64)
    counts = masks.sum(axis=2, keepdims=True)
    means = np.where(known, values_NVT, 0).sum(axis=2, keepdims=True) / np.maximum(counts, 1)
    centred = np.where(known, values_NVT - means, 0.0)
    count = masks @ masks.transpose(0, 2, 1)
    # Where one variable has gaps in which the other has values, the means are not those of the pair.
    gaps = count < counts
    sums = np.where(gaps | gaps.transpose(0, 2, 1), centred @ masks.transpose(0, 2, 1), 0.0)
    shared = np.maximum(count, 1)
    squares = (centred**2) @ masks.transpose(0, 2, 1) - sums**2 / shared
    products = centred @ centred.transpose(0, 2, 1) - sums * sums.transpose(0, 2, 1) / shared
    size = np.maximum(np.abs(means), 1.0)
    varies = squares > shared * (constant * size) ** 2
    usable = varies & varies.transpose(0, 2, 1) & (count > 3)
    scale = np.sqrt(np.where(usable, squares * squares.transpose(0, 2, 1), 1.0))
    r = np.clip(np.where(usable, products / scale, 0.0), -_CLIP, _CLIP)
    return np.arctanh(r), np.where(usable, count - 3, 0.0)


def pooled(z_NVV: Floats, weight_NVV: Floats) -> Floats:
    """Return tanh of the weighted mean of z over patients, with a unit diagonal; NaN without patients."""
    total = weight_NVV.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.tanh((z_NVV * weight_NVV).sum(axis=0) / total)
    np.fill_diagonal(matrix, np.where(np.diag(total) > 0, 1.0, np.nan))
    return np.asarray(matrix)


@lru_cache(maxsize=256)
def _loess_matrix(length: int) -> Floats:
    """Return the matrix S of the smoother: LOESS on a fixed grid is linear in the values."""
    time = np.arange(length, dtype=np.float64)
    span = max(_LOESS_SPAN, min(1.0, 4 / length))
    columns = [lowess(unit, time, frac=span, it=0, return_sorted=False) for unit in np.eye(length)]
    return np.stack(columns, axis=1)


def _filled(values_NTV: Floats) -> Floats:
    """Fill gaps with the last value before them, leading ones with the first after, whole rows with 0."""
    known = np.isfinite(values_NTV)
    if known.all():
        return values_NTV
    steps = np.arange(values_NTV.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(known, steps, -1), axis=1)
    first = np.where(known.any(axis=1), known.argmax(axis=1), 0)[:, None, :]
    filled = np.take_along_axis(values_NTV, np.where(last < 0, first, last), axis=1)
    return np.nan_to_num(filled, nan=0.0)
