"""Each real variable to [0, 1] and back: Box-Cox, then the fitted range. Binary classes stay codes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special

from healthgym.data.fitting.columns import Array, Blocks, count_of, extremes, in_memory, quantiles
from healthgym.schema import Schema

BOXCOX_EPS = 1e-3
_SMALLEST_BASE = 1e-12
_ROUND_TRIP_TOLERANCE = 1e-6  # of the interquartile range
_FALLBACK = (1.0, 0.0, 1.0)


@dataclass(frozen=True)
class Transform:
    """The fitted transform of all R real variables.

    y = ((x + eps)^lambda - 1) / lambda (log where lambda is 0), then (y - min) / range.

    Source: Box and Cox, *An analysis of transformations*, J. R. Stat. Soc. B 26, 1964, equation 1.

    Args:
        names: of the R variables.
        eps_R: added before, 1e-3 plus the schema's offset, in the variable's unit.
        lambda_R: exponent, by maximum likelihood on the training patients.
        min_R, range_R: of the training patients' y; see `patients`.
        patients: of whom each end of the range is a mean, see `group_ends`; 1: the ends are extremes of
            single patients.
    """

    names: tuple[str, ...]
    eps_R: Array
    lambda_R: Array
    min_R: Array
    range_R: Array
    patients: int = 1

    @classmethod
    def fit(cls, table: pd.DataFrame | Array, schema: Schema) -> "Transform":
        """Fit on training patients.

        NaN is left out. A variable that is empty, constant or not positive gets lambda 1, min 0,
        range 1.

        Args:
            table: raw values, a frame with the schema's columns or an array of shape (rows, R).
        """
        raw = (
            table[[v.name for v in schema.reals]].to_numpy(np.float64)
            if isinstance(table, pd.DataFrame)
            else np.asarray(table, dtype=np.float64)
        )
        columns = (in_memory(column[~np.isnan(column)]) for column in raw.T)
        return cls.fit_columns(columns, schema, _keep_in_memory)

    @classmethod
    def fit_columns(
        cls,
        columns: Iterable[Blocks],
        schema: Schema,
        keep: Callable[[Iterator[Array]], Blocks],
        ends: Sequence[tuple[float, float, int]] | None = None,
    ) -> "Transform":
        """Fit on columns of raw values without NaN, reading each a few dozen times block by block.

        Args:
            columns: of the real variables.
            schema: of the table.
            keep: stores a column's logarithms until the next column, in memory or in a file.
            ends: of each column, values that become 0 and 1, and of how many patients each is a mean; by
                default the lowest and the highest value.
        """
        eps_R = np.array([BOXCOX_EPS + variable.offset for variable in schema.reals])
        given = [(low, high) for low, high, _ in ends] if ends else [None] * len(eps_R)
        fitted = np.array(
            [_fit_one(column, eps, keep, end) for column, eps, end in zip(columns, eps_R, given, strict=True)]
        )
        patients = min((each[2] for each in ends), default=1) if ends else 1
        lambda_R, min_R, range_R = fitted.reshape(-1, 3).T
        return cls(tuple(v.name for v in schema.reals), eps_R, lambda_R, min_R, range_R, patients)

    def forward_reals(self, raw_R: NDArray[Any]) -> Array:
        """Return values in [0, 1] of raw ones, shape (..., R); NaN passes through.

        Values beyond the ends of the range are outside [0, 1].
        """
        base_R = np.asarray(raw_R, dtype=np.float64) + self.eps_R
        y_R = special.boxcox(np.maximum(base_R, _SMALLEST_BASE), self.lambda_R)
        return np.asarray((y_R - self.min_R) / self.range_R, dtype=np.float64)

    def inverse_reals(self, x_R: NDArray[Any]) -> Array:
        """Return raw values of those in [0, 1], shape (..., R), in the variables' units."""
        y_R = np.asarray(x_R, dtype=np.float64) * self.range_R + self.min_R
        return np.asarray(_inverse_boxcox(y_R, self.lambda_R) - self.eps_R, dtype=np.float64)

    def to_tree(self) -> dict[str, Any]:
        """Return the fitted numbers as a dict of arrays, for a file."""
        return {
            "names": list(self.names),
            "eps": self.eps_R,
            "lambda": self.lambda_R,
            "min": self.min_R,
            "range": self.range_R,
            "patients": self.patients,
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> "Transform":
        """Read the result of `to_tree`."""
        eps_R, lambda_R, min_R, range_R = (
            np.asarray(tree[name], dtype=np.float64) for name in ("eps", "lambda", "min", "range")
        )
        return cls(tuple(tree["names"]), eps_R, lambda_R, min_R, range_R, int(tree.get("patients", 1)))


def _keep_in_memory(blocks: Iterator[Array]) -> Blocks:
    kept = list(blocks)
    return lambda: iter(kept)


def _fit_one(
    raw: Blocks,
    eps: float,
    keep: Callable[[Iterator[Array]], Blocks],
    end: tuple[float, float] | None,
) -> tuple[float, float, float]:
    """Return (lambda, min, range) of one column; `end` are raw values, the extremes by default."""

    def base() -> Iterator[Array]:
        return (block + eps for block in raw())

    low, high = extremes(base)
    if low <= 0 or not low < high:
        return _FALLBACK
    exponent = _best_lambda(keep(np.log(block) for block in base()))
    probes = quantiles(base, np.linspace(0, 1, 9).tolist())
    while exponent and not _invertible(probes, exponent):
        # An extreme exponent presses values together beyond what a number can tell apart.
        exponent = exponent / 2 if abs(exponent) > 1e-3 else 0.0
    ends = special.boxcox(np.add(end, eps) if end else np.array([low, high]), exponent)
    return exponent, float(ends[0]), float(ends[1] - ends[0])


def _best_lambda(logs: Blocks) -> float:
    """Return the exponent of greatest likelihood; 1 where the search finds none.

    Divided by the geometric mean, the values' log-likelihood is -N/2 log var(y) up to a constant (Box
    and Cox 1964, section 3), so that the search needs only one exponential per value.
    """
    mean = sum(float(block.sum()) for block in logs()) / count_of(logs)

    def log_variance(exponent: float) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            centred = (block - mean for block in logs())
            variance = _variance(np.expm1(exponent * c) / exponent if exponent else c for c in centred)
        return float(np.log(variance)) if 0 < variance < np.inf else np.inf

    try:
        found = float(optimize.brent(log_variance, brack=(-2.0, 2.0)))
    except RuntimeError:
        return 1.0
    return found if np.isfinite(found) else 1.0


def _variance(blocks: Iterable[Array]) -> float:
    """Return the variance of all blocks' values, merged by Chan's formula (see `correlation.Moments`)."""
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        added, shift = len(block), float(np.mean(block)) - mean
        # A product that is too large is infinite; a power would raise.
        squares += float(np.var(block)) * added + shift * shift * (count * added / (count + added))
        count += added
        mean += shift * (added / count)
    return squares / count


def _invertible(probes: Array, exponent: float) -> bool:
    """Return whether a column's quantiles (nine, evenly spaced) survive there and back."""
    with np.errstate(all="ignore"):
        ends = special.boxcox(probes[[0, -1]], exponent)
        scaled = (special.boxcox(probes, exponent) - ends[0]) / (ends[1] - ends[0])
        back = _inverse_boxcox(scaled * (ends[1] - ends[0]) + ends[0], exponent)
    width = (probes[6] - probes[2]) or (probes[-1] - probes[0])
    return bool(np.all(np.abs(back - probes) <= _ROUND_TRIP_TOLERANCE * width))


def _inverse_boxcox(y: Array, exponent: Array | float) -> Array:
    """Invert Box-Cox; where no base belongs to y, take the smallest one, 1e-12."""
    exponent = np.asarray(exponent, dtype=np.float64)
    safe = np.where(exponent == 0, 1.0, exponent)
    power = np.log1p(np.maximum(exponent * y, _SMALLEST_BASE - 1)) / safe
    return np.asarray(np.exp(np.where(exponent == 0, y, power)), dtype=np.float64)
