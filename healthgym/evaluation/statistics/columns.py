"""A patient as numbers whose relations can be measured: rank scores, classes, and whether a value changed.

N patients, T timesteps, V columns that may vary within a patient, S static columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from healthgym.evaluation.statistics.panel import Panel
from healthgym.schema import Schema

Floats = NDArray[np.float64]

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
FEWEST_SHOWN = 10
_MOST_COLUMNS = 90
_FEWEST_PATIENTS = 20
_LEAST_SHARE = 0.01
_CLIP = 5e-4


@dataclass(frozen=True)
class Column:
    """One column: a real variable's rank score, classes as numbers, one class, or "changed".

    Args:
        name: for people, e.g. "HR", "GCS = 15", "change of HR".
        position: of its variable in `schema.encoded`.
        kind: "score" (of a real or of ordered classes), "class" (0 or 1) or "changed" (0 or 1).
        code: which class, of a "class".
    """

    name: str
    position: int
    kind: str
    code: int = 0


@dataclass(frozen=True)
class Columns:
    """Which columns describe a patient, as fitted on real patients.

    Args:
        schema: what the variables mean.
        sorted_values: of each real variable, ascending.
        limits: of each real variable, the quantiles at which its distribution is compared: those that ten
            real patients or more have values up to, and ten above.
        tails: of each real variable, the 1% and 99% quantiles; NaN where fewer than ten patients are beyond.
        varying, static: the columns.
        with_length: whether the number of timesteps is a static column, the last.
    """

    schema: Schema
    sorted_values: tuple[Floats, ...]
    limits: tuple[Floats, ...]
    tails: tuple[tuple[float, float], ...]
    varying: tuple[Column, ...]
    static: tuple[Column, ...]
    with_length: bool

    @property
    def static_names(self) -> list[str]:
        """Names of the static columns, the number of timesteps last."""
        return [column.name for column in self.static] + ["number of timesteps"] * self.with_length

    def of(self, panel: Panel) -> tuple[Floats, Floats]:
        """Return varying (N, T, V) and static columns (N, S); NaN where absent."""
        varying = (
            np.stack([self._values(panel, c) for c in self.varying], 2)
            if self.varying
            else np.zeros((*panel.present_NT.shape, 0))
        )
        static = [self._values(panel, c)[:, 0] for c in self.static]
        if self.with_length:
            static.append(np.log(panel.lengths_N))
        return varying, np.stack(static, 1) if static else np.zeros((panel.num_patients, 0))

    def _values(self, panel: Panel, column: Column) -> Floats:
        num_reals = len(self.schema.reals)
        if column.position >= num_reals:
            codes = panel.codes_NTK[:, :, column.position - num_reals].astype(np.float64)
            codes[codes < 0] = np.nan
            return (
                codes if column.kind == "score" else np.where(np.isnan(codes), np.nan, codes == column.code)
            )
        values = panel.reals_NTR[:, :, column.position]
        if column.kind == "changed":
            step = np.nan_to_num(
                np.diff(values, axis=1, prepend=np.nan)
            )  # the first has changed from nothing
            return np.where(np.isnan(values), np.nan, step != 0)
        return rank_scores(values, self.sorted_values[column.position])


def fit_columns(panel: Panel, fewest: int = _FEWEST_PATIENTS) -> Columns:
    """Choose columns by what real patients have: no class that fewer than `fewest` patients have or lack."""
    schema, num_reals = panel.schema, len(panel.schema.reals)
    sorted_values = tuple(
        np.sort(x[np.isfinite(x)]) for x in (panel.reals_NTR[:, :, r] for r in range(num_reals))
    )
    limits = tuple(_limits(panel, r, values, QUANTILES) for r, values in enumerate(sorted_values))
    tails = tuple(_tails(panel, r, values) for r, values in enumerate(sorted_values))
    scores: list[Column] = []
    changed: list[Column] = []
    classes: list[Column] = []
    static: list[Column] = []
    for position, variable in enumerate(schema.encoded):
        if position < num_reals:
            values = sorted_values[position]
            if not len(values) or values[0] == values[-1]:
                continue
            (static if variable.static else scores).append(Column(variable.name, position, "score"))
            if not variable.static and _runs(panel, position):
                changed.append(Column(f"change of {variable.name}", position, "changed"))
            continue
        codes = panel.codes_NTK[:, :, position - num_reals]
        kept = [k for k in range(len(variable.classes)) if _common(codes, k, fewest)]
        if len(kept) < 2:
            continue
        if not variable.static or len(variable.classes) > 2:
            (static if variable.static else scores).append(Column(variable.name, position, "score"))
        if len(variable.classes) > 2 or variable.static:
            named = [Column(f"{variable.name} = {variable.labels[k]}", position, "class", k) for k in kept]
            (static if variable.static else classes).extend(
                named[1:] if len(variable.classes) == 2 else named
            )
    room = _MOST_COLUMNS - len(scores)
    varying = [*scores, *changed[: max(room, 0)]]
    varying += classes[: max(_MOST_COLUMNS - len(varying), 0)]
    lengths = panel.lengths_N
    return Columns(
        schema, sorted_values, limits, tails, tuple(varying), tuple(static), bool(np.ptp(lengths) > 0)
    )


def rank_scores(values: Floats, sorted_values: Floats) -> Floats:
    """Return the normal scores of values among others: a monotone scale on which no value is extreme."""
    share = np.searchsorted(sorted_values, values, "left") + np.searchsorted(sorted_values, values, "right")
    scores = special.ndtri(np.clip(share / (2 * len(sorted_values)), _CLIP, 1 - _CLIP))
    return np.where(np.isnan(values), np.nan, scores)


def _limits(panel: Panel, position: int, values: Floats, quantiles: Sequence[float]) -> Floats:
    """Return the quantiles of a real variable that ten patients or more have values on either side of."""
    if not len(values):
        return np.zeros(0)
    raw = panel.reals_NTR[:, :, position]
    low, high = np.fmin.reduce(raw, axis=1), np.fmax.reduce(raw, axis=1)
    found = np.unique(np.quantile(values, quantiles, method="lower"))
    with np.errstate(invalid="ignore"):
        shown = [q for q in found if min((low <= q).sum(), (high > q).sum()) >= FEWEST_SHOWN]
    return np.array(shown)


def _tails(panel: Panel, position: int, values: Floats) -> tuple[float, float]:
    """Return the 1% and 99% quantiles of a real variable, NaN where fewer than ten patients lie beyond."""
    if not len(values):
        return float("nan"), float("nan")
    raw = panel.reals_NTR[:, :, position]
    low, high = (float(x) for x in np.quantile(values, [0.01, 0.99], method="lower"))
    with np.errstate(invalid="ignore"):
        below, above = ((raw <= low).any(axis=1).sum(), (raw >= high).any(axis=1).sum())
    usual = float(np.quantile(values, 0.9))
    return (
        low if low > values[0] and below >= FEWEST_SHOWN else float("nan"),
        high if high > usual and above >= FEWEST_SHOWN else float("nan"),
    )


def _runs(panel: Panel, position: int) -> bool:
    """Return whether a real variable stays the same often enough for "changed" to say something."""
    steps = np.diff(panel.reals_NTR[:, :, position], axis=1)
    steps = steps[np.isfinite(steps)]
    return bool(len(steps)) and 0.02 < float(np.mean(steps != 0)) < 0.98


def _common(codes_NT: NDArray[np.int16], code: int, fewest: int) -> bool:
    """Return whether enough patients have a class, and enough lack it at some time."""
    known = codes_NT >= 0
    here = codes_NT == code
    share = here.sum() / max(known.sum(), 1)
    ever, ever_not = here.any(axis=1).sum(), (known & ~here).any(axis=1).sum()
    return bool(min(ever, ever_not) >= fewest and _LEAST_SHARE <= share <= 1 - _LEAST_SHARE)
