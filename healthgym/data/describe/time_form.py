"""The form of a table's times in a schema: whole numbers, irregular visits or a grid.

Legend: N rows, P patients.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from healthgym.data.describe.keys import Keys
from healthgym.data.describe.names import unit_of_time
from healthgym.words import counted


@dataclass(frozen=True)
class TimeForm:
    """The form of times in a schema.

    Args:
        kind: whole (numbers without gaps), irregular or grid.
        unit: of the times; empty if unknown.
        origin: empty for the usual.
        every: width of a grid's interval, proposed also for irregular visits.
        empty: share of a grid's intervals without a row.
        repeats: number of rows at a time that the patient has in an earlier row.
        why: the evidence.
    """

    kind: str
    unit: str
    origin: str
    every: float
    empty: float
    repeats: int
    why: str


def time_form(keys: Keys, wanted: str | None = None, every: float | None = None) -> TimeForm:
    """Return the form of times; `wanted` (irregular or grid) and `every` override the proposal."""
    times, gaps = keys.times, keys.gaps
    unit = "day" if times.format else unit_of_time(times.column.name) or _unit_by_steps(times.values_N)
    starts_P = np.full(keys.num_patients, np.inf)
    np.minimum.at(starts_P, keys.patient_N, times.values_N)
    repeats, whole = int((gaps == 0).sum()), bool((times.values_N == np.round(times.values_N)).all())
    plain = whole and not times.format and bool((gaps == 1).all()) and len(set(starts_P.tolist())) == 1
    width = every or _usual(gaps[gaps > 0])
    empty = _empty(keys, starts_P, width)
    origin = "" if times.format or plain else _origin(keys, starts_P)
    if plain and not wanted:
        return TimeForm("whole", unit, "", 1.0, 0.0, 0, "whole numbers from the same start, without gaps")
    positive = gaps[gaps > 0]
    span = f"gaps from {positive.min():g} to {positive.max():g}" if len(positive) else "no gaps"
    steps = positive / width
    even = len(positive) and not repeats and empty == 0 and bool(np.isclose(steps, np.round(steps)).all())
    why = f"every {width:g}" if even else f"visits are uneven: {span}"
    why += f", {counted(repeats, 'row')} at a time that the patient has had before" if repeats else ""
    kind = wanted or ("grid" if repeats or even else "irregular")
    return TimeForm(kind, unit, origin, width, empty, repeats, why)


def _unit_by_steps(time_N: NDArray[np.float64]) -> str:
    """Return the unit of which all times are whole days, whole in no other way; empty if none is."""
    if _multiples(time_N, 1000.0):
        return ""
    steps = {"year": (365.25, 365.0, 365.24, 365.2425, 12.0, 52.0), "month": (30.4375, 30.44, 30.4)}
    found = [unit for unit, per in steps.items() if any(_multiples(time_N, each) for each in per)]
    return found[0] if len(found) == 1 else ""


def _multiples(time_N: NDArray[np.float64], per: float) -> bool:
    return bool((np.abs(time_N * per - np.round(time_N * per)) < 1e-4).all())


def _usual(gaps: NDArray[np.float64]) -> float:
    """Return a plain number near the median gap."""
    if not len(gaps):
        return 1.0
    median = float(np.median(gaps))
    if np.isclose((gaps / gaps.min()) % 1, 0).all() and median < 3 * gaps.min():
        return float(f"{gaps.min():.6g}")
    scale = 10.0 ** np.floor(np.log10(median))
    plain = [step * scale for step in (1, 2, 3, 5, 7, 10)]
    return float(f"{min(plain, key=lambda step: abs(np.log(step / median))):.6g}")


def _empty(keys: Keys, starts_P: NDArray[np.float64], every: float) -> float:
    """Return the share of a grid's intervals, up to each patient's last row, that have no row."""
    zero = 0.0 if starts_P.min() >= 0 and not keys.times.format and not _origin(keys, starts_P) else starts_P
    place_N = np.floor(
        (keys.times.values_N - np.broadcast_to(zero, starts_P.shape)[keys.patient_N]) / every + 1e-9
    )
    last_P = np.zeros(keys.num_patients)
    np.maximum.at(last_P, keys.patient_N, place_N)
    filled = len(np.unique(np.stack([keys.patient_N, place_N]), axis=1).T)
    return 1.0 - filled / float((last_P + 1).sum())


def _origin(keys: Keys, starts_P: NDArray[np.float64]) -> str:
    """Return "first" where time 0 is none of the patients', as of calendar years or ages."""
    ends_P = np.full(keys.num_patients, -np.inf)
    np.maximum.at(ends_P, keys.patient_N, keys.times.values_N)
    longest = float((ends_P - starts_P).max())
    return "first" if starts_P.min() < 0 or starts_P.min() > longest > 0 else ""
