"""The transform matches its reference values, and its inverse undoes it."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from tables import small_schema, small_table

from healthgym.data.encode import decode, design_matrix, encode_codes
from healthgym.data.fitting.columns import group_ends, in_memory
from healthgym.data.fitting.correlation import Moments
from healthgym.data.fitting.transform import Transform
from healthgym.data.tables.table import check_table
from healthgym.schema import Schema


def reals_schema(*names: str, offset: float = 0.0) -> Schema:
    variables = [{"name": name, "kind": "real", "offset": offset} for name in names]
    return Schema.model_validate({"name": "reals", "variables": variables})


def golden_schema(file: h5py.File) -> Schema:
    variables: list[dict[str, Any]] = []
    for name, width in zip(
        json.loads(file.attrs["columns"]), file["span_end"][()] - file["span_start"][()], strict=True
    ):
        kind = "real" if width == 1 else "binary" if width == 2 else "categorical"
        classes = {} if width == 1 else {code: f"class {code}" for code in range(width)}
        variables.append({"name": name, "kind": kind, "classes": classes})
    return Schema.model_validate({"name": "golden", "variables": variables})


def test_recorded_state_and_design(goldens: Path) -> None:
    with h5py.File(goldens / "transform.h5") as file:
        schema = golden_schema(file)
        raw_NR = np.stack([file["table"][v.name][()] for v in schema.reals], axis=1)
        codes_NK = np.stack([file["table"][v.name][()] for v in schema.categoricals], axis=1).astype(np.uint8)
        design_NF = file["design"][()]
        states = {name: {key: node[key][()] for key in node} for name, node in file["boxcox"].items()}
        starts, ends, widths = (file[name][()] for name in ("span_start", "span_end", "embedding_size"))
    transform = Transform.fit(raw_NR, schema)
    tree = transform.to_tree()
    for r, name in enumerate(tree["names"]):
        for key, value in states[name].items():
            assert tree[key][r] == pytest.approx(value, rel=1e-7)
    made_NF = design_matrix(transform.forward_reals(raw_NR), codes_NK, schema.layout)
    np.testing.assert_allclose(made_NF, design_NF, atol=1e-8)
    np.testing.assert_allclose(transform.inverse_reals(design_NF[:, : len(schema.reals)]), raw_NR, rtol=1e-6)
    spans = [slice(r, r + 1) for r in range(len(schema.reals))] + list(schema.layout.spans)
    assert [(span.start, span.stop) for span in spans] == list(zip(starts, ends, strict=True))
    assert list(schema.layout.embedding_dims) == widths[len(schema.reals) :].tolist()


def test_recorded_correlation(goldens: Path) -> None:
    with h5py.File(goldens / "correlation.h5") as file:
        x_NF = file["x_real"][()].astype(np.float64)
        recorded_FF = file["corr_real"][()]
    x_NF = x_NF.reshape(-1, x_NF.shape[-1])
    moments = Moments(x_NF.shape[1])
    for block in np.array_split(x_NF, 7):
        moments.add(block)
    np.testing.assert_allclose(moments.correlation(), recorded_FF, atol=1e-5)  # recorded in float32


@settings(max_examples=50, deadline=None)
@given(
    x_NF=hnp.arrays(np.float64, (40, 3), elements=st.floats(-1e3, 1e3).map(lambda x: round(x, 3))),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_correlation_does_not_depend_on_blocks(x_NF: np.ndarray, cuts: list[int]) -> None:
    x_NF = x_NF + np.array([1e6, 0.0, -1e4])
    moments = Moments(3)
    for block in np.split(x_NF, sorted(cuts)):
        moments.add(block)
    std = x_NF.std(axis=0, ddof=1)
    std[std < 1e-8] = 1.0
    expected = np.clip(np.cov(x_NF, rowvar=False) / np.outer(std, std), -1, 1)
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(moments.correlation(), expected, atol=1e-6)


def test_constant_columns_correlate_with_nothing() -> None:
    moments = Moments(2)
    moments.add(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(moments.correlation(), np.eye(2))


columns = st.one_of(
    hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(0, 1e6)),
    hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(6.5, 8.0)),
    hnp.arrays(np.float64, st.integers(2, 60), elements=st.integers(0, 9).map(float)),
)


@settings(max_examples=200, deadline=None)
@given(column=columns)
def test_inverse_of_forward_is_the_identity(column: np.ndarray) -> None:
    raw_NR = column[:, None]
    transform = Transform.fit(raw_NR, reals_schema("a"))
    x_NR = transform.forward_reals(raw_NR)
    spread = np.ptp(column) or 1.0
    np.testing.assert_allclose(transform.inverse_reals(x_NR), raw_NR, atol=1e-5 * spread + 1e-12, rtol=1e-5)
    if np.ptp(column + 1e-3) > 0:
        assert x_NR.min() >= 0
        assert x_NR.max() <= 1
        assert (np.diff(x_NR[np.argsort(column), 0]) >= 0).all()


def test_lambda_is_of_greatest_likelihood() -> None:
    column = np.random.default_rng(1).gamma(2.0, 30.0, 4000)
    fitted = Transform.fit(column[:, None], reals_schema("a"))
    assert fitted.lambda_R[0] == pytest.approx(stats.boxcox(column + 1e-3)[1], abs=1e-6)


def test_lambda_zero_is_the_logarithm() -> None:
    transform = Transform(("a",), *(np.array([value]) for value in (1e-3, 0.0, 0.0, 1.0)))
    raw_NR = np.array([[0.0], [1.0], [50.0]])
    np.testing.assert_allclose(transform.forward_reals(raw_NR), np.log(raw_NR + 1e-3))
    np.testing.assert_allclose(transform.inverse_reals(np.log(raw_NR + 1e-3)), raw_NR, atol=1e-12)


def test_a_base_below_the_smallest_is_clamped() -> None:
    transform = Transform(("a",), *(np.array([value]) for value in (1e-3, 2.0, -5.0, 1.0)))
    assert transform.inverse_reals(np.zeros((1, 1)))[0, 0] == pytest.approx(1e-12**0.5 - 1e-3)


@pytest.mark.parametrize("column", [[np.nan, np.nan], [5.0, 5.0], [-3.0, 5.0]])
def test_columns_without_a_fit_fall_back(column: list[float]) -> None:
    transform = Transform.fit(np.array(column)[:, None], reals_schema("a"))
    assert (transform.lambda_R[0], transform.min_R[0], transform.range_R[0]) == (1.0, 0.0, 1.0)


def test_nan_passes_through_and_is_left_out_of_the_fit() -> None:
    column = np.array([[1.0], [np.nan], [4.0], [9.0]])
    transform = Transform.fit(column, reals_schema("a"))
    whole = Transform.fit(column[[0, 2, 3]], reals_schema("a"))
    assert transform.lambda_R == whole.lambda_R
    assert np.isnan(transform.inverse_reals(transform.forward_reals(column))).tolist() == [[0], [1], [0], [0]]


def test_offset_is_added_and_taken_off() -> None:
    raw_NR = np.random.default_rng(0).normal(0, 5, (500, 1))
    transform = Transform.fit(raw_NR, reals_schema("a", offset=40.0))
    assert transform.eps_R[0] == 40.001
    np.testing.assert_allclose(transform.inverse_reals(transform.forward_reals(raw_NR)), raw_NR, atol=1e-9)


@pytest.mark.parametrize("outlier", [735.0, 1e6])
def test_an_outlier_does_not_press_values_together(outlier: float) -> None:
    column = np.append(np.random.default_rng(0).normal(7.4, 0.07, 5000), outlier)[:, None]
    transform = Transform.fit(column, reals_schema("a"))
    back = transform.inverse_reals(transform.forward_reals(column).astype(np.float32))
    np.testing.assert_allclose(back[:-1], column[:-1], atol=1e-3)


def test_state_makes_an_equal_transform() -> None:
    transform = Transform.fit(np.random.default_rng(0).lognormal(size=(50, 2)), reals_schema("a", "b"))
    again = Transform.from_tree(transform.to_tree())
    x = np.random.default_rng(1).random((5, 7, 2))
    np.testing.assert_array_equal(again.inverse_reals(x), transform.inverse_reals(x))
    assert again.names == ("a", "b")


def test_labels_to_codes_and_back() -> None:
    checked = check_table(small_table(), small_schema())
    schema = small_schema()
    back = decode(checked[["dose"]].to_numpy(), encode_codes(checked, schema), schema)
    assert back.equals(checked[["dose", "drug", "sex"]])


def test_decoding_blanks_what_the_flag_calls_unmeasured() -> None:
    modelled = {"missing": "model", "measured_flag": "seen"}
    schema = small_schema(dose=modelled, drug={**modelled, "measured_flag": "drug seen"})
    frame = decode(np.array([[1.0], [2.0]]), np.array([[1, 0, 1, 0], [2, 0, 0, 1]], dtype=np.uint8), schema)
    assert frame["dose"].isna().tolist() == [False, True]
    assert frame["drug"].isna().tolist() == [True, False]
    assert list(frame) == list(schema.names())


def test_design_is_one_hot() -> None:
    schema = small_schema()
    design = design_matrix(
        np.array([[0.25], [0.5]]), np.array([[2, 0], [1, 1]], dtype=np.uint8), schema.layout
    )
    np.testing.assert_array_equal(design, [[0.25, 0, 0, 1, 1, 0], [0.5, 0, 1, 0, 0, 1]])


def test_the_ends_of_a_prepared_cohort_are_means_of_ten_patients() -> None:
    lengths = np.array([3, 0, 2] + [1] * 40)
    values = np.concatenate([[1e6, 5.0, 900.0], [np.nan, np.nan], np.arange(100.0, 140.0)])
    low, high, patients = group_ends(in_memory(values), lengths, 10)
    assert patients == 10
    assert low == pytest.approx(np.mean([5.0, *range(100, 109)]))
    assert high == pytest.approx(np.mean([1e6, *range(131, 140)]))
    assert group_ends(in_memory(values), lengths, 1)[:2] == (5.0, 1e6)
    assert group_ends(in_memory(values[:10]), lengths[:8], 10) == (5.0, 1e6, 1), "too few for two groups"
