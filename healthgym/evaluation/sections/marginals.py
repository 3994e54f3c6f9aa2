"""Each variable alone: does its distribution look like the real one?"""

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import stats

from healthgym.evaluation.comparison import About, Comparison, Side
from healthgym.evaluation.figure import Figure, Section
from healthgym.evaluation.pages import pictures
from healthgym.evaluation.statistics.panel import Floats, Panel
from healthgym.evaluation.statistics.scale import LARGEST
from healthgym.seeds import stream

_V1 = "Kuo et al., Scientific Data 2022, doi 10.1038/s41597-022-01784-7"

KS = About(
    "marginals.ks",
    "Kolmogorov-Smirnov distance",
    "The largest gap between the real and the synthetic cumulative distribution of a real variable; the "
    "worst variable counts.",
    "Two-sample Kolmogorov-Smirnov statistic (scipy.stats.ks_2samp), as in the v1 paper: " + _V1,
)
WASSERSTEIN = About(
    "marginals.wasserstein",
    "Wasserstein distance",
    "How far values must be moved on average to turn the synthetic distribution into the real one, in "
    "standard deviations of the transformed (Box-Cox) real values; the worst variable counts.",
    "Wasserstein-1 distance (scipy.stats.wasserstein_distance) on the scale that training uses",
)
TOTAL_VARIATION = About(
    "marginals.total_variation",
    "Total variation of classes",
    "The share of patients or timesteps that would have to change class for the synthetic shares to equal "
    "the real ones; the worst variable counts.",
    "Half the sum of absolute differences of class shares",
    "percent",
)
MISSING = About(
    "marginals.missing",
    "Missing values",
    "The difference between the real and the synthetic share of absent values; the worst variable counts.",
    "Difference of shares",
    "percent",
)
BATTERY = {
    "ks": (
        "same distribution (Kolmogorov-Smirnov)",
        "could have the same distribution in real and synthetic data",
        "scipy.stats.ks_2samp",
    ),
    "t": (
        "same mean (Welch's t)",
        "could have the same mean in real and synthetic data",
        "scipy.stats.ttest_ind with unequal variances",
    ),
    "f": (
        "same variance (F)",
        "could have the same variance in real and synthetic data",
        "Ratio of variances against the F distribution",
    ),
    "three_sigma": (
        "within three sigma",
        "have at least 95% of their synthetic values within three standard deviations of the real mean",
        "Own line of 95%; real mean and deviation",
    ),
}


def section(comparison: Comparison) -> Section:
    """Judge every variable alone."""
    part = Section(
        "marginals",
        "Each variable alone",
        "Do single variables have the values that real patients have? Blue is real, orange is synthetic.",
    )
    part.figures = [
        comparison.measured(KS, ks_distances),
        comparison.measured(WASSERSTEIN, wasserstein_distances),
        comparison.measured(TOTAL_VARIATION, total_variations),
        comparison.measured(MISSING, missing_shares),
        *(_battery_figure(comparison, name) for name in BATTERY),
    ]
    real, synthetic = comparison.train.panel, comparison.synthetic.panel
    for position, variable in enumerate(comparison.schema.reals):
        values = real.real(position), synthetic.real(position)
        if all(len(each) for each in values):
            part.pictures.append(
                pictures.density(f"marginal-{variable.name}", variable.name, variable.unit, *values)
            )
    for position, variable in enumerate(comparison.schema.categoricals):
        shares = class_shares(comparison.train, position), class_shares(comparison.synthetic, position)
        part.pictures.append(
            pictures.bars(f"marginal-{variable.name}", variable.name, variable.labels, *shares)
        )
    return part


def ks_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the Kolmogorov-Smirnov statistic of each real variable."""

    def distance(a: Floats, b: Floats) -> float:
        return float(stats.ks_2samp(a, b).statistic)

    return _per_real(real, synthetic, Panel.real, distance, absent=1.0)


def wasserstein_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the Wasserstein distance of each real variable on the common scale."""

    def distance(a: Floats, b: Floats) -> float:
        return float(stats.wasserstein_distance(a, b))

    return _per_real(real, synthetic, Panel.scaled, distance, absent=LARGEST)


def total_variations(real: Side, synthetic: Side) -> dict[str, float]:
    """Return half the summed difference of class shares of each categorical variable."""
    distances = {}
    for position, variable in enumerate(real.panel.schema.categoricals):
        a, b = (class_shares(side, position) for side in (real, synthetic))
        if a.any():
            distances[variable.name] = float(np.abs(a - b).sum() / 2) if b.any() else 1.0
    return distances


def missing_shares(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the difference in the share of absent values of each variable that may be absent."""
    shares = {
        name: abs(real.tally.missing[name] / real.tally.num_rows - count / synthetic.tally.num_rows)
        for name, count in synthetic.tally.missing.items()
        if count or real.tally.missing[name]
    }
    return shares or {"nothing is missing on either side": 0.0}


def class_shares(side: Side, position: int) -> Floats:
    """Return class shares of a categorical variable: of patients where it is static, else of timesteps."""
    variable = side.panel.schema.categoricals[position]
    if not variable.static:
        return side.tally.shares(position)
    patients = side.tally.coverage[(variable.name,)]
    return np.asarray(patients / max(patients.sum(), 1))


def battery(test: str, real: Side, synthetic: Side) -> dict[str, float]:
    """Return 1 for each real variable that passes a test of the v1 paper, else 0.

    One random timestep of each patient, so that the values are independent as the tests require; a p-value
    passes above 0.05 divided by the number of variables (Bonferroni).
    """
    one, other = (_one_timestep_each(side) for side in (real, synthetic))
    level = 0.05 / max(one.shape[1], 1)
    passed = {}
    for position, variable in enumerate(real.panel.schema.reals):
        a, b = (values[np.isfinite(values[:, position]), position] for values in (one, other))
        if len(a) > 2 and len(b) > 2:
            passed[variable.name] = float(_TESTS[test](a, b, level))
    return passed


def _battery_figure(comparison: Comparison, test: str) -> Figure:
    title, what, how = BATTERY[test]
    level = "" if test == "three_sigma" else " at a level of 5%, by Bonferroni's correction over variables"
    about = About(
        f"marginals.v1_{test}",
        f"v1 battery: {title}",
        f"The share of real variables that {what}{', as far as its test can tell' if level else ''}.",
        f"{how}, on the Box-Cox scale{level}; one random timestep per sampled patient, as "
        f"timesteps of one patient are not independent. After {_V1}",
        "percent",
    )
    return comparison.measured(about, partial(battery, test), "mean")


def _per_real(
    real: Side,
    synthetic: Side,
    values: Callable[[Panel, int], Floats],
    distance: Callable[[Floats, Floats], float],
    absent: float,
) -> dict[str, float]:
    """Apply a two-sample distance to each real variable; `absent` where the synthetic side has no value at "
    "all."""
    distances = {}
    for position, variable in enumerate(real.panel.schema.reals):
        a, b = values(real.panel, position), values(synthetic.panel, position)
        if len(a):
            distances[variable.name] = distance(a, b) if len(b) else absent
    return distances


def _one_timestep_each(side: Side) -> Floats:
    """Return the reals of one random timestep per patient on the common scale, shape (N, R)."""
    panel, rng = side.panel, stream(side.seed, "one timestep each", side.name)
    chosen = (rng.random(panel.num_patients) * panel.lengths_N).astype(int)
    return np.asarray(panel.scaled_NTR[np.arange(panel.num_patients), chosen])


def _passes_ks(a: Floats, b: Floats, level: float) -> bool:
    return bool(stats.ks_2samp(a, b).pvalue > level)


def _passes_t(a: Floats, b: Floats, level: float) -> bool:
    if _is_constant(a) or _is_constant(b):
        return bool(abs(a.mean() - b.mean()) <= 1e-9)
    return bool(stats.ttest_ind(a, b, equal_var=False).pvalue > level)


def _passes_f(a: Floats, b: Floats, level: float) -> bool:
    if _is_constant(a) or _is_constant(b):
        return _is_constant(a) and _is_constant(b)
    ratio = a.var(ddof=1) / b.var(ddof=1)
    below = stats.f.cdf(ratio, len(a) - 1, len(b) - 1)
    return bool(2 * min(below, 1 - below) > level)


def _passes_three_sigma(a: Floats, b: Floats, level: float) -> bool:
    return bool(np.mean(np.abs(b - a.mean()) <= 3 * max(a.std(), 1e-12)) >= 0.95)


def _is_constant(values: Floats) -> bool:
    return bool(np.ptp(values) <= 1e-9)


_TESTS = {"ks": _passes_ks, "t": _passes_t, "f": _passes_f, "three_sigma": _passes_three_sigma}
