"""Values in units that make them very small or very large: kept as recorded, or refused with what to do."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import small_schema, small_table

from healthgym.data.fitting import units
from healthgym.data.fitting.columns import in_memory
from healthgym.data.fitting.fit_cells import fit_variable
from healthgym.data.prepare import prepare
from healthgym.data.sequences import PreparedCohort
from healthgym.errors import TableError
from healthgym.schema.cells import VariableCells

RANDOM = np.random.default_rng(0)


def fit(values: np.ndarray) -> VariableCells:
    return fit_variable(in_memory(values.ravel()), np.full(len(values), values.shape[1]), 10, 16)


def prepared(dose: np.ndarray, folder: Path) -> PreparedCohort:
    table = small_table(60, 4).assign(dose=dose)
    return prepare(table, small_schema(), folder / "p.h5", source="big.csv")


@given(exponent=st.integers(-11, 4), recorded=st.sampled_from([3, 17]), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_drawn_values_have_the_size_of_the_recorded_ones(exponent: int, recorded: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.lognormal(0, 0.5, (60, 8))
    values = np.array([float(f"{value:.{recorded}g}") for value in values.ravel()]).reshape(values.shape)
    values *= 10.0**exponent
    cells = fit(values)
    piece = cells.encode(values.ravel())
    drawn = cells.decode(piece, random.random(values.size))
    np.testing.assert_allclose(np.median(drawn), np.median(values), rtol=0.05)
    np.testing.assert_array_equal(cells.encode(drawn), piece)
    assert len(np.unique(drawn)) > len(np.unique(values)) / 20


def test_small_numbers_have_the_recorded_decimals() -> None:
    values = np.round(RANDOM.lognormal(0, 0.3, (100, 8)) * 85) / 1e7
    assert fit(values).decimals == 7
    cells = fit(RANDOM.lognormal(0, 0.5, (60, 8)) * 3e-8)
    assert not cells.exact, "nobody rounds to its decimals"
    assert 3e-8 * 10.0**cells.decimals > 1e4


def test_errors_of_arithmetic_are_no_decimals() -> None:
    values = np.arange(40.0).reshape(20, 2) * 0.1 - 0.3  # with 0.3 - 0.3 = 5.6e-17
    assert (np.abs(values) < 1e-15).sum() == 1
    assert 0.0 not in values
    assert fit(values).decimals == 1


def test_decimals_are_those_of_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "MOST_DISTINCT", 100)
    monkeypatch.setattr(units, "NUM_QUANTILES", 50)
    values = np.clip(RANDOM.lognormal(3, 1, (60, 8)).round(3), 0, 100)
    values[:20, 0] = 0.0  # 0 and 100 are the only ones that are counted one by one
    assert fit(values).decimals == 3


@pytest.mark.parametrize(
    ("code", "written"),
    [
        pytest.param(99_999_999, "100,000,000", id="a code for a missing value"),
        pytest.param(150_000_000_000, "149,999,992,832", id="platelets per litre"),
    ],
)
def test_large_whole_numbers_that_a_shard_cannot_hold_are_refused(
    code: int, written: str, tmp_path: Path
) -> None:
    dose = RANDOM.integers(1000, 2_000_000, 240).astype(float)
    dose[::3] = code
    match = (
        rf"big\.csv: column 'dose' has numbers .* {code:,} \(written as {written}\).* leave the cell empty"
    )
    with pytest.raises(TableError, match=match):
        prepared(dose, tmp_path)
    with pytest.raises(TableError, match=match):
        prepared(np.where(dose == code, code, dose + 0.5), tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_large_numbers_are_taken(tmp_path: Path) -> None:
    dose = RANDOM.integers(1, 1000, 240) * 2.0**20
    assert prepared(dose, tmp_path).cells.variables[0].decimals == 0
    (tmp_path / "p.h5").unlink()
    assert prepared(RANDOM.lognormal(20, 1, 240), tmp_path).cells.variables[0].decimals > 0


def test_numbers_that_rounding_would_change_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"'dose' is larger than 9\.\d+e-13; .* in a smaller unit"):
        prepared(np.linspace(0.1, 0.9999, 240) * 1e-12, tmp_path)
    cohort = prepared(RANDOM.lognormal(0, 0.5, 240) * 1e-11, tmp_path)
    rows: pd.DataFrame = cohort.frame("train")
    scaled = cohort.transform.forward_reals(rows[["dose"]].to_numpy())
    np.testing.assert_allclose(cohort.transform.inverse_reals(scaled)[:, 0], rows["dose"], rtol=1e-5)
