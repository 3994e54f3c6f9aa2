"""Real against synthetic, statistic by statistic: how large a difference is, and its standard error.

The standard error of a difference is never smaller than that which the real patients alone predict for so
many synthetic ones: a cohort of few different patients has no small error of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.columns import Columns
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.relations import Families, Family, relations
from healthgym.evaluation.statistics.singles import singles

Floats = NDArray[np.float64]

LEAST_Z = 5.0
_FLOOR = 1e-3  # of a standard error: what is equal by arithmetic differs by rounding
CLEAR = 0.15
LOST = 0.5


@dataclass(frozen=True)
class Difference:
    """One statistic: a sentence part that names it, its two values, the difference and its error."""

    family: str
    name: tuple[str, str]
    phrase: str
    real: float
    synthetic: float
    error: float

    @property
    def size(self) -> float:
        """Synthetic less real."""
        return self.synthetic - self.real

    @property
    def z(self) -> float:
        """The difference in standard errors."""
        return self.size / self.error


@dataclass(frozen=True)
class Compared:
    """A family of both sides; K statistics that both have."""

    key: str
    family: Family
    synthetic_K: Floats
    error_K: Floats

    @property
    def difference_K(self) -> Floats:
        """Synthetic less real; NaN where one is unknown."""
        return self.synthetic_K - self.family.estimate_K

    @property
    def z_K(self) -> Floats:
        """Differences in standard errors; 0 where unknown."""
        return np.nan_to_num(self.difference_K / self.error_K)

    @cached_property
    def largest_z(self) -> float:
        """The largest |z|; 0 where nothing could be compared."""
        return float(np.abs(self.z_K).max(initial=0.0))

    def at(self, k: int) -> Difference:
        """Return statistic k."""
        name = self.family.names[k]
        real, synthetic = float(self.family.estimate_K[k]), float(self.synthetic_K[k])
        return Difference(self.key, name, self.family.phrase(*name), real, synthetic, float(self.error_K[k]))

    def worst(self, cut: float) -> Difference | None:
        """Return the largest difference that is beyond the noise, else the one of the largest |z|."""
        known = np.isfinite(self.difference_K)
        if not known.any():
            return None
        sure = np.abs(self.z_K) >= cut
        size = np.abs(np.nan_to_num(self.difference_K))
        return self.at(
            int(np.argmax(np.where(sure, size, 0.0)) if sure.any() else np.argmax(np.abs(self.z_K)))
        )

    def beyond(self, cut: float, size: float) -> list[Difference]:
        """Return the differences of at least a size that are beyond the noise, the clearest first."""
        chosen = (np.abs(self.z_K) >= cut) & (np.abs(np.nan_to_num(self.difference_K)) >= size)
        order = np.flatnonzero(chosen)
        return [self.at(int(k)) for k in order[np.argsort(-np.abs(self.z_K[order]), kind="stable")]]


def families_of(panel: Panel, columns: Columns) -> Families:
    """Return every statistic of a set of patients."""
    return relations(panel, columns) | singles(panel, columns)


def compare_families(real: Families, synthetic: Families, ratio: float) -> dict[str, Compared]:
    """Put two sets' statistics side by side.

    Args:
        real, synthetic: of the same columns.
        ratio: real patients per synthetic patient.
    """
    found = {}
    for key, family in real.items():
        other = synthetic.get(key)
        if other is None:
            continue
        values, errors = other.estimate_K, other.error_K
        if list(other.names) != list(family.names):
            index = {name: k for k, name in enumerate(other.names)}
            at = np.array([index.get(name, -1) for name in family.names])
            values, errors = (np.where(at < 0, np.nan, x[at]) for x in (values, errors))
        predicted = family.error_K * np.sqrt(ratio)
        if family.is_relation and key != "stratum":  # a column that never varies goes with nothing
            constant = np.isnan(values) & np.isfinite(family.estimate_K)
            values, errors = np.where(constant, 0.0, values), np.where(constant, 0.0, errors)
        error = np.sqrt(family.error_K**2 + np.fmax(errors, predicted) ** 2) + _FLOOR
        found[key] = Compared(key, family, values, error)
    return found


def lost_relations(
    compared: Mapping[str, Compared], keys: Sequence[str], cut: float
) -> tuple[int, int, list[Difference]]:
    """Return how many clear real relations there are, how many are lost by more than half, and which.

    A relation is clear with |r| >= 0.15 at the given number of standard errors, and lost if synthetic
    patients have it by more than half weaker (or stronger), beyond the noise.
    """
    clear_count, lost = 0, []
    for key in keys:
        each = compared.get(key)
        if each is None or not each.family.is_relation:
            continue
        r, error = each.family.estimate_K, each.family.error_K + _FLOOR
        with np.errstate(invalid="ignore"):
            clear = (np.abs(r) >= CLEAR) & (np.abs(r) >= LEAST_Z * error)
            clear &= np.isfinite(each.synthetic_K)
            gone = clear & (np.abs(each.difference_K) > LOST * np.abs(r)) & (np.abs(each.z_K) >= cut)
        clear_count += int(clear.sum())
        lost += [each.at(int(k)) for k in np.flatnonzero(gone)]
    return clear_count, len(lost), sorted(lost, key=lambda each: -abs(each.z))
