"""Utility: does what is learned from synthetic patients hold for real ones?"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from healthgym.evaluation.comparison import Comparison, noise_of
from healthgym.evaluation.metric import metric
from healthgym.evaluation.result import NotJudgedError, Result, Row, Section, Verdict, indistinct, show
from healthgym.evaluation.sections.use.effects import effects_result
from healthgym.evaluation.sections.use.learning import Sets, learning_sets
from healthgym.evaluation.sections.use.policies import policy_results
from healthgym.evaluation.settings import Endpoint
from healthgym.evaluation.statistics.conditions import event
from healthgym.evaluation.statistics.models.ranking import auc, auc_interval
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.patients import summary_features, timestep_features
from healthgym.seeds import stream

Floats = NDArray[np.float64]

_NEXT_STEP_ROWS = 3000
_FEWEST_EVENTS = 20
_NO_SKILL = 0.5
_NO_HOLDOUT = (
    "Not judged without enough held-out patients: the models were tested on patients that the cohort was "
    "made from."
)
_TRAINED_ON = "Train on synthetic, test on real (Esteban et al. 2017, arXiv 1706.02633)"

NEXT_STEP = metric(
    "utility.next_step",
    "Next-step prediction",
    "How much worse a model that learned from synthetic patients predicts each variable's next value in"
    " unseen real patients than a model that learned from real ones; in points of explained variance, "
    "on average over variables.",
    f"{_TRAINED_ON}: gradient boosting on at most {_NEXT_STEP_ROWS:,} random timesteps of each set; R² of "
    "reals, Brier skill of classes",
)
ENDPOINT = metric(
    "utility.endpoint",
    "Endpoint",
    "How many points of AUC a model that learned from synthetic patients loses, compared with one that "
    "learned from real patients, when it predicts an event in unseen real patients.",
    f"{_TRAINED_ON}: gradient boosting",
    "percent",
)


def section(comparison: Comparison) -> Section:
    """Judge what can be learned from the cohort."""
    part = Section(
        "utility",
        "Use for learning",
        "Models are trained on synthetic patients and tested on real ones, beside models trained on real "
        "patients.",
    )
    sets = learning_sets(comparison, part)
    name = comparison.schema.name
    part.results = [_next_step(comparison, sets)]
    for endpoint in comparison.config.endpoints:
        if endpoint.schema_name == name:
            part.results.append(_endpoint(comparison, sets, endpoint))
    for policy in comparison.config.policies:
        if policy.schema_name == name:
            part.results += policy_results(comparison, sets, policy)
    if comparison.holdout is None:
        part.results = [_without_holdout(result) for result in part.results]
        part.essential = frozenset(result.key for result in part.results)
    part.results.append(effects_result(comparison))
    if len(part.results) == 2:
        part.notes.append(
            "The report's settings define no clinical endpoint and no treatment policy for the schema "
            f"'{name}'."
        )
    return part


def _without_holdout(result: Result) -> Result:
    """Return what was tested on patients that the cohort was made from: it may fail but not pass."""
    if result.verdict is not Verdict.PASS:
        return result
    return replace(result, verdict=Verdict.NOT_JUDGED, reason=f"{_NO_HOLDOUT} {result.reason}".strip())


# --- the next timestep ---------------------------------------------------------------------------


def _next_step(comparison: Comparison, sets: Sets) -> Result:
    def skills(panel: Panel) -> dict[str, float]:
        return next_step_skills(panel, sets.test, sets.seed)

    try:
        real, *others = comparison.anchors.once(
            "next step", lambda: [skills(panel) for panel in (sets.real, sets.independent, *sets.draws)]
        )
        synthetic = skills(sets.synthetic)
    except NotJudgedError as reason:
        return comparison.not_judged(NEXT_STEP, str(reason))

    def loss(found: dict[str, float]) -> float:
        return float(np.mean([skill - found.get(name, 0.0) for name, skill in real.items()]))

    apart, *draws = (loss(found) for found in others)
    noise, threshold = noise_of(draws, apart), comparison.config.threshold(NEXT_STEP.key)
    if threshold and indistinct(threshold, noise):
        return comparison.not_judged(
            NEXT_STEP,
            "A model trained on independent variables predicts the next timestep nearly as well (loss "
            f"{apart:.3f}): the variable's own last value is sufficient, so this metric cannot be judged.",
        )
    losses = {name: skill - synthetic.get(name, 0.0) for name, skill in real.items()}
    rows = [
        Row(name, lost, real=real[name], synthetic=synthetic.get(name), about=(name,))
        for name, lost in sorted(losses.items(), key=lambda item: -item[1])
    ]
    worst = rows[0]
    return comparison.result(
        NEXT_STEP,
        loss(synthetic),
        noise,
        rows=rows,
        finding=f"the next {worst.name} is predicted with {show(worst.synthetic)} of its variance explained, "
        f"{show(worst.real)} if learned from real patients",
    )


def next_step_skills(train: Panel, test: Panel, seed: int) -> dict[str, float]:
    """Return how well each variable's next value is predicted on `test`: 1 is perfect, 0 is its mean."""
    x, after = _steps(train, seed)
    x_test, after_test = _steps(test, seed)
    skills = {}
    for position, variable in enumerate(train.schema.encoded):
        if variable.static:
            continue
        y, y_test = after[:, position], after_test[:, position]
        known, known_test = np.isfinite(y), np.isfinite(y_test)
        if known.sum() < 100 or known_test.sum() < 100 or np.ptp(y_test[known_test]) == 0:
            continue
        score = _real_skill if variable.kind == "real" else _class_skill
        skills[variable.name] = score(x[known], y[known], x_test[known_test], y_test[known_test], seed)
    if not skills:
        raise NotJudgedError("No variable that may change varies enough, or patients have one timestep only.")
    return skills


def _steps(panel: Panel, seed: int) -> tuple[NDArray[np.float32], Floats]:
    """Return some random timesteps: what is known then (F), and all values at the next (V)."""
    steps = np.argwhere(panel.present_NT[:, 1:])
    if not len(steps):
        raise NotJudgedError("Patients have one timestep only.")
    rng = stream(seed, "next step")
    chosen = steps[rng.choice(len(steps), min(_NEXT_STEP_ROWS, len(steps)), replace=False)]
    now = timestep_features(panel)[chosen[:, 0], chosen[:, 1]]
    return now, panel.values_NTV[chosen[:, 0], chosen[:, 1] + 1]


def _real_skill(
    x: NDArray[np.float32], y: Floats, x_test: NDArray[np.float32], y_test: Floats, seed: int
) -> float:
    """Return R^2 on the test rows."""
    model = HistGradientBoostingRegressor(max_iter=30, max_leaf_nodes=15, random_state=seed).fit(x, y)
    return float(1 - np.mean((model.predict(x_test) - y_test) ** 2) / y_test.var())


def _class_skill(
    x: NDArray[np.float32], y: Floats, x_test: NDArray[np.float32], y_test: Floats, seed: int
) -> float:
    """Return 1 - Brier score / Brier score of the test rows' own class shares."""
    classes = np.unique(np.r_[y, y_test])
    truth = (y_test[:, None] == classes).astype(np.float64)
    chances = np.zeros_like(truth)
    if len(np.unique(y)) < 2:
        chances[:, classes == y[0]] = 1.0
    else:
        model = HistGradientBoostingClassifier(max_iter=15, max_leaf_nodes=8, random_state=seed).fit(x, y)
        chances[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(x_test)
    baseline = truth.mean(axis=0)
    return float(1 - ((chances - truth) ** 2).sum() / ((baseline - truth) ** 2).sum())


# --- a clinical endpoint -------------------------------------------------------------------------


def _endpoint(comparison: Comparison, sets: Sets, endpoint: Endpoint) -> Result:
    about = ENDPOINT.of(
        endpoint.name,
        f"How many points of AUC are lost when {endpoint.name} in unseen real patients is predicted by a "
        f"model that learned from synthetic rather than from real patients.",
        f"{ENDPOINT.source} on a summary of timesteps 0 to {endpoint.history - 1}; the event is "
        f"{_in_words(endpoint)}. {endpoint.reason}".rstrip(". "),
    )
    try:
        scores = endpoint_scores(sets.real, sets.test, endpoint, sets.seed)
        real, least = auc(*scores), auc_interval(*scores)[0]
        if least <= 0.5:
            raise NotJudgedError(
                f"It cannot be predicted even after training on real patients (AUC {100 * real:.0f}%, which "
                "may be chance)."
            )
        _check_expected_events(sets, endpoint)
        draws = comparison.anchors.once(
            about.key, lambda: [_learned(panel, sets, endpoint) for panel in sets.draws]
        )
    except NotJudgedError as reason:
        return comparison.not_judged(about, str(reason))
    try:
        learned = endpoint_scores(sets.synthetic, sets.test, endpoint, sets.seed)
        synthetic, low, high = auc(*learned), *auc_interval(*learned)
    except NotJudgedError as reason:  # nothing can be learned of an event that all or none have
        synthetic, low, high = _NO_SKILL, _NO_SKILL, _NO_SKILL
        about = replace(
            about, note=f"A model trained on synthetic patients cannot predict the event: {reason}"
        )
    rows = [Row("AUC, learned from real", real), Row("AUC, learned from synthetic", synthetic)]
    # The interval is that of the synthetic AUC on these test patients; that of the real one moves with it.
    return comparison.result(
        about,
        real - synthetic,
        noise_of([real - learned for learned in draws], real - _NO_SKILL),
        interval=(real - high, real - low) if high > low else None,
        rows=rows,
        finding=f"predicted with an AUC of {synthetic:.2f}, {real:.2f} if learned from real patients",
    )


def _learned(panel: Panel, sets: Sets, endpoint: Endpoint) -> float:
    """Return the AUC learned from a panel; 1/2 where it has too few events."""
    try:
        return auc(*endpoint_scores(panel, sets.test, endpoint, sets.seed))
    except NotJudgedError:
        return _NO_SKILL


def _check_expected_events(sets: Sets, endpoint: Endpoint) -> None:
    """Refuse to judge a cohort so small that real patients, as many, would have too few events.

    Raises:
        NotJudgedError: they would.
    """
    _, labels = _endpoint_data(sets.real, endpoint)
    expected = labels.mean() * sets.synthetic.num_patients
    if min(expected, sets.synthetic.num_patients - expected) < 2 * _FEWEST_EVENTS:
        raise NotJudgedError(
            f"Too few patients: {expected:.0f} events are expected among {sets.synthetic.num_patients}; at "
            f"least {2 * _FEWEST_EVENTS} with and without the event are needed."
        )


def endpoint_scores(train: Panel, test: Panel, endpoint: Endpoint, seed: int) -> tuple[Floats, Floats]:
    """Return the scores of the patients of `test` with and without the event, learned from `train`."""
    x, y = _endpoint_data(train, endpoint)
    x_test, y_test = _endpoint_data(test, endpoint)
    for labels, whose in ((y, "learned from"), (y_test, "tested on")):
        if min(labels.sum(), (~labels).sum()) < _FEWEST_EVENTS:
            raise NotJudgedError(
                f"Of {len(labels)} patients {whose}, {labels.sum()} have the event; at least "
                f"{_FEWEST_EVENTS} with and without it are needed."
            )
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=seed).fit(x, y)
    scores = model.predict_proba(x_test)[:, 1]
    return scores[y_test], scores[~y_test]


def _endpoint_data(panel: Panel, endpoint: Endpoint) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what is known and whether the event comes, of patients observed to the window's end."""
    observed = np.flatnonzero(panel.lengths_N > endpoint.window[1])
    kept = panel.take(observed)
    if not len(observed):
        raise NotJudgedError(f"No patient has {endpoint.window[1] + 1} timesteps.")
    return summary_features(kept.first(endpoint.history)), event(kept, endpoint)


def _in_words(endpoint: Endpoint) -> str:
    condition = endpoint.event
    what = (
        f"below {condition.below:g}"
        if condition.below is not None
        else f"above {condition.above:g}"
        if condition.above is not None
        else f"'{condition.is_}'"
    )
    first, last = endpoint.window
    if first == last:
        return f"{condition.variable} {what} at timestep {first}"
    return f"{condition.variable} {what} on at least {endpoint.num_steps} of the timesteps {first} to {last}"
