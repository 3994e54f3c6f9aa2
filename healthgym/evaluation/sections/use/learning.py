"""Training and test sets of the utility metrics."""

from dataclasses import dataclass

import numpy as np

from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.result import Section
from healthgym.evaluation.statistics.panel import Panel
from healthgym.seeds import permutation, stream

_NUM_DRAWS = 6


@dataclass(frozen=True)
class Sets:
    """Training and test sets of the utility metrics.

    Args:
        real, synthetic: training sets.
        draws: bootstrap samples of real patients of the cohort's size.
        halves: disjoint halves of real patients, for the noise.
        independent: the cohort of independent variables.
        test: real patients not used for training.
    """

    real: Panel
    synthetic: Panel
    draws: tuple[Panel, ...]
    halves: tuple[tuple[Panel, Panel], ...]
    independent: Panel
    test: Panel
    seed: int


def learning_sets(comparison: Comparison, part: Section) -> Sets:
    """Return training and test sets; without a holdout, a third of the training patients is the test set."""
    real, seed = comparison.train.panel, comparison.config.seed
    if comparison.holdout:
        test = comparison.holdout.panel
    else:
        order = permutation(real.num_patients, seed, "test")
        third = real.num_patients // 3
        test, real = real.take(order[:third]), real.take(order[third:])
        part.notes.append(
            "There is no holdout: a third of the training patients is the test set instead of unseen "
            "patients. The cohort was also made from them, so its results are optimistic."
        )
    count = min(comparison.synthetic.panel.num_patients, real.num_patients)
    draws = tuple(
        real.take(np.sort(stream(seed, "learned from", draw).integers(0, real.num_patients, count)))
        for draw in range(_NUM_DRAWS)
    )
    halves = tuple(_halves(real, count, seed, draw) for draw in range(_NUM_DRAWS))
    return Sets(real, comparison.synthetic.panel, draws, halves, comparison.anchors.independent, test, seed)


def _halves(real: Panel, count: int, seed: int, draw: int) -> tuple[Panel, Panel]:
    """Return two disjoint sets of patients, the second no larger than the cohort."""
    half = real.num_patients // 2
    order = permutation(real.num_patients, seed, "halves", draw)
    return real.take(np.sort(order[:half])), real.take(np.sort(order[half : half + min(half, count)]))
