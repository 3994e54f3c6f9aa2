"""Classifier two-sample tests: can a classifier distinguish synthetic from real patients, and by what?"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import Comparison, noise_of
from healthgym.evaluation.metric import Metric, metric
from healthgym.evaluation.pages import figures
from healthgym.evaluation.result import Figure, Noise, Result, Row, Section, Verdict
from healthgym.evaluation.statistics.models.classifiers import (
    Scores,
    Telling,
    boosting_scores,
    covariance_features,
    ridge_scores,
    telling_features,
)
from healthgym.evaluation.statistics.models.ranking import auc, auc_interval
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.patients import summary_features, summary_names, summary_variables
from healthgym.evaluation.words import in_plain_words
from healthgym.seeds import permutation

Floats = NDArray[np.float64]

_DOUBLES = 0.45
_MOST_TELLING = 6
_SURE = 5.0
_MOST_IN_SPLIT = 1000
_BELOW = (
    "The classifier does worse than guessing ({:.1f}%): for some test patients it was trained on a near copy "
    "with the other label. The cohort has near copies of training patients; see the privacy section."
)

BOOSTING = metric(
    "discriminability.boosting",
    "Classifier on summaries",
    "How well a classifier (gradient boosting) distinguishes real from synthetic patients by summaries of "
    "each variable: mean, standard deviation, slope, changes, shares of classes. 50% is guessing, 100% is "
    "always right.",
    "AUC over five folds on equally many sampled patients of each kind, scikit-learn's "
    "HistGradientBoostingClassifier; interval by DeLong et al. 1988",
    "percent",
)
COVARIANCES = metric(
    "discriminability.covariances",
    "Classifier on covariances",
    "How well a linear classifier distinguishes real from synthetic patients by how variables vary together "
    "within each patient over time. It finds, for example, a variable that is delayed by an hour, which "
    "summaries of single variables do not show. 50% is guessing.",
    "AUC over five folds of ridge regression on covariances within patients at lags 0 and 1 and of changes; "
    "interval by DeLong et al. 1988, noise by the same classifier on real patients",
    "percent",
)


def section(comparison: Comparison) -> Section:
    """Judge how well classifiers distinguish real from synthetic patients."""
    part = Section(
        "discriminability",
        "Real or synthetic?",
        "Classifiers are trained to distinguish real from synthetic patients (a classifier two-sample test, "
        "C2ST).",
    )
    real, synthetic = comparison.train.panel, comparison.synthetic.panel
    count = min(real.num_patients, synthetic.num_patients)
    seed = comparison.config.seed
    chosen = [permutation(panel.num_patients, seed, "classifier")[:count] for panel in (synthetic, real)]
    summaries = (
        summary_features(synthetic),
        comparison.anchors.once("summaries", lambda: summary_features(real)),
    )
    telling = [t for t in telling_features(*summaries, _MOST_TELLING) if abs(t.z) >= _SURE]
    names = [in_plain_words(name, comparison.schema) for name in summary_names(comparison.schema)]
    part.results = [
        _result(comparison, BOOSTING, boosting_scores, _equally_many(summaries, chosen), telling, names),
        _result(
            comparison,
            COVARIANCES,
            ridge_scores,
            _equally_many(_covariances(comparison), chosen),
            noise=comparison.anchors.once(f"{COVARIANCES.key} noise", lambda: _noise(comparison)),
        ),
    ]
    part.essential = frozenset({BOOSTING.key})
    if comparison.drawn:
        part.figures = _figures(telling, names, summaries)
    return part


def _covariances(comparison: Comparison) -> tuple[Floats, Floats]:
    anchors = comparison.anchors

    def features(panel: Panel) -> Floats:
        return covariance_features(panel, anchors.columns)

    train = comparison.train.panel
    return features(comparison.synthetic.panel), anchors.once("covariances", lambda: features(train))


def _noise(comparison: Comparison) -> Noise | None:
    """Return how well the classifier distinguishes real patients from other real ones.

    With about as many features as patients its AUC varies more than the interval over patients says. Beyond
    the threshold of failing nothing passes: a few splits do not know the tail of their distribution.
    """
    anchors, found = comparison.anchors, []
    for number in range(comparison.config.num_splits):
        first, other = anchors.split(number, _MOST_IN_SPLIT)
        count = min(first.num_patients, other.num_patients)
        sides = [covariance_features(panel, anchors.columns)[:count] for panel in (other, first)]
        value = auc(*ridge_scores((sides[0], sides[1]), comparison.config.seed))
        found.append(0.5 + (value - 0.5) / max(1.0, anchors.widening(count, count)))
    noise, threshold = noise_of(found, None), comparison.config.threshold(COVARIANCES.key)
    if noise is None or threshold is None or threshold.fail_above is None:
        return noise
    return replace(noise, limit=min(noise.limit, threshold.fail_above))


def _equally_many(features: tuple[Floats, Floats], chosen: list[NDArray[np.int64]]) -> tuple[Floats, Floats]:
    return features[0][chosen[0]], features[1][chosen[1]]


def _result(
    comparison: Comparison,
    about: Metric,
    scores_of: Callable[[tuple[Floats, Floats], int], Scores],
    features: tuple[Floats, Floats],
    telling: list[Telling] | None = None,
    names: list[str] | None = None,
    noise: Noise | None = None,
) -> Result:
    """Return how well a classifier distinguishes the cohort from training data."""
    scores = scores_of(features, comparison.config.seed)
    value, interval = auc(*scores), auc_interval(*scores)
    if interval[1] < _DOUBLES:
        return comparison.not_judged(about, _BELOW.format(100 * value))
    rows = [
        Row(
            _in_words(t, (names or [])[t.position]),
            abs(t.auc - 0.5) + 0.5,
            real=t.real,
            synthetic=t.synthetic,
            about=summary_variables(comparison.schema)[t.position],
        )
        for t in telling or []
    ]
    result = comparison.result(about, value, noise, interval=interval, rows=rows)
    given_away = "; ".join(row.name for row in rows[:3])
    said = (
        f"shown a real and a synthetic patient, a classifier is right {100 * value:.0f} times in 100 "
        "(guessing: 50)"
    )
    if given_away and result.verdict in (Verdict.CAUTION, Verdict.FAIL):
        said += f": {given_away}"
    return Result(**{**vars(result), "finding": said})


def _in_words(telling: Telling, name: str) -> str:
    """Say how a feature differs: "standard deviation of HR within a patient is too large"."""
    return f"{name} is too {'large' if telling.auc > 0.5 else 'small'}"


def _figures(telling: list[Telling], names: list[str], summaries: tuple[Floats, Floats]) -> list[Figure]:
    """Draw each telling feature, real beside synthetic."""
    drawn = []
    for each in telling:
        values = [side[np.isfinite(side[:, each.position]), each.position] for side in reversed(summaries)]
        name = names[each.position]
        drawn.append(figures.density(f"telling-{name}", name, "", *values))
    return drawn
