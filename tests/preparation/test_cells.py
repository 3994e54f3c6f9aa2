"""Cells of real variables: pooled over enough patients, exact where values are common, on the grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from healthgym.data.fitting import columns, fit_cells, units
from healthgym.data.fitting.columns import in_memory
from healthgym.schema.cells import ABSENT, HELD, MOST_PIECES, NONE, Cells, VariableCells, to_lists

K = 10


def fit(values_NT: NDArray[np.float64], least: int = K, num_bins: int = 16) -> VariableCells:
    lengths = np.full(len(values_NT), values_NT.shape[1])
    return fit_cells.fit_variable(in_memory(values_NT.ravel().astype(float)), lengths, least, num_bins)


def patients_with(
    values_NT: NDArray[np.float64], label_NT: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return how many patients have each label."""
    patient = np.repeat(np.arange(len(values_NT)), values_NT.shape[1])
    pairs = np.unique(np.stack([patient, label_NT.ravel()]), axis=1)
    return np.bincount(pairs[1], minlength=count)


@st.composite
def tables(draw: st.DrawFn) -> NDArray[np.float64]:
    seed = draw(st.integers(0, 10_000))
    random = np.random.default_rng(seed)
    shape = draw(st.integers(K, 80)), draw(st.integers(1, 12))
    kind = draw(st.sampled_from(["normal", "integers", "heavy", "zeros", "three", "own"]))
    return {
        "normal": random.normal(50, 10, shape),
        "integers": random.poisson(7, shape).astype(float),
        "heavy": np.round(random.lognormal(2, 1.5, shape), 1),
        "zeros": np.where(random.random(shape) < 0.5, 0.0, random.lognormal(3, 1, shape)),
        "three": random.integers(0, 3, shape) * 2.5,
        "own": np.repeat(random.normal(size=(shape[0], 1)), shape[1], 1),  # a value of each patient's own
    }[kind]


@given(tables())
@settings(max_examples=60, deadline=None)
def test_every_piece_pools_enough_patients(values_NT: NDArray[np.float64]) -> None:
    cells = fit(values_NT)
    assert patients_with(values_NT, cells.encode(values_NT.ravel()), cells.num_pieces).min() >= K


@given(tables())
@settings(max_examples=60, deadline=None)
def test_a_value_that_few_patients_had_is_no_piece_of_its_own(values_NT: NDArray[np.float64]) -> None:
    cells = fit(values_NT)
    single = cells.low_P[cells.low_P == cells.high_P]
    for value in single:
        # A pooled interval may end up with room for one value only, which then is a mean over its patients.
        exact = (values_NT == value).any(1).sum()
        pooled = patients_with(values_NT, cells.encode(values_NT.ravel()), cells.num_pieces)
        assert exact >= K or pooled[cells.encode(np.array([value]))[0]] >= K


@given(tables())
@settings(max_examples=60, deadline=None)
def test_draws_keep_the_distribution(values_NT: NDArray[np.float64]) -> None:
    cells, values = fit(values_NT), values_NT.ravel()
    assert np.all(np.diff(cells.bin_P) >= 0)
    assert np.all(cells.low_P <= cells.high_P)
    assert np.all(cells.high_P[:-1] <= cells.low_P[1:])
    assert np.all(np.diff(cells.edges) > 0)
    around = cells.cell_edges
    assert around.shape == (cells.num_bins, cells.num_cells + 1)
    assert np.all(np.diff(around, axis=1) >= 0)
    np.testing.assert_array_equal(around[:-1, -1], around[1:, 0])  # the cells leave nothing out
    assert np.abs(around[1:, 0] - cells.edges).max(initial=0) < 0.02
    widths = np.diff(around, axis=1)
    assert all((widths[b, c] > 0) for b, c in zip(cells.bin_P, cells.cell_P, strict=True))
    drawn = cells.decode(cells.encode(values), np.random.default_rng(0).random(len(values)))
    np.testing.assert_array_equal(cells.encode(drawn)[cells.encode(drawn) != cells.encode(values)], [])
    common = np.isin(values, cells.low_P[cells.low_P == cells.high_P])
    np.testing.assert_array_equal(drawn[common], values[common])


def test_outer_ends_are_nobodys_values() -> None:
    values = np.random.default_rng(0).normal(size=(200, 20))
    cells = fit(values)
    assert cells.low_P[0] > values.min()
    assert cells.high_P[-1] < values.max()
    assert not np.isin([cells.low_P[0], cells.high_P[-1]], values).any()


def test_integers_stay_integers_and_decimals_decimals() -> None:
    random = np.random.default_rng(1)
    for decimals in (0, 1, 3):
        values = np.round(random.lognormal(3, 1, (300, 10)), decimals)
        cells = fit(values)
        assert cells.decimals == decimals
        drawn = cells.decode(random.integers(0, cells.num_pieces, 5000), random.random(5000))
        np.testing.assert_array_equal(drawn, np.round(drawn, decimals))


def test_most_values_of_a_coarse_grid_give_a_coarse_grid() -> None:
    values = 5.0 * np.random.default_rng(1).integers(20, 4000, (60, 4))
    cells = fit(values)
    drawn = cells.decode(
        np.arange(cells.num_pieces).repeat(50), np.random.default_rng(0).random(50 * cells.num_pieces)
    )
    assert np.mean(drawn % 5 == 0) == 1


def test_more_values_than_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(size=(400, 30))
    values[values < -1] = -1.0
    whole = fit(values)
    monkeypatch.setattr(units, "MOST_DISTINCT", 300)
    monkeypatch.setattr(units, "NUM_QUANTILES", 200)
    monkeypatch.setattr(columns, "BLOCK", 977)
    pooled = fit(values)
    assert patients_with(values, pooled.encode(values.ravel()), pooled.num_pieces).min() >= K
    for cells in (whole, pooled):
        assert cells.low_P[0] == cells.high_P[0] == -1.0, "the heavy value stays exact"
    drawn = pooled.decode(pooled.encode(values.ravel()), np.random.default_rng(0).random(values.size))
    assert np.abs(np.sort(drawn) - np.sort(values.ravel())).mean() < 0.01


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.round(np.random.default_rng(3).lognormal(2, 1, (50, 7)), 1)
    whole = to_lists(fit(values).to_tree())
    monkeypatch.setattr(columns, "BLOCK", 11)
    assert to_lists(fit(values).to_tree()) == whole


def test_held_absent_and_none_yet() -> None:
    nan = np.nan
    values = np.tile(np.array([[nan, 1.0, 1.0, nan, 1.0, 2.0]]), (12, 1))
    cells = Cells((fit(values),), fit(np.full((12, 1), 6.0)))
    code = cells.encode(values[:1].ravel()[:, None], np.array([6]))[:, 0]
    np.testing.assert_array_equal(code, [NONE | ABSENT, 0, 0 | HELD, 0 | ABSENT, 0 | HELD, 1])
    two = cells.encode(np.array([[1.0], [1.0], [2.0]]), np.array([1, 2]))[:, 0]
    np.testing.assert_array_equal(two, [0, 0, 1]), "another patient's value before is nobody's"


def test_a_new_value_is_never_the_value_before() -> None:
    values = np.random.default_rng(0).integers(0, 400, (40, 3)).astype(float)
    cells = fit(values)
    piece = np.arange(cells.num_pieces).repeat(200)
    before = cells.decode(piece, np.random.default_rng(1).random(len(piece)))
    drawn = cells.decode(piece, np.random.default_rng(2).random(len(piece)), before)
    wide = (cells.high_P > cells.low_P)[piece]
    assert wide.any()
    assert (drawn != before)[wide].all()


def test_odd_cohorts_have_cells_too() -> None:
    for values in (np.full((5, 3), 2.0), np.arange(15.0).reshape(5, 3), np.ones((30, 1))):
        cells = fit(values)
        assert cells.num_pieces == 1
        assert np.isfinite(cells.scores_P).all()
    assert not fit(np.arange(400.0).reshape(20, 20)).holds
    assert fit(np.ones((30, 4))).holds


def test_cells_in_words() -> None:
    cells = fit(np.repeat([[1.0, 2.5]], 20, 0))
    assert str(cells) == "2 single values and 0 intervals in 2 bins, from 1 to 2.5, 1 decimals"


def test_a_file_of_version_0_1_0_was_prepared_with_ten_patients() -> None:
    values = np.round(np.random.default_rng(3).lognormal(2, 1, (50, 7)), 1)
    fitted = fit_cells.fit_cells([in_memory(values.ravel())], np.full(50, 7), 20)
    assert Cells.from_tree(to_lists(fitted.to_tree())).least_patients == 20
    tree = to_lists(fitted.to_tree())
    del tree["least_patients"], tree["variables"]["0"]["patients"]
    old = Cells.from_tree(tree)
    assert old.least_patients == K
    assert old.too_few(["x"]) == {}, "their number is unknown"


@given(
    st.lists(st.sampled_from([1, 5, 6, 12, 20, 49, 50, 51, 200]), min_size=K, max_size=80), st.integers(1, 15)
)
@settings(max_examples=60, deadline=None)
def test_the_greatest_length_is_one_that_enough_patients_reach(lengths: list[int], least: int) -> None:
    lengths_N = np.array(lengths)
    length = fit_cells.fit_cells([], lengths_N, least).length
    if len(lengths) >= least:
        assert (lengths_N >= length.high_P[-1]).sum() >= least
    assert np.all(length.low_P <= length.high_P)


def test_no_more_pieces_than_a_code_has_room_for() -> None:
    common, rare = np.repeat(np.arange(2100.0), 24), np.repeat(np.arange(2100) + 0.5, 11)
    values = np.concatenate([common, rare])[:, None]
    cells = fit(values)
    assert cells.num_pieces <= MOST_PIECES
    code = Cells((cells,), cells).encode(values, np.ones(len(values), np.int64))[:, 0]
    np.testing.assert_array_equal(code, cells.encode(values.ravel()))
    assert patients_with(values, cells.encode(values), cells.num_pieces).min() >= K


def test_codes_of_too_many_pieces_are_not_made() -> None:
    many = np.arange(float(MOST_PIECES + 1))
    counts = np.ones(len(many), np.int64)
    cells = VariableCells(many, many, counts, many[1:], counts, counts, 0 * counts, 0 * counts, 0, False)
    with pytest.raises(ValueError, match="4096 pieces; codes have room for 4095"):
        Cells((cells,), cells).encode(many[:, None], np.ones(len(many), np.int64))


def test_there_and_back_through_a_file() -> None:
    values = np.round(np.random.default_rng(3).lognormal(2, 1, (50, 7)), 1)
    cells = Cells((fit(values), fit(-values)), fit(np.full((50, 1), 7.0)))
    again = Cells.from_tree(to_lists(cells.to_tree()))
    assert to_lists(again.to_tree()) == to_lists(cells.to_tree())


# --- ends ------------------------------------------------------------------------------------------


@given(tables(), st.sampled_from([30, 1 << 16]))
@settings(max_examples=80, deadline=None)
def test_no_end_is_beyond_the_values(values_NT: NDArray[np.float64], most_distinct: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "MOST_DISTINCT", most_distinct)
        patch.setattr(units, "NUM_QUANTILES", 20)
        cells = fit(values_NT)
    half = 0.5000001 * 10.0**-cells.decimals
    if cells.num_pieces > 1 or (cells.high_P > cells.low_P + 2.1 * half).any():
        assert cells.low_P[0] >= values_NT.min() - half
        assert cells.high_P[-1] <= values_NT.max() + half


@pytest.mark.parametrize("size", [1e15, 1e20, 1e300])
def test_ends_of_values_whose_digits_are_beyond_floating_point(size: float) -> None:
    values = size * (1 + np.random.default_rng(0).integers(0, 3, (30, 4)) / 7)
    cells = fit(values)
    assert np.isfinite([cells.low_P, cells.high_P]).all()
    assert cells.num_pieces == 3


def with_frequent_patient(value: float, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 60 patients of zeros, of whom one alternates with a value and others have theirs once."""
    values = np.zeros((60, 40))
    values[0, 1::2] = value
    values[1 : 1 + len(others), 5] = others
    return values


def test_a_tail_is_of_its_patients_not_of_the_one_with_most_rows() -> None:
    random = np.random.default_rng(1)
    values = np.round(random.normal(100, 10, (60, 40)))
    values[0] = np.where(np.arange(40) % 2, 987.0, 100.0)
    cells = fit(values)
    in_tail = values[cells.encode(values) == cells.num_pieces - 1]
    assert (in_tail == 987).mean() > 0.5
    assert cells.low_P[-1] < cells.high_P[-1] < 500
    cells = fit(with_frequent_patient(413.0, 410 + 0.7 * np.arange(1, 10)))
    assert abs((cells.low_P[-1] + cells.high_P[-1]) / 2 - 413.0) > 0.3


def test_a_single_value_is_one_that_enough_patients_had() -> None:
    lengths = np.array([50] * 9 + [41] + [12] * 40)
    cells = fit(lengths[:, None])
    assert cells.low_P.tolist() == [12, 40]
    assert cells.high_P[-1] > 40
    length = fit_cells.fit_cells([], lengths, K).length
    assert (length.low_P[-1], length.high_P[-1]) == (40, 41)


@given(tables(), st.sampled_from([1.0, 0.5, 0.1]))
@settings(max_examples=80, deadline=None)
def test_single_values_are_of_enough_patients(values_NT: NDArray[np.float64], grid: float) -> None:
    values_NT = np.round(np.rint(values_NT / grid) * grid, 1)
    cells = fit(values_NT)
    for value in cells.low_P[cells.low_P == cells.high_P]:
        assert not 0 < np.isclose(values_NT, value, rtol=1e-9).any(1).sum() < K


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_values_of_few_patients_form_an_interval_with_the_next_one(sign: int) -> None:
    """Six of 300 patients have a value below 20, 20 others have 20; all other values are 21 to 59."""
    values = np.random.default_rng(0).integers(21, 60, (300, 20)).astype(float)
    values[:20, 0], values[20:26, 0] = 20, np.arange(14, 20)
    cells = fit(sign * values)
    end = 0 if sign > 0 else -1
    low, high = sorted(abs(each[end]) for each in (cells.low_P, cells.high_P))
    assert 14 < low < 20 <= high < 21


def test_a_value_that_most_have_stays_exact_beside_extremes_of_few_patients() -> None:
    values = np.zeros((300, 20))
    values[:6, 0] = np.arange(1, 7)
    cells = fit(values)
    assert (cells.low_P.tolist(), cells.high_P.tolist()) == ([0.0], [0.0])
