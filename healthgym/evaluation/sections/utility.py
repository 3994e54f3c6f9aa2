"""Utility: does what is learned from synthetic patients hold for real ones?"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from healthgym.evaluation.comparison import About, Comparison
from healthgym.evaluation.figure import Figure, NotJudgedError, Row, Section, limits
from healthgym.evaluation.settings import Endpoint, Policy
from healthgym.evaluation.statistics.conditions import event
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.patients import summary_features, timestep_features
from healthgym.evaluation.statistics.policy import (
    Decisions,
    Policies,
    decisions_of,
    disagreement,
    fit_states,
    learn,
    policy_value,
)
from healthgym.evaluation.statistics.ranking import auc, auc_interval
from healthgym.seeds import permutation, stream

Floats = NDArray[np.float64]

_NEXT_STEP_ROWS = 6000
_FEWEST_EVENTS = 20
_TRAINED_ON = "Train on synthetic, test on real (Esteban et al. 2017, arXiv 1706.02633)"

NEXT_STEP = About(
    "utility.next_step",
    "Next-step prediction",
    "How much worse each variable's next value is predicted on unseen real patients by a model that learned "
    "from synthetic rather than from real patients; in points of explained variance, on average over "
    "variables.",
    f"{_TRAINED_ON}: gradient boosting on at most {_NEXT_STEP_ROWS:,} random timesteps of each set; R² of "
    "reals, Brier skill of classes",
)


@dataclass(frozen=True)
class _Sets:
    """Who is learned from and who is tested on."""

    real: Panel
    synthetic: Panel
    half: Panel
    other_half: Panel
    test: Panel
    seed: int


def section(comparison: Comparison) -> Section:
    """Judge what can be learned from the cohort."""
    part = Section(
        "utility",
        "Use for learning",
        "Models are trained on synthetic patients and tested on real ones, beside models trained on real "
        "patients.",
    )
    sets = _sets(comparison, part)
    name = comparison.schema.name
    part.figures = [_next_step(comparison, sets)]
    for endpoint in comparison.config.endpoints:
        if endpoint.schema_name == name:
            part.figures.append(_endpoint(comparison, sets, endpoint))
    for policy in comparison.config.policies:
        if policy.schema_name == name:
            part.figures += _policy(comparison, sets, policy)
    if len(part.figures) == 1:
        part.notes.append(
            "The report's settings define no clinical endpoint and no treatment policy for the schema "
            f"'{name}'."
        )
    return part


def _sets(comparison: Comparison, part: Section) -> _Sets:
    """Return who is learned from; without a holdout, a third of the training patients is tested on."""
    real = comparison.train.panel
    half, other = comparison.halves[0]
    if comparison.holdout:
        test, halves = comparison.holdout.panel, (half.panel, other.panel)
    else:
        order = permutation(real.num_patients, comparison.config.seed, "test")
        third = real.num_patients // 3
        test, real = real.take(order[:third]), real.take(order[third:])
        middle = real.num_patients // 2
        halves = real.take(np.arange(middle)), real.take(np.arange(middle, real.num_patients))
        part.notes.append(
            "There is no holdout: a third of the training patients is tested on instead of unseen ones. The "
            "cohort was made from them too, which flatters it."
        )
    return _Sets(real, comparison.synthetic.panel, *halves, test, comparison.config.seed)


# --- the next timestep ---------------------------------------------------------------------------


def _next_step(comparison: Comparison, sets: _Sets) -> Figure:
    try:
        skills = {
            name: next_step_skills(panel, sets.test, sets.seed)
            for name, panel in (
                ("real", sets.real),
                ("synthetic", sets.synthetic),
                ("half", sets.half),
                ("other", sets.other_half),
            )
        }
    except NotJudgedError as reason:
        return comparison.not_judged(NEXT_STEP, str(reason))
    losses = {name: skill - skills["synthetic"].get(name, 0.0) for name, skill in skills["real"].items()}
    both = skills["half"].keys() & skills["other"].keys() & losses.keys()
    floors = {name: abs(skills["half"][name] - skills["other"][name]) for name in losses if name in both}
    rows = [
        Row(f"{name} (from real {skills['real'][name]:.2f})", loss, floors.get(name))
        for name, loss in sorted(losses.items(), key=lambda item: -item[1])
    ]
    return comparison.figure(
        NEXT_STEP,
        float(np.mean(list(losses.values()))),
        float(np.mean(list(floors.values()))) if floors else None,
        rows=rows,
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
    places = np.argwhere(panel.present_NT[:, 1:])
    if not len(places):
        raise NotJudgedError("Patients have one timestep only.")
    rng = stream(seed, "next step")
    chosen = places[rng.choice(len(places), min(_NEXT_STEP_ROWS, len(places)), replace=False)]
    now = timestep_features(panel)[chosen[:, 0], chosen[:, 1]]
    return now, panel.values_NTV[chosen[:, 0], chosen[:, 1] + 1]


def _real_skill(
    x: NDArray[np.float32], y: Floats, x_test: NDArray[np.float32], y_test: Floats, seed: int
) -> float:
    """Return R^2 on the test rows."""
    model = HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=15, random_state=seed).fit(x, y)
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
        model = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=8, random_state=seed).fit(x, y)
        chances[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(x_test)
    baseline = truth.mean(axis=0)
    return float(1 - ((chances - truth) ** 2).sum() / ((baseline - truth) ** 2).sum())


# --- a clinical endpoint -------------------------------------------------------------------------


def _endpoint(comparison: Comparison, sets: _Sets, endpoint: Endpoint) -> Figure:
    about = About(
        f"utility.endpoint:{endpoint.name}",
        f"Endpoint: {endpoint.name}",
        f"How many points of AUC are lost when {endpoint.name} in unseen real patients is predicted by a "
        f"model that learned from synthetic rather than from real patients.",
        f"{_TRAINED_ON}: gradient boosting on a summary of timesteps 0 to {endpoint.history - 1}; the event "
        "is "
        f"{_in_words(endpoint)}. {endpoint.reason}".rstrip(". "),
        "percent",
    )
    try:
        scores = endpoint_scores(sets.real, sets.test, endpoint, sets.seed)
        real, least = auc(*scores), auc_interval(*scores)[0]
        if least <= 0.5:
            raise NotJudgedError(
                f"Even real patients do not teach to predict it (AUC {100 * real:.0f}%, which may be chance)."
            )
    except NotJudgedError as reason:
        return comparison.not_judged(about, str(reason))
    try:
        half, other = (
            auc(*endpoint_scores(panel, sets.test, endpoint, sets.seed))
            for panel in (sets.half, sets.other_half)
        )
        floor = abs(half - other)
    except NotJudgedError:  # halves may have too few events where the whole has enough
        floor = None
    try:
        synthetic = auc(*endpoint_scores(sets.synthetic, sets.test, endpoint, sets.seed))
    except NotJudgedError as reason:  # nothing can be learned of an event that all or none have
        synthetic, about = 0.5, replace(about, note=f"Synthetic patients teach nothing here: {reason}")
    rows = [Row("AUC, learned from real", real), Row("AUC, learned from synthetic", synthetic)]
    return comparison.figure(about, real - synthetic, floor, rows=rows)


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
    return (
        f"{condition.variable} {what} on at least {endpoint.num_steps} of the timesteps {endpoint.window[0]} "
        f"to {endpoint.window[1]}"
    )


# --- a treatment policy --------------------------------------------------------------------------


def _policy(comparison: Comparison, sets: _Sets, policy: Policy) -> list[Figure]:
    agree = About(
        f"utility.policy_disagreement:{policy.name}",
        f"Policy: {policy.name}",
        "The share of real decisions at which the policy learned from synthetic patients advises another "
        "treatment, or knows of none, where the policy learned from real ones advises one.",
        f"Tabular Q-iteration on {policy.num_states} clustered states, as the off-policy lesson of the v2 "
        "paper "
        f"(doi 10.1016/j.jbi.2023.104514). {policy.reason}".rstrip(". "),
        "percent",
    )
    worth = About(
        f"utility.policy_value:{policy.name}",
        f"Value of the policy: {policy.name}",
        "How much reward unseen real patients would lose under the policy learned from synthetic rather than "
        "from real patients, in standard deviations of their returns.",
        "Fitted Q evaluation (Le et al., ICML 2019) in tabular form on patients not learned from",
    )
    try:
        states = fit_states(sets.real, policy, sets.seed)
        found = {
            name: decisions_of(panel, policy, states)
            for name, panel in vars(sets).items()
            if isinstance(panel, Panel)
        }
    except NotJudgedError as reason:
        return [comparison.not_judged(about, str(reason)) for about in (agree, worth)]
    policies = {
        name: learn(found[name], policy.discount) for name in ("real", "synthetic", "half", "other_half")
    }
    test = found["test"]
    return [
        _agreement(comparison, agree, policies, test),
        _worth(comparison, worth, policies, test, policy),
    ]


def _agreement(
    comparison: Comparison, about: About, policies: dict[str, Policies], test: Decisions
) -> Figure:
    """Return how often the policies differ, unless real ones do so as often as chance would."""
    floor = disagreement(policies["half"], policies["other_half"], test)
    chance = 1 - 1 / test.num_actions
    threshold = comparison.config.threshold(about.key)
    if threshold is not None and limits(threshold, floor)[0] >= chance:
        return comparison.not_judged(
            about,
            f"Policies learned from two halves of the real patients differ at {100 * floor:.0f}% of "
            f"decisions, policies drawn by lot at {100 * chance:.0f}%: with so few patients every cohort "
            "would pass.",
        )
    return comparison.figure(about, disagreement(policies["real"], policies["synthetic"], test), floor)


def _worth(
    comparison: Comparison, about: About, policies: dict[str, Policies], test: Decisions, policy: Policy
) -> Figure:
    """Return what is lost of the real policy's value."""
    values = {name: policy_value(test, learned, policy.discount) for name, learned in policies.items()}
    spread = max(float(test.returns(policy.discount).std()), 1e-9)
    rows = [
        Row("value of the policy learned from real", values["real"]),
        Row("value of the policy learned from synthetic", values["synthetic"]),
        Row("value of what was done", float(test.returns(policy.discount).mean())),
    ]
    return comparison.figure(
        about,
        (values["real"] - values["synthetic"]) / spread,
        abs(values["half"] - values["other_half"]) / spread,
        rows=rows,
    )
