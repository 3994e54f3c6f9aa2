"""Errors in the words of Python: arguments and functions instead of options and commands."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from healthgym.errors import HealthgymError

P = ParamSpec("P")
R = TypeVar("R")

_FUNCTIONS = {
    "describe": "describe",
    "prepare": "prepare",
    "train": "train",
    "synthesize": "sample",
    "evaluate": "evaluate",
}
# An option with the placeholder of its value (--patient COLUMN), or a field of a request (- patients: ...).
_OPTION = re.compile(
    r"(?<![^\s(])--([a-z][a-z-]*)(?![\w/=-])(?: [A-Z]+\b)?|(?<=^  - )([a-z_]+)(?=: )", re.MULTILINE
)
_COMMAND = re.compile(rf"\bhealthgym ({'|'.join(_FUNCTIONS)})\b")


def python_errors(**arguments: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Name the arguments of a function in its errors, where the code below names options of the command line.

    Args:
        arguments: for each option whose argument has another name, without dashes and with `_` for `-`, the
            argument.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = {name: name for name in inspect.signature(function).parameters} | arguments

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except HealthgymError as error:
                error.args = (in_python(str(error), names),)
                raise

        return wrapper

    return decorate


def in_python(message: str, arguments: Mapping[str, str]) -> str:
    """Return a message that names arguments instead of options, and functions instead of commands."""

    def argument(found: re.Match[str]) -> str:
        option, field = found.groups()
        if option is not None:
            known = arguments.get(option.replace("-", "_"))
            return found[0] if known is None else f"`{known}`"
        return arguments.get(field, field)

    message = _OPTION.sub(argument, message)
    message = _COMMAND.sub(lambda found: f"hg.{_FUNCTIONS[found[1]]}", message)
    return message.replace("the same command", "the same call")
