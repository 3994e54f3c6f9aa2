"""One variable of a cohort: its kind, its unit or classes, and how missing values are treated."""

import re
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from healthgym.errors import listed
from healthgym.strict import StrictModel
from healthgym.words import Name, Text, Word, one_form

Code: TypeAlias = int | Word
_REAL = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_AFFIRMATIVE = ("measured", "yes", "y", "true")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE]\+?[0-9]{1,2})?")


def plain_word(value: object) -> str:
    """Return a class's code or label normalised for comparison: spellings of a number or boolean are equal.

    "3" for 3, 3.0, "3.0" and " 3 "; "True" for True, "true" and "TRUE". A leading zero is kept.
    """
    text = one_form(value)
    if text.lower() in ("true", "false"):
        return text.capitalize()
    if _NUMBER.fullmatch(text):
        number = Decimal(text)
        return str(int(number)) if number == int(number) else text
    return text


class Variable(StrictModel):
    """One clinical variable.

    Args:
        name: the column's name in the table.
        kind: real, binary (two classes) or categorical.
        unit: of a real variable, for axes and file attributes.
        offset: added to a real variable before its Box-Cox transform, so that all values are positive
            (base excess or fluid balance can be negative).
        classes: {raw code: label} of a binary or categorical variable, in order.
        static: constant within a patient.
        missing: treatment of NaN: refuse it; carry the last value forward with a flag; or model the
            missingness (the flag is generated, and the value is blanked according to it).
        measured_flag: the binary variable that is 1 where the value was measured. If the table has no such
            column, it is derived from the missing values.
        fill: `first` fills a patient's missing values with the patient's first value; static variables only.
        read_as: {word in the table: meaning}, for words that are not values: a number (of a real variable),
            one of the classes, or null for a missing value. "" is an empty field.
        description: for readers.
    """

    name: Name
    kind: Literal["real", "binary", "categorical"]
    unit: Word = ""
    offset: float = Field(default=0.0, allow_inf_nan=False)
    classes: dict[Code, Word] = Field(default_factory=dict)
    static: bool = False
    missing: Literal["refuse", "carry_forward", "model"] = "refuse"
    measured_flag: Name | None = None
    fill: Literal["first"] | None = None
    read_as: dict[str, Word | None] = Field(default_factory=dict)
    description: Text = ""

    @field_validator("classes", mode="before")
    @classmethod
    def _codes_from_list(cls, value: Any) -> Any:
        """Accept a list of labels as codes equal to the labels."""
        if not isinstance(value, list):
            return value
        if twice := next((label for i, label in enumerate(value) if label in value[:i]), None):
            raise ValueError(f"the class '{twice}' appears twice; keep one")
        return {label: str(label) for label in value}

    @model_validator(mode="after")
    def _check(self) -> "Variable":
        if self.kind == "real" and self.classes:
            raise ValueError(f"'{self.name}' is real and has classes; drop them or make it categorical")
        if self.kind == "binary" and len(self.classes) != 2:
            raise ValueError(f"'{self.name}' is binary and needs two classes, not {len(self.classes)}")
        if self.kind == "categorical" and len(self.classes) < 2:
            raise ValueError(f"'{self.name}' is categorical and needs at least two classes")
        if self.kind == "categorical" and len(self.classes) > 256:
            raise ValueError(
                f"'{self.name}' has {len(self.classes)} classes; at most 256 fit, so group rare ones"
            )
        if self.kind != "real" and self.unit:
            raise ValueError(f"'{self.name}' is {self.kind} and has a unit; only reals have one")
        if self.kind != "real" and self.offset:
            raise ValueError(f"'{self.name}' is {self.kind} and has an offset; only reals have one")
        if len(set(self.classes.values())) != len(self.classes):
            raise ValueError(f"'{self.name}' has the same label twice")
        if len({str(code) for code in self.classes}) != len(self.classes):
            raise ValueError(f"'{self.name}' has the same code twice (as a number and as text)")
        self._refuse_ambiguous_classes()
        self._check_read_as()
        if self.missing != "refuse" and not self.measured_flag:
            raise ValueError(
                f"'{self.name}' has missing: {self.missing} and needs measured_flag: a column name"
            )
        if self.missing != "refuse" and self.static:
            raise ValueError(
                f"'{self.name}' is static; a missing static value can only be refused, or carried from the "
                f"patient's first row to the others by fill: first"
            )
        if self.fill and not self.static:
            raise ValueError(
                f"'{self.name}' has fill: {self.fill} and is not static; say missing: carry_forward instead"
            )
        return self

    def _check_read_as(self) -> None:
        """Check that meanings are numbers for a real variable, and classes for any other."""
        classes = {plain_word(word) for pair in self.classes.items() for word in pair}
        for word, value in self.read_as.items():
            if value is None:
                continue
            if self.kind == "real" and not _REAL.fullmatch(value):
                raise ValueError(
                    f"'{self.name}': read_as gives '{word}' the meaning '{value}', which is no number; write "
                    "a number, or null for a missing value"
                )
            if self.kind != "real" and plain_word(value) not in classes:
                raise ValueError(
                    f"'{self.name}': read_as gives '{word}' the meaning '{value}', which is none of its "
                    f"classes {listed(self.classes.values())}"
                )

    @cached_property
    def meanings(self) -> dict[str, str | None]:
        """`read_as` with words as `plain` writes them."""
        return {self.plain(word): value for word, value in self.read_as.items()}

    def plain(self, value: object) -> str:
        """Return a word of this column normalised for comparison with `meanings`.

        99.90, 9.99e1 and 99.9 are one value of a real variable, but may be codes of three classes.
        """
        text = one_form(value)
        if self.kind == "real" and _REAL.fullmatch(text):
            return plain_word(float(text))
        return plain_word(text)

    def _refuse_ambiguous_classes(self) -> None:
        """A table may have codes or labels, so no word may mean two classes."""
        meant: dict[str, tuple[Code, str]] = {}
        for code, label in self.classes.items():
            for word in (plain_word(code), plain_word(label)):
                other = meant.setdefault(word, (code, label))
                if other[0] != code:
                    raise ValueError(
                        f"'{self.name}': a table's '{word}' could mean the class {other[0]} ({other[1]}) or "
                        f"{code} ({label}); give labels that are no other class's code"
                    )

    @property
    def codes(self) -> tuple[Code, ...]:
        """Raw codes in class order."""
        return tuple(self.classes)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class labels in class order."""
        return tuple(self.classes.values())


def measured_class(flag: Variable) -> int:
    """Return which class of a measured flag says that the value was measured.

    It is the one class with the label measured, yes, y or True; or with one of these or 1 as its code; if
    there is none, the second.
    """
    for words, affirmative in ((flag.labels, _AFFIRMATIVE), (flag.codes, (*_AFFIRMATIVE, "1"))):
        found = [k for k, word in enumerate(words) if plain_word(word).lower() in affirmative]
        if len(found) == 1:
            return found[0]
    return 1
