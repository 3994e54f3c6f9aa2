"""Attacks on the membership of whole patients, from distances to synthetic ones.

N patients, Q queries.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from healthgym.evaluation.patients import Vectors, k_nearest, neighbours, squared_distances
from healthgym.seeds import stream

Floats = NDArray[np.float64]

ATTACK_NEIGHBOURS = 10
_BLOCK = 512
_HALVINGS = 60
_SAME = 1e-9


def membership_scores(real: Vectors, synthetic: Vectors) -> Floats:
    """Return how much each real patient looks like a member: minus the distance to the nearest synthetic."""
    return -neighbours(real, synthetic).nearest_N


def trained_attack(members: Floats, outsiders: Floats, seed: int) -> tuple[Floats, Floats]:
    """Return a trained attack's scores of members and outsiders, each from a fold that it did not see.

    Args:
        members, outsiders: distances to the nearest synthetic patients.
        seed: of the folds.
    """
    distances = np.log(np.maximum(np.concatenate([members, outsiders]), 1e-6))
    x = np.concatenate([distances, distances[:, :1] - distances[:, 1:]], axis=1)
    labels = np.r_[np.ones(len(members)), np.zeros(len(outsiders))]
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", C=0.1, solver="newton-cholesky"))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, x, labels, cv=folds, method="predict_proba")[:, 1]
    return scores[: len(members)], scores[len(members) :]


def nearest_distances(reals: Vectors, synthetic: Iterable[Vectors]) -> Floats:
    """Return the distances to the nearest of all synthetic patients, given block by block, ascending."""
    nearest = np.empty((len(reals), 0))
    for block in synthetic:
        both = np.concatenate([nearest, k_nearest(reals, block, ATTACK_NEIGHBOURS)[0]], axis=1)
        nearest = np.sort(both, axis=1)[:, :ATTACK_NEIGHBOURS]
    return nearest


def nearer_to_first(queries: Vectors, first: Vectors, second: Vectors) -> Floats:
    """Return the chance that a query's nearest is in `first`, were both sets equally large, shape (N,)."""
    blocks = [queries[start : start + _BLOCK] for start in range(0, len(queries), _BLOCK)]
    return np.concatenate(
        [
            chances_of_first(*(squared_distances(block, others) for others in (first, second)))
            for block in blocks
        ]
    )


def nearer_interval(to_first: Floats, to_second: Floats, seed: int) -> tuple[float, float]:
    """Return the 95% interval of the mean chance, given squared distances of queries to two sets.

    The spread of the same figure on random halves of the queries and of both sets is that of the figure
    itself: the real patients that happen to be in the sets count as much as the synthetic ones.
    """
    value = float(chances_of_first(to_first, to_second).mean())
    rng = stream(seed, "nearer to training")
    departures = []
    for _ in range(_HALVINGS):
        rows, one, other = (
            rng.permutation(count)[: count // 2] for count in (*to_first.shape, to_second.shape[1])
        )
        half = chances_of_first(to_first[np.ix_(rows, one)], to_second[np.ix_(rows, other)])
        departures.append(half.mean())
    spread = 1.96 * float(np.std(departures))
    return max(0.0, value - spread), min(1.0, value + spread)


def chances_of_first(to_first: Floats, to_second: Floats) -> Floats:
    """Return each query's chance that its nearest is in the first of two sets, were they equally large.

    If the first is the larger with n patients, c of them nearer than the nearest of the m in the second,
    the chance that a random subset of m has one of the c is 1 - C(n - c, m) / C(n, m). Patients as near as
    the nearest in the second count half.
    """
    n, m = to_first.shape[1], to_second.shape[1]
    if n < m:
        return 1 - chances_of_first(to_second, to_first)
    nearest = to_second.min(axis=1, keepdims=True)
    margin = _SAME * (1 + np.abs(to_first).max(initial=0.0))
    chances = []
    for limit in (nearest - margin, nearest + margin):
        left = n - (to_first < limit).sum(axis=1)
        none = gammaln(left + 1) - gammaln(np.maximum(left - m, 0) + 1) - gammaln(n + 1) + gammaln(n - m + 1)
        chances.append(1 - np.where(left >= m, np.exp(none), 0.0))
    return np.asarray((chances[0] + chances[1]) / 2)
