"""How a metric is taken from families of statistics: the largest difference beyond the noise."""

from collections.abc import Mapping, Sequence

import numpy as np

from healthgym.evaluation.comparison import TOO_FEW, Comparison
from healthgym.evaluation.concerns import concerned
from healthgym.evaluation.metric import Metric
from healthgym.evaluation.result import Result, Row, Verdict, in_words, show
from healthgym.evaluation.statistics.columns import FEWEST_SHOWN
from healthgym.evaluation.statistics.findings import Compared, Difference
from healthgym.schema import Schema

_SURE = 1.96
_MOST_ROWS = 40
_SHARES = ("class", "transition", "missing", "measured", "distribution")
_LOGARITHMS = ("tail", "deviation", "own deviation", "step", "switch")
_CORRELATIONS = ("same time", "within", "lag", "changes", "between", "baseline", "stratum")
_BY_CHANCE = "Larger than the limit, but within chance variation at this sample size."


def family_result(
    comparison: Comparison,
    about: Metric,
    keys: Sequence[str],
    relations: bool,
    compared: Mapping[str, Compared] | None = None,
    apart: Mapping[str, Compared] | None = None,
) -> Result:
    """Judge statistics of single variables, or relations, by the worst that is beyond the noise.

    It asks for caution if a difference exceeds what no statistic of real patients reaches among real
    patients (in standard errors) and `at_most` in size, and fails if the whole 95% interval of such a
    difference exceeds `fail_above`. It is not judged where the patients are too few: where independent
    variables would pass too or, of single variables, where only twice `fail_above` would be seen.

    Args:
        comparison: of the cohort.
        about: what the metric is; its threshold is that of the size of a difference.
        keys: of the families of statistics.
        relations: whether these are relations, which independent variables lose.
        compared: where the families are, by default all statistics of the cohort.
        apart: the same of the independent cohort.
    """
    cut, threshold = comparison.anchors.cut, comparison.config.threshold(about.key)
    found = _with_values(comparison.compared if compared is None else compared, keys)
    if not found:
        return comparison.not_judged(about, "The patients have no values, or too few timesteps, for this.")
    caution, fail = (threshold.at_most or 0.0, threshold.fail_above or 0.0) if threshold else (0.0, np.inf)
    beyond = sorted((d for each in found for d in each.beyond(cut, caution)), key=lambda d: -abs(d.size))
    failing = [d for d in beyond if abs(d.size) - _SURE * d.error > fail]
    worst = (failing or beyond or [_most_certain(found, cut)])[0]
    detectable = cut * _typical_error(found)
    if threshold is None:
        verdict = Verdict.SHOWN
    elif beyond:
        verdict = Verdict.FAIL if failing else Verdict.CAUTION
    else:
        seen = detectable <= 2 * fail
        if relations:
            seen = _independence_detected(comparison, keys, cut, caution, apart)
        verdict = Verdict.PASS if seen else Verdict.NOT_JUDGED
    num_real = comparison.train.panel.num_patients
    size, interval = _size(worst, num_real)
    logarithmic = worst.family in _LOGARITHMS
    return Result(
        key=about.key,
        title=about.title,
        what=about.what,
        source=about.source,
        value=size,
        interval=interval,
        verdict=verdict,
        limit=_limit(cut, caution, fail, logarithmic) if threshold else in_words(None, None),
        marks=(caution, fail) if threshold else None,
        style=about.style,
        reason=_reason(verdict, size > caution, detectable, logarithmic, about.note),
        rows=[_row(d, num_real, comparison.schema) for d in beyond[:_MOST_ROWS] or [worst]],
        finding=_finding(worst, num_real, about.style),
        shown=f"{show(float(np.exp(worst.size)))} times" if logarithmic else "",
    )


def _with_values(compared: Mapping[str, Compared], keys: Sequence[str]) -> list[Compared]:
    """Return those of the families that have any difference."""
    found = [compared[key] for key in keys if key in compared]
    return [each for each in found if np.isfinite(each.difference_K).any()]


def _most_certain(found: Sequence[Compared], cut: float) -> Difference:
    """Return the worst difference of the family whose differences are clearest."""
    worst = max(found, key=lambda each: each.largest_z).worst(cut)
    assert worst is not None
    return worst


def _typical_error(found: Sequence[Compared]) -> float:
    return float(np.median(np.concatenate([each.error_K[np.isfinite(each.error_K)] for each in found])))


def _size(difference: Difference, num_real: int) -> tuple[float, tuple[float, float] | None]:
    """Return how large a difference is, and its 95% interval; how large at least, if that tells too much."""
    if _few(difference, num_real):
        return _least_size(difference, num_real), None
    size, half = abs(difference.size), _SURE * difference.error
    return size, (max(0.0, size - half), size + half)


def _reason(verdict: Verdict, is_large: bool, detectable: float, logarithmic: bool, note: str) -> str:
    scale = " (as a logarithm)" if logarithmic else ""
    notes = [
        TOO_FEW if verdict is Verdict.NOT_JUDGED else "",
        _BY_CHANCE if verdict is Verdict.PASS and is_large else "",
        f"With this many patients, a typical difference of at least {show(detectable)}{scale} is detectable.",
        note,
    ]
    return " ".join(filter(None, notes))


def _limit(cut: float, caution: float, fail: float, logarithmic: bool) -> str:
    times = f" (logarithms: {show(np.exp(caution))} and {show(np.exp(fail))} times)" if logarithmic else ""
    return (
        f"caution for a difference above {caution:g} with z of at least {cut:.1f}, fails if the 95% interval "
        f"of such a difference lies above {fail:g}{times}"
    )


def _few(difference: Difference, num_real: int) -> bool:
    """Return whether a share is that of so few real patients that it is not shown."""
    rare = min(abs(difference.real), abs(1 - difference.real)) * num_real
    return difference.family in _SHARES and rare < FEWEST_SHOWN


def _least_size(difference: Difference, num_real: int) -> float:
    """Return how large a difference from a rare (or nearly universal) real share is at least.

    The real share counts as that of ten patients: the difference itself would give it away.
    """
    shown = FEWEST_SHOWN / num_real
    if difference.real < 0.5:
        return max(0.0, difference.synthetic - shown)
    return max(0.0, 1 - shown - difference.synthetic)


def _row(difference: Difference, num_real: int, schema: Schema) -> Row:
    phrase, about = difference.phrase, concerned(difference, schema)
    if _few(difference, num_real):
        return Row(f"{phrase} (fewer than {FEWEST_SHOWN} real patients)", None, about=about)
    if difference.family in _LOGARITHMS:
        ratio = "synthetic over real" if difference.size > 0 else "real over synthetic"
        return Row(f"{phrase}: {ratio}", float(np.exp(abs(difference.size))), about=about)
    return Row(
        phrase, abs(difference.size), real=difference.real, synthetic=difference.synthetic, about=about
    )


def _finding(difference: Difference, num_real: int, style: str) -> str:
    if _few(difference, num_real):
        return _hidden(difference, num_real, style)
    name, real, synthetic = difference.phrase, difference.real, difference.synthetic
    if difference.family in _LOGARITHMS:
        return f"{name}: {show(float(np.exp(difference.size)))} times the value in real patients"
    if difference.family == "mean":
        side = "higher" if difference.size > 0 else "lower"
        return f"{name}: {show(abs(difference.size))} standard deviations {side} than in real patients"
    if difference.family.startswith(_CORRELATIONS):
        group, _, pair = name.partition(": ") if difference.family == "stratum" else ("", "", name)
        where = f" where {group}" if group else ""
        return f"correlation of {pair}{where}: synthetic {two_decimals(synthetic)}, real {two_decimals(real)}"
    return f"{name}: synthetic {show(synthetic, style)}, real {show(real, style)}"


def _hidden(difference: Difference, num_real: int, style: str) -> str:
    """Say a difference from a real share that is not shown."""
    rare = f"{FEWEST_SHOWN} in {num_real:,}"
    synthetic = show(difference.synthetic, style)
    if not _least_size(difference, num_real):
        side = "below" if difference.real < 0.5 else "all but fewer than"
        return f"{difference.phrase}: {side} {rare} in real and in synthetic patients"
    if difference.real < 0.5:
        return f"{difference.phrase}: {synthetic}, more than in real patients, where it is below {rare}"
    return (
        f"{difference.phrase}: {synthetic}, less than in real patients, where it is all but fewer than {rare}"
    )


def two_decimals(number: float) -> str:
    """Write a correlation; never "-0.00"."""
    return f"{round(number, 2) + 0.0:.2f}"


def _independence_detected(
    comparison: Comparison, keys: Sequence[str], cut: float, size: float, apart: Mapping[str, Compared] | None
) -> bool:
    """Return whether a cohort of independent variables of this size would be detected."""
    apart = comparison.anchors.independent_compared if apart is None else apart
    return any(each.beyond(cut, size) for key, each in apart.items() if key in keys)
