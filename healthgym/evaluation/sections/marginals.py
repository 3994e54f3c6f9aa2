"""Each variable alone: does its distribution look like the real one?"""

from dataclasses import replace

import numpy as np

from healthgym.evaluation.comparison import Comparison, Side
from healthgym.evaluation.families import family_result
from healthgym.evaluation.metric import metric
from healthgym.evaluation.pages import figures
from healthgym.evaluation.result import NotJudgedError, Section, show
from healthgym.evaluation.statistics.columns import FEWEST_SHOWN
from healthgym.evaluation.statistics.panel import Floats, Panel
from healthgym.evaluation.statistics.recorded import misrecorded_shares
from healthgym.evaluation.words import in_plain_words

_OUTER = 0.1
_ERRORS = "errors by patients (Cochran, Sampling Techniques, 1977, chapter 6)"

DISTRIBUTION = metric(
    "marginals.ks",
    "Distribution of values",
    "For each variable, the largest difference between the real and the synthetic share of values up to"
    " a limit, over limits from the 1% to the 99% quantile of real values. The worst variable counts.",
    f"Kolmogorov-Smirnov distance at nine quantiles; {_ERRORS}",
)
MOMENTS = metric(
    "marginals.moments",
    "Mean and standard deviation",
    "How far the mean of a variable has moved, in standard deviations, or how much its standard "
    "deviation differs (as a logarithm: 0.1 is about 10%). The worst counts.",
    f"Mean and log of the deviation of rank scores; {_ERRORS}",
)
TAILS = metric(
    "marginals.tails",
    "Extreme values",
    "How many times rarer or commoner the lowest 1% and the highest 1% of real values are, as a "
    "logarithm: 0.7 is half or twice as often. The worst counts.",
    f"Log ratio of shares beyond the 1% and 99% quantiles of the training data; {_ERRORS}",
)
CLASSES = metric(
    "marginals.classes",
    "Shares of classes",
    "How much the share of a class differs from the real one. The worst class counts.",
    f"Difference of shares, of patients where a variable is static, else of timesteps; {_ERRORS}",
    "percent",
)
MISSING = metric(
    "marginals.missing",
    "Absent values",
    "How much the share of absent values differs from the real one. The worst variable counts.",
    f"Difference of shares; {_ERRORS}",
    "percent",
)
RECORDED = metric(
    "marginals.recorded",
    "Recorded precision",
    "The share of synthetic values with a precision that real values do not have (such as an oxygen "
    "saturation of 97.31%), or of real values that never occur in the cohort, whichever is larger. The worst "
    "variable counts.",
    "Own definition: values outside the set of training values, of variables whose values repeat",
    "percent",
)


def section(comparison: Comparison) -> Section:
    """Judge every variable alone."""
    part = Section(
        "marginals",
        "Each variable alone",
        "Do single variables have the values that real patients have? Blue is real, orange is synthetic.",
    )
    distribution = family_result(comparison, DISTRIBUTION, ["distribution"], relations=False)
    part.results = [
        replace(distribution, finding=_in_units(comparison) or distribution.finding),
        family_result(comparison, MOMENTS, ["mean", "deviation"], relations=False),
        family_result(comparison, TAILS, ["tail"], relations=False),
        family_result(comparison, CLASSES, ["class"], relations=False),
        family_result(comparison, MISSING, ["missing"], relations=False),
        comparison.metric_result(RECORDED, recorded),
    ]
    if not comparison.drawn:
        return part
    real, synthetic = comparison.train.panel, comparison.synthetic.panel
    for position, variable in enumerate(comparison.schema.reals):
        values = real.real(position), synthetic.real(position)
        if all(len(each) for each in values) and _ends(real, position):
            part.figures.append(
                figures.density(
                    f"marginal-{variable.name}",
                    variable.name,
                    variable.unit,
                    *values,
                    ends=_ends(real, position),
                )
            )
    for position, variable in enumerate(comparison.schema.categoricals):
        ours = class_shares(comparison.train, position)
        few = ours * comparison.train.num_patients < FEWEST_SHOWN
        shares = np.where(few, 0.0, ours), class_shares(comparison.synthetic, position)
        part.figures.append(
            figures.bars(
                f"marginal-{variable.name}",
                in_plain_words(variable.name, comparison.schema),
                variable.labels,
                *shares,
            )
        )
    return part


def _ends(real: Panel, position: int) -> tuple[float, float] | None:
    """Return values that ten real patients are below and ten above: beyond them nothing is drawn."""
    values = real.reals_NTR[:, :, position]
    extremes = (
        np.sort(each[np.isfinite(each)])
        for each in (np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1))
    )
    low, high = extremes
    if len(low) < 2 * FEWEST_SHOWN:
        return None
    return float(low[FEWEST_SHOWN - 1]), float(high[-FEWEST_SHOWN])


def _in_units(comparison: Comparison) -> str:
    """Say where most values lie, of the variable whose distribution differs most."""
    found = comparison.compared.get("distribution")
    worst = found.worst(comparison.anchors.cut) if found else None
    if worst is None:
        return ""
    position = [v.name for v in comparison.schema.reals].index(worst.name[0])
    sides = comparison.synthetic.panel.real(position), comparison.train.panel.real(position)
    if min(map(len, sides)) == 0 or comparison.train.panel.num_patients < FEWEST_SHOWN / _OUTER:
        return ""
    unit, said = comparison.schema.reals[position].unit, []
    for values in sides:
        low, middle, high = (show(float(x)) for x in np.quantile(values, [_OUTER, 0.5, 1 - _OUTER]))
        said.append(f"between {low} and {high} {unit}".rstrip() + f" (median {middle})")
    ranges = f"most synthetic values are {said[0]}, most real ones {said[1]}"
    if min(worst.real, 1 - worst.real) * comparison.train.panel.num_patients < FEWEST_SHOWN:
        return f"{worst.name[0]}: {ranges}"
    shares = f"synthetic {show(worst.synthetic, 'percent')}, real {show(worst.real, 'percent')}"
    return f"{worst.name[0]} at most {' '.join(filter(None, [worst.name[1], unit]))}: {shares}; {ranges}"


def recorded(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of misrecorded values of each real variable whose values repeat.

    Raises:
        NotJudgedError: no variable's values do.
    """
    found = misrecorded_shares(real.panel, synthetic.panel)
    if not found:
        raise NotJudgedError("No real variable has rounded values: they hardly repeat.")
    return found


def class_shares(side: Side, position: int) -> Floats:
    """Return class shares of a categorical variable: of patients where it is static, else of timesteps."""
    variable = side.panel.schema.categoricals[position]
    if not variable.static:
        return side.statistics.shares(position)
    patients = side.statistics.coverage[(variable.name,)]
    return np.asarray(patients / max(patients.sum(), 1))
