"""Impossible combinations: conditions that no row of a cohort may meet together."""

from typing import Annotated

from pydantic import Field, model_validator

from healthgym.strict import StrictModel
from healthgym.words import Name, Word

Limit = Annotated[float, Field(allow_inf_nan=False)]


class Condition(StrictModel):
    """One variable compared with a number or a label: `{variable: MAP, below: 60}`."""

    variable: Name
    below: Limit | None = None
    above: Limit | None = None
    is_: Word | None = Field(default=None, alias="is")

    @model_validator(mode="after")
    def _check(self) -> "Condition":
        if sum(value is not None for value in (self.below, self.above, self.is_)) != 1:
            raise ValueError(f"'{self.variable}' needs exactly one of below, above and is")
        return self


class Rule(StrictModel):
    """An impossible combination: all conditions at the same timestep of one patient."""

    name: Name
    never: tuple[Condition, ...] = Field(min_length=1)
