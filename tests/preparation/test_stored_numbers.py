"""No number that a prepared file's cells and fills store is a value of fewer patients than may be told."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tables import small_schema, small_table

from healthgym.data.fitting import columns, fit_cells, units
from healthgym.data.fitting.columns import in_memory, pooled_median
from healthgym.data.prepare import SplitSettings, prepare
from healthgym.schema.cells import VariableCells

K = 10
Table = NDArray[np.float64]


def fit(values_NT: Table) -> VariableCells:
    lengths = np.full(len(values_NT), values_NT.shape[1])
    return fit_cells.fit_variable(in_memory(values_NT.ravel()), lengths, K, 16)


def rare_values(values_NT: Table) -> Table:
    """Return the values that fewer than K patients have; 0 is the least possible one, and no secret."""
    values, patients = np.unique(
        np.concatenate([np.unique(row[~np.isnan(row)]) for row in values_NT]), return_counts=True
    )
    return values[(patients < K) & (values != 0)]


def stored(cells: VariableCells) -> Table:
    """Return the numbers of values, and their neighbours among floating-point numbers."""
    numbers = np.concatenate([cells.low_P, cells.high_P, cells.bounds])
    return np.concatenate([numbers, np.nextafter(numbers, -np.inf), np.nextafter(numbers, np.inf)])


@st.composite
def own_values(draw: st.DrawFn) -> Table:
    """Draw values of which hardly any is another patient's, in any unit and in part with common ones."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    shape = draw(st.integers(2, 60)), draw(st.integers(1, 12))
    kind, unit = draw(st.sampled_from(["normal", "heavy", "tail", "own"])), draw(st.integers(-9, 6))
    values = {
        "normal": random.normal(50, 10, shape),
        "heavy": random.lognormal(2, 2.5, shape),
        "tail": random.standard_cauchy(shape),
        "own": np.repeat(random.normal(size=(shape[0], 1)), shape[1], 1),
    }[kind] * 10.0**unit
    common = draw(st.sampled_from([0.0, 0.3, 0.9]))
    values[random.random(shape) < common] = draw(st.sampled_from([0.0, 1e-9, 10.0**unit]))
    assume(values.min() < values.max())  # others are refused
    return values


@given(own_values(), st.sampled_from([8, 64, 1 << 16]))
@settings(max_examples=150, deadline=None)
def test_cells_store_no_value_of_few_patients(values_NT: Table, most_distinct: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "MOST_DISTINCT", most_distinct)
        patch.setattr(units, "NUM_QUANTILES", max(most_distinct // 2, 5))
        cells = fit(values_NT)
    assert not set(stored(cells).tolist()) & set(rare_values(values_NT).tolist())
    assert np.all(cells.low_P <= cells.high_P)


@pytest.mark.parametrize("quantiles", [30, 40])
def test_bounds_are_no_values_where_every_quantile_is_one(
    monkeypatch: pytest.MonkeyPatch, quantiles: int
) -> None:
    values = np.random.default_rng(0).normal(size=(30, 29 * 39 * 2 // 6 + 1))
    values = values.ravel()[: 29 * 39 * 10 + 1].reshape(-1, 1)  # ranks of quantiles are whole numbers
    monkeypatch.setattr(units, "MOST_DISTINCT", 100)
    monkeypatch.setattr(units, "NUM_QUANTILES", quantiles)
    cells = fit(values)
    assert cells.num_pieces > 20
    assert not np.isin(stored(cells), values).any()
    share = cells.new_P / cells.new_P.sum()
    found = np.bincount(cells.encode(values.ravel()), minlength=cells.num_pieces) / len(values)
    np.testing.assert_array_equal(share, found)


# --- the fill of gaps ------------------------------------------------------------------------------


def filled(values_NT: Table, least: int = K) -> float:
    by_row = pd.DataFrame(values_NT.T).ffill().to_numpy().T
    lengths = np.full(len(values_NT), values_NT.shape[1])
    measured = values_NT[~np.isnan(values_NT)]
    return pooled_median(in_memory(measured), in_memory(by_row.ravel()), lengths, least)


@given(own_values(), st.integers(0, 99))
@example(np.full((12, 1), 80.0), 0)
@settings(max_examples=80, deadline=None)
def test_a_fill_is_no_value_of_few_patients(values_NT: Table, seed: int) -> None:
    gaps = np.random.default_rng(seed).random(values_NT.shape) < 0.4
    gaps[0, 0] = False
    values_NT = np.where(gaps, np.nan, values_NT)
    found = filled(values_NT)
    measured = values_NT[~np.isnan(values_NT)]
    patients = (~np.isnan(values_NT)).any(1).sum()
    if patients > 1 and len(np.unique(measured)) > 1:
        assert found not in rare_values(values_NT)
    assert measured.min() <= found <= measured.max()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "BLOCK", 7)
        assert filled(values_NT) == pytest.approx(found, rel=1e-12)


def test_a_fill_is_near_the_median() -> None:
    random = np.random.default_rng(1)
    values = random.lognormal(3, 1, (200, 9))
    assert filled(values) == pytest.approx(np.median(values), rel=0.02)
    assert filled(values, least=1) == np.median(values)
    whole = random.poisson(80, (200, 9)).astype(float)
    assert filled(whole) == np.median(whole), "many patients have it"
    whole[0, 0] = np.nan  # an even number of values
    assert filled(whole) == np.median(whole[~np.isnan(whole)])


@pytest.mark.parametrize("odd", [True, False])
def test_a_prepared_cohort_has_such_fills(tmp_path: Path, odd: bool) -> None:
    table = small_table(41, 5)
    table["dose"] = table["dose"].round(3)
    table.loc[table["Timestep"] == 0, "dose"] = np.nan
    if odd:
        table.loc[1, "dose"] = np.nan
    schema = small_schema(dose={"missing": "carry_forward", "measured_flag": "dose measured"})
    cohort = prepare(table, schema, tmp_path / "p.h5", SplitSettings(0.0))
    assert cohort.cells is not None
    cells, fill = cohort.cells.variables[0], float(cohort.frame("train")["dose"][0])
    assert table["dose"].notna().sum() % 2 == odd
    assert fill not in table["dose"].to_numpy()
    assert fill == round(fill, 3)
    assert cells.decimals == 3, "as recorded"
    single = cells.low_P[cells.low_P == cells.high_P]
    assert single.tolist() == [fill], "all patients have it, at first"
