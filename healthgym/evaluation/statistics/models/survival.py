"""Kaplan-Meier curves of a panel's follow-up, and how long and how often its patients were seen.

Legend: N patients, E timesteps at which somebody has an event.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from statsmodels.duration.survfunc import SurvfuncRight

from healthgym.evaluation.statistics.panel import Panel

Floats = NDArray[np.float64]
Choice = NDArray[np.bool_]

AT_RISK = 10
"""Least number of patients for which a curve is compared or drawn."""


@dataclass(frozen=True)
class FollowUp:
    """When follow-up ended, and how.

    Args:
        time_N: time of event or censoring, in the unit of follow-up.
        event_N: class index of the event; -1 where unknown.
        censored: the class that means that nothing happened.
    """

    time_N: Floats
    event_N: NDArray[np.int16]
    censored: int


@dataclass(frozen=True)
class Curve:
    """The share of patients without the event, by Kaplan and Meier.

    Source: Kaplan and Meier, J. Am. Stat. Assoc. 53, 1958; the 95% band by Greenwood's formula.

    Args:
        time_E: times of events, rising.
        share_E: share without the event from each time on.
        error_E: standard error of that.
        ends_N: when each patient's follow-up ended, rising.
    """

    time_E: Floats
    share_E: Floats
    error_E: Floats
    ends_N: Floats

    def at(self, times: Floats) -> Floats:
        """Return the share at these times."""
        return np.asarray(np.r_[1.0, self.share_E][np.searchsorted(self.time_E, times, side="right")])

    def band(self, times: Floats) -> tuple[Floats, Floats]:
        """Return the ends of the pointwise 95% interval at these times."""
        error = np.r_[0.0, self.error_E][np.searchsorted(self.time_E, times, side="right")]
        share = self.at(times)
        return np.clip(share - 1.96 * error, 0, 1), np.clip(share + 1.96 * error, 0, 1)

    def at_risk(self, times: Floats) -> NDArray[np.int64]:
        """Return how many patients are still followed at these times."""
        return np.asarray(len(self.ends_N) - np.searchsorted(self.ends_N, times, side="left"))

    @property
    def last(self) -> float:
        """The last time at which enough patients are followed; less than 0 if there never are."""
        return float(self.ends_N[-AT_RISK]) if len(self.ends_N) >= AT_RISK else -1.0


def follow_up(panel: Panel) -> FollowUp:
    """Return the follow-up of patients; the schema must have one."""
    follow = panel.schema.follow_up
    assert follow
    time = [v.name for v in panel.schema.reals].index(follow.time)
    event = [v.name for v in panel.schema.categoricals].index(follow.event)
    labels = panel.schema.categoricals[event].labels
    return FollowUp(panel.reals_NTR[:, 0, time], panel.codes_NTK[:, 0, event], labels.index(follow.censored))


def kaplan_meier(found: FollowUp, chosen_N: Choice, event: int | None = None) -> Curve | None:
    """Return the curve of some patients; None if fewer than 10 of them have a follow-up.

    Args:
        found: of all patients.
        chosen_N: mask of the patients of the curve.
        event: a class of event, others counting as censored; any event if None.
    """
    known_N = chosen_N & np.isfinite(found.time_N) & (found.event_N >= 0)
    times, events = found.time_N[known_N], found.event_N[known_N]
    if len(times) < AT_RISK:
        return None
    happened = events != found.censored if event is None else events == event
    ends = np.sort(times)
    if not happened.any():
        return Curve(np.empty(0), np.empty(0), np.empty(0), ends)
    fitted = SurvfuncRight(times, happened.astype(int))
    error = np.nan_to_num(np.asarray(fitted.surv_prob_se, np.float64))
    return Curve(
        np.asarray(fitted.surv_times, np.float64), np.asarray(fitted.surv_prob, np.float64), error, ends
    )


def curve_distance(first: Curve, second: Curve) -> float | None:
    """Return the largest difference of two curves while both have 10 patients at risk; None if never."""
    last = min(first.last, second.last)
    if last < 0:
        return None
    times = np.r_[0.0, first.time_E, second.time_E]
    times = times[times <= last]
    return float(np.abs(first.at(times) - second.at(times)).max())


def groups(panel: Panel) -> dict[str, Choice]:
    """Return the members of each class of each static variable, by "variable: label"."""
    return {
        f"{variable.name}: {label}": panel.codes_NTK[:, 0, k] == code
        for k, variable in enumerate(panel.schema.categoricals)
        if variable.static
        for code, label in enumerate(variable.labels)
    }


def last_visits(panel: Panel) -> Floats:
    """Return the time of each patient's last row in the unit of the rows' times.

    Numbered timesteps count from 0, so that a table that counts from 1 is one timestep too early here.
    """
    schema, visits = panel.schema, panel.schema.keys.visits
    if schema.gap:
        gap = [v.name for v in schema.reals].index(schema.gap.name)
        return np.asarray(np.nansum(panel.reals_NTR[:, :, gap], axis=1))
    width = visits.every if visits and visits.kind == "grid" else 1.0
    return np.asarray((panel.lengths_N - 1) * width)


def last_values(panel: Panel) -> dict[str, Floats]:
    """Return statics, and of the others each patient's last known value or class, by what they are called.

    A class is a column of 0 and 1, of two classes only that of the second.
    """
    rows_N, columns = np.arange(panel.num_patients), {}
    for position, variable in enumerate(panel.schema.encoded):
        real = position < len(panel.schema.reals)
        if real:
            values = panel.reals_NTR[:, :, position]
            known = np.isfinite(values)
        else:
            values = panel.codes_NTK[:, :, position - len(panel.schema.reals)].astype(np.float64)
            known = values >= 0
        latest = values.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
        last = np.where(known.any(axis=1), values[rows_N, latest], np.nan)
        name = variable.name if variable.static else f"last {variable.name}"
        if real:
            columns[name] = last
            continue
        for code, label in enumerate(variable.labels):
            if code or len(variable.labels) > 2:
                columns[f"{name}: {label}"] = np.where(np.isnan(last), np.nan, (last == code).astype(float))
    return columns
