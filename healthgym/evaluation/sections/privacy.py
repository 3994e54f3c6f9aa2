"""Privacy of whole patients: does the cohort disclose who was in the training data?"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.metric import Metric, metric
from healthgym.evaluation.result import Noise, Result, Section
from healthgym.evaluation.sections.disclosure import NEEDS_HOLDOUT, attribute_result, disclosure_result
from healthgym.evaluation.sections.distances import ATTACKED, Distances
from healthgym.evaluation.statistics.attacks.chance import Coincidences, coincidences, copied_by_group
from healthgym.evaluation.statistics.attacks.changed_copies import KEPT, LARGEST_TRIMMED_RATIO
from healthgym.evaluation.statistics.attacks.copies import (
    FEWEST_VALUES,
    FIRST_LONG_GROUP,
    LARGEST_RATIO,
    Courses,
    allowed_by_chance,
    chance_courses,
    copy_limit,
    copy_ratios,
    course_hashes,
    course_window,
    relative,
    repeated_courses,
)
from healthgym.evaluation.statistics.attacks.membership import (
    ATTACK_NEIGHBOURS,
    as_if_equal,
    effective_nearest,
    nearer_interval,
    nearest_in_first,
    trained_attack,
)
from healthgym.evaluation.statistics.models.ranking import (
    auc,
    auc_interval,
    rate_interval,
    true_positive_rate,
)
from healthgym.evaluation.statistics.patients import squared_distances

Floats = NDArray[np.float64]

_DCR_DELUSION = "sets that pass distance tests still leak (arXiv 2505.01524), so this comes first"
_FEW_NEAREST = 30
_LEAST_LIMIT = 0.02  # of a ratio of distances
_SHORTEST_COURSE = 6

MEMBERSHIP = metric(
    "privacy.membership_auc",
    "Membership inference, by distance",
    "How well somebody who holds a patient's record can tell, from the closest synthetic patient, "
    "whether it was in the training data. 50% is guessing, 100% is certainty.",
    "AUC of training against holdout patients by distance to the nearest synthetic patient; interval by "
    f"DeLong et al. 1988, over patients; {_DCR_DELUSION}",
    "percent",
)
MEMBERSHIP_TPR = metric(
    "privacy.membership_tpr",
    "Membership of the most exposed",
    "The share of training patients who are recognised as such if no more than 1% of patients outside "
    "the training data may be taken for training patients. 1% is guessing.",
    "True-positive rate at 1% false positives (Carlini et al., IEEE S&P 2022), same attack; interval by "
    "bootstrap of training and of holdout patients",
    "percent",
)
SHADOW = metric(
    "privacy.membership_shadow",
    "Membership inference, trained attack",
    "How well a classifier distinguishes training patients from others by their distances to the closest "
    "synthetic patients, trained on patients whose membership is known. 50% is guessing.",
    f"AUC of a logistic regression on the distances to the {ATTACK_NEIGHBOURS} nearest synthetic patients, "
    "in five folds. It knows the other patients' membership, which a real attacker would have to guess by "
    "training shadow generators; no generator is trained here",
    "percent",
)
COPIES = metric(
    "privacy.copies",
    "Copied patients",
    "The number of synthetic patients who equal a training patient in every value at every timestep. "
    "None is allowed, except as many as chance explains among patients with few values.",
    "All synthetic patients, values as float32; own definition of chance: by how often real patients with "
    "about as many values are equal, or differ in one variable only",
    "count",
    counts_all=True,
)
NEAR_COPIES = metric(
    "privacy.near_copies",
    "Near copies",
    "The number of synthetic patients who are so close to a training patient that chance would produce "
    "one in at most two of a thousand cohorts. Distances are relative to that patient's closest other "
    f"real patient, and are taken over all variables and over the {KEPT:.0%} in which the two differ "
    "least. Exact copies that chance explains are not counted again, and records of fewer than "
    f"{FEWEST_VALUES} values are left out: they can be alike by chance.",
    f"Own definition: ratio of distances below {LARGEST_RATIO:g} (in most variables "
    f"{LARGEST_TRIMMED_RATIO:g}), and below what the smallest ratios of real patients who are not copies "
    "allow (Hill, Annals of Statistics 1975)",
    "count",
)
COURSES = metric(
    "privacy.courses",
    "Repeated courses",
    "The number of synthetic patients in whom a stretch of one variable repeats that of a training "
    "patient value by value, at any time. This finds copies in which other variables were changed, "
    "copies moved in time, and copies of a part of a record.",
    "Own definition: {window} timesteps of a real variable with at least {distinct} distinct values; sampled "
    "patients",
    "count",
)
NEARER = metric(
    "privacy.nearer_to_training",
    "Nearer to training than to holdout",
    "The share of synthetic patients whose closest real patient is a training rather than a holdout "
    "patient, corrected for the sizes of the two sets. 50% is ideal.",
    "Distance to closest record against a holdout (Platzer and Reutterer, Front. Big Data 2021), who take "
    "sets of one size; here the odds are divided by the ratio of sizes, which keeps all patients. Equally "
    "near ones share a patient; interval by delete-half jackknife (Shao and Wu 1989) over all three sets",
    "percent",
)


def section(comparison: Comparison) -> Section:
    """Judge privacy."""
    part = Section(
        "privacy",
        "Privacy",
        "Does the cohort disclose who was in the training data, or what they had? Whole patients are "
        "compared, and held-out patients show how similar unrelated patients are.",
    )
    part.notes += comparison.unused
    if comparison.all_synthetic is not None and comparison.holdout:
        part.notes.append(
            f"Membership inference compares all {comparison.synthetic.num_patients:,} synthetic patients "
            f"with at most {ATTACKED:,} training and {ATTACKED:,} holdout patients. Near copies are "
            "searched for among these and among the sampled patients."
        )
    part.essential = frozenset(about.key for about in (MEMBERSHIP, SHADOW))
    found = Distances.of(comparison)
    part.results = [
        *_membership(comparison, found),
        _copies(comparison),
        _near_copies(comparison, found),
        _courses(comparison),
        _nearer(comparison, found),
        attribute_result(comparison),
        disclosure_result(comparison),
    ]
    return part


def _membership(comparison: Comparison, found: Distances) -> list[Result]:
    """Return the metrics of membership inference: AUC, true-positive rate, trained attack."""
    if found.holdout is None or found.attacked is None:
        return [comparison.not_judged(about, NEEDS_HOLDOUT) for about in (MEMBERSHIP, MEMBERSHIP_TPR, SHADOW)]
    members, outsiders = (-distances[:, 0] for distances in found.attacked)
    trained = trained_attack(*found.attacked, comparison.config.seed)
    rate = true_positive_rate(members, outsiders)
    few = (
        f"With {len(outsiders)} held-out patients, 1% is less than one patient: the rate is given for no "
        "false positive."
    )
    value, value_trained = auc(members, outsiders), auc(*trained)
    return [
        comparison.result(
            MEMBERSHIP, value, interval=auc_interval(members, outsiders), finding=_of_pairs(value)
        ),
        comparison.result(
            replace(MEMBERSHIP_TPR, note=few if len(outsiders) < 100 else ""),
            rate,
            interval=rate_interval(members, outsiders, comparison.config.seed),
            finding=_of_rate(rate, len(outsiders)),
        ),
        comparison.result(
            SHADOW, value_trained, interval=auc_interval(*trained), finding=_of_pairs(value_trained)
        ),
    ]


def _of_rate(rate: float, num_outsiders: int) -> str:
    """Say a true-positive rate for people."""
    found = f"{100 * rate:.1f}% of training patients are found while"
    if num_outsiders < 100:
        return f"{found} none of the others is accused wrongly; guessing finds {1 / (num_outsiders + 1):.1%}"
    return f"{found} 1% of others are accused wrongly; guessing finds 1%"


def _of_pairs(value: float) -> str:
    """Say an AUC for people."""
    return (
        f"shown a training patient and one outside the training data, it picks the right one "
        f"{100 * value:.0f} times in 100; guessing does 50 times"
    )


def _copies(comparison: Comparison) -> Result:
    """Count synthetic patients who equal a training patient."""
    equal = _Equal.of(comparison)
    return _count_result(comparison, COPIES, equal.count, equal.allowed, comparison.synthetic.num_patients)


@dataclass(frozen=True)
class _Equal:
    """Synthetic patients who equal a training patient.

    Args:
        count: of them.
        by_chance: those whom chance explains.
        long_by_chance: of these, those who equal a patient with at least 16 values.
        allowed: how many may be there by chance; not above `by_chance` if it does not explain all.
    """

    count: int
    by_chance: int
    long_by_chance: int
    allowed: int

    @classmethod
    def of(cls, comparison: Comparison) -> "_Equal":
        train, synthetic = comparison.train, comparison.synthetic
        chance = comparison.anchors.once("coincidences", lambda: _coincidences(comparison))
        copied_G = copied_by_group(synthetic.hashes_N, train.hashes_N, train.groups_N)
        allowed_G = chance.at_most(synthetic.num_patients)
        by_chance_G = np.minimum(copied_G, allowed_G)
        count, by_chance = int(copied_G.sum()), int(by_chance_G.sum())
        allowed = int(allowed_G.sum()) if by_chance == count else by_chance
        return cls(count, by_chance, int(by_chance_G[FIRST_LONG_GROUP:].sum()), allowed)


def _coincidences(comparison: Comparison) -> Coincidences:
    train, holdout = comparison.train, comparison.holdout
    times = train.num_patients / train.panel.num_patients
    return coincidences(train.panel, holdout.panel if holdout else None, times)


def _near_copies(comparison: Comparison, found: Distances) -> Result:
    """Count synthetic patients far too close to a training patient.

    Of a cohort of which a sample is compared, all patients are walked through for some training patients.
    """
    if not found.own.any():
        return comparison.not_judged(
            NEAR_COPIES,
            f"No record has {FEWEST_VALUES} values: a near copy cannot be distinguished from chance.",
        )
    limit = copy_limit(found.unrelated, comparison.synthetic.num_patients)
    if limit < _LEAST_LIMIT:
        return comparison.not_judged(
            NEAR_COPIES, "Real patients are too similar to each other to distinguish near copies from chance."
        )
    ratios = copy_ratios(found.synthetic, found.train, found.own)
    near = ratios < limit
    say = f"A near copy is nearer than {limit:.2f} times the distance between real patients"
    if found.changed:
        most = relative(*found.changed.trimmed.nearest(found.synthetic, found.train), found.changed.own)
        limit_of_most = copy_limit(
            found.changed.unrelated, comparison.synthetic.num_patients, LARGEST_TRIMMED_RATIO
        )
        near |= most < limit_of_most
        say += f", or {limit_of_most:.2f} times over the {KEPT:.0%} of variables that differ least"
    count, counted = int(near.sum()), comparison.synthetic.panel.num_patients
    if comparison.all_synthetic is not None and found.attacked is not None:
        nearest = found.attacked[0][:, 0]
        of_all = int((nearest < limit * found.own[: len(nearest)]).sum())
        if of_all > count:
            count, counted = of_all, comparison.synthetic.num_patients
    count = max(count - _Equal.of(comparison).long_by_chance, 0)
    # How near the nearest lies is not said: that is one real patient's.
    return replace(_count_result(comparison, NEAR_COPIES, count, 0.0, counted), reason=f"{say}.")


def _courses(comparison: Comparison) -> Result:
    """Count synthetic patients who repeat a course of a training patient."""
    window = course_window(
        min(comparison.train.panel.num_timesteps, comparison.synthetic.panel.num_timesteps)
    )
    about = replace(COURSES, source=COURSES.source.format(window=window, distinct=window // 2))
    if window < _SHORTEST_COURSE or not any(not v.static for v in comparison.schema.reals):
        return comparison.not_judged(about, "Courses are too short, or there is no real variable.")
    train, chance = comparison.anchors.once(f"courses {window}", lambda: _real_courses(comparison, window))
    count = repeated_courses(train, course_hashes(comparison.synthetic.panel, window))
    others = comparison.holdout or comparison.halves[1]
    allowed = allowed_by_chance(chance, others.panel.num_patients, comparison.synthetic.panel.num_patients)
    return _count_result(comparison, about, count, allowed, comparison.synthetic.panel.num_patients)


def _real_courses(comparison: Comparison, window: int) -> tuple[Courses, int]:
    """Return the courses of training patients, and how many other real patients repeat one by chance."""
    train = course_hashes(comparison.train.panel, window)
    if comparison.holdout:
        return train, chance_courses(train, course_hashes(comparison.holdout.panel, window))
    half, other = (course_hashes(side.panel, window) for side in comparison.halves)
    return train, chance_courses(half, other)


def _count_result(
    comparison: Comparison, about: Metric, count: int, by_chance: float, counted: int
) -> Result:
    """Judge how many of the synthetic patients counted; the number that chance explains is the noise."""
    found = f"{count:,} of {counted:,} synthetic patients" if count else "none found"
    if 0 < count <= by_chance:
        found += ", no more than chance makes among real patients"
    return comparison.result(about, float(count), Noise(by_chance, by_chance), finding=found)


def _nearer(comparison: Comparison, found: Distances) -> Result:
    """Return the share of synthetic patients nearer to training than to holdout patients."""
    if found.holdout is None:
        return comparison.not_judged(NEARER, NEEDS_HOLDOUT)
    to_train, to_holdout = (squared_distances(found.synthetic, real) for real in (found.train, found.holdout))
    shared = effective_nearest(to_train, to_holdout)
    few = (
        f"The nearest real patients are few ({shared:.0f} in effect). Whether these are training patients is "
        "partly chance, so a collapsed cohort can fail here without copies; see the interval."
    )
    return comparison.result(
        replace(NEARER, note=few if shared < _FEW_NEAREST else ""),
        as_if_equal(
            float(nearest_in_first(to_train, to_holdout).mean()), len(found.train), len(found.holdout)
        ),
        interval=nearer_interval(to_train, to_holdout, comparison.config.seed),
    )
