"""Distances between patients of all sets, on which the attacks and the search for copies rest."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.statistics.attacks.changed_copies import Trimmed
from healthgym.evaluation.statistics.attacks.copies import (
    copy_ratios,
    nearest_other,
    of_long_records,
    relative,
)
from healthgym.evaluation.statistics.attacks.membership import nearest_distances
from healthgym.evaluation.statistics.patients import Vectors, sequence_vectors

Floats = NDArray[np.float64]

ATTACKED = 1000
_WALKED = 5000


@dataclass(frozen=True)
class Distances:
    """Vectors of all sets.

    Args:
        own: each training patient's distance to the nearest other one; 0 of records with few values, which
            have no ratios.
        unrelated: how close real patients who are not copies come to training patients, as ratios; of the
            holdout, or of one half of the training data to the other.
        changed: the same of distances over most variables; None where too few vary.
        attacked: distances of training and of holdout patients to the nearest of all synthetic ones.
    """

    train: Vectors
    holdout: Vectors | None
    synthetic: Vectors
    own: Floats
    unrelated: Floats
    changed: "Changed | None"
    attacked: tuple[Floats, Floats] | None

    @classmethod
    def of(cls, comparison: Comparison) -> "Distances":
        steps = max(comparison.train.panel.num_timesteps, comparison.synthetic.panel.num_timesteps)
        train, holdout, own, unrelated = comparison.anchors.once(
            f"privacy {steps}", lambda: _real_distances(comparison, steps)
        )
        changed = comparison.anchors.once(f"changed copies {steps}", lambda: Changed.of(comparison, steps))
        synthetic = sequence_vectors(comparison.synthetic.panel, steps)
        attacked = None if holdout is None else _attacked(comparison, train, holdout, synthetic, steps)
        return cls(train, holdout, synthetic, own, unrelated, changed, attacked)


@dataclass(frozen=True)
class Changed:
    """As `own` and `unrelated` of `Distances`, over the variables that differ least."""

    trimmed: Trimmed
    own: Floats
    unrelated: Floats

    @classmethod
    def of(cls, comparison: Comparison, steps: int) -> "Changed | None":
        train = sequence_vectors(comparison.train.panel, steps)
        trimmed = Trimmed(train, comparison.schema)
        if not trimmed.usable:
            return None
        own = of_long_records(trimmed.nearest_other(train), comparison.train.panel)
        if comparison.holdout:
            holdout = sequence_vectors(comparison.holdout.panel, steps)
            return cls(trimmed, own, relative(*trimmed.nearest(holdout, train), own))
        half, other = (sequence_vectors(side.panel, steps) for side in comparison.halves)
        among = Trimmed(half, comparison.schema)
        if not among.usable:
            return None
        among_half = of_long_records(among.nearest_other(half), comparison.halves[0].panel)
        return cls(trimmed, own, relative(*among.nearest(other, half), among_half))


def _real_distances(comparison: Comparison, steps: int) -> tuple[Vectors, Vectors | None, Floats, Floats]:
    """Return vectors of training and holdout patients, distances of the former, ratios of the latter."""
    train = sequence_vectors(comparison.train.panel, steps)
    own = of_long_records(nearest_other(train), comparison.train.panel)
    if comparison.holdout:
        holdout = sequence_vectors(comparison.holdout.panel, steps)
        return train, holdout, own, copy_ratios(holdout, train, own)
    half, other = (sequence_vectors(side.panel, steps) for side in comparison.halves)
    own_half = of_long_records(nearest_other(half), comparison.halves[0].panel)
    return train, None, own, copy_ratios(other, half, own_half)


def _attacked(
    comparison: Comparison, train: Vectors, holdout: Vectors, synthetic: Vectors, steps: int
) -> tuple[Floats, Floats]:
    """Return distances of training and holdout patients to the nearest synthetic ones, shapes (N, 10).

    A sample of a large cohort would hide most of what it leaks: all its patients are walked through, for
    fewer real ones.
    """
    if comparison.all_synthetic is None:
        return nearest_distances(train, [synthetic]), nearest_distances(holdout, [synthetic])
    reals = np.concatenate([train[:ATTACKED], holdout[:ATTACKED]])
    vectors = (
        sequence_vectors(panel.take(np.arange(first, min(first + _WALKED, panel.num_patients))), steps)
        for panel in comparison.all_synthetic()
        for first in range(0, panel.num_patients, _WALKED)
    )
    distances = nearest_distances(reals, vectors)
    return distances[: len(train[:ATTACKED])], distances[len(train[:ATTACKED]) :]
