"""Regressions on real and synthetic patients: known coefficients, clustered errors, invalid formulas."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from healthgym.errors import ConfigError
from healthgym.evaluation.settings import Effect
from healthgym.evaluation.statistics.models.regression import (
    Analysis,
    default_effects,
    effects_of,
    scale_of,
)
from healthgym.evaluation.statistics.panel import Panel, panel_from_frame
from healthgym.schema import Schema

VARIABLES: list[dict[str, Any]] = [
    {"name": "age", "kind": "real", "static": True},
    {"name": "sex", "kind": "binary", "classes": {0: "Male", 1: "Female"}, "static": True},
    {"name": "a + b", "kind": "real", "unit": "mg"},
    {"name": "on drug", "kind": "binary", "classes": {0: "no", 1: "yes"}},
    {"name": "futime", "kind": "real", "static": True},
    {"name": "status", "kind": "categorical", "static": True,
     "classes": {0: "censored", 1: "dead", 2: "transplanted"}},
]  # fmt: skip
SCHEMA = Schema.model_validate(
    {
        "name": "s",
        "timestep_unit": "day",
        "variables": VARIABLES,
        "follow_up": {"time": "futime", "event": "status", "unit": "day"},
    }
)
STEPS = 5


def panel(num_patients: int = 2000, seed: int = 0, effect: float = 1.0) -> Panel:
    """Patients of whom every coefficient is known, each with a level of its own that time does not change."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(num_patients), STEPS)
    step = np.tile(np.arange(STEPS), num_patients)
    age, sex = random.normal(60, 10, num_patients), random.integers(0, 2, num_patients)
    own = random.normal(0, 1, num_patients)
    hazard = np.exp(effect * (0.8 * (age - 60) / 10 - 0.5 * sex))
    time, end = random.exponential(1 / hazard), random.exponential(3, num_patients)
    status = np.where(time < end, random.integers(1, 3, num_patients), 0)
    value = (effect * (0.5 * age + 4 * sex) + 3 * own)[patient] + 2 * step + random.normal(0, 1, len(patient))
    odds = np.exp((effect * 1.0 * sex + own / 2)[patient] - 0.5 * step)
    drug = (random.random(len(patient)) < odds / (1 + odds)).astype(int)
    frame = pd.DataFrame({"PatientID": patient, "Timestep": step, "a + b": value})
    frame["age"], frame["futime"] = age[patient], np.minimum(time, end)[patient] + STEPS
    frame["sex"] = np.array(["Male", "Female"])[sex[patient]]
    frame["on drug"] = np.array(["no", "yes"])[drug]
    frame["status"] = np.array(["censored", "dead", "transplanted"])[status[patient]]
    return panel_from_frame(frame, SCHEMA, "a test")


def found(effect: Mapping[str, Any], patients: Panel) -> dict[str, tuple[float, float]]:
    scale = dict.fromkeys(range(-1, len(SCHEMA.encoded)), 1.0)
    analysis = Analysis(Effect.model_validate({"name": "it", "schema": "s"} | dict(effect)), SCHEMA)
    names, estimates, errors = analysis.coefficients(patients, scale)
    return dict(zip(names, zip(estimates.tolist(), errors.tolist(), strict=True), strict=True))


def test_a_linear_model_finds_what_is_there_with_errors_by_patients() -> None:
    of = found({"formula": '"a + b" ~ timestep + age + sex'}, panel())
    for name, truth in {"timestep": 2.0, "age": 0.5, "sex = Female": 4.0}.items():
        estimate, error = of[name]
        assert abs(estimate - truth) < 4 * error, name
    # Of 2,000 patients with a deviation of 3 of their own, halves differ by 3 x 2 / sqrt(2000).
    assert of["sex = Female"][1] == pytest.approx(3 * 2 / 2000**0.5, rel=0.1)
    assert of["timestep"][1] < 0.02


def test_an_interaction() -> None:
    of = found({"formula": '"a + b" ~ timestep + sex + sex:timestep'}, panel())
    assert set(of) == {"timestep", "sex = Female", "sex = Female with timestep"}
    estimate, error = of["sex = Female with timestep"]
    assert abs(estimate) < 4 * error


def test_a_logistic_model_and_coxs_model_find_the_direction() -> None:
    patients = panel()
    of = found({"formula": "on drug ~ timestep + sex", "family": "logistic"}, patients)
    assert of["timestep"][0] == pytest.approx(-0.48, abs=0.05)  # a little nearer to 0 than given a patient
    assert of["sex = Female"][0] == pytest.approx(0.96, abs=0.15)
    of = found({"formula": "~ age + sex", "family": "cox"}, patients)
    assert of["sex = Female"][0] / of["age"][0] == pytest.approx(-0.5 / 0.08, rel=0.4)
    fewer = found({"formula": "~ age + sex", "family": "cox", "event": "dead"}, patients)
    assert fewer["age"][1] > 1.2 * of["age"][1]


def test_too_few_patients_give_no_coefficient() -> None:
    for formula, family in (("on drug ~ sex", "logistic"), ("~ sex", "cox"), ('"a + b" ~ sex', "linear")):
        of = found({"formula": formula, "family": family}, panel(19))
        assert np.isnan(of["sex = Female"]).all(), formula


def test_defaults_follow_from_the_schema_and_tell_a_cohort_without_effects() -> None:
    analyses = [Analysis(effect, SCHEMA) for effect in default_effects(SCHEMA)]
    assert [(a.effect.name, a.effect.family) for a in analyses] == [
        ("time to status", "cox"),
        ("a + b", "linear"),
        ("on drug", "logistic"),
    ]
    real = panel()
    scale = scale_of(real)
    of_real, same, without = (
        effects_of(analyses, patients, scale) for patients in (real, panel(seed=1), panel(seed=1, effect=0))
    )
    z = [
        (each.estimate_K - of_real.estimate_K) / np.hypot(each.error_K, of_real.error_K)
        for each in (same, without)
    ]
    assert len(of_real.names) == 8
    assert np.abs(z[0]).max() < 4
    assert np.abs(z[1]).max() > 10


@pytest.mark.parametrize(
    "name", ["a ~ b", 'Nails, 5"', '"all"', "Crohn's", """it's "so" ~ + : (x)""", "Ratio a:b", "timestep"]
)
def test_defaults_take_names_of_any_characters(name: str) -> None:
    variables = [
        {"name": name, "kind": "real", "static": True},
        {"name": f"{name} 2", "kind": "real"},
    ]
    schema = Schema.model_validate({"name": "odd", "variables": variables})
    (analysis,) = [Analysis(effect, schema) for effect in default_effects(schema)]
    assert analysis.outcome == 1
    assert analysis.used == [0]
    assert analysis._in_words("v0:step") == f"{name} with timestep"


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        ({"formula": "age"}, "write OUTCOME ~ A"),
        ({"formula": "agee ~ sex"}, r"no variable 'agee' \(did you mean 'age'\?\)"),
        ({"formula": '"a + b" ~ __import__("os")'}, "has no variable"),
        ({"formula": "sex ~ age", "family": "linear"}, "outcome of a linear model is a real variable"),
        ({"formula": "age ~ sex", "family": "logistic"}, "a variable of two classes"),
        ({"formula": "age ~ sex", "family": "cox"}, "takes no outcome"),
        ({"formula": "~ sex", "family": "cox", "event": "ded"}, "expected one of"),
    ],
)
def test_a_formula_that_is_none_is_refused(effect: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Analysis(Effect.model_validate({"name": "it", "schema": "s"} | effect), SCHEMA)
