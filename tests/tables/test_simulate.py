"""The simulated cohort against published summaries and its documented assumptions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healthgym.data.simulation.regimens import AXES, published, regimen_law, shares
from healthgym.data.simulation.simulate import REALS, simulate_art_hiv, simulate_chunks
from healthgym.data.tables.table import check_table
from healthgym.schema import Schema, load_schema

NUM_PATIENTS, NUM_MONTHS = 40_000, 60
REGIMEN = list(AXES[2:])
FLAG_OF = {"VL": "VL (M)", "CD4": "CD4 (M)", "Rel CD4": "CD4 (M)"}


@pytest.fixture(scope="module")
def cohort() -> pd.DataFrame:
    """A cohort large enough that sampling noise is small beside the tolerances."""
    return simulate_art_hiv(NUM_PATIENTS, seed=7, truth=True)


@pytest.fixture(scope="module")
def schema() -> Schema:
    return load_schema(Path(__file__).parents[2] / "configs/schemas/art_hiv.yaml")


def months(cohort: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as an array of shape (patients, months)."""
    return cohort[name].to_numpy().reshape(NUM_PATIENTS, NUM_MONTHS)


def changes(cohort: pd.DataFrame) -> np.ndarray:
    """Return where the regimen differs from the month before, shape (patients, months - 1)."""
    regimen = cohort[REGIMEN].to_numpy().reshape(NUM_PATIENTS, NUM_MONTHS, len(REGIMEN))
    return (regimen[:, 1:] != regimen[:, :-1]).any(axis=2)


# --- calibrated ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(published()["shares"]))
def test_shares_are_as_published(cohort: pd.DataFrame, name: str) -> None:
    simulated = cohort[name].value_counts(normalize=True).sort_index().to_numpy()
    # One percentage point, and three standard errors if every patient were a single draw.
    noise = 3 * np.sqrt(shares(name) * (1 - shares(name)) / NUM_PATIENTS)
    assert np.all(np.abs(simulated - shares(name)) < 0.01 + noise)
    assert np.all(np.abs(simulated / shares(name) - 1) < 0.25), "a rare class is lost or swollen"


@pytest.mark.parametrize("name", REALS)
def test_quartiles_and_extremes_are_as_published(cohort: pd.DataFrame, name: str) -> None:
    low, *quartiles, high = published()["quantiles"][name]
    assert np.quantile(cohort[name], [0.25, 0.5, 0.75]) == pytest.approx(quartiles, rel=0.10)
    assert low <= cohort[name].min() <= 4 * low, "the lower tail is short, or crosses the floor"
    assert 0.9 * high < cohort[name].max() <= high, "the upper tail is short, or crosses the ceiling"
    assert (cohort[name] == high).mean() < 0.01, "too many values stand at the ceiling"


@pytest.mark.parametrize("table", list(published()["tables"]))
def test_tables_are_as_published(cohort: pd.DataFrame, table: str) -> None:
    of, given_name = table.split(" | ")
    simulated = pd.crosstab(cohort[given_name], cohort[of], normalize="index").to_numpy()
    expected = np.array(published()["tables"][table])
    patients = cohort.groupby(given_name)["PatientID"].nunique().to_numpy()[:, None]
    # Three points, the reading error of the figures, three standard errors. (A patient with a class for
    # part of the time counts as one draw: generous for classes with few patients, LPV above all.)
    noise = 3 * np.sqrt(np.maximum(expected * (1 - expected), 0.005) / patients)
    assert np.all(np.abs(simulated - expected) < 0.03 + 0.006 + noise)


def test_every_gender_and_ethnicity_meet_in_a_cohort_of_the_public_size() -> None:
    first_month = simulate_art_hiv(8916, seed=1, num_timesteps=2).query("Timestep == 0")
    counts = pd.crosstab(first_month["Gender"], first_month["Ethnic"])
    assert counts.shape == (2, 4)
    assert counts.to_numpy().min() >= 50


def test_share_of_patients_who_ever_change_regimen(cohort: pd.DataFrame) -> None:
    assert changes(cohort).any(axis=1).mean() == pytest.approx(
        published()["patients_with_regimen_change"], abs=0.015
    )


def test_static_correlations_are_near_the_published_ones(cohort: pd.DataFrame) -> None:
    facts = published()["correlations"]
    table = cohort[facts["names"]].astype(float)
    for name in REALS:
        table[name] = (table[name] ** published()["box_cox_lambda"][name] - 1) / published()[
            "box_cox_lambda"
        ][name]
    simulated = table.corr().to_numpy()[np.tril_indices(len(facts["names"]), -1)]
    file, real = (np.concatenate([np.array(row) for row in facts[which]]) for which in ("file", "real"))
    apart = np.abs(file - real).mean()
    # The simulated cohort is nearer to the public file, and to the real cohort, than these are to each other.
    assert np.abs(simulated - file).mean() < 0.8 * apart
    assert np.abs(simulated - real).mean() < 0.9 * apart
    clear = (np.abs(file) > 0.15) & (file * real > 0)
    assert np.all(np.sign(simulated[clear]) == np.sign(file[clear]))
    outside = np.maximum(np.minimum(file, real) - simulated, simulated - np.maximum(file, real))
    assert outside.max() < 0.19


def test_joint_law_has_the_published_shares_and_plausible_regimens() -> None:
    law = regimen_law()
    for axis, name in enumerate(AXES):
        others = tuple(set(range(law.ndim)) - {axis})
        assert law.sum(axis=others) == pytest.approx(shares(name), abs=1e-3)
    base, ini, nnrti, pi, enhancer = np.ogrid[:6, :4, :4, :6, :2]
    regimen = law.sum(axis=(0, 1))
    third_agents = (ini < 3).astype(int) + (nnrti < 3) + (np.isin(pi, (0, 2, 4)) | (base == 3)) + 0 * enhancer
    assert regimen[third_agents == 1].sum() > 0.85
    assert regimen[third_agents == 3].sum() < 0.01
    assert (regimen * ((ini == 2) & (enhancer == 1))).sum() > 0.75 * (regimen * (enhancer == 1)).sum()


# --- assumed -------------------------------------------------------------------------------------


def test_viral_load_falls_and_cd4_rises_after_the_start(cohort: pd.DataFrame) -> None:
    treated, vl, cd4 = (months(cohort, name) for name in ("Treated", "True VL", "True CD4"))
    start = treated.argmax(axis=1)
    who = np.flatnonzero((start >= 6) & (start < 30))
    before, after, later = start[who] - 1, start[who] + 6, start[who] + 24
    fall = np.median(np.log10(vl[who, before] / vl[who, after]))
    assert 2.5 < fall < 4.0
    rise = np.median(cd4[who, later] / cd4[who, before])
    assert 1.3 < rise < 2.2


def test_viral_load_rebounds_in_a_pause(cohort: pd.DataFrame) -> None:
    treated, vl = months(cohort, "Treated"), months(cohort, "True VL")
    last = np.arange(5, NUM_MONTHS - 3)  # the last month of at least six under therapy
    six_on = np.logical_and.reduce([treated[:, last - back] for back in range(6)])
    three_off = np.logical_and.reduce([~treated[:, last + ahead] for ahead in (1, 2, 3)])
    who, month = np.nonzero(six_on & three_off)
    assert len(who) > 1000
    assert np.median(np.log10(vl[who, month + 8] / vl[who, month + 5])) > 2


def test_failure_raises_viral_load_and_is_followed_by_a_change(cohort: pd.DataFrame) -> None:
    failing, vl, changed = months(cohort, "Failing"), months(cohort, "True VL"), changes(cohort)
    treated = months(cohort, "Treated")
    lasting = failing[:, 2:-1] & failing[:, 1:-2] & failing[:, :-3]
    calm = treated[:, 2:-1] & ~failing[:, 2:-1]
    assert np.median(vl[:, 2:-1][lasting]) > 20 * np.median(vl[:, 2:-1][calm])
    assert changed[:, 2:][lasting].mean() > 4 * changed[:, 2:][calm].mean()


def test_visits_crowd_at_entry_and_at_changes(cohort: pd.DataFrame) -> None:
    measured, changed = months(cohort, "CD4 (M)"), changes(cohort)
    assert measured[:, 0].mean() > 0.7
    assert measured[:, 1:][changed].mean() > 3 * measured[:, 1:][~changed].mean()
    assert measured[:, :12].mean() > 2 * measured[:, 36:].mean()


def test_trends_have_the_published_directions(cohort: pd.DataFrame) -> None:
    slope = {n: np.sign(months(cohort, n) @ np.arange(-29.5, 30.0)) for n in (*REALS, "VL (M)", "Drug (M)")}
    # The published trend correlations of the real cohort: -0.73, 0.77, 0.70, -0.61.
    assert (slope["VL"] * slope["CD4"]).mean() < -0.5
    assert (slope["CD4"] * slope["Rel CD4"]).mean() > 0.6
    assert (slope["VL"] * slope["VL (M)"]).mean() > 0.4
    assert (slope["VL"] * slope["Drug (M)"]).mean() < -0.5


@pytest.mark.parametrize("name", REALS)
def test_values_are_carried_forward_between_measurements(cohort: pd.DataFrame, name: str) -> None:
    values, flag = months(cohort, name), months(cohort, FLAG_OF[name])[:, 1:] == 1
    assert np.array_equal(values[:, 1:][~flag], values[:, :-1][~flag])
    assert (values[:, 1:][flag] != values[:, :-1][flag]).mean() > 0.95


def test_regimens_change_only_under_therapy(cohort: pd.DataFrame) -> None:
    assert (months(cohort, "Drug (M)")[:, 1:][changes(cohort)] == 1).all()


# --- the table -----------------------------------------------------------------------------------


def test_table_fits_its_schema(schema: Schema) -> None:
    frame = simulate_art_hiv(50, seed=3)
    assert list(frame) == [variable.name for variable in schema.variables] + ["PatientID", "Timestep"]
    assert frame["Timestep"].to_numpy().reshape(50, 60).tolist() == [list(range(60))] * 50
    assert (frame.dtypes[list(REALS)] == np.float64).all()
    checked = check_table(frame, schema)
    for variable in schema.categoricals:
        shown = pd.Categorical.from_codes(
            [list(variable.codes).index(code) for code in frame[variable.name]], list(variable.labels)
        )
        assert (checked[variable.name] == shown).all()


@settings(max_examples=15, deadline=None)
@given(first=st.integers(0, 300), count=st.integers(1, 40), dropout=st.sampled_from([0.0, 0.05]))
def test_a_patient_is_the_same_whoever_makes_it(first: int, count: int, dropout: float) -> None:
    whole = simulate_art_hiv(340, seed=5, num_timesteps=14, dropout=dropout, truth=True)
    part = simulate_art_hiv(count, seed=5, num_timesteps=14, first_patient=first, dropout=dropout, truth=True)
    wanted = whole["PatientID"].between(first, first + count - 1)
    pd.testing.assert_frame_equal(part, whole[wanted].reset_index(drop=True), check_exact=True)


def test_chunks_are_the_whole_in_parts() -> None:
    chunks = list(simulate_chunks(25, 5, 12, first_patient=10**9, chunk_patients=10, blank_unmeasured=True))
    assert [chunk["PatientID"].nunique() for chunk in chunks] == [10, 10, 5]
    whole = simulate_art_hiv(25, 5, 12, first_patient=10**9, blank_unmeasured=True)
    pd.testing.assert_frame_equal(pd.concat(chunks, ignore_index=True), whole, check_exact=True)


def test_seeds_are_different_registries() -> None:
    assert not simulate_art_hiv(5, seed=1)["VL"].equals(simulate_art_hiv(5, seed=2)["VL"])


def test_dropout_makes_unequal_lengths_of_the_same_patients() -> None:
    whole = simulate_art_hiv(2000, seed=4)
    frame = simulate_art_hiv(2000, seed=4, dropout=0.03)
    lengths = frame.groupby("PatientID").size()
    assert lengths.min() == 10
    assert lengths.max() == 60
    assert (lengths == 60).mean() == pytest.approx(0.97**50, abs=0.03)
    kept = frame.merge(whole, on=["PatientID", "Timestep"], how="left", suffixes=("", " whole"))
    assert kept["VL"].equals(kept["VL whole"])


def test_blank_where_not_measured() -> None:
    blank, filled = simulate_art_hiv(200, seed=4, blank_unmeasured=True), simulate_art_hiv(200, seed=4)
    for name in REALS:
        measured = blank[FLAG_OF[name]] == 1
        assert blank[name].notna().equals(measured)
        assert blank.loc[measured, name].equals(filled.loc[measured, name])


@pytest.mark.parametrize("arguments", [(0, 1, 60, 0), (3, 1, 1, 0), (3, 1, 60, -1)])
def test_impossible_counts_are_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="needs at least 1 patient, 2 timesteps"):
        simulate_art_hiv(*arguments)


def test_an_impossible_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dropout is 1\.0; give the chance"):
        simulate_art_hiv(3, 1, dropout=1.0)
