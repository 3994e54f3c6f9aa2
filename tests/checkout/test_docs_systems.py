"""The recipe for a new system names files and methods that exist."""

import inspect
import re
from pathlib import Path

import pytest

from healthgym import config
from healthgym.systems.base import System
from healthgym.systems.optimiser import Optimiser

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/adding-a-system.md").read_text()


def test_files_are_there() -> None:
    named = re.findall(r"`((?:healthgym|tests|benchmarks|configs|jobs)/[\w./-]*)", TEXT)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("name", "owner"), [("System", System), ("Optimiser", Optimiser)])
def test_methods_are_there(name: str, owner: type) -> None:
    named = set(re.findall(rf"`{name}\.(\w+)", TEXT))
    assert named
    assert [method for method in named if not hasattr(owner, method)] == []


def test_what_a_system_may_say_and_must_implement_is_described() -> None:
    """Class attributes, and methods that only raise NotImplementedError."""
    missing = {
        name
        for name, value in vars(System).items()
        if inspect.isfunction(value) and "NotImplementedError" in value.__code__.co_names
    }
    assert {"begin_make", "nats_by_patient", "check_conditions"} <= missing
    attributes = {name for name in System.__annotations__ if name in vars(System)} - {
        "num_candidates",
        "share",
    }
    described = set(re.findall(r"`System\.(\w+)", TEXT))
    assert (
        sorted((missing | attributes | {"begin_sample_given", "preview", "released_state"}) - described) == []
    )


def test_settings_are_there() -> None:
    for name in ("SystemConfig", "SYSTEM_PRESETS", "OptimiserConfig"):
        assert f"`{name}`" in TEXT
        assert hasattr(config, name)
