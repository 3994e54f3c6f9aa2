"""Pearson correlation of a table of any length, accumulated block by block."""

import numpy as np
from numpy.typing import NDArray

_CONSTANT_BELOW = 1e-8


class Moments:
    """Means and co-moments of F columns, in float64.

    Blocks are merged by Chan's formula, which is accurate where sums of squares would cancel.
    Source: Chan, Golub and LeVeque, *Updating formulae and a pairwise algorithm*, 1979, equation 2.1.
    """

    def __init__(self, num_features: int) -> None:
        self.count = 0
        self._mean_F = np.zeros(num_features)
        self._co_FF = np.zeros((num_features, num_features))

    def add(self, block_NF: NDArray[np.float64]) -> None:
        """Add rows."""
        added = len(block_NF)
        if not added:
            return
        mean_F = block_NF.mean(axis=0)
        centred_NF = block_NF - mean_F
        shift_F = mean_F - self._mean_F
        total = self.count + added
        self._co_FF += centred_NF.T @ centred_NF
        self._co_FF += np.outer(shift_F, shift_F) * (self.count * added / total)
        self._mean_F += shift_F * (added / total)
        self.count = total

    def correlation(self) -> NDArray[np.float64]:
        """Return the Pearson matrix, shape (F, F).

        Standard deviations are unbiased; a column whose own is below 1e-8 divides by 1. Entries are
        clamped to [-1, 1] and the diagonal is 1.
        """
        covariance_FF = self._co_FF / max(self.count - 1, 1)
        std_F = np.sqrt(np.diag(covariance_FF))
        std_F[std_F < _CONSTANT_BELOW] = 1.0
        matrix_FF: NDArray[np.float64] = np.clip(covariance_FF / np.outer(std_F, std_F), -1.0, 1.0)
        np.fill_diagonal(matrix_FF, 1.0)
        return matrix_FF
