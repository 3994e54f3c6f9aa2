"""Disclosure: what an attacker who knows a person in part can learn from the cohort."""

import math

import numpy as np
from numpy.typing import NDArray

from healthgym.errors import ConfigError, listed
from healthgym.evaluation.comparison import Comparison, Side
from healthgym.evaluation.metric import metric
from healthgym.evaluation.result import NotJudgedError, Result, Row
from healthgym.evaluation.settings import ReportConfig
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.patients import neighbours, sequence_vectors
from healthgym.evaluation.statistics.sufficient import Combination
from healthgym.schema import Schema

Floats = NDArray[np.float64]

NEEDS_HOLDOUT = (
    "Not judged: this needs enough held-out patients, that is, real patients that were not used for training."
)
_MOST_GROUPS = 1_000_000

ATTRIBUTE = metric(
    "privacy.attribute_inference",
    "Attribute inference",
    "An attacker knows the static variables and the first timestep of a patient, and guesses the last "
    "timestep from the cohort. How much smaller the error is for training patients than for patients "
    "outside the training data, on average over variables; 0% means no leak.",
    "Own definition: reduction of the error of a guess from the synthetic patient nearest in what is known, "
    "training against holdout patients; sampled patients",
    "percent",
)
DISCLOSURE = metric(
    "privacy.disclosure",
    "Identity disclosure risk",
    "The probability that somebody who knows a person's static variables finds that person's record "
    "through the cohort. The search goes from the population to the training data or the other way; the"
    " larger probability counts. 9% is the accepted limit.",
    "El Emam et al., JMIR 2020, doi 10.2196/23139, as in the v1 paper; every match counts as "
    "informative and as verified, which makes the risk larger than the paper's. All patients",
    "percent",
    counts_all=True,
)


def attribute_result(comparison: Comparison) -> Result:
    """Return how much better the later course of training than of holdout patients is predicted."""
    if comparison.holdout is None:
        return comparison.not_judged(ATTRIBUTE, NEEDS_HOLDOUT)
    try:
        value = attribute_advantage(
            comparison.train.panel, comparison.holdout.panel, comparison.synthetic.panel
        )
    except NotJudgedError as reason:
        return comparison.not_judged(ATTRIBUTE, str(reason))
    ordered = sorted(value.items(), key=lambda x: -x[1])
    rows = [Row(name, number, about=(name,)) for name, number in ordered]
    return comparison.result(ATTRIBUTE, float(np.mean(list(value.values()))), rows=rows)


def attribute_advantage(members: Panel, outsiders: Panel, synthetic: Panel) -> dict[str, float]:
    """Return (error on outsiders - error on members) / error on outsiders for each variable that may change.

    The attacker takes the last value of the synthetic patient nearest in what is known: the static
    variables and the first timestep.
    """
    errors = [_attack_errors(_with_a_course(panel), synthetic) for panel in (members, outsiders)]
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


def _with_a_course(panel: Panel) -> Panel:
    """Return the patients with more than one timestep: of others all is known.

    Raises:
        NotJudgedError: there are none.
    """
    kept = np.flatnonzero(panel.lengths_N > 1)
    if not len(kept):
        raise NotJudgedError("Patients have one timestep only.")
    return panel.take(kept)


def _last(panel: Panel) -> Floats:
    """Return each patient's values at the last timestep, shape (N, V)."""
    return np.asarray(panel.values_NTV[np.arange(panel.num_patients), panel.lengths_N - 1])


def identifiers_of(schema: Schema, config: ReportConfig) -> Combination:
    """Return the names of the variables by which an attacker may know a person.

    Raises:
        ConfigError: the settings name one that is no binary or categorical variable of the schema.
    """
    if config.quasi_identifiers == "auto":
        return tuple(variable.name for variable in schema.categoricals if variable.static)
    known = [variable.name for variable in schema.categoricals]
    unknown = [name for name in config.quasi_identifiers if name not in known]
    if unknown:
        raise ConfigError(
            f"quasi_identifiers: {listed(unknown)}: expected binary or categorical variables of the schema "
            f"'{schema.name}': {listed(known) or 'it has none'}."
        )
    return config.quasi_identifiers


def can_be_counted(names: Combination, schema: Schema) -> bool:
    """Return whether the variables make so few groups of patients that all can be counted."""
    return math.prod(len(schema[name].classes) for name in names) <= _MOST_GROUPS


def disclosure_result(comparison: Comparison) -> Result:
    """Return El Emam's risk of identity disclosure over the quasi-identifiers."""
    names = comparison.identifiers
    if not names:
        return comparison.not_judged(
            DISCLOSURE, "The schema has no static categorical variables that an attacker could know."
        )
    if not can_be_counted(names, comparison.schema):
        return comparison.not_judged(
            DISCLOSURE,
            f"{listed(names)} make more than {_MOST_GROUPS:,} groups; name fewer as quasi_identifiers.",
        )
    real, synthetic = _groups(comparison.train, names), _groups(comparison.synthetic, names)
    if not len(real):
        return comparison.not_judged(DISCLOSURE, f"No training patient has {listed(names)}.")
    population = max(comparison.config.population, len(real))
    risks = disclosure_risk(real, synthetic, population)
    rows = [Row("population to sample", risks[0]), Row("sample to population", risks[1])]
    return comparison.result(DISCLOSURE, max(risks), rows=rows)


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


def _groups(side: Side, names: Combination) -> NDArray[np.int64]:
    """Return one number per patient, of all patients, equal where the quasi-identifiers are."""
    counts = side.statistics.coverage[names].ravel()
    return np.repeat(np.arange(len(counts)), counts)
