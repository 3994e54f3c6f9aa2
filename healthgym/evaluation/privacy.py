"""Privacy of whole patients: does the cohort give away who was in the training data?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from healthgym.evaluation.comparison import About, Comparison, Side
from healthgym.evaluation.disclosure import NEEDS_HOLDOUT, attribute_figure, disclosure_figure
from healthgym.evaluation.figure import Figure, NotJudgedError, Section
from healthgym.evaluation.patients import (
    Neighbours,
    Vectors,
    count_nearer,
    k_nearest,
    neighbours,
    sequence_vectors,
)
from healthgym.evaluation.ranking import (
    auc,
    auc_interval,
    bootstrap_interval,
    share_interval,
    true_positive_rate,
)
from healthgym.evaluation.tally import hash_rows

Floats = NDArray[np.float64]

_DCR_DELUSION = "sets that pass distance tests still leak (arXiv 2505.01524), so this comes first"
_ATTACK_NEIGHBOURS = 10

MEMBERSHIP = About(
    "privacy.membership_auc",
    "Membership inference, by distance",
    "How well somebody who holds a patient's record can tell that it was in the training data, because the "
    "cohort has a patient close to it: 50% is guessing, 100% is certainty.",
    f"AUC of training against holdout patients by distance to the nearest synthetic patient; {_DCR_DELUSION}",
    "percent",
)
MEMBERSHIP_TPR = About(
    "privacy.membership_tpr",
    "Membership of the most exposed",
    "The share of training patients who can be told from outsiders when only 1% of outsiders may be accused "
    "wrongly: 1% is guessing.",
    "True-positive rate at 1% false positives (Carlini et al., IEEE S&P 2022), same attack",
    "percent",
)
SHADOW = About(
    "privacy.membership_shadow",
    "Membership inference, trained attack",
    "The same question put to a classifier that was taught, on other patients whose membership it knew, "
    "which distances give a training patient away.",
    f"AUC of a logistic regression on the distances to the {_ATTACK_NEIGHBOURS} nearest synthetic patients, "
    "in five folds. It knows the other patients' membership, which a real attacker would have to guess by "
    "training shadow generators; no generator is trained here",
    "percent",
)
COPIES = About(
    "privacy.copies",
    "Copied patients",
    "Synthetic patients who equal a training patient in every value at every timestep; none is allowed.",
    "All synthetic patients, values as float32; near copies show in the smallest distance; the noise floor "
    "counts equal patients among real ones",
    "count",
)
COPIED_ROWS = About(
    "privacy.copied_rows",
    "Copied timesteps",
    "The share of synthetic timesteps that equal some training timestep in every value.",
    "Sampled patients, values as float32; the noise floor says how many real patients share by chance",
    "percent",
)
SMALLEST = About(
    "privacy.smallest_distance",
    "Smallest distance",
    "The distance of the closest pair of a synthetic and a training patient, in deviations per timestep; 0 "
    "would be a copy.",
    "As in the v1 paper (doi 10.1038/s41597-022-01784-7), there between timesteps, here between whole "
    "patients",
)
NEARER = About(
    "privacy.nearer_to_training",
    "Nearer to training than to holdout",
    "The share of synthetic patients whose closest real patient is a training rather than a holdout patient, "
    "both sets taken equally large: 50% is ideal.",
    "Distance to closest record against a holdout (Platzer and Reutterer, Front. Big Data 2021); the larger "
    "set is reduced in expectation over all subsets",
    "percent",
)
DISTANCE_RATIO = About(
    "privacy.distance_ratio",
    "Distance to the closest record",
    "The median distance from a synthetic patient to the nearest training patient, relative to that from a "
    "holdout patient: below 1 the synthetic patients lie closer than new real patients would.",
    "Ratio of medians; smooth or average patients lie close to everybody, so this alone is no verdict",
)
NEIGHBOUR_RATIO = About(
    "privacy.neighbour_ratio",
    "Nearest-neighbour distance ratio",
    "How much closer the nearest training patient is than the second nearest, for the 5% of synthetic "
    "patients where it is most so: near 1 nobody stands out, near 0 one training patient is singled out.",
    "5% quantile of the ratio; 'against the holdout' takes holdout patients for training ones",
)


def section(comparison: Comparison) -> Section:
    """Judge privacy."""
    part = Section(
        "privacy",
        "Privacy",
        "Does the cohort give away who was in the training data, or what they had? Whole patients are "
        "compared, and real patients whom the maker never saw show what honest similarity looks like.",
    )
    if comparison.synthetic.panel.num_patients < comparison.synthetic.num_patients:
        part.notes.append(
            f"Distances use {comparison.synthetic.panel.num_patients:,} of "
            f"{comparison.synthetic.num_patients:,} synthetic patients; copies are looked for among all."
        )
    part.essential = frozenset(about.key for about in (MEMBERSHIP, MEMBERSHIP_TPR, SHADOW))
    found = _Distances.of(comparison)
    part.figures = [
        *_membership(comparison, found),
        comparison.measured(COPIES, copied_patients),
        comparison.measured(COPIED_ROWS, copied_rows, num_splits=1),
        _smallest(comparison, found),
        _nearer(comparison, found),
        _distance_ratio(comparison, found),
        _neighbour_ratio(comparison, found),
        attribute_figure(comparison),
        disclosure_figure(comparison),
    ]
    return part


@dataclass(frozen=True)
class _Distances:
    """Vectors of all sets, and of two halves of the training data in the roles of training and synthetic."""

    train: Vectors
    holdout: Vectors | None
    synthetic: Vectors
    half: Vectors
    other_half: Vectors
    to_train: Neighbours

    @classmethod
    def of(cls, comparison: Comparison) -> "_Distances":
        steps = max(comparison.train.panel.num_timesteps, comparison.synthetic.panel.num_timesteps)
        half, other = comparison.halves[0]
        train, synthetic = (
            sequence_vectors(side.panel, steps) for side in (comparison.train, comparison.synthetic)
        )
        return cls(
            train,
            sequence_vectors(comparison.holdout.panel, steps) if comparison.holdout else None,
            synthetic,
            sequence_vectors(half.panel, steps),
            sequence_vectors(other.panel, steps),
            neighbours(synthetic, train),
        )


def _membership(comparison: Comparison, found: _Distances) -> list[Figure]:
    """Return the figures of membership inference: AUC, true-positive rate, trained attack."""
    if found.holdout is None:
        return [comparison.not_judged(about, NEEDS_HOLDOUT) for about in (MEMBERSHIP, MEMBERSHIP_TPR, SHADOW)]
    members, outsiders = (membership_scores(real, found.synthetic) for real in (found.train, found.holdout))
    # What fresh real patients would score: one half of the training data as the cohort of the other.
    fresh = [membership_scores(real, found.other_half) for real in (found.half, found.holdout)]
    trained = trained_attack(found.train, found.holdout, found.synthetic, comparison.config.seed)
    floor = trained_attack(found.half, found.holdout, found.other_half, comparison.config.seed)
    rate = true_positive_rate(members, outsiders)
    return [
        comparison.figure(
            MEMBERSHIP,
            auc(members, outsiders),
            auc(fresh[0], fresh[1]),
            interval=auc_interval(members, outsiders),
        ),
        comparison.figure(
            MEMBERSHIP_TPR,
            rate,
            true_positive_rate(fresh[0], fresh[1]),
            interval=share_interval(rate, len(members)),
        ),
        comparison.figure(SHADOW, auc(*trained), auc(*floor), interval=auc_interval(*trained)),
    ]


def membership_scores(real: Vectors, synthetic: Vectors) -> Floats:
    """Return how much each real patient looks like a member: minus the distance to the nearest synthetic."""
    return -neighbours(real, synthetic).nearest_N


def trained_attack(
    members: Vectors, outsiders: Vectors, synthetic: Vectors, seed: int
) -> tuple[Floats, Floats]:
    """Return a trained attack's scores of members and outsiders, each from a fold that it did not see."""
    distances = np.concatenate(
        [k_nearest(real, synthetic, _ATTACK_NEIGHBOURS)[0] for real in (members, outsiders)]
    )
    distances = np.log(np.maximum(distances, 1e-6))
    x = np.concatenate([distances, distances[:, :1] - distances[:, 1:]], axis=1)
    labels = np.r_[np.ones(len(members)), np.zeros(len(outsiders))]
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", C=0.1, max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, x, labels, cv=folds, method="predict_proba")[:, 1]
    return scores[: len(members)], scores[len(members) :]


def copied_patients(real: Side, synthetic: Side) -> dict[str, float]:
    """Return how many synthetic patients equal a real one."""
    return {"patients": float(np.isin(synthetic.tally.hashes_N, real.tally.hashes_N).sum())}


def copied_rows(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of synthetic timesteps that equal a real one."""
    if not real.panel.schema.reals:
        raise NotJudgedError("Without real variables equal timesteps say nothing.")
    return {"timesteps": float(np.isin(hash_rows(synthetic.panel), hash_rows(real.panel)).mean())}


def _smallest(comparison: Comparison, found: _Distances) -> Figure:
    """Return the smallest distance between a synthetic and a training patient."""
    floor = neighbours(found.other_half, found.half).nearest_N.min()
    holdout = (
        neighbours(found.synthetic, found.holdout).nearest_N.min() if found.holdout is not None else None
    )
    return comparison.figure(
        SMALLEST,
        float(found.to_train.nearest_N.min()),
        float(floor),
        None if holdout is None else float(holdout),
    )


def _nearer(comparison: Comparison, found: _Distances) -> Figure:
    """Return the share of synthetic patients nearer to training than to holdout patients."""
    if found.holdout is None:
        return comparison.not_judged(NEARER, NEEDS_HOLDOUT)
    chances = nearer_to_first(found.synthetic, found.train, found.holdout)
    floor = nearer_to_first(found.other_half, found.half, found.holdout)
    return comparison.figure(
        NEARER,
        float(chances.mean()),
        float(floor.mean()),
        interval=bootstrap_interval(chances, comparison.config.seed),
    )


def nearer_to_first(queries: Vectors, first: Vectors, second: Vectors) -> Floats:
    """Return the chance that a query's nearest is in `first`, were both sets equally large, shape (N,).

    If `first` is the larger with n patients, c of them nearer than the nearest in `second` of m patients,
    the chance that a random subset of m has one of the c is 1 - C(n - c, m) / C(n, m).
    """
    if len(first) < len(second):
        return 1 - nearer_to_first(queries, second, first)
    n, m = len(first), len(second)
    nearer = count_nearer(queries, first, neighbours(queries, second).nearest_N)
    left = np.maximum(n - nearer, 0)
    none = gammaln(left + 1) - gammaln(np.maximum(left - m, 0) + 1) - gammaln(n + 1) + gammaln(n - m + 1)
    return np.asarray(1 - np.where(left >= m, np.exp(none), 0.0))


def _distance_ratio(comparison: Comparison, found: _Distances) -> Figure:
    """Return the median distance of synthetic to training patients over that of fresh real patients."""
    if found.holdout is None:
        return comparison.not_judged(DISTANCE_RATIO, NEEDS_HOLDOUT)
    fresh = float(np.median(neighbours(found.holdout, found.train).nearest_N))
    if fresh <= 0:
        return comparison.not_judged(DISTANCE_RATIO, "Most holdout patients equal a training patient.")
    return comparison.figure(DISTANCE_RATIO, float(np.median(found.to_train.nearest_N)) / fresh, 1.0)


def _neighbour_ratio(comparison: Comparison, found: _Distances) -> Figure:
    """Return the 5% quantile of nearest over second nearest distance."""

    def low(near: Neighbours) -> float:
        return float(np.quantile(near.nearest_N / np.maximum(near.second_N, 1e-9), 0.05))

    holdout = low(neighbours(found.synthetic, found.holdout)) if found.holdout is not None else None
    return comparison.figure(
        NEIGHBOUR_RATIO, low(found.to_train), low(neighbours(found.other_half, found.half)), holdout
    )
