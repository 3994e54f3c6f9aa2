"""The schema: what the columns of a clinical table mean.

A schema is read from YAML. It names the key columns, and for each variable its kind, its unit or its
classes (raw code and label), whether it is constant within a patient, and what a missing value means.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property

from pydantic import Field, model_validator

from healthgym.errors import listed, nearest
from healthgym.schema.layout import FeatureLayout
from healthgym.schema.rules import Condition, Rule
from healthgym.schema.timing import FollowUp, Keys, ratio
from healthgym.schema.variable import Variable, measured_class
from healthgym.strict import StrictModel
from healthgym.words import Name, Text, Word

UNNAMED = "table"
"""The name of a schema whose table had none, such as a data frame."""

_EMBEDDING_DIM = {"binary": 2, "categorical": 4}


class Schema(StrictModel):
    """All variables of a cohort, its keys, and impossible combinations."""

    name: Name
    title: Word = ""
    source: Text = ""
    timestep_unit: Word = "timestep"
    keys: Keys = Keys()
    variables: tuple[Variable, ...] = Field(min_length=1)
    follow_up: FollowUp | None = None
    impossible: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Schema":
        names = [variable.name for variable in self.variables]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"variable '{twice[0]}' is declared twice; keep one")
        if self.keys.patient == self.keys.timestep:
            raise ValueError(f"the patient and the timestep key are the same column '{self.keys.patient}'")
        for key in (self.keys.patient, self.keys.timestep):
            if key in names or key in (variable.measured_flag for variable in self.variables):
                raise ValueError(f"'{key}' is a key and cannot be a variable or its measured flag too")
        by_name = {variable.name: variable for variable in self.variables}
        for variable in self.variables:
            if variable.measured_flag and variable.measured_flag in by_name:
                flag = by_name[variable.measured_flag]
                if flag.kind != "binary" or flag.missing != "refuse" or flag.static:
                    raise ValueError(
                        f"'{flag.name}', the measured flag of '{variable.name}', must be a binary variable "
                        f"that is not static and has no missing values of its own"
                    )
            elif variable.measured_flag and variable.missing == "refuse":
                raise ValueError(
                    f"'{variable.name}' names the undeclared flag '{variable.measured_flag}'; declare it as "
                    f"binary"
                )
        return self

    @model_validator(mode="after")
    def _check_time(self) -> "Schema":
        if self.gap and self.gap.name in [variable.name for variable in self.variables]:
            raise ValueError(
                f"'{self.gap.name}' is the time between visits, which is worked out from "
                f"'{self.keys.timestep}'; rename or leave out the variable"
            )
        if self.follow_up:
            self._check_follow_up(self.follow_up)
        return self

    def _check_follow_up(self, follow: FollowUp) -> None:
        by_name = {variable.name: variable for variable in self.variables}
        for role, name, kind in (("time", follow.time, "real"), ("event", follow.event, "binary")):
            if name not in by_name:
                raise ValueError(
                    f"follow_up.{role}: there is no variable '{name}'{nearest(name, by_name)}; declare it "
                    f"with kind: {kind} and static: true"
                )
            if not by_name[name].static or (by_name[name].kind == "real") != (kind == "real"):
                wanted = "real" if kind == "real" else "binary or categorical"
                raise ValueError(f"follow_up.{role}: '{name}' must be {wanted}, with static: true")
        labels = by_name[follow.event].labels
        if follow.censored not in labels:
            raise ValueError(
                f"follow_up.event: no class of '{follow.event}' has the label '{follow.censored}', among "
                f"{listed(labels)}; give the class of patients without an event that label, or name its "
                f"label by follow_up.censored"
            )
        declared = by_name[follow.time].unit
        if declared and follow.unit and declared != follow.unit:
            raise ValueError(
                f"follow_up.unit is '{follow.unit}' and the unit of '{follow.time}' is '{declared}'; they "
                f"are one and the same: correct either"
            )
        try:
            self.time_ratio  # noqa: B018 - raises for an unknown unit
        except ValueError as error:
            raise ValueError(f"follow_up.unit: {error}; give one unit for both, or known ones") from None

    @model_validator(mode="after")
    def _check_impossible(self) -> "Schema":
        for rule in self.impossible:
            for condition in rule.never:
                self._check_condition(condition, f"impossible '{rule.name}'")
        return self

    def _check_condition(self, condition: Condition, where: str) -> None:
        name, label = condition.variable, condition.is_
        if name not in self.names():
            raise ValueError(f"{where}: there is no variable '{name}'{nearest(name, self.names())}")
        variable = self[name]
        if (variable.kind == "real") != (label is None):
            words = "below or above" if variable.kind == "real" else "is"
            raise ValueError(f"{where}: '{name}' is {variable.kind}; say of it {words}")
        if label is not None and label not in variable.labels:
            raise ValueError(
                f"{where}: '{name}' is never '{label}'{nearest(label, variable.labels)}; its labels are "
                f"{listed(variable.labels)}"
            )

    @cached_property
    def encoded(self) -> tuple[Variable, ...]:
        """Variables in the order of their encoded features: reals, then binary and categorical ones.

        A measured flag that the schema names but does not declare is appended: it is derived from the
        table's missing values and generated like any other variable. So is the gap between irregular visits.
        """
        declared = {variable.name for variable in self.variables}
        derived = dict.fromkeys(
            variable.measured_flag
            for variable in self.variables
            if variable.measured_flag and variable.measured_flag not in declared
        )
        flags = tuple(
            Variable(name=name, kind="binary", classes={0: "False", 1: "True"}) for name in derived if name
        )
        everything = self.variables + ((self.gap,) if self.gap else ()) + flags
        return tuple(v for v in everything if v.kind == "real") + tuple(
            v for v in everything if v.kind != "real"
        )

    @cached_property
    def gap(self) -> Variable | None:
        """The time since the previous visit (at a first visit: since time 0), if visits are irregular.

        It has no value at a first visit at time 0.
        """
        if self.keys.visits is None or self.keys.visits.kind != "irregular":
            return None
        return Variable.model_construct(
            name=f"{self.keys.timestep} (gap)",
            kind="real",
            unit=self.time_unit,
            missing="carry_forward",
            description="time since the visit before",
        )

    @property
    def time_unit(self) -> str:
        """Unit of the rows' times; without visit times, the unit of a timestep."""
        return (self.keys.visits.unit if self.keys.visits else "") or self.timestep_unit

    @property
    def follow_up_unit(self) -> str:
        """Unit of the follow-up time; that of the rows' times unless another is given."""
        if self.follow_up is None:
            return ""
        declared = next(v.unit for v in self.variables if v.name == self.follow_up.time)
        return self.follow_up.unit or declared or self.time_unit

    @cached_property
    def time_ratio(self) -> float:
        """Number of units of follow-up time in one unit of the rows' times."""
        return ratio(self.time_unit, self.follow_up_unit) if self.follow_up else 1.0

    @cached_property
    def reals(self) -> tuple[Variable, ...]:
        """Real variables, in order."""
        return tuple(variable for variable in self.encoded if variable.kind == "real")

    @cached_property
    def categoricals(self) -> tuple[Variable, ...]:
        """Binary and categorical variables, derived flags last."""
        return tuple(variable for variable in self.encoded if variable.kind != "real")

    @cached_property
    def layout(self) -> FeatureLayout:
        """The shape of an encoded timestep."""
        index = {variable.name: k for k, variable in enumerate(self.categoricals)}

        def flag_of(variable: Variable) -> int | None:
            return index[variable.measured_flag or ""] if variable.missing == "model" else None

        flags = sorted({index[variable.measured_flag] for variable in self.encoded if variable.measured_flag})
        return FeatureLayout(
            num_reals=len(self.reals),
            num_classes=tuple(len(variable.classes) for variable in self.categoricals),
            embedding_dims=tuple(_EMBEDDING_DIM[variable.kind] for variable in self.categoricals),
            static_reals=tuple(variable.static for variable in self.reals),
            static_classes=tuple(variable.static for variable in self.categoricals),
            flag_of_reals=tuple(flag_of(variable) for variable in self.reals),
            flag_of_classes=tuple(flag_of(variable) for variable in self.categoricals),
            flags=tuple(flags),
            measured_classes=tuple(measured_class(self.categoricals[flag]) for flag in flags),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines the meaning of a number in a table."""
        return hashlib.sha256(self.model_copy(update={"impossible": ()}).to_json().encode()).hexdigest()

    def __getitem__(self, name: str) -> Variable:
        for variable in self.encoded:
            if variable.name == name:
                return variable
        raise KeyError(name)

    def names(self) -> Iterator[str]:
        """Names of all variables in encoded order."""
        return (variable.name for variable in self.encoded)

    def to_json(self) -> str:
        """Return the schema as JSON for `from_json`."""
        values = self.model_dump(mode="json", exclude={"impossible"})
        # Unused features are omitted, so that fingerprints of older schemas do not change.
        for holder, key in ((values, "follow_up"), (values["keys"], "visits")):
            if holder[key] is None:
                del holder[key]
        if self.keys.visits and not self.keys.visits.format:
            del values["keys"]["visits"]["format"]
        if self.impossible:
            rules = [
                rule.model_dump(mode="json", by_alias=True, exclude_none=True) for rule in self.impossible
            ]
            values["impossible"] = rules
        for shown, variable in zip(values["variables"], self.variables, strict=True):
            # JSON converts integer keys to text: keep codes as pairs.
            shown["classes"] = [[code, label] for code, label in variable.classes.items()]
            for key, unused in (("fill", variable.fill is None), ("read_as", not variable.read_as)):
                if unused:
                    del shown[key]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "Schema":
        """Read what `to_json` wrote."""
        values = json.loads(text)
        for variable in values["variables"]:
            variable["classes"] = dict(variable["classes"])
        return cls.model_validate(values)
