"""Clinical time in a schema: irregular visits, a grid to put them on, and follow-up until an event.

A table's own time is a number in a unit, or an ISO date. Dates count as days since the patient's first row.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from healthgym.strict import PositiveFloat, StrictModel
from healthgym.words import Name, Word

_SECONDS = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86_400.0,
    "week": 604_800.0,
    "month": 86_400 * 365.25 / 12,
    "year": 86_400 * 365.25,
}
_STEPS_PER_UNIT: Mapping[str, tuple[float, ...]] = {
    "year": (1, 2, 4, 12, 52, 365, 365.24, 365.2425, 365.25),
    "month": (1, 30, 30.4, 30.4375, 30.44),
    "week": (1, 7),
    "day": (1, 24, 1440, 86_400),
    "hour": (1, 60, 3600),
    "minute": (1, 60),
}
_DECIMALS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
_WHOLE = 1e-5  # how far a multiple of the recorded precision may be from a whole number


def _date_format(form: str) -> str:
    """Refuse a date format without day, month and year.

    Raises:
        ValueError: with an example.
    """
    if form and not (re.search("%[yY]", form) and re.search("%[mbB]", form) and "%d" in form):
        raise ValueError("must hold a day, a month and a year, such as %d.%m.%Y")
    return form


DateFormat = Annotated[str, AfterValidator(_date_format)]


class Irregular(StrictModel):
    """Visits at irregular times.

    Args:
        unit: of the table's times; dates are in days.
        origin: `zero` uses the table's numbers (time since randomisation, admission, diagnosis), `first`
            counts from each patient's first row; `auto` is zero, but refuses times that are all far from 0,
            such as calendar years. Dates always count from the first row.
        format: of dates that are not ISO dates, for `strptime`, e.g. "%d.%m.%Y".
    """

    kind: Literal["irregular"]
    unit: Word = ""
    origin: Literal["auto", "zero", "first"] = "auto"
    format: DateFormat = ""


class Grid(StrictModel):
    """Visits at irregular times on a grid: interval k has the visits from k * every up to (k + 1) * every.

    Args:
        unit, origin, format: as for irregular visits.
        every: width of an interval, in the unit.
        take: the value of an interval with several visits: the last or the first that is not missing, or the
            median (for classes the most frequent).
    """

    kind: Literal["grid"]
    unit: Word = ""
    origin: Literal["auto", "zero", "first"] = "auto"
    format: DateFormat = ""
    every: PositiveFloat
    take: Literal["last", "first", "median"] = "last"


class Keys(StrictModel):
    """The columns that identify a row.

    In YAML, `timestep: {column: time, kind: irregular, unit: year}` gives the column and its `visits`.

    Args:
        patient: column of the patient's id.
        timestep: column of whole numbers without gaps, or of times if `visits` is given.
        visits: how visits at irregular times are treated.
    """

    patient: Name = "PatientID"
    timestep: Name = "Timestep"
    visits: Annotated[Irregular | Grid, Field(discriminator="kind")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _split_timestep(cls, values: Any) -> Any:
        """Accept a mapping for the column of times and the form of visits."""
        if not isinstance(values, dict) or not isinstance(values.get("timestep"), dict):
            return values
        visits = dict(values["timestep"])
        return {**values, "timestep": visits.pop("column", "Timestep"), "visits": visits}


class FollowUp(StrictModel):
    """How long each patient was followed, and the event at the end.

    Args:
        time: a static real variable, time from the origin of the rows' times to event or censoring.
        event: a static binary or categorical variable, the event at that time.
        unit: of `time`; by default that of the rows' times.
        censored: label of the class of `event` for patients without an event.
    """

    time: Name
    event: Name
    unit: Word = ""
    censored: Word = "censored"


def ratio(unit: str, other: str) -> float:
    """Return how many of the second unit are in one of the first, e.g. 7 for a week and a day.

    Source: a year of 365.25 days and twelve equal months.

    Raises:
        ValueError: the units differ and one is unknown.
    """
    if unit == other:
        return 1.0
    seconds = [_SECONDS.get(each.lower().removesuffix("s")) for each in (unit, other)]
    if seconds[0] is None or seconds[1] is None:
        unknown = unit if seconds[0] is None else other
        raise ValueError(
            f"'{unit}' cannot be converted to '{other}': '{unknown}' is none of {', '.join(_SECONDS)}"
        )
    return seconds[0] / seconds[1]


class Resolution:
    """Finds the recorded precision of times: the coarsest common one of which all are multiples."""

    def __init__(self, unit: str) -> None:
        usual = _STEPS_PER_UNIT.get(unit.lower().removesuffix("s"), ())
        self._possible = sorted({*usual, *_DECIMALS})

    def see(self, times_N: NDArray[np.float64]) -> None:
        """Add times; NaN are ignored."""
        times = times_N[np.isfinite(times_N)]
        self._possible = [
            per for per in self._possible if (np.abs(times * per - np.round(times * per)) < _WHOLE).all()
        ]

    @property
    def per_unit(self) -> float:
        """Steps of the recorded precision per unit of time; 0 if there is none."""
        return self._possible[0] if self._possible else 0.0


@dataclass(frozen=True)
class TimeForm:
    """Facts about a table's times that are needed to turn generated gaps back into times.

    Args:
        per_unit: steps of the visit times' recorded precision per unit, 0 if they have none.
        follow_per_unit: the same for the follow-up time.
        starts_at_zero: whether each patient's first visit is at time 0.
        dated, follow_dated: whether the table gives the visits' times and the end of follow-up as dates.
    """

    per_unit: float = 0.0
    follow_per_unit: float = 0.0
    starts_at_zero: bool = False
    dated: bool = False
    follow_dated: bool = False

    def to_tree(self) -> dict[str, Any]:
        """Return it as numbers, for a file."""
        return {
            "per_unit": float(self.per_unit),
            "follow_per_unit": float(self.follow_per_unit),
            "starts_at_zero": int(self.starts_at_zero),
            **({"dated": 1} if self.dated else {}),  # omitted for a table of numbers
            **({"follow_dated": 1} if self.follow_dated else {}),
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> "TimeForm":
        """Read what `to_tree` gave; nothing gives the default."""
        if not tree:
            return cls()
        return cls(
            float(tree["per_unit"]),
            float(tree["follow_per_unit"]),
            *(bool(int(tree.get(name, 0))) for name in ("starts_at_zero", "dated", "follow_dated")),
        )


def rounded(times_N: NDArray[np.float64], per_unit: float) -> NDArray[np.float64]:
    """Return times rounded to the recorded precision."""
    return np.round(times_N * per_unit) / per_unit if per_unit else times_N
