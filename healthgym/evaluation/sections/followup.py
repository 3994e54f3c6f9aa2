"""Follow-up: numbers of visits, times between them, events, and these by group."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from healthgym.evaluation.comparison import Comparison, Side
from healthgym.evaluation.metric import metric
from healthgym.evaluation.pages import figures
from healthgym.evaluation.result import Figure, NotJudgedError, Section
from healthgym.evaluation.sections.validity import length_distance
from healthgym.evaluation.statistics.models.survival import (
    AT_RISK,
    Curve,
    curve_distance,
    follow_up,
    groups,
    kaplan_meier,
    last_values,
    last_visits,
)
from healthgym.evaluation.statistics.panel import Panel

Floats = NDArray[np.float64]

LENGTHS = metric(
    "follow_up.lengths",
    "Number of timesteps",
    "The share of patients whose number of timesteps would have to change to match the real distribution.",
    "Largest difference of the cumulative shares of lengths (Kolmogorov-Smirnov); all synthetic patients",
    "percent",
    counts_all=True,
)
LENGTHS_BY_GROUP = metric(
    "follow_up.lengths_by_group",
    "Timesteps by outcome and group",
    "Among the patients of one class, such as those who died, the share whose number of timesteps would "
    "have to change to match the real distribution. The worst class counts.",
    f"Kolmogorov-Smirnov, of classes with {AT_RISK} patients or more on both sides; sampled patients",
    "percent",
)
LENGTH_RELATIONS = metric(
    "follow_up.length_relations",
    "Correlations with length",
    "How much the correlation of the number of timesteps with a static variable, or with the last value"
    " of another variable, differs from the real one. The worst counts.",
    "Spearman's rank correlation over sampled patients",
)
GAPS = metric(
    "follow_up.gaps",
    "Time between visits by outcome",
    "How much the distribution of the time between visits differs, among all patients and among those "
    "with each event. The worst group counts.",
    f"Kolmogorov-Smirnov, of events with {AT_RISK} patients or more on both sides; sampled patients",
    "percent",
)
EVENTS = metric(
    "follow_up.events",
    "Share with each event",
    "The largest difference between the shares of real and synthetic patients whose follow-up ended with an "
    "event, or without one.",
    "The schema's follow_up; sampled patients",
    "percent",
)
SURVIVAL = metric(
    "follow_up.survival",
    "Kaplan-Meier curves",
    "The largest difference, at any time, between the real and the synthetic share of patients without "
    "an event so far. Curves are compared for all events, for each event alone, and within each class "
    "of a static variable. The worst curve counts.",
    f"Kaplan and Meier 1958, other events censored, as long as {AT_RISK} patients are at risk on both sides",
    "percent",
)
ORDER = metric(
    "follow_up.order",
    "Rows after the end of follow-up",
    "The share of synthetic patients whose last row comes after their follow-up ended.",
    "Time of the last row against the schema's follow_up; sampled synthetic patients",
    "percent",
)


def section(comparison: Comparison) -> Section:
    """Judge how long patients are followed, how often they are seen, and what ends it."""
    part = Section(
        "follow_up",
        "Follow-up",
        "Do synthetic patients have the same lengths of follow-up, visit frequencies and events as real "
        "ones, and do the same kinds of patients leave early?",
    )
    schema = comparison.schema
    part.results = [comparison.metric_result(LENGTHS, length_distance)]
    if np.ptp(comparison.train.panel.lengths_N):
        part.results += [
            comparison.metric_result(LENGTHS_BY_GROUP, lengths_by_group),
            comparison.metric_result(LENGTH_RELATIONS, length_relations),
        ]
    if schema.gap:
        part.results.append(comparison.metric_result(GAPS, gaps_by_event))
    if schema.follow_up:
        events, survival = (
            comparison.metric_result(EVENTS, event_shares),
            comparison.metric_result(SURVIVAL, survival_distances),
        )
        part.results += [
            replace(events, finding=_events_in_words(comparison) or events.finding),
            replace(survival, finding=_survival_in_words(comparison) or survival.finding),
            comparison.metric_result(ORDER, late_rows),
        ]
        part.essential = frozenset({EVENTS.key, SURVIVAL.key})
        if getattr(comparison, "drawn", True):
            part.figures = list(_survival_figures(comparison))
    else:
        part.notes.append(
            "The schema has no `follow_up`, so that events and the time to them are not judged here."
        )
    return part


def lengths_by_group(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the Kolmogorov-Smirnov distance of lengths within each class of each static variable."""
    theirs = groups(synthetic.panel)
    return {
        name: _distance(real.panel.lengths_N[ours_N], synthetic.panel.lengths_N[theirs[name]])
        for name, ours_N in groups(real.panel).items()
        if min(ours_N.sum(), theirs[name].sum()) >= AT_RISK
    }


def length_relations(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the difference of Spearman's correlation of length with statics and last values."""
    ours, theirs = (_length_correlations(side.panel) for side in (real, synthetic))
    return {name: abs(theirs.get(name, 0.0) - r) for name, r in ours.items()}


def gaps_by_event(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the Kolmogorov-Smirnov distance of the time between visits, of all and by event."""
    found = {}
    ours, theirs = (_event_groups(side.panel) for side in (real, synthetic))
    for name, ours_N in ours.items():
        a, b = _gaps(real.panel, ours_N), _gaps(synthetic.panel, theirs[name])
        if min(ours_N.sum(), theirs[name].sum()) >= AT_RISK and len(a) and len(b):
            found[name] = _distance(a, b)
    return found


def event_shares(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the difference of the share of patients with each event, or with none."""
    ours, theirs = (_event_groups(side.panel) for side in (real, synthetic))
    return {
        name: abs(float(ours_N.mean()) - float(theirs[name].mean()))
        for name, ours_N in ours.items()
        if name != _EVERYBODY
    }


def survival_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the largest difference of each Kaplan-Meier curve."""
    ours, theirs = (_curves(side.panel) for side in (real, synthetic))
    distances = {}
    for name, curve in ours.items():
        if curve is not None and (other := theirs[name]) is not None:
            distance = curve_distance(curve, other)
            if distance is not None:
                distances[name] = distance
    if not distances:
        raise NotJudgedError(f"Fewer than {AT_RISK} patients have a follow-up.")
    return distances


def late_rows(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of patients whose last row comes after the end of their follow-up."""
    panel = synthetic.panel
    last, found = last_visits(panel), follow_up(panel)
    # Times are held as float32.
    late_N = last * panel.schema.time_ratio > found.time_N * (1 + 1e-5) + 1e-5
    return {"patients": float(late_N.mean())}


def _events_in_words(comparison: Comparison) -> str:
    """Return the shares of the event that differs most, of those that enough real patients had."""
    ours, theirs = (_event_groups(side) for side in (comparison.train.panel, comparison.synthetic.panel))
    shares = [
        (label, float(ours_N.mean()), float(theirs[label].mean()))
        for label, ours_N in ours.items()
        if label != _EVERYBODY and min(ours_N.sum(), (~ours_N).sum()) >= AT_RISK
    ]
    if not shares:
        return ""
    label, real, synthetic = max(shares, key=lambda each: abs(each[1] - each[2]))
    return f"{label}: {synthetic:.1%} of synthetic patients, {real:.1%} of real ones"


def _survival_in_words(comparison: Comparison) -> str:
    """Return the shares without an event at half of the time that the real curve covers."""
    sides = comparison.train.panel, comparison.synthetic.panel
    real, synthetic = (_curves(panel)[_ANY_EVENT] for panel in sides)
    if real is None or synthetic is None or real.last <= 0:
        return ""
    half = np.array([real.last / 2])
    return (
        f"{synthetic.at(half)[0]:.0%} of synthetic patients and {real.at(half)[0]:.0%} of real ones are "
        f"without an event after {half[0]:.3g} {comparison.schema.follow_up_unit}"
    )


_ANY_EVENT = "any event"
_EVERYBODY = "all patients"


def _event_groups(panel: Panel) -> dict[str, NDArray[np.bool_]]:
    """Return all patients, and those of each event."""
    everybody = {_EVERYBODY: np.ones(panel.num_patients, bool)}
    if panel.schema.follow_up is None:
        return everybody
    found, labels = follow_up(panel), panel.schema[panel.schema.follow_up.event].labels
    return everybody | {label: found.event_N == code for code, label in enumerate(labels)}


def _curves(panel: Panel) -> dict[str, Curve | None]:
    """Return curves until any event, until each, and until any within each class of a static variable."""
    assert panel.schema.follow_up
    found, event = follow_up(panel), panel.schema[panel.schema.follow_up.event]
    everybody = np.ones(panel.num_patients, bool)
    curves = {_ANY_EVENT: kaplan_meier(found, everybody)}
    if len(event.labels) > 2:
        for code, label in enumerate(event.labels):
            if code != found.censored:
                curves[label] = kaplan_meier(found, everybody, code)
    for name, chosen_N in groups(panel).items():
        if not name.startswith(f"{event.name}: "):
            curves[name] = kaplan_meier(found, chosen_N)
    return curves


def _gaps(panel: Panel, chosen_N: NDArray[np.bool_]) -> Floats:
    assert panel.schema.gap
    position = [v.name for v in panel.schema.reals].index(panel.schema.gap.name)
    values = panel.reals_NTR[chosen_N][:, 1:, position]
    return np.asarray(values[np.isfinite(values)])


def _length_correlations(panel: Panel) -> dict[str, float]:
    """Return the rank correlation of length with each column that varies."""
    found = {}
    for name, column_N in last_values(panel).items():
        known = np.isfinite(column_N)
        if known.sum() < AT_RISK or np.ptp(column_N[known]) == 0 or np.ptp(panel.lengths_N[known]) == 0:
            continue
        found[name] = float(stats.spearmanr(panel.lengths_N[known], column_N[known]).statistic)
    return found


def _distance(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    return float(stats.ks_2samp(first, second, method="asymp").statistic)


def _survival_figures(comparison: Comparison) -> Iterator[Figure]:
    """Draw the curve until any event and each event, and by class of the static variable that tells most."""
    sides = comparison.train.panel, comparison.synthetic.panel
    ours, theirs = (_curves(panel) for panel in sides)
    unit = comparison.schema.follow_up_unit
    event = comparison.schema.follow_up.event if comparison.schema.follow_up else ""
    shown = [name for name in ours if ": " not in name] + _telling(comparison, ours, event)
    for name in shown:
        real, synthetic = ours[name], theirs.get(name)
        if real is not None and synthetic is not None and real.last > 0:
            times = np.linspace(0, real.last, 200)
            ticks = np.linspace(0, real.last, 5)
            yield figures.survival(
                f"survival-{name}", f"Without {name}" if ": " not in name else name, unit, times,
                (real.at(times), synthetic.at(times)), real.band(times), ticks,
                (real.at_risk(ticks), synthetic.at_risk(ticks)),
            )  # fmt: skip


def _telling(comparison: Comparison, curves: dict[str, Curve | None], event: str) -> list[str]:
    """Return the classes of the static variable, of six classes at most, whose real curves differ most."""
    best: tuple[float, list[str]] = (-1.0, [])
    for variable in comparison.schema.categoricals:
        if not variable.static or variable.name == event or len(variable.labels) > 6:
            continue
        names = [f"{variable.name}: {label}" for label in variable.labels]
        found = [curve for name in names if (curve := curves.get(name)) is not None]
        distances = [curve_distance(a, b) or 0.0 for a in found for b in found if a is not b]
        if len(found) > 1 and max(distances) > best[0]:
            best = max(distances), names
    return best[1]
