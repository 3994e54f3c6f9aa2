"""The grid on which values are recorded: whole numbers, tenths, what a laboratory writes down."""

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.panel import Panel

_REPEATING = 0.1
_EXPECTED = 12


def misrecorded_shares(real: Panel, synthetic: Panel) -> dict[str, float]:
    """Return, of each real variable whose values repeat, the share of values off or missing from its grid.

    Of synthetic values, those that no real patient has; of real values, those that no synthetic patient has
    though a dozen would be expected to. The larger of the two counts.
    """
    shares = {}
    for position, variable in enumerate(real.schema.reals):
        known, made = real.real(position), synthetic.real(position)
        grid, counts = np.unique(known, return_counts=True)
        if not len(made) or len(grid) > _REPEATING * len(known):
            continue
        patients = _patients_with(real, position, grid) * synthetic.num_patients / real.num_patients
        absent = ~np.isin(grid, made) & (patients >= _EXPECTED)
        off_grid = float(np.mean(~np.isin(made, grid)))
        shares[variable.name] = max(off_grid, float(counts[absent].sum() / counts.sum()))
    return shares


def _patients_with(panel: Panel, position: int, grid: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many patients ever have each value."""
    values = panel.reals_NTR[:, :, position]
    known = np.isfinite(values)
    index = np.searchsorted(grid, values[known])
    patient = np.nonzero(known)[0]
    pairs = np.unique(patient.astype(np.int64) * len(grid) + index)
    return np.bincount(pairs % len(grid), minlength=len(grid))
