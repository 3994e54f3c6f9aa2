"""One variable at a time: its values and how it moves, each number with the standard error of patients.

A ratio X = sum_i x_i / sum_i n_i over N patients has the standard error
sqrt(mean((x_i - X n_i)^2) / N) / mean n (Cochran, *Sampling Techniques*, 1977, chapter 6): the
timesteps of one patient count as one observation.

N patients, T timesteps, K statistics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.columns import Columns, rank_scores
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.relations import Families, Family

Floats = NDArray[np.float64]

_RARE = 1e-4
_FEWEST = 20
_RARE_TAIL = 2e-3
_TINY = 1e-9


@dataclass
class _Found:
    """Statistics of one family as they are collected."""

    names: list[tuple[str, str]]
    estimates: list[float]
    errors: list[float]

    def add(self, name: tuple[str, str], value: tuple[float, float]) -> None:
        self.names.append(name)
        self.estimates.append(value[0])
        self.errors.append(value[1])

    def family(self, phrase: Callable[[str, str], str]) -> Family:
        return Family(self.names, np.array(self.estimates), np.array(self.errors), phrase, is_relation=False)


def singles(panel: Panel, columns: Columns) -> Families:
    """Return every family of statistics of single variables."""
    found: dict[str, _Found] = {}

    def add(family: str, name: str, detail: str, value: tuple[float, float]) -> None:
        found.setdefault(family, _Found([], [], [])).add((name, detail), value)

    for position, variable in enumerate(panel.schema.reals):
        if len(columns.sorted_values[position]):
            raw = panel.reals_NTR[:, : 1 if variable.static else None, position]
            _of_real(add, variable.name, raw, columns, position)
    for position, variable in enumerate(panel.schema.categoricals):
        codes = panel.codes_NTK[:, : 1 if variable.static else None, position]
        _of_classes(add, variable.name, codes, variable.labels, variable.static)
    for variable in panel.schema.encoded:
        _absent(add, panel, variable.name)
    _measured(add, panel)
    return {family: each.family(_PHRASES[family]) for family, each in found.items()}


_Add = Callable[[str, str, str, tuple[float, float]], None]

_PHRASES: dict[str, Callable[[str, str], str]] = {
    "distribution": "the share of {} up to {}".format,
    "mean": "the mean of {}{}".format,
    "deviation": "the standard deviation of {}{}".format,
    "tail": "the share of {} {}".format,
    "class": "the share of {} = {}".format,
    "missing": "the share of {} that is absent{}".format,
    "own deviation": "the standard deviation of {} within a patient{}".format,
    "step": "the size of steps of {}{}".format,
    "switch": "how often {} changes{}".format,
    "trend": "the slope of {} over time{}".format,
    "transition": "of {}, the steps {}".format,
    "measured": "how often {} changes {}".format,
}


def ratio(x_N: Floats, n_N: Floats) -> tuple[float, float]:
    """Return sum(x) / sum(n) and its standard error over patients; NaN of fewer than 20 who have any n."""
    mean = float(n_N.mean())
    if (n_N > 0).sum() < _FEWEST:
        return float("nan"), float("nan")
    value = float(x_N.mean()) / mean
    return value, float(np.sqrt(np.mean((x_N - value * n_N) ** 2) / len(x_N)) / mean)


def logarithm(value: tuple[float, float], least: float) -> tuple[float, float]:
    """Return log(value + least) and its standard error."""
    return float(np.log(value[0] + least)), value[1] / (value[0] + least)


def _of_real(add: _Add, name: str, raw_NT: Floats, columns: Columns, position: int) -> None:
    sorted_values, static = columns.sorted_values[position], columns.schema.reals[position].static
    known = np.isfinite(raw_NT)
    count = known.sum(axis=1).astype(np.float64)
    for limit in columns.limits[position]:
        add("distribution", name, f"{limit:.6g}", ratio((raw_NT <= limit).sum(1).astype(float), count))
    scores = rank_scores(raw_NT, sorted_values)
    filled = np.nan_to_num(scores)
    mean = ratio(filled.sum(axis=1), count)
    add("mean", name, "", mean)
    squares = np.where(known, (scores - mean[0]) ** 2, 0.0).sum(axis=1)
    add("deviation", name, "", _half(logarithm(ratio(squares, count), _TINY)))
    low, high = columns.tails[position]
    if np.isfinite(low):
        tail = ratio((raw_NT <= low).sum(1).astype(float), count)
        add("tail", name, f"up to {low:.6g}", logarithm(tail, _RARE_TAIL))
    if np.isfinite(high):
        tail = ratio((raw_NT >= high).sum(1).astype(float), count)
        add("tail", name, f"from {high:.6g}", logarithm(tail, _RARE_TAIL))
    if not static and raw_NT.shape[1] > 2:
        _of_course(add, name, scores, known, count)


def _of_course(add: _Add, name: str, scores_NT: Floats, known: NDArray[np.bool_], count_N: Floats) -> None:
    """Add how a real variable moves within a patient."""
    filled = np.nan_to_num(scores_NT)
    own_mean = (filled.sum(axis=1) / np.maximum(count_N, 1))[:, None]
    centred = np.where(known, scores_NT - own_mean, 0.0)
    add("own deviation", name, "", _half(logarithm(ratio((centred**2).sum(1), count_N), _TINY)))
    step = np.diff(scores_NT, axis=1)
    stepped = np.isfinite(step)
    steps = stepped.sum(axis=1).astype(np.float64)
    squares = np.where(stepped, step, 0.0) ** 2
    add("step", name, "", _half(logarithm(ratio(squares.sum(axis=1), steps), _TINY)))
    changed = (stepped & (np.abs(step) > 0)).sum(axis=1).astype(np.float64)
    add("switch", name, "", logarithm(ratio(changed, steps), _RARE))
    time = np.where(known, np.arange(scores_NT.shape[1], dtype=float)[None, :], 0.0)
    time = np.where(known, time - (time.sum(axis=1) / np.maximum(count_N, 1))[:, None], 0.0)
    length = float(np.median(count_N))
    slope = ratio((centred * time).sum(axis=1), (time**2).sum(axis=1))
    add("trend", name, "", (slope[0] * length, slope[1] * length))


def _half(value: tuple[float, float]) -> tuple[float, float]:
    """Return half of a log variance: the log of a deviation."""
    return value[0] / 2, value[1] / 2


def _of_classes(
    add: _Add, name: str, codes_NT: NDArray[np.int16], labels: Sequence[str], static: bool
) -> None:
    known = codes_NT >= 0
    count = known.sum(axis=1).astype(np.float64)
    for code, label in enumerate(labels):
        add("class", name, label, ratio((codes_NT == code).sum(axis=1).astype(float), count))
    if static or codes_NT.shape[1] < 2:
        return
    before, after = codes_NT[:, :-1], codes_NT[:, 1:]
    both = (before >= 0) & (after >= 0)
    steps = both.sum(axis=1).astype(np.float64)
    add("switch", name, "", logarithm(ratio((both & (before != after)).sum(1).astype(float), steps), _RARE))
    for i, j in np.ndindex(len(labels), len(labels)):
        if i != j and len(labels) > 2:
            moved = ((before == i) & (after == j)).sum(axis=1).astype(np.float64)
            add(
                "transition",
                name,
                f"from {labels[i]} to {labels[j]}",
                ratio(moved, (both & (before == i)).sum(1).astype(float)),
            )


def _absent(add: _Add, panel: Panel, name: str) -> None:
    position = list(panel.schema.names()).index(name)
    num_reals = len(panel.schema.reals)
    if position < num_reals:
        absent = np.isnan(panel.reals_NTR[:, :, position])
    else:
        absent = panel.codes_NTK[:, :, position - num_reals] < 0
    number = (absent & panel.present_NT).sum(axis=1).astype(np.float64)
    add("missing", name, "", ratio(number, panel.lengths_N.astype(np.float64)))


def _measured(add: _Add, panel: Panel) -> None:
    """Add how often a value changes where its flag says measured, and where it does not."""
    flags = {variable.name: k for k, variable in enumerate(panel.schema.categoricals)}
    for variable in panel.schema.encoded:
        if variable.static or variable.measured_flag not in flags:
            continue
        measured = panel.codes_NTK[:, 1:, flags[variable.measured_flag]]
        changed, known = _changes(panel, variable.name)
        for code, word in ((1, "where it was measured"), (0, "where it was not measured")):
            here = known & (measured == code)
            add(
                "measured",
                variable.name,
                word,
                ratio((here & changed).sum(1).astype(float), here.sum(1).astype(float)),
            )


def _changes(panel: Panel, name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return at which steps a variable changed and at which that is known, shapes (N, T - 1)."""
    position, num_reals = list(panel.schema.names()).index(name), len(panel.schema.reals)
    if position < num_reals:
        step = np.diff(panel.reals_NTR[:, :, position], axis=1)
        return np.asarray(step != 0) & np.isfinite(step), np.isfinite(step)
    codes = panel.codes_NTK[:, :, position - num_reals]
    return codes[:, 1:] != codes[:, :-1], (codes[:, 1:] >= 0) & (codes[:, :-1] >= 0)
