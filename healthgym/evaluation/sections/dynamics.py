"""Movement over time: does a synthetic patient change as real patients do?"""

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from healthgym.evaluation.comparison import About, Comparison, Side
from healthgym.evaluation.figure import NotJudgedError, Picture, Section
from healthgym.evaluation.pages import pictures
from healthgym.evaluation.sections.joint import pair_differences, structure_lost, triangles
from healthgym.evaluation.sections.trends import Smoother, dynamic_correlations, linear, loess
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.scale import LARGEST

Floats = NDArray[np.float64]

_LAGS = (1, 2, 3, 6, 12, 24)
_SAID_LAGS = ", ".join(map(str, _LAGS[:-1])) + f" and {_LAGS[-1]}"
_QUANTILES = (0.1, 0.5, 0.9)
_SERIES = "Health Gym implementation series (2025)"

CORRELATIONS = {
    ("linear", "trend"): About(
        "dynamics.trend_linear",
        "Trend correlations, linear",
        "How much the correlation of two variables' straight-line trends within a patient differs, on "
        "average over all pairs.",
        f"{_SERIES}. With a straight line each patient's trend correlation is +1 or -1, so this averages "
        "agreement of signs: it is here for comparison with published figures. The published code leaves a "
        "constant variable out only if rounding left no trace; here it is always left out",
    ),
    ("linear", "cycle"): About(
        "dynamics.cycle_linear",
        "Cycle correlations, linear",
        "How much the correlation of what is left of two variables after a straight-line trend differs, on "
        "average over all pairs.",
        _SERIES,
    ),
    ("loess", "trend"): About(
        "dynamics.trend_smooth",
        "Trend correlations, smooth",
        "How much the correlation of two variables' smooth trends within a patient differs, on average over "
        "all pairs.",
        "As published, with LOESS (statsmodels, Cleveland 1979) over 40% of the timesteps for the straight "
        "line",
    ),
    ("loess", "cycle"): About(
        "dynamics.cycle_smooth",
        "Cycle correlations, smooth",
        "How much the correlation of what is left of two variables after a smooth trend differs, on average "
        "over all pairs.",
        "As published, with LOESS (statsmodels, Cleveland 1979) over 40% of the timesteps for the straight "
        "line",
    ),
}
STRUCTURE = About(
    "dynamics.cycle_lost",
    "Dynamic structure lost",
    "The size of all differences in smooth trend correlations relative to the size of the real ones, and the "
    "same of the cycle correlations, whichever is larger: 0% keeps all, 100% loses all.",
    "Frobenius norm of the difference over that of the real matrices, off the diagonal",
    "percent",
)
AUTOCORRELATION = About(
    "dynamics.autocorrelation",
    "Autocorrelation",
    f"How much a value's correlation with the same variable {_SAID_LAGS} timesteps later differs (for "
    "classes: the share that is the same later), on average over lags; the worst variable counts.",
    "Pearson correlation of x(t) and x(t + lag) over all patients together; lags beyond the longest patient "
    "are left out",
)
CHANGES = About(
    "dynamics.changes",
    "Changes per timestep",
    "The largest gap between the real and the synthetic cumulative distribution of the change from one "
    "timestep to the next; the worst variable counts.",
    "Two-sample Kolmogorov-Smirnov statistic (scipy.stats.ks_2samp) of x(t + 1) - x(t)",
)
TRANSITIONS = About(
    "dynamics.transitions",
    "Transitions between classes",
    "The share of steps from one timestep to the next that would have to lead elsewhere for the transition "
    "matrix to equal the real one; the worst variable counts.",
    "Total variation of each row of the transition matrix, weighted by how often real patients are in that "
    "class",
    "percent",
)
SWITCHES = About(
    "dynamics.switches",
    "Switching rate",
    "How many times more (or less) often a class changes from one timestep to the next than in real "
    "patients; 1 is equal, the worst variable counts.",
    "The larger of the ratio of change rates and its inverse",
)
DWELL = About(
    "dynamics.dwell",
    "Dwell times",
    "The largest gap between the real and the synthetic cumulative distribution of how long a class lasts; "
    "the worst variable counts.",
    "Two-sample Kolmogorov-Smirnov statistic of run lengths, those cut off by a patient's end included",
)
TRAJECTORIES = About(
    "dynamics.trajectories",
    "Trajectories",
    "How far the 10%, 50% and 90% lines over time lie from the real ones, on average, in standard deviations "
    "of the transformed values; the worst variable counts.",
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
    part.figures = [
        *(
            comparison.measured(about, partial(correlation_differences, smoother, what), "mean", num_splits=2)
            for (smoother, what), about in CORRELATIONS.items()
        ),
        comparison.measured(STRUCTURE, dynamic_structure_lost, num_splits=2),
        comparison.measured(AUTOCORRELATION, autocorrelation_differences),
        comparison.measured(CHANGES, change_distances),
        comparison.measured(TRANSITIONS, transition_distances),
        comparison.measured(SWITCHES, switching_ratios),
        comparison.measured(DWELL, dwell_distances),
        comparison.measured(TRAJECTORIES, trajectory_distances),
    ]
    part.pictures = [*_trajectory_pictures(comparison), *_transition_pictures(comparison)]
    names = _dynamic_names(comparison.train.panel)
    if len(names) > 1 and all(
        side.panel.num_timesteps > 3 for side in (comparison.train, comparison.synthetic)
    ):
        for position, what in enumerate(("trend", "cycle")):
            real, synthetic = (
                _matrices(side.panel, "loess")[position] for side in (comparison.train, comparison.synthetic)
            )
            part.pictures += triangles(
                f"dynamic-{what}", f"{what.capitalize()} (smooth)", real, synthetic, names
            )
    return part


def correlation_differences(smoother: str, what: str, real: Side, synthetic: Side) -> dict[str, float]:
    """Return the absolute difference of each pair's trend or cycle correlation."""
    position = ("trend", "cycle").index(what)
    one, other = (_matrices(side.panel, smoother)[position] for side in (real, synthetic))
    return pair_differences(one, other, _dynamic_names(real.panel))


def dynamic_structure_lost(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of the smooth trend and cycle correlations that is lost."""
    pairs = zip(_matrices(real.panel, "loess"), _matrices(synthetic.panel, "loess"), strict=True)
    return {what: structure_lost(*both) for what, both in zip(("trend", "cycle"), pairs, strict=True)}


def autocorrelation_differences(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the mean absolute difference over lags of each variable's autocorrelation."""
    lags = _lags(real, synthetic)
    differences = {}
    for position, name in _dynamic(real.panel):
        pairs = [
            (autocorrelation(real.panel, position, lag), autocorrelation(synthetic.panel, position, lag))
            for lag in lags
        ]
        known = [abs(a - (b if np.isfinite(b) else 0.0)) for a, b in pairs if np.isfinite(a)]
        if known:
            differences[name] = float(np.mean(known))
    return differences


def autocorrelation(panel: Panel, position: int, lag: int) -> float:
    """Return a variable's autocorrelation; of classes the share that is the same `lag` later; NaN if "
    "constant."""
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


def change_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the Kolmogorov-Smirnov distance of the changes of each real variable."""
    distances = {}
    for position, variable in enumerate(real.panel.schema.reals):
        if not variable.static:
            changes = [np.diff(side.panel.reals_NTR[:, :, position], axis=1) for side in (real, synthetic)]
            a, b = (values[np.isfinite(values)] for values in changes)
            if len(a):
                changes_differ = stats.ks_2samp(np.round(a, 9), np.round(b, 9)).statistic if len(b) else 1.0
                distances[variable.name] = float(changes_differ)
    return distances


def transition_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the weighted total variation of each categorical variable's transition rows."""
    distances = {}
    for position, variable in enumerate(real.panel.schema.categoricals):
        a, b = real.tally.transitions[position], synthetic.tally.transitions[position]
        if not variable.static and a.sum():
            distances[variable.name] = transition_distance(a, b)
    return distances


def transition_distance(real_KK: NDArray[np.int64], synthetic_KK: NDArray[np.int64]) -> float:
    """Return sum_i w_i TV(real row i, synthetic row i); a row that the synthetic data lacks counts 1."""
    weights = real_KK.sum(axis=1) / real_KK.sum()
    rows = []
    for real, synthetic in zip(real_KK, synthetic_KK, strict=True):
        empty = not real.sum() or not synthetic.sum()
        rows.append(
            1.0 if empty else float(np.abs(real / real.sum() - synthetic / synthetic.sum()).sum() / 2)
        )
    return float(weights @ np.array(rows))


def switching_ratios(real: Side, synthetic: Side) -> dict[str, float]:
    """Return max(a / b, b / a) of the change rates of each categorical variable; a rate counts at least "
    "1e-4."""
    ratios = {}
    for position, variable in enumerate(real.panel.schema.categoricals):
        tables = real.tally.transitions[position], synthetic.tally.transitions[position]
        if not variable.static and tables[0].sum():
            a, b = (max(1 - np.trace(table) / table.sum(), 1e-4) if table.sum() else 1e-4 for table in tables)
            ratios[variable.name] = float(max(a / b, b / a))
    return ratios


def dwell_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the Kolmogorov-Smirnov distance of each categorical variable's run lengths."""
    distances = {}
    for position, variable in enumerate(real.panel.schema.categoricals):
        if not variable.static:
            runs = [run_lengths(side.panel.codes_NTK[:, :, position]) for side in (real, synthetic)]
            if len(runs[0]):
                distances[variable.name] = float(stats.ks_2samp(*runs).statistic) if len(runs[1]) else 1.0
    return distances


def run_lengths(codes_NT: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return how long each run of one class lasts, over all patients; -1 (absent) ends a run."""
    padded = np.pad(codes_NT.astype(np.int64), ((0, 0), (0, 1)), constant_values=-1).ravel()
    starts = np.flatnonzero(np.r_[True, padded[1:] != padded[:-1]])
    lengths = np.diff(np.r_[starts, len(padded)])
    return np.asarray(lengths[padded[starts] >= 0])


def trajectory_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the mean distance of three quantile lines over time of each real variable, on the common "
    "scale."""
    steps = min(real.panel.num_timesteps, synthetic.panel.num_timesteps)
    distances = {}
    for position, variable in enumerate(real.panel.schema.reals):
        if not variable.static:
            a, b = (quantile_lines(side.panel.scaled_NTR[:, :steps, position]) for side in (real, synthetic))
            known = np.isfinite(a) & np.isfinite(b)
            if np.isfinite(a).any():
                distances[variable.name] = float(np.abs(a - b)[known].mean()) if known.any() else LARGEST
    return distances


def quantile_lines(values_NT: Floats) -> Floats:
    """Return the 10%, 50% and 90% quantile at each timestep, shape (3, T); NaN where nobody is left."""
    lines = np.full((len(_QUANTILES), values_NT.shape[1]), np.nan)
    for step in range(values_NT.shape[1]):
        known = values_NT[np.isfinite(values_NT[:, step]), step]
        if len(known):
            lines[:, step] = np.quantile(known, _QUANTILES)
    return lines


def _matrices(panel: Panel, smoother: str) -> tuple[Floats, Floats]:
    """Return trend and cycle correlations of the variables that may change, computed once per panel."""
    cache: dict[str, tuple[Floats, Floats]] = panel.__dict__.setdefault("_dynamic_correlations", {})
    if smoother not in cache:
        if panel.num_timesteps < 4:
            raise NotJudgedError("Patients have fewer than four timesteps.")
        smoothers: dict[str, Smoother] = {"linear": linear, "loess": loess}
        positions = [position for position, _ in _dynamic(panel)]
        cache[smoother] = dynamic_correlations(panel.values_NTV[:, :, positions], smoothers[smoother])
    return cache[smoother]


def _dynamic(panel: Panel) -> list[tuple[int, str]]:
    """Return position in V and name of the variables that may change within a patient."""
    return [(position, v.name) for position, v in enumerate(panel.schema.encoded) if not v.static]


def _dynamic_names(panel: Panel) -> list[str]:
    return [name for _, name in _dynamic(panel)]


def _lags(real: Side, synthetic: Side) -> list[int]:
    """Return the lags that both sides are long enough for."""
    steps = min(real.panel.num_timesteps, synthetic.panel.num_timesteps)
    lags = [lag for lag in _LAGS if lag < steps]
    if not lags:
        raise NotJudgedError("Patients have one timestep only.")
    return lags


def _trajectory_pictures(comparison: Comparison) -> list[Picture]:
    """Draw median and 10-90% ribbon over time of each real variable, and its autocorrelation."""
    sides = comparison.train.panel, comparison.synthetic.panel
    drawn = []
    for position, variable in enumerate(comparison.schema.reals):
        if not variable.static:
            lines = [quantile_lines(panel.reals_NTR[:, :, position]) for panel in sides]
            drawn.append(
                pictures.ribbons(
                    f"trajectory-{variable.name}",
                    variable.name,
                    comparison.schema.timestep_unit,
                    variable.unit,
                    *lines,
                )
            )
    lags = [lag for lag in range(1, 25) if lag < min(panel.num_timesteps for panel in sides)]
    for position, name in _dynamic(sides[0]):
        title = name if position < len(comparison.schema.reals) else f"{name} (same class)"
        curves = [np.array([autocorrelation(panel, position, lag) for lag in lags]) for panel in sides]
        drawn.append(
            pictures.curves(
                f"autocorrelation-{name}", f"Autocorrelation: {title}", "lag", np.array(lags), *curves
            )
        )
    return drawn


def _transition_pictures(comparison: Comparison) -> list[Picture]:
    """Draw the transition matrices of categorical variables with more than two classes."""
    drawn = []
    for position, variable in enumerate(comparison.schema.categoricals):
        if variable.static or variable.kind == "binary":
            continue
        for what, side in (("real", comparison.train), ("synthetic", comparison.synthetic)):
            counts = side.tally.transitions[position].astype(np.float64)
            with np.errstate(invalid="ignore"):
                rows = counts / counts.sum(axis=1, keepdims=True)
            drawn.append(
                pictures.heat_map(
                    f"transitions-{variable.name}-{what}", f"{variable.name}: {what}, % of steps", rows,
                    variable.labels, variable.labels, as_percent=True, labels=("from", "to"),
                    group=f"transitions-{variable.name}",
                )
            )  # fmt: skip
    return drawn
