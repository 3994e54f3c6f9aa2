"""Statements of the pages about programs are true, and docstrings are one string."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("healthgym", "jobs", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_one_text(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = re.search(r'"\s*\n\s*"', ast.get_docstring(node) or "")
            assert found is None, f"{path}: the docstring of {getattr(node, 'name', 'the module')}"


@pytest.mark.parametrize("page", ["docs/cluster.md", "slurm/README.md"])
def test_the_programs_that_take_on_are_those_that_the_pages_name(page: str) -> None:
    commands = ROOT / "healthgym" / "commands"
    takes = {path.stem for path in commands.glob("*.py") if "launch(" in path.read_text()}
    paragraphs = (ROOT / page).read_text().split("\n\n")
    sentence = next(text for text in paragraphs if re.search(r"takes? `--on", text)).partition("`--on")[0]
    assert takes == {path.stem for path in commands.glob("*.py") if path.stem in sentence}
