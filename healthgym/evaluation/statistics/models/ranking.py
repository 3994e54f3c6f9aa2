"""How well a score separates two groups, with intervals."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from healthgym.seeds import stream

Floats = NDArray[np.float64]

_NUM_BOOTSTRAPS = 400


def auc(positive: Floats, negative: Floats) -> float:
    """Return the chance that a positive scores above a negative (ties count half)."""
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return float(roc_auc_score(labels, np.r_[positive, negative]))


def auc_interval(positive: Floats, negative: Floats) -> tuple[float, float]:
    """Return the 95% interval of the AUC: DeLong et al., Biometrics 1988, on the logit scale.

    The variance is that of the two groups' placement values. A group of one has none; the interval is then
    from 0 to 1.
    """
    m, n = len(positive), len(negative)
    if min(m, n) < 2:
        return 0.0, 1.0
    ranks = stats.rankdata(np.r_[positive, negative])
    above = (ranks[:m] - stats.rankdata(positive)) / n
    below = 1 - (ranks[m:] - stats.rankdata(negative)) / m
    centre = float(above.mean())
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n
    if variance <= 0 or not 0 < centre < 1:
        bound = 1 - 0.025 ** (1 / max(m, n))  # all separated: the exact bound of no error in that many
        return (max(centre - bound, 0.0), min(centre + bound, 1.0))
    half = 1.96 * float(np.sqrt(variance)) / (centre * (1 - centre))
    middle = np.log(centre / (1 - centre))
    low, high = (1 / (1 + np.exp(-(middle + sign * half))) for sign in (-1, 1))
    return float(low), float(high)


def true_positive_rate(positive: Floats, negative: Floats, false_positive_rate: float = 0.01) -> float:
    """Return the share of positives that score above all but the given share of negatives."""
    cut = np.quantile(negative, 1 - false_positive_rate, method="higher")
    return float(np.mean(positive > cut))


def rate_interval(positive: Floats, negative: Floats, seed: int) -> tuple[float, float]:
    """Return the 95% interval of `true_positive_rate`, by bootstrap of both groups (Efron 1979).

    The score that only 1% of the negatives exceed rests on a handful of them, and moves the rate more than
    the choice of the positives does.
    """
    rng = stream(seed, "true-positive rate")
    rates = [
        true_positive_rate(rng.choice(positive, len(positive)), rng.choice(negative, len(negative)))
        for _ in range(_NUM_BOOTSTRAPS)
    ]
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)
