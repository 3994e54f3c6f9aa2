"""Movement over time: does a synthetic patient change as real patients do?"""

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import Comparison, Side
from healthgym.evaluation.families import family_result
from healthgym.evaluation.metric import metric
from healthgym.evaluation.pages import figures
from healthgym.evaluation.result import Figure, Section
from healthgym.evaluation.sections.joint import lost_result, triangles
from healthgym.evaluation.statistics.columns import FEWEST_SHOWN
from healthgym.evaluation.statistics.models.survival import AT_RISK
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.relations import LAGS
from healthgym.evaluation.statistics.scale import LARGEST
from healthgym.evaluation.words import in_plain_words

Floats = NDArray[np.float64]

_QUANTILES = (0.1, 0.5, 0.9)
_LAGGED = tuple(f"lag {lag}" for lag in LAGS)
_CHANGES = ("changes 0", "changes 1", "changes 3")
_ERRORS = "standard errors by patients' influence (Huber, Robust Statistics, 1981, section 3.2)"

WITHIN = metric(
    "dynamics.within",
    "Worst relation within patients",
    "Two variables within a patient, at the same timestep or one, three or six timesteps apart: how far"
    " their correlation is from the real one. The largest difference that noise does not explain. It "
    "finds variables that are delayed or reversed in time.",
    f"Pearson correlation of rank scores, class numbers and single classes about each patient's mean; "
    f"{_ERRORS}",
)
CHANGES = metric(
    "dynamics.changes",
    "Worst relation of changes",
    "The changes of two variables from one timestep to the next: how far their correlation is from the "
    "real one, that is, whether the variables move together and whether a change is reversed. The "
    "largest difference that noise does not explain.",
    f"Pearson correlation of first differences, at lags 0, 1 and 3; {_ERRORS}",
)
BASELINE = metric(
    "dynamics.baseline",
    "Baseline and later mean",
    "A variable at the first timestep and the later average of another: how far their correlation is "
    "from the real one. The largest difference that noise does not explain.",
    f"Pearson correlation over patients; {_ERRORS}",
)
MOVES = metric(
    "dynamics.moves",
    "Movement of each variable",
    "For each variable, how much its standard deviation within a patient or the size of its steps "
    "differs (as a logarithm: 0.1 is about 10%), or its slope over time (in standard deviations). The "
    "worst counts.",
    "Logs of root mean squares of rank scores and least squares slopes; errors by patients (Cochran 1977)",
)
SWITCHES = metric(
    "dynamics.switches",
    "How often values change",
    "How many times more or less often a value changes from one timestep to the next than in real "
    "patients, as a logarithm: 0.7 is twice or half as often. The worst variable counts.",
    "Log ratio of the share of steps with a change; errors by patients (Cochran 1977)",
)
TRANSITIONS = metric(
    "dynamics.transitions",
    "Transitions between classes",
    "For each pair of classes, how much the probability of going from one to the other within a "
    "timestep differs. The worst pair counts.",
    "Difference of the entries of transition matrices; errors by patients (Cochran 1977)",
    "percent",
)
MEASURED = metric(
    "dynamics.measured",
    "Measured and changed",
    "How much the share of timesteps at which a value changes differs, where the variable was measured "
    "and where it was not. In real data most values change only when somebody measures.",
    "Difference of shares, of variables with a measured flag; errors by patients (Cochran 1977)",
    "percent",
)
LOST = metric(
    "dynamics.lost",
    "Relations in time lost",
    "Of the clear relations over time in real patients (correlations of 0.15 or more within a patient, "
    "or of changes), the share that the cohort has lost by more than half.",
    f"All correlations of this section; {_ERRORS}",
    "percent",
    gross=True,
)
TRAJECTORIES = metric(
    "dynamics.trajectories",
    "Trajectories",
    "How far the 10%, 50% and 90% quantiles at each timestep are from the real ones, averaged over "
    "time, in standard deviations of the transformed values. The worst variable counts.",
    "Quantiles of the patients at each timestep",
)


def section(comparison: Comparison) -> Section:
    """Judge movement over time."""
    part = Section(
        "dynamics",
        "Movement over time",
        "Do synthetic patients change over time as real ones do: how fast, how far, which variables "
        "together?",
    )
    part.results = [
        lost_result(comparison, LOST, ("within", *_LAGGED, *_CHANGES, "baseline")),
        family_result(comparison, WITHIN, ["within", *_LAGGED], relations=True),
        family_result(comparison, CHANGES, _CHANGES, relations=True),
        family_result(comparison, BASELINE, ["baseline"], relations=True),
        family_result(comparison, MEASURED, ["measured"], relations=False),
        family_result(comparison, MOVES, ["own deviation", "step", "trend"], relations=False),
        family_result(comparison, SWITCHES, ["switch"], relations=False),
        family_result(comparison, TRANSITIONS, ["transition"], relations=False),
        comparison.metric_result(TRAJECTORIES, trajectory_distances),
    ]
    part.essential = frozenset({LOST.key})
    if not comparison.drawn:
        return part
    part.figures = [
        *_trajectory_figures(comparison),
        *_transition_figures(comparison),
        *_within_figures(comparison),
    ]
    return part


def autocorrelation(panel: Panel, position: int, lag: int) -> float:
    """Return a variable's autocorrelation; of classes the share that is the same `lag` later; NaN if
    constant."""
    values = panel.values_NTV[:, :, position]
    before, after = values[:, :-lag].ravel(), values[:, lag:].ravel()
    known = np.isfinite(before) & np.isfinite(after)
    before, after = before[known], after[known]
    if not len(before):
        return float("nan")
    if position >= len(panel.schema.reals):
        return float(np.mean(before == after))
    if before.std() < 1e-9 or after.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(before, after)[0, 1])


def trajectory_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the mean distance of three quantile lines over time of each real variable, on the common scale.

    Each timestep weighs as the real patients who are still there; those with fewer than 10 on either side are
    left out.
    """
    steps = min(real.panel.num_timesteps, synthetic.panel.num_timesteps)
    distances = {}
    for position, variable in enumerate(real.panel.schema.reals):
        if not variable.static:
            a, b = (quantile_lines(side.panel.scaled_NTR[:, :steps, position]) for side in (real, synthetic))
            known = (np.isfinite(a) & np.isfinite(b)).all(axis=0)
            if np.isfinite(a).any():
                weights = at_risk(real.panel.lengths_N, steps)[known]
                apart = np.abs(a - b)[:, known].mean(axis=0)
                distances[variable.name] = (
                    float(np.average(apart, weights=weights)) if known.any() else LARGEST
                )
    return distances


def quantile_lines(values_NT: Floats, fewest: int = 0) -> Floats:
    """Return the 10%, 50% and 90% quantile at each timestep, shape (3, T).

    NaN where fewer than 10 patients are left, or fewer than `fewest` lie beyond the line.
    """
    lines = np.full((len(_QUANTILES), values_NT.shape[1]), np.nan)
    for step in range(values_NT.shape[1]):
        known = values_NT[np.isfinite(values_NT[:, step]), step]
        if len(known) >= AT_RISK:
            beyond = [min(q, 1 - q) * len(known) >= fewest for q in _QUANTILES]
            lines[:, step] = np.where(beyond, np.quantile(known, _QUANTILES), np.nan)
    return lines


def at_risk(lengths_N: NDArray[np.int64], num_timesteps: int) -> NDArray[np.int64]:
    """Return how many patients are still there at each timestep, shape (T,)."""
    return np.asarray((lengths_N[:, None] > np.arange(num_timesteps)).sum(axis=0))


def _within_figures(comparison: Comparison) -> list[Figure]:
    """Draw the correlations within patients of the variables that may change, at the same timestep."""
    found = comparison.compared.get("within")
    if found is None:
        return []
    names = _dynamic_names(comparison.train.panel)
    index = {name: i for i, name in enumerate(names)}
    matrices = np.full((2, len(names), len(names)), np.nan)
    for k, (one, other) in enumerate(found.family.names):
        if one in index and other in index:
            values = found.family.estimate_K[k], found.synthetic_K[k]
            for matrix, value in zip(matrices, values, strict=True):
                matrix[index[one], index[other]] = matrix[index[other], index[one]] = value
    if not np.isfinite(matrices).any():
        return []
    return triangles("within", "Within patients", matrices[0], matrices[1], names)


def _dynamic(panel: Panel) -> list[tuple[int, str]]:
    """Return position in V and name of the variables that may change within a patient."""
    return [(position, v.name) for position, v in enumerate(panel.schema.encoded) if not v.static]


def _dynamic_names(panel: Panel) -> list[str]:
    return [name for _, name in _dynamic(panel)]


def _trajectory_figures(comparison: Comparison) -> list[Figure]:
    """Draw median and 10-90% ribbon over time of each real variable, and its autocorrelation."""
    sides = comparison.train.panel, comparison.synthetic.panel
    drawn = []
    for position, variable in enumerate(comparison.schema.reals):
        if not variable.static:
            lines = [quantile_lines(panel.reals_NTR[:, :, position], FEWEST_SHOWN) for panel in sides]
            if not all(np.isfinite(each).all(axis=0).any() for each in lines):
                continue
            drawn.append(
                figures.ribbons(
                    f"trajectory-{variable.name}",
                    variable.name,
                    comparison.schema.timestep_unit,
                    variable.unit,
                    lines[0],
                    lines[1],
                    at_risk=[at_risk(panel.lengths_N, panel.num_timesteps) for panel in sides],
                )
            )
    lags = [lag for lag in range(1, 25) if lag < min(panel.num_timesteps for panel in sides)]
    for position, name in _dynamic(sides[0]):
        title = in_plain_words(name, comparison.schema)
        title = title if position < len(comparison.schema.reals) else f"{title} (same class)"
        curves = [np.array([autocorrelation(panel, position, lag) for lag in lags]) for panel in sides]
        drawn.append(
            figures.curves(
                f"autocorrelation-{name}",
                f"Autocorrelation: {title}",
                f"lag, {comparison.schema.timestep_unit}s",
                np.array(lags),
                *curves,
            )
        )
    return drawn


def _transition_figures(comparison: Comparison) -> list[Figure]:
    """Draw the transition matrices of categorical variables with more than two classes."""
    drawn = []
    for position, variable in enumerate(comparison.schema.categoricals):
        if variable.static or variable.kind == "binary":
            continue
        for what, side in (("real", comparison.train), ("synthetic", comparison.synthetic)):
            counts = side.statistics.transitions[position].astype(np.float64)
            with np.errstate(invalid="ignore"):
                rows = counts / counts.sum(axis=1, keepdims=True)
            drawn.append(
                figures.heat_map(
                    f"transitions-{variable.name}-{what}", f"{variable.name}: {what}, % of steps", rows,
                    variable.labels, variable.labels, as_percent=True, labels=("from", "to"),
                    group=f"transitions-{variable.name}",
                )
            )  # fmt: skip
    return drawn
