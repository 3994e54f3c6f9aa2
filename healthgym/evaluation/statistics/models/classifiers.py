"""Classifiers that distinguish two sets of patients, and the features that do.

N patients, F features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from healthgym.evaluation.statistics.columns import Columns
from healthgym.evaluation.statistics.panel import Panel

Floats = NDArray[np.float64]
Scores = tuple[Floats, Floats]

_FOLDS = 5
_MOST_COLUMNS = 30
_CLIP = 4.0
_SHRINKAGE = 0.3


def boosting_scores(features: tuple[Floats, Floats], seed: int) -> Scores:
    """Return scores of the first and of the second set by gradient boosting, each from an unseen fold."""
    labels = np.r_[np.ones(len(features[0])), np.zeros(len(features[1]))]
    model = HistGradientBoostingClassifier(
        max_iter=60, learning_rate=0.15, max_leaf_nodes=15, random_state=seed
    )
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, np.concatenate(features), labels, cv=folds, method="predict_proba")[
        :, 1
    ]
    return scores[: len(features[0])], scores[len(features[0]) :]


def ridge_scores(features: tuple[Floats, Floats], seed: int) -> Scores:
    """Return the same by least squares with a penalty, on standardised features cut at four deviations."""
    x = np.nan_to_num(np.concatenate(features))
    labels = np.r_[np.ones(len(features[0])), np.zeros(len(features[1]))]
    x = np.clip((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9), -_CLIP, _CLIP)
    gram = x.T @ x
    scores = np.zeros(len(x))
    for known, unseen in StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(x, labels):
        # What the unseen fold adds to the sums is taken off again: one product for all folds.
        part = gram - x[unseen].T @ x[unseen]
        part[np.diag_indices_from(part)] += _SHRINKAGE * len(known)
        scores[unseen] = x[unseen] @ np.linalg.solve(
            part, x[known].T @ (labels[known] - labels[known].mean())
        )
    return scores[: len(features[0])], scores[len(features[0]) :]


def covariance_features(panel: Panel, columns: Columns) -> Floats:
    """Return each patient's covariances within the course, and what stands beside them, shape (N, F).

    Of rank scores and class numbers about the patient's own mean: at one timestep, from one to the next, and
    of changes; then means, statics, and products of these.
    """
    varying, static = columns.of(panel)
    kept = [i for i, column in enumerate(columns.varying) if column.kind == "score"][:_MOST_COLUMNS]
    x = varying[:, :, kept]
    known = np.isfinite(x)
    mean = np.where(known, x, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    own = np.nan_to_num(x - mean[:, None])
    steps = np.maximum(panel.lengths_N, 1)[:, None, None]
    change = np.nan_to_num(np.diff(x, axis=1))
    upper = np.triu_indices(len(kept))
    covariances = [
        (own.transpose(0, 2, 1) @ own / steps)[:, upper[0], upper[1]],
        (own[:, :-1].transpose(0, 2, 1) @ own[:, 1:] / steps).reshape(len(x), -1),
        (change.transpose(0, 2, 1) @ change / steps)[:, upper[0], upper[1]],
    ]
    beside = np.concatenate([mean, np.nan_to_num(static)], axis=1)
    beside = np.clip((beside - beside.mean(0)) / np.maximum(beside.std(0), 1e-9), -_CLIP, _CLIP)
    pairs = np.triu_indices(beside.shape[1])
    return np.concatenate([*covariances, beside, beside[:, pairs[0]] * beside[:, pairs[1]]], axis=1)


@dataclass(frozen=True)
class Telling:
    """A feature that gives synthetic patients away.

    Args:
        position: of the feature.
        auc: the chance that a synthetic patient has more of it than a real one.
        z: of the test, in standard errors.
        real, synthetic: medians.
    """

    position: int
    auc: float
    z: float
    real: float
    synthetic: float


def telling_features(synthetic: Floats, real: Floats, most: int) -> list[Telling]:
    """Return the features that alone distinguish synthetic from real patients, the clearest first.

    Mann and Whitney's test, with ties (scipy.stats.mannwhitneyu); a feature of one value is left out.
    """
    found = []
    for position in range(synthetic.shape[1]):
        a, b = (side[np.isfinite(side[:, position]), position] for side in (synthetic, real))
        if min(len(a), len(b)) < 2 or max(np.ptp(a), np.ptp(b)) < 1e-9:
            continue
        test = stats.mannwhitneyu(a, b, method="asymptotic")
        auc = float(test.statistic) / (len(a) * len(b))
        z = float(stats.norm.isf(max(test.pvalue, 1e-300) / 2))
        found.append(Telling(position, auc, z, float(np.median(b)), float(np.median(a))))
    return sorted(found, key=lambda each: -abs(each.auc - 0.5))[:most]
