"""Detection of divergence: losses that leave their usual size suddenly or gradually, and non-finite weights.

Sizes are decadic logarithms of |loss|, and a loss below 1 counts as 1: the sign does not matter, and small
losses may cross zero. The result depends only on the losses, so that a resumed run finds the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.errors import DivergenceError

Array = NDArray[np.float64]

SUDDEN = 6.0
"""Powers of ten by which one loss may exceed its usual size."""

GROWN = 3.0
"""Powers of ten by which the usual size may exceed its minimum while it grows."""

_FIRST_SIZE = 2.0
_CALM = 1.0
_FAST_STEPS, _SLOW_STEPS = 50, 500


class Watch:
    """Tracks the size of each loss: its means over about 50 and 500 steps, and the minimum of the former."""

    def __init__(self) -> None:
        self._step, self._count = -1, 0
        self._fast_L = self._slow_L = self._lowest_L = self._calm_L = np.zeros(0)

    def look(self, names: Sequence[str], steps: Sequence[int], values_SL: Array) -> None:
        """Check the losses of further steps.

        Args:
            names: of the losses.
            steps: their numbers, ascending.
            values_SL: their losses.

        Raises:
            DivergenceError: a loss is not finite, or too large, or has grown too much; it has the loss, the
                step and, as `since`, the first step after which the weights may be bad.
        """
        for step, values_L in zip(steps, values_SL, strict=True):
            if step > self._step:
                self._look(names, step, values_L)
                self._step, self._count = step, self._count + 1

    def _look(self, names: Sequence[str], step: int, values_L: Array) -> None:
        bad = np.flatnonzero(~np.isfinite(values_L))
        if len(bad):
            raise DivergenceError(f"{names[bad[0]]} is {values_L[bad[0]]} at step {step}", since=step)
        size_L = np.log10(np.maximum(np.abs(values_L), 1.0))
        usual_L = self._slow_L if self._count else np.full(len(names), _FIRST_SIZE)
        sudden = np.flatnonzero(size_L > usual_L + SUDDEN)
        if len(sudden):
            name, value = names[sudden[0]], values_L[sudden[0]]
            raise DivergenceError(
                f"{name} is {value:.3g} at step {step}, more than a million times its usual size", since=step
            )
        self._follow(size_L, step)
        grown = np.flatnonzero((self._fast_L > self._lowest_L + GROWN) & (self._fast_L > self._slow_L))
        if len(grown):
            name, value, calm = names[grown[0]], values_L[grown[0]], int(self._calm_L[grown[0]])
            raise DivergenceError(
                f"{name} is {value:.3g} at step {step}: it has grown since step {calm} and is more than a "
                f"thousand times its lowest value",
                since=calm + 1,
            )

    def _follow(self, size_L: Array, step: int) -> None:
        if not self._count:
            self._fast_L, self._slow_L = size_L, size_L
            self._lowest_L, self._calm_L = np.full(len(size_L), np.inf), np.full(len(size_L), float(step))
            return
        self._fast_L = self._fast_L + (size_L - self._fast_L) / min(self._count + 1, _FAST_STEPS)
        self._slow_L = self._slow_L + (size_L - self._slow_L) / min(self._count + 1, _SLOW_STEPS)
        if self._count >= _FAST_STEPS:
            self._lowest_L = np.minimum(self._lowest_L, self._fast_L)
        self._calm_L = np.where(self._fast_L <= self._lowest_L + _CALM, step, self._calm_L)

    def state(self) -> dict[str, Any]:
        """Return the state for `load_state`."""
        return {
            "step": self._step,
            "count": self._count,
            "sizes": np.stack([self._fast_L, self._slow_L, self._lowest_L, self._calm_L]),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state`."""
        self._step, self._count = int(state["step"]), int(state["count"])
        self._fast_L, self._slow_L, self._lowest_L, self._calm_L = np.asarray(state["sizes"], np.float64)


def not_finite(state: Mapping[str, Any], prefix: str = "") -> str:
    """Return the name of an array of a state with a number that is not finite; "" if there is none.

    Scalars may be infinite, such as the best loss before the first validation.
    """
    for name, value in state.items():
        if isinstance(value, Mapping):
            if found := not_finite(value, f"{prefix}{name}."):
                return found
        elif (
            isinstance(value, np.ndarray)
            and value.dtype.kind == "f"
            and value.ndim
            and not np.isfinite(value).all()
        ):
            return f"{prefix}{name}"
    return ""
