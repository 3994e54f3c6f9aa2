"""Conditions on synthetic patients: classes and ranges of static variables and of the length."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Conditions:
    """Conditions that every synthetic patient must meet.

    Args:
        classes: {static binary or categorical variable k: its allowed classes}.
        reals: {static real variable r: (lowest, highest) value, in its unit}.
        timesteps: (lowest, highest) number of timesteps; None for any.
        shares: {class: share of the patients} of the variable `shared`; the shares add up to 1.
        shared: the static variable k of `shares`; None without shares.
    """

    classes: Mapping[int, frozenset[int]] = field(default_factory=dict)
    reals: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    timesteps: tuple[int, int] | None = None
    shares: Mapping[int, float] = field(default_factory=dict)
    shared: int | None = None

    def __bool__(self) -> bool:
        return bool(self.classes or self.reals or self.timesteps or self.shares)

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
        for r, (low, high) in self.reals.items():
            good_B &= (reals[r] >= low) & (reals[r] <= high)
        if self.timesteps is not None:
            good_B &= (lengths_B >= self.timesteps[0]) & (lengths_B <= self.timesteps[1])
        if self.shared is not None and wanted_B is not None:
            good_B &= classes[self.shared] == wanted_B
        return good_B


NO_CONDITIONS = Conditions()
"""No condition."""
