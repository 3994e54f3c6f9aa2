"""Can a classifier tell a synthetic patient from a real one?"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from healthgym.evaluation.comparison import About, Comparison, Side
from healthgym.evaluation.figure import Figure, Section
from healthgym.evaluation.statistics.patients import summary_features, timestep_features
from healthgym.evaluation.statistics.ranking import auc, auc_interval
from healthgym.evaluation.statistics.sequence_classifier import gru_scores
from healthgym.seeds import permutation

Floats = NDArray[np.float64]
Scores = tuple[Floats, Floats]

_GRU_PATIENTS = 1200
_DOUBLES = 0.45
_BELOW = (
    "The classifier does worse than guessing ({:.1f}%): it met patients whose near doubles of the other kind "
    "it had learned from. The cohort has near copies of training patients; see the privacy section."
)

BOOSTING = About(
    "discriminability.boosting",
    "Told apart by summaries",
    "How well gradient boosting tells real from synthetic patients by what summarises them (mean, spread, "
    "slope, changes, shares of each variable): 50% is guessing, 100% is always right.",
    "AUC over five folds on equally many sampled patients of each kind, scikit-learn's "
    "HistGradientBoostingClassifier; interval by DeLong et al. 1988",
    "percent",
)
SEQUENCES = About(
    "discriminability.sequences",
    "Told apart by sequences",
    "How well a small recurrent network tells real from synthetic patients by their whole course: 50% is "
    "guessing, 100% is always right.",
    f"AUC on patients kept aside, a GRU of width 32 trained on at most {_GRU_PATIENTS:,} patients of each "
    "kind; interval by DeLong et al. 1988",
    "percent",
)


def section(comparison: Comparison) -> Section:
    """Judge whether patients can be told apart."""
    part = Section(
        "discriminability",
        "Real or synthetic?",
        "A classifier is told to tell real from synthetic patients. What it cannot see, few analyses will.",
    )
    for about, scores_of in ((BOOSTING, boosting_scores), (SEQUENCES, sequence_scores)):
        part.figures.append(_figure(comparison, about, scores_of))
    return part


def boosting_scores(real: Side, synthetic: Side, seed: int) -> Scores:
    """Return the scores of synthetic and of real patients, each from a fold that the classifier did not "
    "see."""
    count = min(real.panel.num_patients, synthetic.panel.num_patients)
    features = [
        summary_features(side.panel)[permutation(side.panel.num_patients, seed, "classifier")[:count]]
        for side in (synthetic, real)
    ]
    labels = np.r_[np.ones(count), np.zeros(count)]
    model = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.1, max_leaf_nodes=15, random_state=seed
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, np.concatenate(features), labels, cv=folds, method="predict_proba")[
        :, 1
    ]
    return scores[:count], scores[count:]


def sequence_scores(real: Side, synthetic: Side, seed: int) -> Scores:
    """Return the GRU's scores of synthetic and of real patients that it was not trained on."""
    count = min(real.panel.num_patients, synthetic.panel.num_patients, _GRU_PATIENTS)
    steps = min(real.panel.num_timesteps, synthetic.panel.num_timesteps)
    chosen = [
        side.panel.take(permutation(side.panel.num_patients, seed, "classifier")[:count]).first(steps)
        for side in (synthetic, real)
    ]
    return gru_scores(
        [timestep_features(panel) for panel in chosen], [panel.lengths_N for panel in chosen], seed
    )


def _figure(comparison: Comparison, about: About, scores_of: Callable[[Side, Side, int], Scores]) -> Figure:
    """Return how well a classifier tells the cohort from training data, halves of it, and from the "
    "holdout."""
    seed = comparison.config.seed
    scores = scores_of(comparison.train, comparison.synthetic, seed)
    floor = scores_of(*comparison.halves[0], seed)
    holdout = scores_of(comparison.holdout, comparison.synthetic, seed) if comparison.holdout else None
    interval = auc_interval(*scores)
    if interval[1] < _DOUBLES:
        return comparison.not_judged(about, _BELOW.format(100 * auc(*scores)))
    return comparison.figure(
        about, auc(*scores), auc(*floor), auc(*holdout) if holdout else None, interval=interval
    )
