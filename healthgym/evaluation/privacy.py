"""Privacy of whole patients: does the cohort give away who was in the training data?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from healthgym.evaluation.comparison import About, Comparison, Side
from healthgym.evaluation.figure import Figure, NotJudgedError, Row, Section
from healthgym.evaluation.panel import Panel
from healthgym.evaluation.patients import (
    Neighbours,
    Vectors,
    count_nearer,
    k_nearest,
    neighbours,
    sequence_vectors,
)
from healthgym.evaluation.ranking import (
    auc,
    auc_interval,
    bootstrap_interval,
    share_interval,
    true_positive_rate,
)
from healthgym.evaluation.tally import hash_rows

Floats = NDArray[np.float64]

_NEEDS_HOLDOUT = "Needs a holdout: real patients whom the maker of the cohort never saw."
_DCR_DELUSION = "sets that pass distance tests still leak (arXiv 2505.01524), so this comes first"
_ATTACK_NEIGHBOURS = 10

MEMBERSHIP = About(
    "privacy.membership_auc",
    "Membership inference, by distance",
    "How well somebody who holds a patient's record can tell that it was in the training data, because the "
    "cohort has a patient close to it: 50% is guessing, 100% is certainty.",
    f"AUC of training against holdout patients by distance to the nearest synthetic patient; {_DCR_DELUSION}",
    "percent",
)
MEMBERSHIP_TPR = About(
    "privacy.membership_tpr",
    "Membership of the most exposed",
    "The share of training patients who can be told from outsiders when only 1% of outsiders may be accused "
    "wrongly: 1% is guessing.",
    "True-positive rate at 1% false positives (Carlini et al., IEEE S&P 2022), same attack",
    "percent",
)
SHADOW = About(
    "privacy.membership_shadow",
    "Membership inference, trained attack",
    "The same question put to a classifier that was taught, on other patients whose membership it knew, "
    "which distances give a training patient away.",
    f"AUC of a logistic regression on the distances to the {_ATTACK_NEIGHBOURS} nearest synthetic patients, "
    "in five folds. It knows the other patients' membership, which a real attacker would have to guess by "
    "training shadow generators; no generator is trained here",
    "percent",
)
COPIES = About(
    "privacy.copies",
    "Copied patients",
    "Synthetic patients who equal a training patient in every value at every timestep; none is allowed.",
    "All synthetic patients, values as float32; near copies show in the smallest distance; the noise floor "
    "counts equal patients among real ones",
    "count",
)
COPIED_ROWS = About(
    "privacy.copied_rows",
    "Copied timesteps",
    "The share of synthetic timesteps that equal some training timestep in every value.",
    "Sampled patients, values as float32; the noise floor says how many real patients share by chance",
    "percent",
)
SMALLEST = About(
    "privacy.smallest_distance",
    "Smallest distance",
    "The distance of the closest pair of a synthetic and a training patient, in deviations per timestep; 0 "
    "would be a copy.",
    "As in the v1 paper (doi 10.1038/s41597-022-01784-7), there between timesteps, here between whole "
    "patients",
)
NEARER = About(
    "privacy.nearer_to_training",
    "Nearer to training than to holdout",
    "The share of synthetic patients whose closest real patient is a training rather than a holdout patient, "
    "both sets taken equally large: 50% is ideal.",
    "Distance to closest record against a holdout (Platzer and Reutterer, Front. Big Data 2021); the larger "
    "set is reduced in expectation over all subsets",
    "percent",
)
DISTANCE_RATIO = About(
    "privacy.distance_ratio",
    "Distance to the closest record",
    "The median distance from a synthetic patient to the nearest training patient, relative to that from a "
    "holdout patient: below 1 the synthetic patients lie closer than new real patients would.",
    "Ratio of medians; smooth or average patients lie close to everybody, so this alone is no verdict",
)
NEIGHBOUR_RATIO = About(
    "privacy.neighbour_ratio",
    "Nearest-neighbour distance ratio",
    "How much closer the nearest training patient is than the second nearest, for the 5% of synthetic "
    "patients where it is most so: near 1 nobody stands out, near 0 one training patient is singled out.",
    "5% quantile of the ratio; 'against the holdout' takes holdout patients for training ones",
)
ATTRIBUTE = About(
    "privacy.attribute_inference",
    "Attribute inference",
    "How much better the cohort predicts the later course of a training patient, of whom the static "
    "variables and the first timestep are known, than that of an outsider; 0% is no leak.",
    "Reduction of the error of the nearest synthetic patient, training against holdout patients",
    "percent",
)
DISCLOSURE = About(
    "privacy.disclosure",
    "Identity disclosure risk",
    "The chance that somebody who knows the static variables of a person links them to a real patient "
    "through the cohort, from the population to the sample or back, the larger of both; 9% is the accepted "
    "line.",
    "El Emam et al., JMIR 2020, doi 10.2196/23139, as in the v1 paper; every match counts as teaching "
    "something and as verified, which makes the risk larger than the paper's",
    "percent",
)


def section(comparison: Comparison) -> Section:
    """Judge privacy."""
    part = Section(
        "privacy",
        "Privacy",
        "Does the cohort give away who was in the training data, or what they had? Whole patients are "
        "compared, and real patients whom the maker never saw show what honest similarity looks like.",
    )
    if comparison.synthetic.panel.num_patients < comparison.synthetic.num_patients:
        part.notes.append(
            f"Distances use {comparison.synthetic.panel.num_patients:,} of "
            f"{comparison.synthetic.num_patients:,} synthetic patients; copies are looked for among all."
        )
    found = _Distances.of(comparison)
    part.figures = [
        *_membership(comparison, found),
        comparison.measured(COPIES, copied_patients),
        comparison.measured(COPIED_ROWS, copied_rows, num_splits=1),
        _smallest(comparison, found),
        _nearer(comparison, found),
        _distance_ratio(comparison, found),
        _neighbour_ratio(comparison, found),
        _attribute(comparison),
        _disclosure(comparison),
    ]
    return part


@dataclass(frozen=True)
class _Distances:
    """Vectors of all sets, and of two halves of the training data in the roles of training and synthetic."""

    train: Vectors
    holdout: Vectors | None
    synthetic: Vectors
    half: Vectors
    other_half: Vectors
    to_train: Neighbours

    @classmethod
    def of(cls, comparison: Comparison) -> "_Distances":
        steps = max(comparison.train.panel.num_timesteps, comparison.synthetic.panel.num_timesteps)
        half, other = comparison.halves[0]
        train, synthetic = (
            sequence_vectors(side.panel, steps) for side in (comparison.train, comparison.synthetic)
        )
        return cls(
            train,
            sequence_vectors(comparison.holdout.panel, steps) if comparison.holdout else None,
            synthetic,
            sequence_vectors(half.panel, steps),
            sequence_vectors(other.panel, steps),
            neighbours(synthetic, train),
        )


def _membership(comparison: Comparison, found: _Distances) -> list[Figure]:
    """Return the figures of membership inference: AUC, true-positive rate, trained attack."""
    if found.holdout is None:
        return [
            comparison.not_judged(about, _NEEDS_HOLDOUT) for about in (MEMBERSHIP, MEMBERSHIP_TPR, SHADOW)
        ]
    members, outsiders = (membership_scores(real, found.synthetic) for real in (found.train, found.holdout))
    # What fresh real patients would score: one half of the training data as the cohort of the other.
    fresh = [membership_scores(real, found.other_half) for real in (found.half, found.holdout)]
    trained = trained_attack(found.train, found.holdout, found.synthetic, comparison.config.seed)
    floor = trained_attack(found.half, found.holdout, found.other_half, comparison.config.seed)
    rate = true_positive_rate(members, outsiders)
    return [
        comparison.figure(
            MEMBERSHIP,
            auc(members, outsiders),
            auc(fresh[0], fresh[1]),
            interval=auc_interval(members, outsiders),
        ),
        comparison.figure(
            MEMBERSHIP_TPR,
            rate,
            true_positive_rate(fresh[0], fresh[1]),
            interval=share_interval(rate, len(members)),
        ),
        comparison.figure(SHADOW, auc(*trained), auc(*floor), interval=auc_interval(*trained)),
    ]


def membership_scores(real: Vectors, synthetic: Vectors) -> Floats:
    """Return how much each real patient looks like a member: minus the distance to the nearest synthetic."""
    return -neighbours(real, synthetic).nearest_N


def trained_attack(
    members: Vectors, outsiders: Vectors, synthetic: Vectors, seed: int
) -> tuple[Floats, Floats]:
    """Return a trained attack's scores of members and outsiders, each from a fold that it did not see."""
    distances = np.concatenate(
        [k_nearest(real, synthetic, _ATTACK_NEIGHBOURS)[0] for real in (members, outsiders)]
    )
    distances = np.log(np.maximum(distances, 1e-6))
    x = np.concatenate([distances, distances[:, :1] - distances[:, 1:]], axis=1)
    labels = np.r_[np.ones(len(members)), np.zeros(len(outsiders))]
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", C=0.1, max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, x, labels, cv=folds, method="predict_proba")[:, 1]
    return scores[: len(members)], scores[len(members) :]


def copied_patients(real: Side, synthetic: Side) -> dict[str, float]:
    """Return how many synthetic patients equal a real one."""
    return {"patients": float(np.isin(synthetic.tally.hashes_N, real.tally.hashes_N).sum())}


def copied_rows(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of synthetic timesteps that equal a real one."""
    if not real.panel.schema.reals:
        raise NotJudgedError("Without real variables equal timesteps say nothing.")
    return {"timesteps": float(np.isin(hash_rows(synthetic.panel), hash_rows(real.panel)).mean())}


def _smallest(comparison: Comparison, found: _Distances) -> Figure:
    """Return the smallest distance between a synthetic and a training patient."""
    floor = neighbours(found.other_half, found.half).nearest_N.min()
    holdout = (
        neighbours(found.synthetic, found.holdout).nearest_N.min() if found.holdout is not None else None
    )
    return comparison.figure(
        SMALLEST,
        float(found.to_train.nearest_N.min()),
        float(floor),
        None if holdout is None else float(holdout),
    )


def _nearer(comparison: Comparison, found: _Distances) -> Figure:
    """Return the share of synthetic patients nearer to training than to holdout patients."""
    if found.holdout is None:
        return comparison.not_judged(NEARER, _NEEDS_HOLDOUT)
    chances = nearer_to_first(found.synthetic, found.train, found.holdout)
    floor = nearer_to_first(found.other_half, found.half, found.holdout)
    return comparison.figure(
        NEARER,
        float(chances.mean()),
        float(floor.mean()),
        interval=bootstrap_interval(chances, comparison.config.seed),
    )


def nearer_to_first(queries: Vectors, first: Vectors, second: Vectors) -> Floats:
    """Return the chance that a query's nearest is in `first`, were both sets equally large, shape (N,).

    If `first` is the larger with n patients, c of them nearer than the nearest in `second` of m patients,
    the chance that a random subset of m has one of the c is 1 - C(n - c, m) / C(n, m).
    """
    if len(first) < len(second):
        return 1 - nearer_to_first(queries, second, first)
    n, m = len(first), len(second)
    nearer = count_nearer(queries, first, neighbours(queries, second).nearest_N)
    left = np.maximum(n - nearer, 0)
    none = gammaln(left + 1) - gammaln(np.maximum(left - m, 0) + 1) - gammaln(n + 1) + gammaln(n - m + 1)
    return np.asarray(1 - np.where(left >= m, np.exp(none), 0.0))


def _distance_ratio(comparison: Comparison, found: _Distances) -> Figure:
    """Return the median distance of synthetic to training patients over that of fresh real patients."""
    if found.holdout is None:
        return comparison.not_judged(DISTANCE_RATIO, _NEEDS_HOLDOUT)
    fresh = float(np.median(neighbours(found.holdout, found.train).nearest_N))
    if fresh <= 0:
        return comparison.not_judged(DISTANCE_RATIO, "Most holdout patients equal a training patient.")
    return comparison.figure(DISTANCE_RATIO, float(np.median(found.to_train.nearest_N)) / fresh, 1.0)


def _neighbour_ratio(comparison: Comparison, found: _Distances) -> Figure:
    """Return the 5% quantile of nearest over second nearest distance."""

    def low(near: Neighbours) -> float:
        return float(np.quantile(near.nearest_N / np.maximum(near.second_N, 1e-9), 0.05))

    holdout = low(neighbours(found.synthetic, found.holdout)) if found.holdout is not None else None
    return comparison.figure(
        NEIGHBOUR_RATIO, low(found.to_train), low(neighbours(found.other_half, found.half)), holdout
    )


def _attribute(comparison: Comparison) -> Figure:
    """Return how much better the later course of training than of holdout patients is predicted."""
    if comparison.holdout is None:
        return comparison.not_judged(ATTRIBUTE, _NEEDS_HOLDOUT)
    half, other = comparison.halves[0]
    try:
        value = attribute_advantage(
            comparison.train.panel, comparison.holdout.panel, comparison.synthetic.panel
        )
        floor = attribute_advantage(half.panel, comparison.holdout.panel, other.panel)
    except NotJudgedError as reason:
        return comparison.not_judged(ATTRIBUTE, str(reason))
    rows = [Row(name, number, floor.get(name)) for name, number in sorted(value.items(), key=lambda x: -x[1])]
    return comparison.figure(
        ATTRIBUTE, float(np.mean(list(value.values()))), float(np.mean(list(floor.values()))), rows=rows
    )


def attribute_advantage(members: Panel, outsiders: Panel, synthetic: Panel) -> dict[str, float]:
    """Return (error on outsiders - error on members) / error on outsiders for each variable that may change.

    The attacker takes the last value of the synthetic patient nearest in what is known: the static
    variables and the first timestep.
    """
    errors = [_attack_errors(panel, synthetic) for panel in (members, outsiders)]
    found = {
        name: float((errors[1][name] - errors[0][name]) / errors[1][name])
        for name in errors[0]
        if errors[1].get(name, 0.0) > 1e-9
    }
    if not found:
        raise NotJudgedError("No variable changes within a patient.")
    return found


def _attack_errors(real: Panel, synthetic: Panel) -> dict[str, float]:
    """Return the mean error of the attack on each variable's last value."""
    known, guessed = (sequence_vectors(panel.first(1), 1) for panel in (real, synthetic))
    nearest = neighbours(known, guessed).index_N
    truth, guess = (_last(panel) for panel in (real, synthetic))
    errors = {}
    for position, variable in enumerate(real.schema.encoded):
        if not variable.static:
            a, b = truth[:, position], guess[nearest, position]
            both = np.isfinite(a) & np.isfinite(b)
            if both.any():
                wrong = np.abs(a - b) if variable.kind == "real" else (a != b).astype(float)
                errors[variable.name] = float(wrong[both].mean())
    return errors


def _last(panel: Panel) -> Floats:
    """Return each patient's values at the last timestep, shape (N, V)."""
    return np.asarray(panel.values_NTV[np.arange(panel.num_patients), panel.lengths_N - 1])


def _disclosure(comparison: Comparison) -> Figure:
    """Return El Emam's risk of identity disclosure over the quasi-identifiers."""
    schema, config = comparison.schema, comparison.config
    names: Sequence[str] = (
        [variable.name for variable in schema.categoricals if variable.static]
        if config.quasi_identifiers == "auto"
        else config.quasi_identifiers
    )
    known = [variable.name for variable in schema.categoricals]
    if not names or any(name not in known for name in names):
        return comparison.not_judged(
            DISCLOSURE, "The schema has no static categorical variables that an attacker could know."
        )
    real, synthetic, other = (
        _groups(side, [known.index(name) for name in names])
        for side in (comparison.train, comparison.synthetic, comparison.halves[0][1])
    )
    population = max(config.population, len(real))
    risks = disclosure_risk(real, synthetic, population)
    floor = max(disclosure_risk(real, other, population))
    rows = [Row("population to sample", risks[0]), Row("sample to population", risks[1])]
    return comparison.figure(DISCLOSURE, max(risks), floor, rows=rows)


def disclosure_risk(
    real_n: NDArray[np.int64],
    synthetic: NDArray[np.int64],
    population: int,
    population_sizes_n: Floats | None = None,
) -> tuple[float, float]:
    """Return the risk from population to sample, and from sample to population.

    (1/N) sum_s I_s / f_s and (1/n) sum_s I_s / F_s, where I_s says that the synthetic data has real record
    s's group, f_s is the size of that group in the sample and F_s in the population.

    Args:
        real_n: group of each of the n real records.
        synthetic: groups of the synthetic records.
        population: N.
        population_sizes_n: F_s; without it f_s N / n.
    """
    _, inverse, counts = np.unique(real_n, return_inverse=True, return_counts=True)
    f = counts[inverse].astype(np.float64)
    big_f = population_sizes_n if population_sizes_n is not None else f * population / len(real_n)
    matched = np.isin(real_n, synthetic)
    return float((matched / f).sum() / population), float((matched / big_f).sum() / len(real_n))


def _groups(side: Side, positions: list[int]) -> NDArray[np.int64]:
    """Return one number per patient, equal where the quasi-identifiers at the first timestep are."""
    codes = side.panel.codes_NTK[:, 0, positions].astype(np.int64) + 1
    widths = [len(side.panel.schema.categoricals[position].classes) + 1 for position in positions]
    group = np.zeros(len(codes), dtype=np.int64)
    for column, width in zip(codes.T, widths, strict=True):
        group = group * width + column
    return group
