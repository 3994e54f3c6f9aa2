"""Effects: would an analysis of the cohort come to the conclusions that real patients give?"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.concerns import concerned
from healthgym.evaluation.families import family_result
from healthgym.evaluation.metric import metric
from healthgym.evaluation.result import Result, Row
from healthgym.evaluation.settings import ReportConfig
from healthgym.evaluation.statistics.findings import LEAST_Z, Compared, compare_families
from healthgym.evaluation.statistics.models.regression import (
    Analysis,
    default_effects,
    effects_of,
    scale_of,
)
from healthgym.schema import Schema

Floats = NDArray[np.float64]

_SURE = 1.96
_MOST_ROWS = 60

EFFECTS = metric(
    "utility.effects",
    "Conclusions of regressions",
    "Regressions that a user of the cohort may run, fitted to real and to synthetic patients: the "
    "largest difference of a coefficient that noise does not explain. Real variables are in standard "
    "deviations. Coefficients of a variable of two classes are logarithms of odds ratios, those of the "
    "time to an event of hazard ratios.",
    "Generalised estimating equations, independent working correlation (Liang and Zeger, Biometrika 1986); "
    "Cox's model (1972)",
)


def effects_result(comparison: Comparison) -> Result:
    """Judge the coefficients of the analyses asked for, or of those that follow from the schema."""
    analyses = analyses_of(comparison.schema, comparison.config)
    if not analyses:
        return comparison.not_judged(EFFECTS, "The schema has nothing to regress on anything.")
    anchors, train = comparison.anchors, comparison.train.panel
    scale = scale_of(train)
    real, apart = anchors.once(
        EFFECTS.key, lambda: [effects_of(analyses, panel, scale) for panel in (train, anchors.independent)]
    )
    synthetic = effects_of(analyses, comparison.synthetic.panel, scale)
    ratio = train.num_patients / comparison.synthetic.panel.num_patients
    found, of_apart = (
        compare_families({EFFECTS.key: real}, {EFFECTS.key: each}, ratio)[EFFECTS.key]
        for each in (synthetic, apart)
    )
    compared = {EFFECTS.key: found}
    result = family_result(
        comparison, EFFECTS, [EFFECTS.key], relations=True, compared=compared, apart={EFFECTS.key: of_apart}
    )
    if result.value is None:
        return result
    return replace(
        result, rows=_rows(found, comparison.schema), reason=f"{_counted(found)} {result.reason}".strip()
    )


def analyses_of(schema: Schema, config: ReportConfig) -> list[Analysis]:
    """Return the analyses of the settings, or those that follow from the schema.

    Raises:
        ConfigError: a formula is none, or names what the schema lacks.
    """
    if config.effects == "auto":
        return [Analysis(effect, schema) for effect in default_effects(schema)]
    return [Analysis(effect, schema) for effect in config.effects if effect.schema_name == schema.name]


def _counted(found: Compared) -> str:
    """Say how many clear effects there are, and what became of them."""
    real, errors = found.family.estimate_K, found.family.error_K
    known = np.isfinite(real) & np.isfinite(found.synthetic_K)
    clear = known & (np.abs(np.nan_to_num(real)) > LEAST_Z * np.nan_to_num(errors))
    other_sign = int((clear & (np.nan_to_num(real * found.synthetic_K) < 0)).sum())
    apart = int((known & (np.abs(np.nan_to_num(found.difference_K)) > _SURE * _both(found))).sum())
    return (
        f"{int(known.sum())} coefficients on both sides, {int(clear.sum())} of them clear in real patients; "
        f"of these {other_sign} have the other sign. The 95% intervals of {apart} do not overlap."
    )


def _both(found: Compared) -> Floats:
    """Return the sum of both standard errors: half the width at which two intervals just touch."""
    real = np.nan_to_num(found.family.error_K)
    return real + np.sqrt(np.maximum(np.nan_to_num(found.error_K) ** 2 - real**2, 0))


def _rows(found: Compared, schema: Schema) -> list[Row]:
    """Return the coefficients side by side with their intervals, the clearest differences first."""
    order = np.argsort(-np.abs(found.z_K), kind="stable")
    known = [int(k) for k in order if np.isfinite(found.difference_K[k])]
    widths = _SURE * np.nan_to_num(found.family.error_K)
    others = _SURE * np.nan_to_num(_both(found)) - widths
    rows = []
    for k in known[:_MOST_ROWS]:
        each, real, other = found.at(k), widths[k], others[k]
        intervals = (
            f"real {each.real - real:.2f} to {each.real + real:.2f}, synthetic {each.synthetic - other:.2f} "
            f"to {each.synthetic + other:.2f}"
        )
        phrase = f"{each.phrase} ({intervals})"
        about = concerned(each, schema)
        rows.append(Row(phrase, abs(each.size), real=each.real, synthetic=each.synthetic, about=about))
    return rows
