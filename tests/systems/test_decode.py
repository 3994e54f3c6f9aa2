"""Decoding: classes, static variables, disagreement."""

import numpy as np
import pytest
import torch
from fake_system import SCHEMA
from hypothesis import given
from hypothesis import strategies as st

from healthgym.errors import CohortError
from healthgym.schema import Schema, Variable
from healthgym.systems.base import Disagreement
from healthgym.systems.decode import STATIC_REAL_TOLERANCE, decode

SMALL = Schema(
    name="small",
    variables=(
        Variable(name="VL", kind="real"),
        Variable(name="Gender", kind="binary", classes={1: "M", 2: "F"}, static=True),
        Variable(name="Drug", kind="categorical", classes={0: "a", 1: "b", 2: "c"}),
    ),
)


def noise(seed: int, B: int, T: int, schema: Schema = SCHEMA) -> torch.Tensor:
    return torch.rand(B, T, schema.layout.num_features, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**31), B=st.integers(1, 9), T=st.integers(1, 7), data=st.data())
def test_static_variables_are_constant_and_others_are_the_best_class(
    seed: int, B: int, T: int, data: st.DataObject
) -> None:
    x_BTF = noise(seed, B, T)
    lengths = data.draw(st.lists(st.integers(1, T), min_size=B, max_size=B))
    decoded = decode(x_BTF, np.array(lengths), SCHEMA.layout)
    for variable, span, code_TB in zip(
        SCHEMA.categoricals, SCHEMA.layout.spans, decoded.codes_KTB, strict=True
    ):
        scores_BTC = x_BTF[..., span].numpy()
        if not variable.static:
            np.testing.assert_array_equal(code_TB.T, scores_BTC.argmax(-1))
            continue
        wrong_rows = wrong_patients = 0
        for b, length in enumerate(lengths):
            expected = scores_BTC[b, :length].mean(0).argmax()
            assert set(code_TB[:length, b].tolist()) == {expected}
            differs = scores_BTC[b, :length].argmax(-1) != expected
            wrong_rows += int(differs.sum())
            wrong_patients += int(differs.any())
        counts = decoded.disagreements[list(SCHEMA.names()).index(variable.name)]
        assert (counts.timesteps, counts.patients) == (wrong_rows, wrong_patients)
    for variable, real_TB, column in zip(SCHEMA.reals, decoded.reals_RTB, range(3), strict=True):
        for b, length in enumerate(lengths):
            raw = x_BTF[b, :length, column].numpy()
            if variable.static:
                assert len(set(real_TB[:length, b].tolist())) == 1
                assert real_TB[0, b] == pytest.approx(raw.mean(), abs=1e-6)
            else:
                np.testing.assert_array_equal(real_TB[:length, b], raw)


def test_disagreement_of_a_static_class_by_hand() -> None:
    x_BTF = torch.zeros(2, 3, SMALL.layout.num_features)
    x_BTF[..., 1:3] = torch.tensor(
        [[[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], [[0.2, 0.8], [0.1, 0.9], [0.9, 0.1]]]
    )
    decoded = decode(x_BTF, np.array([3, 2]), SMALL.layout)
    assert decoded.codes_KTB[0, :, 0].tolist() == [0, 0, 0]  # 1.7 against 1.3, though two months say F
    assert decoded.codes_KTB[0, :2, 1].tolist() == [1, 1]
    assert decoded.disagreements == {1: Disagreement(timesteps=2, patients=1)}  # one real, then Gender


def test_a_static_real_within_tolerance_agrees() -> None:
    schema = Schema(name="s", variables=(Variable(name="Age", kind="real", static=True),))
    for spread, disagreeing in ((0.9, 0), (1.1, 2)):
        shift = STATIC_REAL_TOLERANCE * spread
        x_BTF = torch.tensor([[[0.5 - shift], [0.5 + shift]]])
        counts = decode(x_BTF, np.array([2]), schema.layout).disagreements[0]
        assert counts.timesteps == disagreeing


def test_ties_take_the_first_class() -> None:
    decoded = decode(torch.full((1, 2, SMALL.layout.num_features), 0.5), np.array([2]), SMALL.layout)
    assert decoded.codes_KTB.max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    x_BTF = noise(0, 4, 5)
    x_BTF[2, 3, 0] = bad
    with pytest.raises(CohortError, match=r"generates numbers that are not finite.*earlier checkpoint"):
        decode(x_BTF, np.full(4, 5), SCHEMA.layout)
