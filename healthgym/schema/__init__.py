"""The meaning of a cohort's variables, keys and times, and the layout and cells derived from them."""

from healthgym.schema.reading import load_schema, schema_from_text
from healthgym.schema.rules import Condition, Limit, Rule
from healthgym.schema.schema import Schema
from healthgym.schema.variable import Code, Variable, measured_class, plain_word

__all__ = [
    "Code",
    "Condition",
    "Limit",
    "Rule",
    "Schema",
    "Variable",
    "load_schema",
    "measured_class",
    "plain_word",
    "schema_from_text",
]
