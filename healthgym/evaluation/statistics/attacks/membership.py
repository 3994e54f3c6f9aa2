"""Attacks on the membership of whole patients, from distances to synthetic ones.

N patients, Q queries.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from healthgym.evaluation.statistics.patients import Vectors, k_nearest, neighbours, squared_distances
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
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", C=0.1, solver="newton-cholesky")
    )
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


def nearer_share(queries: Vectors, first: Vectors, second: Vectors) -> float:
    """Return the share of queries whose nearest is in `first`, as if both sets were equally large."""
    blocks = [queries[start : start + _BLOCK] for start in range(0, len(queries), _BLOCK)]
    belongs = [
        nearest_in_first(*(squared_distances(block, others) for others in (first, second)))
        for block in blocks
    ]
    return as_if_equal(float(np.concatenate(belongs).mean()), len(first), len(second))


def as_if_equal(share: float, n: int, m: int) -> float:
    """Return the share in the first of two sets, of n and m patients, with its odds divided by n / m.

    By chance the nearest of all is in the first with probability n / (n + m), which becomes 1/2; 0 and 1
    stay what they are, however unequal the sets.
    """
    weighted = share * m
    return weighted / (weighted + (1 - share) * n)


def nearer_interval(to_first: Floats, to_second: Floats, seed: int) -> tuple[float, float]:
    """Return the 95% interval of `nearer_share`, given squared distances of queries to the two sets.

    The standard deviation of the metric is that on random halves of the queries and of both sets: the real
    patients that happen to be in the sets count as much as the synthetic ones.
    """

    def value(one: Floats, other: Floats) -> float:
        return as_if_equal(float(nearest_in_first(one, other).mean()), one.shape[1], other.shape[1])

    rng = stream(seed, "nearer to training")
    sizes = (*to_first.shape, to_second.shape[1])
    halves = []
    for _ in range(_HALVINGS):
        rows, one, other = (rng.permutation(count)[: count // 2] for count in sizes)
        halves.append(value(to_first[np.ix_(rows, one)], to_second[np.ix_(rows, other)]))
    centre, half = value(to_first, to_second), 1.96 * float(np.std(halves))
    return max(0.0, centre - half), min(1.0, centre + half)


def nearest_in_first(to_first: Floats, to_second: Floats) -> Floats:
    """Return which part of each query's nearest is in the first of two sets: 0 or 1, but for equally near
    ones, shape (Q,)."""
    one, other = (nearest.sum(axis=1) for nearest in _nearest(to_first, to_second))
    return np.asarray(one / (one + other))


def effective_nearest(to_first: Floats, to_second: Floats) -> float:
    """Return the effective number of nearest real patients (inverse Simpson index).

    It is the reciprocal of the chance that two queries share their nearest, estimated without bias from
    pairs of queries; infinite if no two share one. Of equally near patients one is taken by lot.

    Source: Simpson, *Measurement of diversity*, Nature 1949.
    """
    tied = np.concatenate(_nearest(to_first, to_second), axis=1)
    chance = 1 / tied.sum(axis=1)  # of each of a query's nearest; the sum of their squares is the same
    queries, patients = np.nonzero(tied)
    pairs = float(np.square(np.bincount(patients, chance[queries])).sum() - chance.sum())
    return len(tied) * (len(tied) - 1) / pairs if pairs > _SAME else math.inf


def _nearest(to_first: Floats, to_second: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return masks of the nearest patients of each set, ties included, shapes (Q, N) and (Q, M)."""
    least = np.minimum(to_first.min(axis=1), to_second.min(axis=1))[:, None]
    limit = least + _SAME * (1 + np.abs(least))
    return to_first <= limit, to_second <= limit
