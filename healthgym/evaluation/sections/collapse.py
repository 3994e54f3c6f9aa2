"""Mode collapse: does the cohort have every kind of patient, and the rare ones as often?"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import Comparison, Side
from healthgym.evaluation.metric import metric
from healthgym.evaluation.pages import figures
from healthgym.evaluation.result import Figure, NotJudgedError, Result, Row, Section, Verdict
from healthgym.evaluation.statistics.attacks.changed_copies import KEPT, Trimmed
from healthgym.evaluation.statistics.attacks.copies import nearest_other
from healthgym.evaluation.statistics.columns import FEWEST_SHOWN
from healthgym.evaluation.statistics.groups import Group, compared_groups
from healthgym.evaluation.statistics.patients import Vectors, k_nearest, neighbours, sequence_vectors
from healthgym.evaluation.statistics.sufficient import Combination
from healthgym.seeds import permutation

Floats = NDArray[np.float64]

COMMON = 0.005
_NEIGHBOURS = 5
_MOST_PATIENTS = 2000
_LEVEL = 0.005
_TWIN = 0.05
_NUM_SAMPLES = 5
_SURE = 1.96
_MOST_ROWS = 40
_NOBODY = "No synthetic patient is in the worst group, so there is no ratio."
_FEW = (
    f"The worst group has fewer than {FEWEST_SHOWN} real patients: the ratio would disclose their number and "
    "is not shown."
)

GROUPS = metric(
    "collapse.groups",
    "Groups kept",
    "Patients are put into groups: by the classes of static variables (alone, and two or three "
    "together) and by their most extreme values. Of the groups whose size differs by more than chance, "
    "how many times rarer or commoner the worst one is; 1 if none differs.",
    "Fisher's exact test at 0.5% with Bonferroni's correction over groups of at least five real patients; "
    "interval by Katz et al., Biometrics 1978",
)
TWINS = metric(
    "collapse.twins",
    "Twins within the cohort",
    "The share of synthetic patients who are unusually like another synthetic patient: closer than 95% "
    f"of real patients are to any other real patient, in the {KEPT:.0%} of variables in which the two "
    "differ least. 5% is expected; more means that the same patients are repeated.",
    "Own definition, on equally many patients of each, at most 2,000; interval by the binomial law with "
    "twice its variance, as twins come in pairs",
    "percent",
)
KNN_COVERAGE = metric(
    "collapse.knn_coverage",
    "Real patients with a synthetic neighbour",
    "The share of real patients who have a synthetic patient at least as close as their fifth closest "
    "real patient. It is low where the cohort lacks a kind of patient.",
    "Coverage of Naeem et al., ICML 2020, arXiv 2002.09797, with k = 5, between whole patients; equally many "
    f"of each, at most {_MOST_PATIENTS:,}",
    "percent",
    gross=True,
)
DIVERSITY = metric(
    "collapse.diversity",
    "Diversity",
    "The median distance from a synthetic patient to the closest other synthetic patient, divided by "
    "the same distance among real patients. 1 means equally diverse; near 0, the same patient is "
    "repeated.",
    f"Own definition, on equally many patients of each, at most {_MOST_PATIENTS:,}",
    gross=True,
)
DUPLICATES = metric(
    "collapse.duplicates",
    "Repeated patients",
    "The share of synthetic patients who equal an earlier synthetic patient in every value.",
    "All synthetic patients, values as float32",
    "percent",
    counts_all=True,
)


def section(comparison: Comparison) -> Section:
    """Judge the coverage of patient groups."""
    part = Section(
        "collapse",
        "Mode collapse",
        "Does the cohort have every kind of patient, the rare ones as well? A collapsed generator makes the "
        "same few patients again and again.",
    )
    part.results = [
        _groups_result(comparison),
        _twins_result(comparison),
        comparison.metric_result(KNN_COVERAGE, knn_coverage, "smallest"),
        comparison.metric_result(DIVERSITY, diversity, "smallest"),
        comparison.metric_result(DUPLICATES, duplicates),
    ]
    for names in _crossed(comparison.train) if comparison.drawn else []:
        part.figures += _heat_maps(comparison, names)
    return part


def _groups_result(comparison: Comparison) -> Result:
    """Judge the group whose number differs most beyond chance."""
    groups = compared_groups(comparison.train.panel, comparison.synthetic.panel)
    if not groups:
        return comparison.not_judged(GROUPS, "No group of patients can be counted.")
    differ = [group for group in groups if group.p < _LEVEL]
    if not differ:
        seen = _detectable(comparison)
        result = comparison.result(GROUPS, 1.0, finding=f"none of {len(groups)} groups differs beyond chance")
        return replace(
            result,
            reason=f"A group of fewer than {seen} real patients could be missing without being detected.",
        )
    worst = max(differ, key=_times)
    value, (low, high) = _times(worst), worst.ratio_interval
    interval = (low, high) if worst.ratio > 1 else (1 / high, 1 / low)
    rows = [_row(group) for group in differ]
    result = comparison.result(
        GROUPS, value, interval=interval, rows=rows[:_MOST_ROWS], finding=_in_words(worst)
    )
    if result.verdict in (Verdict.PASS, Verdict.NOT_JUDGED):
        result = replace(result, verdict=Verdict.CAUTION)
    if worst.real >= FEWEST_SHOWN and worst.synthetic:
        return result
    # A ratio to no patient is no number, and one to a few patients discloses how many they are.
    few = worst.real < FEWEST_SHOWN
    return replace(
        result,
        value=None,
        interval=None,
        shown="not shown" if few else f"0 of {worst.num_synthetic:,}",
        reason=f"{_FEW if few else _NOBODY} {result.reason}".strip(),
    )


def _row(group: Group) -> Row:
    if group.real < FEWEST_SHOWN:
        return Row(f"{group.name} (fewer than {FEWEST_SHOWN} real patients)", None, about=group.about)
    return Row(
        group.name,
        _times(group) if group.synthetic else None,
        real=group.real / group.num_real,
        synthetic=group.synthetic / group.num_synthetic,
        about=group.about,
    )


def _times(group: Group) -> float:
    """Return how many times rarer or commoner a group is, half a patient added to each number."""
    ratio = ((group.synthetic + 0.5) / (group.num_synthetic + 0.5)) / (
        (group.real + 0.5) / (group.num_real + 0.5)
    )
    return max(ratio, 1 / ratio)


def _in_words(group: Group) -> str:
    if group.real < FEWEST_SHOWN:
        return f"{group.name}: fewer than {FEWEST_SHOWN} real patients, and another share of synthetic ones"
    return (
        f"{group.name}: {100 * group.synthetic / group.num_synthetic:.1f}% of synthetic patients, "
        f"{100 * group.real / group.num_real:.1f}% of real ones"
    )


def _detectable(comparison: Comparison) -> int:
    """Return how many real patients a group must have for its absence to be seen, roughly.

    With equally large sets the chance of none of 2k patients of a group being synthetic is 1/2^k.
    """
    share = comparison.synthetic.panel.num_patients / comparison.train.panel.num_patients
    return int(np.ceil(np.log(_LEVEL / 200) / np.log(1 / (1 + share))))


def _twins_result(comparison: Comparison) -> Result:
    """Judge the share of twins by its interval; twins come in pairs, which doubles the variance."""
    try:
        share = twins(comparison.train, comparison.synthetic)["patients"]
    except NotJudgedError as reason:
        return comparison.not_judged(TWINS, str(reason))
    count = len(_vectors(comparison.train, comparison.synthetic)[1])
    half = _SURE * float(np.sqrt(2 * share * (1 - share) / count))
    return comparison.result(
        TWINS,
        share,
        interval=(max(0.0, share - half), min(1.0, share + half)),
        finding=f"{100 * share:.1f}% of synthetic patients have a twin, where {100 * _TWIN:.0f}% is "
        "expected; fewer is not a fault",
    )


def twins(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of synthetic patients with another one nearer than 95% of real ones have.

    Raises:
        NotJudgedError: real patients equal each other too often.
    """
    one, other = _vectors(real, synthetic)
    trimmed = Trimmed(one, real.panel.schema)
    nearest = trimmed.nearest_other if trimmed.usable else nearest_other
    steps = max(each.panel.num_timesteps for each in (real, synthetic))
    limit = _twin_distance(real, len(other), steps, nearest)
    if limit <= 0 and trimmed.usable:
        nearest = nearest_other
        limit = _twin_distance(real, len(other), steps, nearest)
    if limit <= 0:
        raise NotJudgedError("Many real patients equal another real patient.")
    return {"patients": float(np.mean(nearest(other) < limit))}


def _twin_distance(real: Side, count: int, num_timesteps: int, nearest: Callable[[Vectors], Floats]) -> float:
    """Return the distance within which 5% of `count` real patients have another, on average over samples."""
    number = real.panel.num_patients
    samples = [
        np.sort(permutation(number, real.seed, "twins", k)[:count])
        for k in range(_NUM_SAMPLES if count < number else 1)
    ]
    vectors = (sequence_vectors(real.panel.take(rows), num_timesteps) for rows in samples)
    return float(np.mean([np.quantile(nearest(each), _TWIN) for each in vectors]))


def knn_coverage(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of real patients with a synthetic one within the radius of their fifth real
    neighbour."""
    one, other = _vectors(real, synthetic)
    if len(one) <= _NEIGHBOURS:
        raise NotJudgedError(f"{len(one)} patients are too few for {_NEIGHBOURS} neighbours each.")
    radius = k_nearest(one, one, _NEIGHBOURS + 1)[0][:, -1]
    return {"patients": float(np.mean(neighbours(one, other).nearest_N <= radius))}


def diversity(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the median distance to the nearest neighbour among synthetic over that among real patients."""
    medians = [float(np.median(k_nearest(each, each, 2)[0][:, 1])) for each in _vectors(real, synthetic)]
    if medians[0] <= 0:
        raise NotJudgedError("Most real patients equal another real patient.")
    return {"patients": medians[1] / medians[0]}


def duplicates(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of synthetic patients that repeat another."""
    count = len(synthetic.hashes_N)
    return {"patients": (count - len(np.unique(synthetic.hashes_N))) / count}


def _vectors(real: Side, synthetic: Side) -> list[Vectors]:
    """Return equally many patients of both sides as vectors."""
    count = min(real.panel.num_patients, synthetic.panel.num_patients, _MOST_PATIENTS)
    steps = max(real.panel.num_timesteps, synthetic.panel.num_timesteps)
    return [
        sequence_vectors(
            side.panel.take(
                np.sort(permutation(side.panel.num_patients, side.seed, "neighbours", side.name)[:count])
            ),
            steps,
        )
        for side in (real, synthetic)
    ]


def _crossed(side: Side) -> list[Combination]:
    """Return the combinations to look at: those of several variables, else single ones."""
    several = [names for names in side.combinations if len(names) > 1]
    return several or list(side.combinations)


def _heat_maps(comparison: Comparison, names: Combination) -> list[Figure]:
    """Draw the shares of two crossed variables; the first two of a triple are put in the rows."""
    title, key = " x ".join(names), "-".join(names)
    labels = [comparison.schema[name].labels for name in names]
    if len(names) == 1:
        labels, names = [("all",), *labels], ("", *names)
    rows = labels[0] if len(names) == 2 else [f"{a}, {b}" for a in labels[0] for b in labels[1]]
    drawn = []
    for what, side in (("real", comparison.train), ("synthetic", comparison.synthetic)):
        counts = side.statistics.coverage[tuple(name for name in names if name)].reshape(
            len(rows), len(labels[-1])
        )
        shares = counts / max(counts.sum(), 1)
        if what == "real":
            shares = np.where((counts > 0) & (counts < FEWEST_SHOWN), np.nan, shares)
        drawn.append(
            figures.heat_map(
                f"coverage-{key}-{what}", f"{title}: {what}, % of patients (blank: 1 to 9)", shares, rows,
                labels[-1], as_percent=True, group=key,
            )
        )  # fmt: skip
    return drawn
