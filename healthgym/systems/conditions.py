"""Conditions on synthetic patients: classes and ranges of static variables and of the length."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from healthgym.schema.cells import Cells, VariableCells

Range: TypeAlias = tuple[float, float]
"""Lowest and highest value."""


@dataclass(frozen=True)
class Conditions:
    """Conditions that every synthetic patient must meet.

    Args:
        classes: {static binary or categorical variable k: its allowed classes}.
        reals: {static real variable r: ranges (lowest, highest) in its unit, one of which holds its value}.
        timesteps: ranges (lowest, highest), one of which holds the number of timesteps; none for any.
        shares: {class: share of the patients} of the variable `shared`; the shares add up to 1.
        shared: the static variable k of `shares`; None without shares.
    """

    classes: Mapping[int, frozenset[int]] = field(default_factory=dict)
    reals: Mapping[int, tuple[Range, ...]] = field(default_factory=dict)
    timesteps: tuple[tuple[int, int], ...] = ()
    shares: Mapping[int, float] = field(default_factory=dict)
    shared: int | None = None

    def __bool__(self) -> bool:
        return bool(self.classes or self.reals or self.timesteps or self.shares)

    def of_length(self, timesteps: int) -> "Conditions":
        """Return these conditions and a number of timesteps.

        Raises:
            ValueError: the conditions exclude it.
        """
        if self.timesteps and not inside(np.array([timesteps]), self.timesteps).any():
            raise ValueError(f"{timesteps} timesteps are excluded")
        return replace(self, timesteps=((timesteps, timesteps),))

    def wanted(self, u_B: NDArray[np.floating]) -> NDArray[np.int64] | None:
        """Return the class of the shared variable for each patient, from one uniform number per patient."""
        if self.shared is None:
            return None
        classes = np.array(list(self.shares), np.int64)
        ends = np.cumsum(list(self.shares.values()))
        place_B = np.searchsorted(ends, u_B * ends[-1], side="right")
        return np.asarray(classes[np.minimum(place_B, len(classes) - 1)])

    def accept(
        self,
        classes: Mapping[int, NDArray[np.int64]],
        reals: Mapping[int, NDArray[np.float64]],
        lengths_B: NDArray[np.int64],
        wanted_B: NDArray[np.int64] | None,
    ) -> NDArray[np.bool_]:
        """Return whether each patient meets the conditions, shape (B,)."""
        good_B = np.ones(len(lengths_B), bool)
        for k, allowed in self.classes.items():
            good_B &= np.isin(classes[k], list(allowed))
        for r, ranges in self.reals.items():
            good_B &= inside(reals[r], ranges)
        if self.timesteps:
            good_B &= inside(lengths_B, self.timesteps)
        if self.shared is not None and wanted_B is not None:
            good_B &= classes[self.shared] == wanted_B
        return good_B


def with_length(conditions: Conditions, timesteps: int | None, cells: Cells) -> tuple[Conditions, int | None]:
    """Return conditions that include a given length, and the length to which all patients are cut, if any.

    Patients of another length are of another kind, so the length is a condition. Only where all training
    patients have the same length (a cohort that was cut), shorter patients are the first part of longer ones.
    """
    if timesteps is None or cells.length.num_pieces == 1:
        return conditions, timesteps
    return conditions.of_length(timesteps), None


def pieces_in(cells: VariableCells, ranges: tuple[Range, ...]) -> set[int]:
    """Return the pieces that have values in one of the ranges."""
    touched_P = np.zeros(cells.num_pieces, bool)
    for low, high in ranges:
        touched_P |= (cells.low_P <= high) & (cells.high_P >= low)
    return set(np.flatnonzero(touched_P).tolist())


def inside(values_B: NDArray[Any], ranges: tuple[Range, ...]) -> NDArray[np.bool_]:
    """Return whether each value lies in one of the ranges (lowest, highest), ends included, shape (B,)."""
    good_B = np.zeros(len(values_B), bool)
    for low, high in ranges:
        good_B |= (values_B >= low) & (values_B <= high)
    return good_B


NO_CONDITIONS = Conditions()
"""No condition."""
