"""Rules that every patient must obey."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import Comparison, Side
from healthgym.evaluation.concerns import variables_in
from healthgym.evaluation.metric import Metric, metric
from healthgym.evaluation.result import Result, Row, Section, show
from healthgym.evaluation.statistics.conditions import holds
from healthgym.evaluation.statistics.singles import ratio
from healthgym.schema import Rule

_MARGIN = 0.1
_SURE = 1.96

Rates = dict[str, tuple[float, float]]
"""Of each variable or rule: a share and its standard error over patients."""

STATIC = metric(
    "validity.static",
    "Static variables constant",
    "The share of synthetic patients in whom a static variable, such as sex, changes. The worst "
    "variable counts.",
    "The schema's `static: true`; all synthetic patients",
    "percent",
    counts_all=True,
)
RANGE = metric(
    "validity.range",
    "Out of range",
    "The share of synthetic values that lie outside the range of real values by more than a tenth of "
    "that range. The worst variable counts.",
    "Smallest and largest value of sampled training patients; sampled synthetic patients",
    "percent",
)
NEGATIVE = metric(
    "validity.negative",
    "Negative values",
    "The share of synthetic values below zero, of variables that are never negative in real data. The "
    "worst variable counts.",
    "Sign of the values; sampled patients",
    "percent",
)
ABSENT = metric(
    "validity.absent",
    "Values that may not be absent",
    "The share of synthetic timesteps without a value, of variables that must always have one. The "
    "worst variable counts.",
    "The schema's `missing: refuse`; all synthetic patients",
    "percent",
    counts_all=True,
)

IMPOSSIBLE = metric(
    "validity.impossible",
    "Impossible combinations",
    "The share of synthetic timesteps with a combination of values that the schema calls impossible. "
    "The worst rule counts.",
    "What the schema lists as impossible; sampled synthetic patients",
    "percent",
)
UNFIT = metric(
    "validity.unfit",
    "Values that do not fit",
    "The share of rows of the cohort with a value that does not fit the schema: a word where a number "
    "belongs, an unknown label, a number too large for single precision, or an invalid time. The worst "
    "column counts. Other metrics treat such values as missing.",
    "The schema's kinds and classes; all rows of the cohort's table",
    "percent",
    counts_all=True,
)
RAW_STATIC = metric(
    "validity.raw_static",
    "Static variables before decoding",
    "How often the generator's raw output for a static variable differed from the single value that the"
    " patient was given. The worst variable counts.",
    "The cohort's manifest; all synthetic timesteps",
    "percent",
    counts_all=True,
)


def section(comparison: Comparison) -> Section:
    """Judge whether every patient obeys the schema and common sense."""
    part = Section(
        "validity", "Rules", "Does every synthetic patient obey what the schema and the data demand?"
    )
    part.results = [
        _rates_result(comparison, STATIC, changing_static(comparison.synthetic)),
        _rates_result(comparison, RANGE, out_of_range(comparison.train, comparison.synthetic)),
        _rates_result(comparison, NEGATIVE, negative_shares(comparison.train, comparison.synthetic)),
        _rates_result(comparison, ABSENT, absent_shares(comparison.synthetic)),
    ]
    unfit = [Row(name, share) for name, share in sorted(comparison.unfit.items(), key=lambda x: -x[1])]
    part.results.append(comparison.result(UNFIT, max(comparison.unfit.values(), default=0.0), rows=unfit))
    part.notes += comparison.remarks
    longest = len(comparison.synthetic.statistics.lengths) - 1
    if longest > comparison.train.panel.num_timesteps:
        part.notes.append(
            f"Synthetic patients have up to {longest} timesteps. Only the first "
            f"{comparison.train.panel.num_timesteps}, as many as the longest real patient has, are compared."
        )
    if rules := comparison.schema.impossible:
        part.results.append(
            _rates_result(comparison, IMPOSSIBLE, impossible_shares(rules, comparison.synthetic))
        )
    else:
        part.notes.append("The schema lists no impossible combinations, so none were looked for.")
    if comparison.raw_static:
        rows = [Row(name, rate) for name, rate in sorted(comparison.raw_static.items(), key=lambda x: -x[1])]
        part.results.append(comparison.result(RAW_STATIC, max(comparison.raw_static.values()), rows=rows))
    return part


def _rates_result(comparison: Comparison, about: Metric, rates: Rates) -> Result:
    """Judge the worst of some rates by its interval; a rule without exception is judged by the rate
    itself."""
    if not rates:
        return comparison.not_judged(
            about, "The schema has no variable, or the patients no values, that this applies to."
        )
    name = max(rates, key=lambda name: rates[name][0])
    value, error = rates[name]
    threshold = comparison.config.threshold(about.key)
    strict = threshold is None or not threshold.at_most or value == 0
    interval = None if strict else (max(0.0, value - _SURE * error), value + _SURE * error)
    ordered = sorted(rates.items(), key=lambda item: -item[1][0])
    rows = [Row(name, rate[0], about=variables_in([name], comparison.schema)) for name, rate in ordered]
    return comparison.result(
        about,
        value,
        interval=interval,
        rows=rows,
        finding=f"{name}: {show(value, about.style)}" if value else "no exception found",
    )


def changing_static(synthetic: Side) -> Rates:
    """Return the share of patients in whom each static variable changes."""
    statistics = synthetic.statistics
    return {
        name: (count / statistics.num_patients, 0.0) for name, count in statistics.changing_static.items()
    }


def length_distance(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the Kolmogorov-Smirnov distance of the numbers of timesteps."""
    longest = max(len(side.lengths) for side in (real, synthetic))
    steps = []
    for side in (real, synthetic):
        counts = np.pad(side.lengths, (0, longest - len(side.lengths)))
        steps.append(np.cumsum(counts) / counts.sum())
    return {"timesteps": float(np.abs(steps[0] - steps[1]).max())}


def out_of_range(real: Side, synthetic: Side) -> Rates:
    """Return the share of values far outside the real range of each real variable."""
    shares = {}
    for position, variable in enumerate(real.panel.schema.reals):
        a, b = real.panel.real(position), synthetic.panel.reals_NTR[:, :, position]
        if len(a) and np.isfinite(b).any():
            room = _MARGIN * float(np.ptp(a))
            shares[variable.name] = _share((b < a.min() - room) | (b > a.max() + room), np.isfinite(b))
    return shares


def negative_shares(real: Side, synthetic: Side) -> Rates:
    """Return the share of negative values of each real variable that is never negative in real data."""
    shares = {}
    for position, variable in enumerate(real.panel.schema.reals):
        a, b = real.panel.real(position), synthetic.panel.reals_NTR[:, :, position]
        if len(a) and np.isfinite(b).any() and a.min() >= 0:
            shares[variable.name] = _share(b < 0, np.isfinite(b))
    return shares


def absent_shares(synthetic: Side) -> Rates:
    """Return the share of timesteps without a value of each variable that must have one."""
    statistics = synthetic.statistics
    return {
        variable.name: (statistics.missing[variable.name] / statistics.num_rows, 0.0)
        for variable in synthetic.panel.schema.encoded
        if variable.missing == "refuse"
    }


def impossible_shares(rules: Sequence[Rule], synthetic: Side) -> Rates:
    """Return the share of timesteps at which each rule is broken."""
    panel = synthetic.panel
    return {
        rule.name: _share(
            np.logical_and.reduce([holds(panel, condition) for condition in rule.never]), panel.present_NT
        )
        for rule in rules
    }


def _share(found_NT: NDArray[np.bool_], known_NT: NDArray[np.bool_]) -> tuple[float, float]:
    """Return a share of timesteps and its standard error over patients; no error of very few patients."""
    found, known = (found_NT & known_NT).sum(1).astype(float), known_NT.sum(1).astype(float)
    value, error = ratio(found, known)
    return (value, error) if np.isfinite(value) else (float(found.sum() / max(known.sum(), 1)), 0.0)
