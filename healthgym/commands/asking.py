"""Shared code of programs that are not jobs: options from a request, and the exit status."""

import argparse
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel

from healthgym.launch.programs import ended
from healthgym.options import add_options
from healthgym.strict import parse

R = TypeVar("R", bound=BaseModel)


def answer(
    request: type[R], work: Callable[[R], int], about: str, argv: Sequence[str] | None, prog: str | None
) -> int:
    """Read a request from the command line, do the work, and return the exit status.

    Args:
        request: declares the options.
        work: returns an exit status; heavy imports belong into it, for `--help` to be quick.
        about: what the program does, for its help.
        argv, prog: see `argparse.ArgumentParser`.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=about, formatter_class=raw)
    add_options(parser, request)
    options = vars(parser.parse_args(argv))
    return ended(lambda: work(parse(request, options, "the command line")))
