"""Groups of patients, and whether a cohort has as many of each: exact tests.

A group is a class of a static variable, a crossing of two or three, or the patients whose highest (or lowest)
value is among the most extreme 1% or 5% of training patients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from healthgym.evaluation.statistics.panel import Panel

Members = NDArray[np.bool_]

_FEWEST = 5
_FEWEST_EXTREME = 10
_MOST_CROSSINGS = 2000
_EXTREMES = ((0.95, True), (0.99, True), (0.05, False), (0.01, False))
_SURE = 1.96


@dataclass(frozen=True)
class Group:
    """A group and how many of each set are in it.

    Args:
        name: e.g. "ICUType = CSRU, AgeGroup = < 45".
        real, synthetic: patients of it.
        num_real, num_synthetic: patients of the sets.
        p: of Fisher's exact test, times the number of groups (Bonferroni), at most 1.
        about: its variables and their classes.
    """

    name: str
    real: int
    synthetic: int
    num_real: int
    num_synthetic: int
    p: float = 1.0
    about: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Synthetic over real share."""
        return (self.synthetic / self.num_synthetic) / (self.real / self.num_real)

    @property
    def ratio_interval(self) -> tuple[float, float]:
        """95% interval of the ratio: Katz et al., Biometrics 1978, half a patient added to each number."""
        a, b = self.real + 0.5, self.synthetic + 0.5
        ratio = (b / (self.num_synthetic + 0.5)) / (a / (self.num_real + 0.5))
        half = _SURE * float(
            np.sqrt(1 / a - 1 / (self.num_real + 0.5) + 1 / b - 1 / (self.num_synthetic + 0.5))
        )
        return ratio * float(np.exp(-half)), ratio * float(np.exp(half))


def compared_groups(real: Panel, synthetic: Panel) -> list[Group]:
    """Return every group that five training patients or more are in, the least likely first."""
    found = []
    for name, about, members in _groups(real, real):
        if members.sum() >= _FEWEST:
            found.append((name, about, int(members.sum())))
    theirs = {name: int(members.sum()) for name, _, members in _groups(real, synthetic)}
    sizes = real.num_patients, synthetic.num_patients
    tested = [
        Group(
            name,
            count,
            theirs.get(name, 0),
            *sizes,
            min(1.0, len(found) * _fisher(count, theirs.get(name, 0), *sizes)),
            about,
        )
        for name, about, count in found
    ]
    return sorted(tested, key=lambda group: group.p)


def _fisher(real: int, synthetic: int, num_real: int, num_synthetic: int) -> float:
    """Return the p of Fisher's exact test of two shares."""
    table = [[real, num_real - real], [synthetic, num_synthetic - synthetic]]
    return float(stats.fisher_exact(table)[1])


def _groups(real: Panel, panel: Panel) -> Iterator[tuple[str, tuple[str, ...], Members]]:
    """Yield each group's name, its variables and classes, and which patients of the panel belong to it.

    Limits are those of `real`.
    """
    statics = [(k, v) for k, v in enumerate(panel.schema.categoricals) if v.static]
    codes = {k: panel.codes_NTK[:, 0, k] for k, _ in statics}
    for size in (1, 2, 3):
        for crossed in combinations(statics, size):
            shape = tuple(len(v.classes) for _, v in crossed)
            if int(np.prod(shape)) > _MOST_CROSSINGS:
                continue
            for cell in np.ndindex(shape):
                members = np.logical_and.reduce(
                    [codes[k] == c for (k, _), c in zip(crossed, cell, strict=True)]
                )
                labels = [f"{v.name} = {v.labels[c]}" for (_, v), c in zip(crossed, cell, strict=True)]
                yield ", ".join(labels), (*(v.name for _, v in crossed), *labels), members
    for position, variable in enumerate(panel.schema.reals):
        if variable.static:
            continue
        for share, high in _EXTREMES:
            if min(share, 1 - share) * real.num_patients < _FEWEST_EXTREME:
                continue
            extremes = _extremes(real.reals_NTR[:, :, position], high)
            limit = (
                float(np.quantile(extremes[np.isfinite(extremes)], share))
                if np.isfinite(extremes).any()
                else np.nan
            )
            own = _extremes(panel.reals_NTR[:, :, position], high)
            with np.errstate(invalid="ignore"):
                members = own > limit if high else own < limit
            yield (
                f"{'highest' if high else 'lowest'} {variable.name} {'above' if high else 'below'} "
                f"{limit:.4g}",
                (variable.name,),
                members,
            )


def _extremes(values_NT: NDArray[np.float64], high: bool) -> NDArray[np.float64]:
    """Return each patient's highest or lowest value; NaN of none."""
    filled = np.where(np.isnan(values_NT), -np.inf if high else np.inf, values_NT)
    found = filled.max(axis=1) if high else filled.min(axis=1)
    return np.where(np.isfinite(found), found, np.nan)
