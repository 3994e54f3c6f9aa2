"""The recipe for a new system names files and methods that exist."""

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


def test_settings_are_there() -> None:
    for name in ("SystemConfig", "SYSTEM_PRESETS", "OptimiserConfig"):
        assert f"`{name}`" in TEXT
        assert hasattr(config, name)
