"""Settings of a report: how much is sampled, what is looked at, and every threshold, read from YAML."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from healthgym import shipped
from healthgym.errors import nearest
from healthgym.evaluation.metric import metrics
from healthgym.options import Option
from healthgym.schema import Condition, Limit
from healthgym.strict import Positive, StrictModel, load

Thresholds = Annotated[
    Path, Option("settings and thresholds (YAML)"), Field(default_factory=shipped.thresholds)
]
"""The file of these settings as a field of a request; by default the one that comes with the package."""


class Threshold(StrictModel):
    """Where a metric passes and where it fails; between the two it asks for caution.

    A value within the noise floor passes, whatever the limits: it is no fault of the cohort. A metric that
    has lost more than half of what independent variables lose fails, whatever the limits.

    Args:
        at_most: passes up to here; with `fail_above`, where it begins to fail.
        at_least: passes from here up; with `fail_below`, where it begins to fail.
    """

    at_most: Limit | None = None
    fail_above: Limit | None = None
    at_least: Limit | None = None
    fail_below: Limit | None = None

    @model_validator(mode="after")
    def _check(self) -> "Threshold":
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("give either at_most or at_least")
        if self.at_most is not None and (self.fail_above is None or self.fail_above < self.at_most):
            raise ValueError("at_most needs fail_above, at or above it")
        if self.at_least is not None and (self.fail_below is None or self.fail_below > self.at_least):
            raise ValueError("at_least needs fail_below, at or below it")
        return self


class Endpoint(StrictModel):
    """A clinical event, predicted from what came before it.

    Args:
        name: in a few words, e.g. "hypotension on the second day".
        schema_name: the schema it belongs to.
        event: what must hold for the event.
        history: timesteps 0..history-1 are what the prediction may see.
        window: first and last timestep at which the event may happen.
        num_steps: on how many timesteps of the window it must hold.
        reason: why it is defined so, for the report.
    """

    name: str
    schema_name: str = Field(alias="schema")
    event: Condition
    history: Positive
    window: tuple[int, int]
    num_steps: Positive = 1
    reason: str = ""

    @model_validator(mode="after")
    def _check(self) -> "Endpoint":
        if not self.history <= self.window[0] <= self.window[1]:
            raise ValueError(f"'{self.name}': the window must begin after the history and not end before")
        return self


class RewardTerm(StrictModel):
    """`weight` for every timestep at which the condition holds."""

    when: Condition
    weight: Limit


class Policy(StrictModel):
    """A treatment decision for off-policy evaluation: which variable is the action, what is rewarded."""

    name: str
    schema_name: str = Field(alias="schema")
    action: str
    reward: tuple[RewardTerm, ...] = Field(min_length=1)
    discount: Annotated[float, Field(gt=0, lt=1)] = 0.95
    num_states: Annotated[int, Field(ge=2)] = 25
    reason: str = ""


class Effect(StrictModel):
    """A regression that a user of the cohort may run.

    Args:
        name: of the analysis, in a few words.
        schema_name: the schema it belongs to.
        formula: OUTCOME ~ A + B + A:B of names of variables and `timestep`; ~ A + B for Cox's model.
        family: `linear` of a real outcome, `logistic` of one of two classes, `cox` of the follow-up's event.
        event: the class of the event, for Cox's model; any but the censored by default.
    """

    name: str
    schema_name: str = Field(alias="schema")
    formula: str
    family: Literal["linear", "logistic", "cox"] = "linear"
    event: str = ""


class ReportConfig(StrictModel):
    """Everything that decides a report.

    Args:
        seed: of every sample, split and classifier.
        num_patients: at most this many patients of each set enter metrics that are no sums over patients
            (distances, classifiers, Kolmogorov-Smirnov); the others count all.
        min_patients: with fewer patients than this in a set, what needs it is not judged.
        num_splits: how often the real patients are split to learn how metrics vary among them.
        coverage: static variables crossed in the collapse section; `auto` takes every pair.
        quasi_identifiers: what an attacker may know of a person; `auto` takes all static categories.
        population: people from whom the real patients were drawn; 0 takes the real patients
            themselves for the whole population, the strictest reading.
        endpoints: clinical events to be predicted, by schema.
        policies: treatment decisions to be learned, by schema.
        effects: regressions, by schema; `auto` takes those that follow from the schema.
        thresholds: by section and metric.
    """

    seed: int = 0
    num_patients: Positive = 4000
    min_patients: Annotated[int, Field(ge=20)] = 50
    num_splits: Annotated[int, Field(ge=3)] = 8
    coverage: Literal["auto"] | tuple[tuple[str, ...], ...] = "auto"
    quasi_identifiers: Literal["auto"] | tuple[str, ...] = "auto"
    population: Annotated[int, Field(ge=0)] = 0
    endpoints: tuple[Endpoint, ...] = ()
    policies: tuple[Policy, ...] = ()
    effects: Literal["auto"] | tuple[Effect, ...] = "auto"
    thresholds: dict[str, dict[str, Threshold]] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_thresholds(self) -> "ReportConfig":
        known = metrics()
        for section, limits in self.thresholds.items():
            if section not in known:
                raise ValueError(f"thresholds.{section}: there is no such section{nearest(section, known)}")
            for name in limits:
                if name not in known[section]:
                    hint = nearest(name, known[section])
                    raise ValueError(f"thresholds.{section}.{name}: the section has no such metric{hint}")
        return self

    def threshold(self, key: str) -> Threshold | None:
        """Return the threshold of the metric "section.metric" or "section.metric:which"; None if it is
        shown only."""
        section, _, name = key.partition(":")[0].partition(".")
        return self.thresholds.get(section, {}).get(name)

    def without(self, names: Collection[str]) -> "ReportConfig":
        """Return the settings without what asks for variables that a cohort lacks."""
        if not names:
            return self
        gone, asked = set(names), self.quasi_identifiers
        return self.model_copy(
            update={
                "endpoints": tuple(each for each in self.endpoints if each.event.variable not in gone),
                "policies": tuple(
                    each
                    for each in self.policies
                    if not {each.action, *(term.when.variable for term in each.reward)} & gone
                ),
                "effects": self.effects
                if self.effects == "auto"
                else tuple(each for each in self.effects if not any(name in each.formula for name in gone)),
                "coverage": self.coverage
                if self.coverage == "auto"
                else tuple(crossed for crossed in self.coverage if not set(crossed) & gone),
                "quasi_identifiers": asked
                if asked == "auto"
                else tuple(name for name in asked if name not in gone),
            }
        )


def load_report_config(path: Path, overrides: tuple[str, ...] = ()) -> ReportConfig:
    """Read the settings of a report from YAML.

    Raises:
        ConfigError: with every problem found.
    """
    return load(ReportConfig, path, overrides)
