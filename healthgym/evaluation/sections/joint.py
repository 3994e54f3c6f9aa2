"""Variables together: are they related as in real patients, in all of them and in each group?"""

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.concerns import concerned
from healthgym.evaluation.families import family_result, two_decimals
from healthgym.evaluation.metric import Metric, metric
from healthgym.evaluation.pages import figures
from healthgym.evaluation.result import Figure, Noise, Result, Row, Section
from healthgym.evaluation.statistics.findings import lost_relations

Floats = NDArray[np.float64]

_SCORES = (
    "Pearson correlation of rank scores (reals), class numbers, single classes and whether a value changed; "
    "standard errors by patients' influence (Huber, Robust Statistics, 1981, section 3.2)"
)
_FEWEST_CLEAR = 3
_MOST_ROWS = 40

SAME_TIME = metric(
    "joint.same_time",
    "Worst relation at one time",
    "Two variables at the same timestep: how far their correlation is from the real one. Of all pairs, "
    "the largest difference that noise does not explain.",
    _SCORES,
)
BETWEEN = metric(
    "joint.between",
    "Worst relation between patients",
    "The averages of two variables over each patient: how far their correlation is from the real one, "
    "that is, whether patients who are high in one are high in the other. The largest difference that "
    "noise does not explain.",
    _SCORES,
)
BY_GROUP = metric(
    "joint.by_group",
    "Worst relation within a group",
    "Two variables at the same timestep, within one class of patients (such as women, or the oldest): "
    "how far their correlation is from the real one. The largest difference that noise does not "
    "explain.",
    _SCORES + "; groups of at least 40 patients on both sides",
)
EFFECTS = metric(
    "joint.effects",
    "Worst effect of a static variable",
    "How far the effect of a static variable on a patient's average, adjusted for the other static "
    "variables, is from the real effect; in standard deviations of that average.",
    "Least squares; standard errors HC3 (MacKinnon and White, J. Econometrics 1985)",
)
LOST = metric(
    "joint.lost",
    "Relations lost",
    "Of the clear relations of real patients (correlations of 0.15 or more), the share that the cohort "
    "has lost by more than half. It is near 0% in other real patients, and large if variables are "
    "independent.",
    _SCORES,
    "percent",
    gross=True,
)
_FAMILIES = ("same time", "between", "stratum")


def section(comparison: Comparison) -> Section:
    """Judge relations between variables."""
    part = Section(
        "joint",
        "Variables together",
        "Are variables related as they are in real patients: at one time, between patients and in each "
        "group?",
    )
    part.results = [
        lost_result(comparison, LOST, _FAMILIES),
        family_result(comparison, SAME_TIME, ["same time"], relations=True),
        family_result(comparison, BETWEEN, ["between"], relations=True),
        family_result(comparison, BY_GROUP, ["stratum"], relations=True),
        family_result(comparison, EFFECTS, ["effect"], relations=True),
    ]
    part.essential = frozenset({LOST.key})
    if not comparison.drawn:
        return part
    names = list(comparison.schema.names())
    real, synthetic = comparison.train.statistics.pearson_VV, comparison.synthetic.statistics.pearson_VV
    part.figures = triangles("pearson", "Pearson", real, synthetic, names)
    return part


def lost_result(comparison: Comparison, about: Metric, families: tuple[str, ...]) -> Result:
    """Return the share of clear real relations that the cohort has lost by more than half."""
    anchors, schema = comparison.anchors, comparison.schema
    clear, lost, which = lost_relations(comparison.compared, families, anchors.cut)
    if clear < _FEWEST_CLEAR:
        return comparison.not_judged(about, f"Real patients have {clear} clear relations: too few to count.")
    of_apart, lost_apart, _ = lost_relations(anchors.independent_compared, families, anchors.cut)
    return comparison.result(
        about,
        lost / clear,
        Noise(0.0, 0.0, lost_apart / max(of_apart, 1)),
        rows=[
            Row(d.phrase, abs(d.size), real=d.real, synthetic=d.synthetic, about=concerned(d, schema))
            for d in which[:_MOST_ROWS]
        ],
        finding=f"{lost} of {clear} clear relations lost"
        + (
            f", first of all {which[0].phrase}: "
            f"synthetic {two_decimals(which[0].synthetic)}, real {two_decimals(which[0].real)}"
            if which
            else ""
        ),
    )


def triangles(key: str, title: str, real_VV: Floats, synthetic_VV: Floats, names: list[str]) -> list[Figure]:
    """Draw a correlation matrix of real and of synthetic data, and their difference."""
    drawn = (
        ("real", real_VV, 1.0),
        ("synthetic", synthetic_VV, 1.0),
        ("difference", synthetic_VV - real_VV, 0.5),
    )
    return [
        figures.heat_map(
            f"{key}-{what}", f"{title}: {what}", matrix, names, names, limit, triangular=True, group=key
        )
        for what, matrix, limit in drawn
    ]
