"""Command-line options that follow from a request: each field of a model is declared once, there."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Option:
    """The command line's description of a field, as `Annotated[int, Option("of the cohort")]`.

    Args:
        help: what it means; the field's default is added.
        name: of the option, if it is not the field's with dashes.
        positional: whether it is given without an option's name.
        metavar: what stands for the value in the help.
    """

    help: str
    name: str = ""
    positional: bool = False
    metavar: str | None = None


def add_options(parser: argparse.ArgumentParser, request: type[BaseModel]) -> None:
    """Give a parser an option for each field that has an `Option`.

    The parsed namespace has the fields that were given and no others: `vars(namespace)` makes the request,
    which refuses values; the parser refuses what is no number.

    Args:
        parser: of a program.
        request: a strict model.
    """
    for name, field in request.model_fields.items():
        option = next((each for each in field.metadata if isinstance(each, Option)), None)
        if option is None:
            continue
        words = _words(field)
        if option.positional:
            if words.get("action") == "append":
                words = {"nargs": "+"}
            parser.add_argument(name, help=_help(option, field), metavar=option.metavar or name, **words)
        else:
            flag = f"--{option.name or name.replace('_', '-')}"
            if words.get("action") != "store_true":
                words["metavar"] = option.metavar or flag.strip("-").replace("-", "_").upper()
            words |= {"dest": name, "required": field.is_required(), "default": argparse.SUPPRESS}
            parser.add_argument(flag, help=_help(option, field), **words)


def _words(field: FieldInfo) -> dict[str, Any]:
    """Return how argparse reads a field's value."""
    kinds = _kinds(field.annotation)
    if bool in kinds:
        return {"action": "store_true"}
    if tuple in kinds:
        return {"action": "append"}
    if str in kinds:  # a text, or one of several words: the request knows which
        return {}
    return {"type": next((kind for kind in (Path, int, float) if kind in kinds), str)}


def _kinds(annotation: Any) -> set[Any]:
    """Return the plain types that a value may have; a choice of words is text."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return set().union(*(_kinds(each) for each in get_args(annotation)))
    if origin is None:
        return {annotation}
    if origin is tuple:
        return {tuple}
    return _kinds(get_args(annotation)[0]) if isinstance(get_args(annotation)[0], type) else {str}


def _help(option: Option, field: FieldInfo) -> str:
    default = field.default
    shown = isinstance(default, int | float | str) and not isinstance(default, bool) and default != ""
    return (f"{option.help} ({default})" if shown else option.help).replace("%", "%%")
