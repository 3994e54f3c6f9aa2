"""A common scale for real variables: the training transform, then zero mean and unit deviation."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from healthgym.data.fitting.transform import Transform
from healthgym.schema import Schema

NUM_BINS = 5

LARGEST = 10.0


@dataclass(frozen=True)
class Scale:
    """The transform that the training data gets (Box-Cox), centred and divided by its deviation.

    Values below the smallest training value count as the smallest (a Box-Cox has no room below), and all
    are cut at 10 deviations, so that one impossible number does not decide an average. The validity section
    counts both.

    Args:
        transform: Box-Cox and range, fitted on the training data.
        lowest_R: smallest raw training values.
        mean_R, deviation_R: of the transformed training data.
        edges_RB: raw values between the bins of a real variable, NUM_BINS - 1 quantiles of the training data.
    """

    transform: Transform
    lowest_R: NDArray[np.float64]
    mean_R: NDArray[np.float64]
    deviation_R: NDArray[np.float64]
    edges_RB: NDArray[np.float64]

    def apply(self, reals_xR: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the reals on the common scale, shape (..., R); NaN stays NaN."""
        bent = self.transform.forward_reals(np.maximum(reals_xR, self.lowest_R))
        return np.clip((bent - self.mean_R) / self.deviation_R, -LARGEST, LARGEST)

    def bins(self, reals_xR: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the quantile bin of every value, 0..NUM_BINS-1; -1 where missing."""
        bins = np.full(reals_xR.shape, -1, dtype=np.int64)
        for position, edges in enumerate(self.edges_RB):
            values = reals_xR[..., position]
            bins[..., position] = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="left"))
        return bins


def fit_scale(reals_xR: NDArray[np.float64], schema: Schema) -> Scale:
    """Fit the scale on training data, shape (..., R)."""
    rows = reals_xR.reshape(math.prod(reals_xR.shape[:-1]), reals_xR.shape[-1])
    transform = Transform.fit(rows, schema)
    inner = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
    lowest, means, deviations, edges = [], [], [], []
    for raw, bent in zip(rows.T, transform.forward_reals(rows).T, strict=True):
        known = np.isfinite(bent)
        deviation = float(bent[known].std()) if known.any() else 0.0
        lowest.append(float(raw[known].min()) if known.any() else -np.inf)
        means.append(float(bent[known].mean()) if known.any() else 0.0)
        deviations.append(deviation if deviation > 1e-12 else 1.0)
        edges.append(np.quantile(raw[known], inner) if known.any() else np.zeros(NUM_BINS - 1))
    return Scale(
        transform,
        np.array(lowest),
        np.array(means),
        np.array(deviations),
        np.array(edges).reshape(-1, NUM_BINS - 1),
    )
