"""A few cheap metrics that compare a system's patients with real ones during training.

They follow a run and choose a checkpoint; a cohort is judged by the report (`healthgym.evaluation`).

Shapes: B patients, T timesteps, R reals, K binary and categorical variables, F features, N rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.schema.layout import FeatureLayout

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Patients:
    """Patients in the form that systems make them.

    Args:
        reals_RTB: real variables, scaled to [0, 1].
        codes_KTB: class indices.
        lengths_B: timesteps of each patient; what comes after them means nothing.
    """

    reals_RTB: Floats
    codes_KTB: NDArray[np.uint8]
    lengths_B: NDArray[np.integer[Any]]

    @property
    def own_TB(self) -> NDArray[np.bool_]:
        """Which timesteps are a patient's own."""
        return np.asarray(np.arange(self.codes_KTB.shape[1])[:, None] < self.lengths_B)

    def known_TB(self, layout: FeatureLayout, flag: int | None) -> NDArray[np.bool_]:
        """Return where a variable with this measured flag has a value."""
        if flag is None:
            return self.own_TB
        measured = layout.measured_classes[layout.flags.index(flag)]
        return np.asarray(self.own_TB & (self.codes_KTB[flag] == measured))


def compare(layout: FeatureLayout, real: Patients, made: Patients) -> dict[str, float]:
    """Return how far made patients are from real ones: 0 is alike.

    Returns:
        `ks`: Kolmogorov-Smirnov distance of a real variable's values, in [0, 1].
        `classes`: total variation distance of a variable's classes, in [0, 1].
        `changes`: of a real variable, the Kolmogorov-Smirnov distance of its absolute changes from one
        timestep to the next; of the other variables, the difference of the rates at which their class
        changes, relative to the higher one; in [0, 1].
        `correlations`: absolute difference of the Pearson correlation of two features, in [0, 2].
        Each is the mean over all variables (pairs of features) that have one, and is left out if none has.
    """
    found: dict[str, list[float]] = {"ks": [], "classes": [], "changes": []}
    for r, flag in enumerate(layout.flag_of_reals):
        known = [each.known_TB(layout, flag) for each in (real, made)]
        values = [each.reals_RTB[r] for each in (real, made)]
        found["ks"].append(_ks(values[0][known[0]], values[1][known[1]]))
        if not layout.static_reals[r]:
            changes = [np.abs(np.diff(x, axis=0))[k[1:] & k[:-1]] for x, k in zip(values, known, strict=True)]
            found["changes"].append(_ks(*changes))
    for k, flag in enumerate(layout.flag_of_classes):
        known = [each.known_TB(layout, flag) for each in (real, made)]
        codes = [each.codes_KTB[k] for each in (real, made)]
        number = layout.num_classes[k]
        shares = [_shares(x[own], number) for x, own in zip(codes, known, strict=True)]
        found["classes"].append(float(np.abs(shares[0] - shares[1]).sum() / 2))
        if not layout.static_classes[k]:
            rates = [_rate(x, own) for x, own in zip(codes, known, strict=True)]
            found["changes"].append(abs(rates[0] - rates[1]) / max(*rates, 1e-12))
    correlations = [_correlations(layout, each) for each in (real, made)]
    upper = np.triu_indices(len(correlations[0]), 1)
    found["correlations"] = list(np.abs(correlations[0] - correlations[1])[upper])
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _ks(first_N: Floats, second_N: Floats) -> float:
    """Return the largest difference of two empirical distribution functions; 1 if only one has values."""
    if not len(first_N) or not len(second_N):
        return float(len(first_N) != len(second_N))
    first_N, second_N = np.sort(first_N), np.sort(second_N)
    both_N = np.concatenate([first_N, second_N])
    below = [np.searchsorted(each, both_N, side="right") / len(each) for each in (first_N, second_N)]
    return float(np.abs(below[0] - below[1]).max())


def _shares(codes_N: NDArray[np.uint8], number: int) -> Floats:
    """Return the share of each class."""
    counts = np.bincount(codes_N, minlength=number)
    return np.asarray(counts / max(counts.sum(), 1))


def _rate(codes_TB: NDArray[np.uint8], known_TB: NDArray[np.bool_]) -> float:
    """Return how often a class differs from the one before it, where both are known."""
    both_TB = known_TB[1:] & known_TB[:-1]
    return float(((codes_TB[1:] != codes_TB[:-1]) & both_TB).sum() / max(both_TB.sum(), 1))


def _correlations(layout: FeatureLayout, patients: Patients) -> Floats:
    """Return Pearson correlations of reals and classes over all rows; 0 with a constant column.

    What a patient lacks at a timestep counts as the mean there.
    """
    own_TB, columns = patients.own_TB, []
    for r, flag in enumerate(layout.flag_of_reals):
        columns.append(_centred(patients.reals_RTB[r], patients.known_TB(layout, flag))[own_TB])
    for k, flag in enumerate(layout.flag_of_classes):
        known_TB = patients.known_TB(layout, flag)
        number = layout.num_classes[k]
        for code in range(1 if number == 2 else 0, number):
            columns.append(_centred(patients.codes_KTB[k] == code, known_TB)[own_TB])
    x_FN = np.stack(columns)
    x_FN /= np.maximum(np.linalg.norm(x_FN, axis=1, keepdims=True), 1e-12)
    return np.asarray(x_FN @ x_FN.T)


def _centred(x_TB: NDArray[Any], known_TB: NDArray[np.bool_]) -> Floats:
    """Return values less their mean, and zeros where they are not known."""
    mean = float(x_TB[known_TB].mean()) if known_TB.any() else 0.0
    return np.where(known_TB, x_TB - mean, 0.0)
