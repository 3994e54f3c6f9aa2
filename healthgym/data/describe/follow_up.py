"""Finding the time of follow-up and its event in a table.

Legend: N rows, P patients.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from healthgym.data.describe.keys import Keys
from healthgym.data.describe.names import rank_as_event, rank_as_follow_up, unit_of_time
from healthgym.data.describe.time_form import TimeForm
from healthgym.data.describe.variables import Found
from healthgym.data.describe.words import Words
from healthgym.schema.timing import ratio

_NO_EVENT = (
    "censored",
    "alive",
    "no",
    "false",
    "lebend",
    "survivor",
    "survived",
    "none",
    "discharged",
    "event-free",
)
_DEATH = ("death", "dead", "died", "deceased", "mortal", "expired", "exitus", "verstorben")


@dataclass(frozen=True)
class FollowUp:
    """A proposal for `follow_up` of a schema.

    Args:
        time, event: names of the columns.
        unit: of the time; empty if it is that of the rows' times.
        censored: label of patients without an event.
        evidence: as text.
        sure: whether it is proposed, and not only mentioned.
    """

    time: str
    event: str
    unit: str
    censored: str
    evidence: str
    sure: bool


def find_follow_up(
    table: Words, keys: Keys, form: TimeForm, variables: list[Found]
) -> tuple[FollowUp | None, list[Found]]:
    """Return a proposal, if there is one, and the variables in the form that it needs."""
    event = _best([v for v in variables if v.kind in ("binary", "categorical") and v.static], rank_as_event)
    if event is None:
        return None, variables
    variables = [_without_last_row_event(v, table, keys) for v in variables]
    possible = [v for v in variables if v.kind == "real" and v.static and v.name != event.name and not v.fill]
    time = _best(possible, rank_as_follow_up)
    if time is None:
        return None, variables
    labelled, censored = _labels(event)
    if not censored:
        return None, variables
    unit, late, units = _unit(table, keys, form, time)
    sure = late == 0 and not form.origin and not keys.times.format
    if sure:
        why = f"no patient has a row after '{time.name}' ({units})"
        if rank_as_follow_up(time.name) < 0.4:
            sure, why = False, f"{why}, but its name does not say that it is a time of follow-up"
    elif late:
        why = f"{late:,} patients have rows after '{time.name}' ({units})"
    else:
        why = (
            f"'{keys.times.column.name}' does not count from a common time 0, as '{time.name}' would have to"
        )
    proposal = FollowUp(time.name, event.name, unit, censored, why, sure)
    if sure:
        doubt = (
            f"'{event.name}': '{censored}' is taken for patients without an event; correct the labels if it "
            f"is not so"
        )
        labelled = replace(
            labelled,
            doubts=(*labelled.doubts, doubt) if set(event.classes) != {"0", "1"} else labelled.doubts,
        )
        time = replace(time, unit="", evidence=f"{time.evidence}; time of follow-up")
        swap = {event.name: labelled, time.name: time}
        variables = [swap.get(v.name, v) for v in variables]
    return proposal, variables


def _best(variables: list[Found], rank: Callable[[str], float]) -> Found | None:
    named = [v for v in variables if rank(v.name) > 0]
    return max(named, key=lambda v: rank(v.name), default=None)


def _labels(event: Found) -> tuple[Found, str]:
    """Return the event with labels of its codes, and the label of patients without one; empty if unknown."""
    codes = set(event.classes)
    dead = "dead" if any(word in event.name.lower() for word in _DEATH) else "event"
    if codes in ({"0", "1"}, {"False", "True"}):
        first, second = sorted(codes)
        if "surviv" in event.name.lower() or "censor" in event.name.lower() or event.name.lower() == "cens":
            dead = "dead" if "surviv" in event.name.lower() else "event"
            return replace(event, classes={first: dead, second: "censored"}), "censored"
        return replace(event, classes={first: "censored", second: dead}), "censored"
    if codes == {"1", "2"}:  # as the R package survival has it
        return replace(event, classes={"1": "censored", "2": dead}), "censored"
    if "0" in codes and all(code.isdigit() for code in codes):
        return replace(event, classes={**event.classes, "0": "censored"}), "censored"
    alive = [label for label in event.classes.values() if label.lower() in _NO_EVENT]
    return event, alive[0] if len(alive) == 1 else ""


def _unit(table: Words, keys: Keys, form: TimeForm, time: Found) -> tuple[str, int, str]:
    """Return the unit of follow-up, how many patients have rows after it, and the units in words."""
    ends_N = table[time.name].numbers_N
    named = unit_of_time(time.name)
    named = named if named in ("second", "minute", "hour", "day", "week", "month", "year") else ""
    unit = named if named and form.unit and named != form.unit else ""
    factor = 1.0
    if unit:
        try:
            factor = ratio(form.unit, unit)
        except ValueError:
            unit = ""
    tolerance = 1e-6 + 1e-6 * float(np.abs(ends_N).max())
    late_N = keys.times.values_N * factor > ends_N + tolerance
    late = len(np.unique(keys.patient_N[late_N]))
    return unit, late, f"in {unit}, by its name" if unit else "in the unit of the rows' times"


def _without_last_row_event(variable: Found, table: Words, keys: Keys) -> Found:
    """Leave out what only repeats the outcome in a patient's last row, as counting processes have it."""
    if variable.static or variable.kind != "binary" or not rank_as_event(variable.name):
        return variable
    if set(variable.classes) != {"0", "1"}:
        return variable
    ones = table[variable.name].numbers_N[keys.order_N] == 1
    last = np.append(~keys.same_N[1:], True)
    if not (ones & ~last).any():
        return Found(variable.name, "", "is 1 in a patient's last row only: it repeats the outcome")
    return variable
