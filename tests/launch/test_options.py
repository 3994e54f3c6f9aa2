"""The command line, the job and the stage of a pipeline have the same options, which are declared once."""

import argparse
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel

from healthgym.comparing.request import CompareRequest
from healthgym.data.request import DescribeRequest, PrepareRequest
from healthgym.launch.pipeline import Pipeline
from healthgym.launch.requests import (
    EvaluateRequest,
    InspectRequest,
    PipelineRequest,
    StatusRequest,
    TrainRequest,
)
from healthgym.options import Option, add_options
from healthgym.release.requests import AuditRequest, ReleaseRequest
from healthgym.strict import Positive, StrictModel
from healthgym.synthesis.cohort import SynthesisRequest

REQUESTS = {
    "prepare": PrepareRequest,
    "train": TrainRequest,
    "synthesize": SynthesisRequest,
    "evaluate": EvaluateRequest,
}
WITHOUT_JOB = (
    DescribeRequest,
    CompareRequest,
    ReleaseRequest,
    AuditRequest,
    InspectRequest,
    StatusRequest,
    PipelineRequest,
)


class Request(StrictModel):
    table: Annotated[Path, Option("a file", positional=True)]
    out: Annotated[Path, Option("where to")]
    number: Annotated[Positive | None, Option("of 100% of them")] = None
    share: Annotated[float, Option("of them")] = 0.2
    form: Annotated[Literal["a", "b"] | Positive, Option("a or b", name="format")] = "a"
    where: Annotated[tuple[str, ...], Option("which")] = ()
    sort: Annotated[bool, Option("or not")] = False
    inner: int = 3


def parsed(*words: str) -> Request:
    parser = argparse.ArgumentParser()
    add_options(parser, Request)
    return Request(**vars(parser.parse_args(words)))


def test_what_is_given_makes_the_request() -> None:
    assert parsed("t.csv", "--out", "o") == Request(table=Path("t.csv"), out=Path("o"))
    words = "t --out o --number 4 --share .5 --format b --where x=1 --where y=2 --sort"
    many = {"number": 4, "share": 0.5, "form": "b", "where": ("x=1", "y=2"), "sort": True}
    assert parsed(*words.split()) == Request(table=Path("t"), out=Path("o"), **many)


@pytest.mark.parametrize("words", ["t.csv", "--out o", "t --out o --number x", "t --out o --inner 4"])
def test_what_the_command_line_refuses(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*words.split())
    assert "error: " in capsys.readouterr().err


def test_help_shows_defaults_and_per_cent() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Request)
    shown = " ".join(parser.format_help().split())
    assert "--share SHARE of them (0.2)" in shown
    assert "--number NUMBER of 100% of them" in shown


def test_a_positional_tuple_takes_several_words() -> None:
    class Several(StrictModel):
        runs: Annotated[tuple[Path, ...], Option("folders", positional=True)]

    parser = argparse.ArgumentParser()
    add_options(parser, Several)
    assert Several(**vars(parser.parse_args(["a", "b"]))).runs == (Path("a"), Path("b"))
    with pytest.raises(SystemExit):
        parser.parse_args([])


@pytest.mark.parametrize("request_of", [*REQUESTS.values(), *WITHOUT_JOB])
def test_every_field_is_an_option(request_of: type[BaseModel]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, request_of)
    assert {action.dest for action in parser._actions} - {"help"} == set(request_of.model_fields)


@pytest.mark.parametrize("command", REQUESTS)
def test_every_field_is_a_key_of_the_stage(command: str) -> None:
    request: type[BaseModel] = REQUESTS[command]
    (stage,) = (each for each in Pipeline.model_fields[command].annotation.__args__ if each is not type(None))
    assert set(stage.model_fields) == {*request.model_fields, "resources"}
