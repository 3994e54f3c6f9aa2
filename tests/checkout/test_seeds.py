"""Random rows as a function of their position."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import healthgym
from healthgym import seeds
from healthgym.seeds import uniform_rows

SHAPES = [(), (1,), (5,), (3, 4), (2, 3, 3)]  # of odd and of even size


@given(
    shape=st.sampled_from(SHAPES), first=st.integers(0, 10**9), count=st.integers(0, 9), cut=st.integers(0, 9)
)
@settings(deadline=None)
def test_any_part_of_the_rows_is_had_without_the_rest(
    shape: tuple[int, ...], first: int, count: int, cut: int
) -> None:
    whole = uniform_rows(shape, count, first, 7, "critic", 3)
    cut = min(cut, count)
    parts = [
        uniform_rows(shape, n, at, 7, "critic", 3) for n, at in ((cut, first), (count - cut, first + cut))
    ]
    assert whole.shape == (count, *shape)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("other", [(8, "critic", 3), (7, "z", 3), (7, "critic", 4), (7, "critic/3")])
def test_rows_of_other_positions_have_nothing_in_common(other: tuple[int, str]) -> None:
    one, another = uniform_rows((64,), 500, 0, 7, "critic", 3), uniform_rows((64,), 500, 0, *other)
    # 32,000 pairs: six standard errors.
    assert abs(np.corrcoef(one.ravel(), another.ravel())[0, 1]) < 6 / np.sqrt(one.size)


def test_rows_are_those_of_this_form_of_plans() -> None:
    """Should this fail, cohorts of one plan are no longer the same: count `SynthesisPlan.form` up."""
    expected = [[0.880508304, 0.820557296, 0.0414612293], [0.591556609, 0.136550188, 0.24181515]]
    np.testing.assert_array_equal(uniform_rows((3,), 2, 5, 7, "critic", 3), np.array(expected, np.float32))


def test_numbers_are_uniform_within_and_between_rows() -> None:
    u = uniform_rows((100,), 1000, 10**6, 0, "z").astype(np.float64)
    assert u.min() >= 0
    assert u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=6 / np.sqrt(12 * u.size))
    counts = np.bincount((u * 64).astype(int).ravel(), minlength=64)
    chi_square = float(((counts - u.size / 64) ** 2 / (u.size / 64)).sum())
    assert abs(chi_square - 63) < 6 * np.sqrt(2 * 63)
    for one, other in ((u[:, :-1], u[:, 1:]), (u[:-1], u[1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 6 / np.sqrt(one.size)


def purposes_in_use() -> set[str]:
    """Return each purpose that is written as text in a call of a function of `seeds`."""
    drawing = {"key", "permutation", "shuffled", "stream", "uniform_rows"}
    found = set()
    for path in Path(healthgym.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            texts = [value for value in constants if isinstance(value, str)]
            found |= {text for text in texts[:2] if name in drawing}
    return found


def test_the_list_of_purposes_is_complete() -> None:
    assert seeds.__doc__ is not None
    listed = set(re.split(r"[,;|\n]\s*|\s{2,}", seeds.__doc__))
    found = purposes_in_use()
    assert {"noise", "order", "weights", "length given classes"} <= found
    assert found <= listed, f"healthgym/seeds.py does not list {sorted(found - listed)}"
