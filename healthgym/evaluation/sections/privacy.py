"""Privacy of whole patients: does the cohort give away who was in the training data?"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import About, Comparison, Side
from healthgym.evaluation.figure import Figure, NotJudgedError, Section
from healthgym.evaluation.sections.disclosure import NEEDS_HOLDOUT, attribute_figure, disclosure_figure
from healthgym.evaluation.statistics.membership import (
    ATTACK_NEIGHBOURS,
    as_if_equal,
    effective_nearest,
    nearer_interval,
    nearer_share,
    nearest_distances,
    nearest_in_first,
    trained_attack,
)
from healthgym.evaluation.statistics.patients import (
    Neighbours,
    Vectors,
    neighbours,
    sequence_vectors,
    squared_distances,
)
from healthgym.evaluation.statistics.ranking import auc, auc_interval, rate_interval, true_positive_rate
from healthgym.evaluation.statistics.tally import hash_rows

Floats = NDArray[np.float64]

_DCR_DELUSION = "sets that pass distance tests still leak (arXiv 2505.01524), so this comes first"
_ATTACKED = 1000
_WALKED = 5000
_FEW_NEAREST = 30

MEMBERSHIP = About(
    "privacy.membership_auc",
    "Membership inference, by distance",
    "How well somebody who holds a patient's record can tell that it was in the training data, because the "
    "cohort has a patient close to it: 50% is guessing, 100% is certainty.",
    "AUC of training against holdout patients by distance to the nearest synthetic patient; interval by "
    f"DeLong et al. 1988, over patients; {_DCR_DELUSION}",
    "percent",
)
MEMBERSHIP_TPR = About(
    "privacy.membership_tpr",
    "Membership of the most exposed",
    "The share of training patients who can be told from outsiders when only 1% of outsiders may be accused "
    "wrongly: 1% is guessing.",
    "True-positive rate at 1% false positives (Carlini et al., IEEE S&P 2022), same attack; interval by "
    "bootstrap of training and of holdout patients",
    "percent",
)
SHADOW = About(
    "privacy.membership_shadow",
    "Membership inference, trained attack",
    "The same question put to a classifier that was taught, on other patients whose membership it knew, "
    "which distances give a training patient away.",
    f"AUC of a logistic regression on the distances to the {ATTACK_NEIGHBOURS} nearest synthetic patients, "
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
    "patients, those that the other distances compare",
)
NEARER = About(
    "privacy.nearer_to_training",
    "Nearer to training than to holdout",
    "The share of synthetic patients whose closest real patient is a training rather than a holdout patient, "
    "both sets taken equally large: 50% is ideal.",
    "Distance to closest record against a holdout (Platzer and Reutterer, Front. Big Data 2021), who take "
    "sets of one size; here the odds are divided by the ratio of sizes, which keeps all patients. Equally "
    "near ones share a patient; interval by delete-half jackknife (Shao and Wu 1989) over all three sets",
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
    "5% quantile of the ratio, sampled patients; 'against the holdout' takes holdout patients for training "
    "ones",
)


def section(comparison: Comparison) -> Section:
    """Judge privacy."""
    part = Section(
        "privacy",
        "Privacy",
        "Does the cohort give away who was in the training data, or what they had? Whole patients are "
        "compared, and real patients whom the maker never saw show what honest similarity looks like.",
    )
    part.notes += comparison.unused
    if comparison.all_synthetic is not None:
        part.notes.append(
            f"Membership inference and copies are looked for among all {comparison.synthetic.num_patients:,} "
            f"synthetic patients, the membership of at most {_ATTACKED:,} training and {_ATTACKED:,} holdout "
            f"patients. Other distances use {comparison.synthetic.panel.num_patients:,} synthetic patients."
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
    """Vectors of all sets, and of two halves of the training data in the roles of training and synthetic.

    Args:
        to_train: where the sampled synthetic patients lie among training patients.
        attacked: distances of training and of holdout patients to the nearest of all synthetic ones.
    """

    train: Vectors
    holdout: Vectors | None
    synthetic: Vectors
    half: Vectors
    other_half: Vectors
    to_train: Neighbours
    attacked: tuple[Floats, Floats] | None

    @classmethod
    def of(cls, comparison: Comparison) -> "_Distances":
        steps = max(comparison.train.panel.num_timesteps, comparison.synthetic.panel.num_timesteps)
        half, other = comparison.halves[0]
        train, synthetic = (
            sequence_vectors(side.panel, steps) for side in (comparison.train, comparison.synthetic)
        )
        holdout = sequence_vectors(comparison.holdout.panel, steps) if comparison.holdout else None
        return cls(
            train,
            holdout,
            synthetic,
            sequence_vectors(half.panel, steps),
            sequence_vectors(other.panel, steps),
            neighbours(synthetic, train),
            None if holdout is None else _attacked(comparison, train, holdout, synthetic, steps),
        )


def _attacked(
    comparison: Comparison, train: Vectors, holdout: Vectors, synthetic: Vectors, steps: int
) -> tuple[Floats, Floats]:
    """Return distances of training and holdout patients to the nearest synthetic ones, shapes (N, 10).

    A sample of a large cohort would hide most of what it leaks: all its patients are walked through, for
    fewer real ones.
    """
    if comparison.all_synthetic is None:
        return nearest_distances(train, [synthetic]), nearest_distances(holdout, [synthetic])
    reals = np.concatenate([train[:_ATTACKED], holdout[:_ATTACKED]])
    vectors = (
        sequence_vectors(panel.take(np.arange(first, min(first + _WALKED, panel.num_patients))), steps)
        for panel in comparison.all_synthetic()
        for first in range(0, panel.num_patients, _WALKED)
    )
    distances = nearest_distances(reals, vectors)
    return distances[: len(train[:_ATTACKED])], distances[len(train[:_ATTACKED]) :]


def _membership(comparison: Comparison, found: _Distances) -> list[Figure]:
    """Return the figures of membership inference: AUC, true-positive rate, trained attack."""
    if found.holdout is None or found.attacked is None:
        return [comparison.not_judged(about, NEEDS_HOLDOUT) for about in (MEMBERSHIP, MEMBERSHIP_TPR, SHADOW)]
    members, outsiders = (-distances[:, 0] for distances in found.attacked)
    # What fresh real patients would score: one half of the training data as the cohort of the other.
    at_floor = [nearest_distances(real, [found.other_half]) for real in (found.half, found.holdout)]
    fresh = [-distances[:, 0] for distances in at_floor]
    trained = trained_attack(*found.attacked, comparison.config.seed)
    floor = trained_attack(at_floor[0], at_floor[1], comparison.config.seed)
    rate = true_positive_rate(members, outsiders)
    few = f"1% of {len(outsiders)} holdout patients is nobody: the rate is that without any false accusation."
    return [
        comparison.figure(
            MEMBERSHIP,
            auc(members, outsiders),
            auc(fresh[0], fresh[1]),
            interval=auc_interval(members, outsiders),
        ),
        comparison.figure(
            replace(MEMBERSHIP_TPR, note=few if len(outsiders) < 100 else ""),
            rate,
            true_positive_rate(fresh[0], fresh[1]),
            interval=rate_interval(members, outsiders, comparison.config.seed),
        ),
        comparison.figure(SHADOW, auc(*trained), auc(*floor), interval=auc_interval(*trained)),
    ]


def copied_patients(real: Side, synthetic: Side) -> dict[str, float]:
    """Return how many synthetic patients equal a real one."""
    return {"patients": float(np.isin(synthetic.tally.hashes_N, real.tally.hashes_N).sum())}


def copied_rows(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of synthetic timesteps that equal a real one."""
    if not real.panel.schema.reals:
        raise NotJudgedError("Without real variables equal timesteps say nothing.")
    return {"timesteps": float(np.isin(hash_rows(synthetic.panel), hash_rows(real.panel)).mean())}


def _smallest(comparison: Comparison, found: _Distances) -> Figure:
    """Return the smallest distance between the synthetic and training patients that were compared."""
    value = found.to_train.nearest_N.min()
    if found.attacked is not None:
        value = min(value, found.attacked[0].min())
    floor = neighbours(found.other_half, found.half).nearest_N.min()
    holdout = (
        neighbours(found.synthetic, found.holdout).nearest_N.min() if found.holdout is not None else None
    )
    return comparison.figure(
        SMALLEST,
        float(value),
        float(floor),
        None if holdout is None else float(holdout),
    )


def _nearer(comparison: Comparison, found: _Distances) -> Figure:
    """Return the share of synthetic patients nearer to training than to holdout patients."""
    if found.holdout is None:
        return comparison.not_judged(NEARER, NEEDS_HOLDOUT)
    to_train, to_holdout = (squared_distances(found.synthetic, real) for real in (found.train, found.holdout))
    shared = effective_nearest(to_train, to_holdout)
    few = (
        f"The synthetic patients share few nearest real ones, in effect {shared:.0f}: whether these happen "
        "to be training patients is chance as much as a leak, so that a collapsed cohort can fail here "
        "without copying anybody. The interval says how much."
    )
    return comparison.figure(
        replace(NEARER, note=few if shared < _FEW_NEAREST else ""),
        as_if_equal(
            float(nearest_in_first(to_train, to_holdout).mean()), len(found.train), len(found.holdout)
        ),
        nearer_share(found.other_half, found.half, found.holdout),
        interval=nearer_interval(to_train, to_holdout, comparison.config.seed),
    )


def _distance_ratio(comparison: Comparison, found: _Distances) -> Figure:
    """Return the median distance of synthetic to training patients over that of fresh real patients."""
    if found.holdout is None:
        return comparison.not_judged(DISTANCE_RATIO, NEEDS_HOLDOUT)
    fresh = float(np.median(neighbours(found.holdout, found.train).nearest_N))
    if fresh <= 0:
        return comparison.not_judged(DISTANCE_RATIO, "Most holdout patients equal a training patient.")
    value = float(np.median(found.to_train.nearest_N)) / fresh
    unseen, other = (
        float(np.median(neighbours(queries, found.half).nearest_N))
        for queries in (found.holdout, found.other_half)
    )
    return comparison.figure(DISTANCE_RATIO, value, other / unseen if unseen else None)


def _neighbour_ratio(comparison: Comparison, found: _Distances) -> Figure:
    """Return the 5% quantile of nearest over second nearest distance."""

    def low(near: Neighbours) -> float:
        return float(np.quantile(near.nearest_N / np.maximum(near.second_N, 1e-9), 0.05))

    holdout = low(neighbours(found.synthetic, found.holdout)) if found.holdout is not None else None
    return comparison.figure(
        NEIGHBOUR_RATIO, low(found.to_train), low(neighbours(found.other_half, found.half)), holdout
    )
