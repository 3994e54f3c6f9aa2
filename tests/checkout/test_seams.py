"""Tests reach the code through its public names: none sets a private attribute or overrides a private method.

What a test must replace has a public name: a parameter, a setting of the module, a function passed in.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTERS = {"setattr", "delattr", "object", "patch"}  # of pytest's monkeypatch and of unittest.mock


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def private_names(folder: Path) -> set[str]:
    """Return the private functions, methods, classes, attributes and constants of a package."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return set(filter(is_private, found))


def private_sets(source: str, names: set[str]) -> Iterator[str]:
    """Yield those of the names that a test's source sets, replaces or overrides."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("healthgym")
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last_name(node.func) in SETTERS:
            texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
            yield from names.intersection(str(text).rpartition(".")[2] for text in texts)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            if node.attr in names and _last_name(node.value) not in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.ClassDef) and imported.intersection(map(_last_name, node.bases)):
            methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            yield from names & methods


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def test_tests_set_no_private_attribute() -> None:
    names = private_names(ROOT / "healthgym")
    found = {
        (path.name, name)
        for path in (ROOT / "tests").rglob("*.py")
        for name in private_sets(path.read_text(), names)
    }
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr(module, "_few", 1)',
        'monkeypatch.setattr("healthgym.seeds._few", 1)',
        'patch.object(module, "_few", return_value=1)',
        "module._few = 1",
        "class Own(Base):\n    def _few(self):\n        pass",
    ],
)
def test_each_way_to_set_one_is_found(line: str) -> None:
    assert list(private_sets(f"from healthgym.seeds import Base\n{line}\n", {"_few"})) == ["_few"]


@pytest.mark.parametrize("line", ["self._few = 1", 'monkeypatch.setattr(module, "few", 1)', "module._few()"])
def test_what_is_the_test_s_own_is_left_alone(line: str) -> None:
    assert not list(private_sets(line, {"_few"}))
