"""The values that may be drawn from each piece of cells, and the bounds between pieces.

Legend: P pieces.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from healthgym.data.fitting.units import Rows, Units, unit_of
from healthgym.schema.cells import Array, Ints

_GRIDS = (1, 2, 5, 10, 20, 25, 50, 100)  # in units of the last decimal
_MOSTLY = 0.8
_DOMINANT = 0.5  # a patient with more of the values of an outer piece would determine its end
_MOST_HALVES = 60  # after which two numbers are equal
_NOISE = 1e-3  # of the last decimal: a value so near to the grid is meant to be on it


def fit_ends(
    units: Units, rows: Rows, labels: Ints, atom_P: NDArray[np.bool_], decimals: int, least: int
) -> tuple[Array, Array, Array, Array]:
    """Return the lowest and highest value of each piece, its step, and the bounds between pieces."""
    count, own, unit = len(atom_P), labels >= 0, 10.0**-decimals
    positions = np.flatnonzero(own)
    first = positions[np.unique(labels[own], return_index=True)[1]]
    last = positions[len(positions) - 1 - np.unique(labels[own][::-1], return_index=True)[1]]
    bounds = np.array([_bound(units, last[p], first[p + 1], decimals) for p in range(count - 1)])
    low, high, step = _values_of_single(units, first), _values_of_single(units, first), np.full(count, unit)
    for p in np.flatnonzero(~atom_P).tolist():
        part = slice(first[p], last[p] + 1)
        before, after = bounds[p - 1 : p] if p else bounds[:0], bounds[p : p + 1]
        if len(before) and len(after):
            ends = float(before[0]), float(after[0]) - unit
            low[p], high[p], step[p] = _on_grid(units, part, *ends, unit, least)
        else:
            low[p], high[p], step[p] = _outer(rows, units, part, before, after, unit, least)
    low, high = (np.round(each, decimals) + 0.0 for each in (low, high))  # no negative zero
    return low, high, step, bounds


def _values_of_single(units: Units, first: Ints) -> Array:
    return units.high[first].copy()


def _bound(units: Units, last: int, first: int, decimals: int) -> float:
    """Return the number with the fewest digits between a piece's last unit and the next one's first."""
    below, above = float(units.high[last]), float(units.low[first])
    if below < above:
        return _roundest(below, above, decimals)
    return float(np.nextafter(below, np.inf)) if units.single[last] else above


@dataclass(frozen=True)
class _Tail:
    """The new values of each of the patients who have some in an outer piece: number, sum and extremes.

    `least` and `most` are the extremes of all values.
    """

    number: Ints
    total: Array
    lowest: Array
    highest: Array
    least: float
    most: float


def _tail(rows: Rows, units: Units, part: slice) -> _Tail:
    """Return the patients of an outer piece, without those who are counted in it from beyond it."""
    first, last = units.index[part][[0, -1]]
    found, least, most = [], np.inf, -np.inf
    for values, patient, _ in rows.new():
        least, most = min(least, values.min(initial=np.inf)), max(most, values.max(initial=-np.inf))
        unit = unit_of(values, units.known)
        inside = (unit >= first) & (unit <= last)
        own, starts = values[inside], np.unique(patient[inside], return_index=True)[1]
        if len(own):
            reduced = [each.reduceat(own, starts) for each in (np.add, np.minimum, np.maximum)]
            found.append([np.diff(np.append(starts, len(own))), *reduced])
    number, total, lowest, highest = (np.concatenate(each) for each in zip(*found, strict=True))
    return _Tail(number, total, lowest, highest, float(least), float(most))


def _outer(
    rows: Rows, units: Units, part: slice, before: Array, after: Array, unit: float, least: int
) -> tuple[float, float, float]:
    """Return the ends and the step of the first or last piece.

    An end beyond all values is moved by halves towards the mean of the extremes of k patients, until it is
    beyond none.
    """
    tail = _tail(rows, units, part)
    low, high = _outer_ends(units, part, before, after, unit, tail)
    bottom, top, step = _on_grid(units, part, low, high, unit, least)
    for _ in range(_MOST_HALVES if len(tail.number) >= least else 0):
        under = not len(before) and bottom < tail.least - unit / 2
        over = not len(after) and top > tail.most + unit / 2
        if not under and not over:
            break
        if under:
            low = (low + float(np.sort(tail.lowest)[:least].mean())) / 2
        if over:
            high = (high + float(np.sort(tail.highest)[-least:].mean())) / 2
        bottom, top, step = _on_grid(units, part, low, high, unit, least)
    if bottom == top and _patients_with(units, bottom, unit) < least:
        return (bottom - unit, top, unit) if len(after) else (bottom, top + unit, unit)
    return bottom, top, step


def _outer_ends(
    units: Units, part: slice, before: Array, after: Array, unit: float, tail: _Tail
) -> tuple[float, float]:
    """Return the ends of the first or last interval, of which one bound or both do not exist.

    Without a bound, the end is that of an interval with the mean of the values, so that it is no patient's
    own value. Where one patient has most of the values, it is a mean of one value a patient.
    """
    mean = float(units.total[part].sum() / units.new[part].sum())
    if tail.number.max() > _DOMINANT * tail.number.sum():
        mean = float((tail.total / tail.number).mean())
    if not len(before) and not len(after):
        middle = (units.low[part] + units.high[part]) / 2
        half = float(np.sqrt(3 * np.average((middle - mean) ** 2, weights=units.new[part])))
        low, high = mean - half, mean + half
    else:
        low = float(before[0]) if len(before) else np.nan
        high = float(after[0]) - unit if len(after) else 2 * mean - low
        low = 2 * mean - high if np.isnan(low) else low
    if units.low[0] >= 0:
        low = max(low, 0.0)
    return low, max(high, low)


def _roundest(above: float, most: float, decimals: int) -> float:
    """Return the number in (above, most] with the fewest digits.

    Where all have more decimals than were recorded, it is the one midway, which is nobody's value.
    """
    for digits in range(-9, decimals + 1):
        scaled = most * 10.0**digits
        whole = float(np.rint(scaled))
        if abs(whole - scaled) > 1e-12 * abs(scaled):  # otherwise they differ only by rounding
            whole = float(np.floor(scaled))
        if above < whole / 10.0**digits:
            return round(whole / 10.0**digits, max(digits, 0))
    scaled, middle = most * 10.0**decimals, above + (most - above) / 2
    return middle if abs(scaled - np.rint(scaled)) > _NOISE and above < middle else most


def _on_grid(
    units: Units, part: slice, low: float, high: float, unit: float, least: int
) -> tuple[float, float, float]:
    """Return the ends and the step of the coarsest grid with most values of a piece.

    A grid that leaves a single value is taken only if most values are that one, and enough patients have it.
    """
    single, most = units.single[part], _MOSTLY * units.new[part].sum()
    values, weights = units.high[part][single], units.new[part][single]
    for multiple in _GRIDS[::-1]:
        step = multiple * unit
        scaled = values / step
        on = (weights * (np.abs(scaled - np.rint(scaled)) < 1e-6 * np.maximum(np.abs(scaled), 1))).sum()
        bottom, top = np.ceil(low / step - 1e-9) * step, np.floor(high / step + 1e-9) * step
        if on <= most or bottom > top:
            continue
        same = np.abs(values - bottom) <= _NOISE * unit
        if bottom < top or (weights[same].sum() > most and _patients_with(units, bottom, unit) >= least):
            return float(bottom), float(top), step
    bottom, top = np.ceil(low / unit - 1e-9) * unit, np.floor(high / unit + 1e-9) * unit
    return (float(bottom), float(top), unit) if bottom <= top else (low, low, unit)


def _patients_with(units: Units, value: float, unit: float) -> int:
    """Return how many patients have a value, which may be stored with errors of float32."""
    same = units.single & (np.abs(units.high - value) <= _NOISE * unit)
    return int(units.patients[same].sum())
