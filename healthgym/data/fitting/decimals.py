"""The number of decimals that a column was recorded with."""

import numpy as np

from healthgym.data.fitting.columns import Array, Blocks
from healthgym.schema.cells import MOST_DECIMALS

_FIGURES = 5  # significant digits of a typical value that are distinguished at least


def decimals_of(column: Blocks, typical: float) -> int:
    """Return the number of decimals of the values, at most six or what `_FIGURES` need.

    Args:
        column: values without NaN.
        typical: size of a typical value, above 0.
    """
    most = max(MOST_DECIMALS, _FIGURES - 1 - int(np.floor(np.log10(typical))))
    decimals = 0
    for values in column():
        while decimals < most and _off_grid(values, decimals, typical):
            decimals += 1
    return decimals


def _off_grid(values: Array, decimals: int, typical: float) -> bool:
    """Return whether a value has more decimals, beyond errors of arithmetic and of float32."""
    scale = 10.0**decimals
    size = np.maximum(np.abs(values) * scale, min(typical * scale, 1.0))
    error = 1e-6 * size if decimals else np.minimum(1e-6 * size, 0.1)
    return bool((np.abs(values * scale - np.rint(values * scale)) > error).any())
