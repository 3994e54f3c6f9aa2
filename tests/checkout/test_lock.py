"""The lock file can be installed with the oldest Python that pyproject.toml admits."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]


def test_every_locked_package_admits_the_oldest_python() -> None:
    """On Debian 12, whose Python is 3.11.2, a package for 3.11.5 made `make test` fail at its first step."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert {"torch", "mkdocs-material"} <= set(pinned)
    needs = {name: distribution(name).metadata.get("Requires-Python", "") for name in pinned}
    too_new = {name: text for name, text in needs.items() if oldest not in SpecifierSet(text)}
    assert not too_new, f"these packages of requirements.lock do not admit Python {oldest}: {too_new}"
