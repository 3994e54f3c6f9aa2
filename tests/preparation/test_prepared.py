"""A prepared cohort: split, fitted on the training patients only, read by position, whole or absent."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import small_schema, small_table

from healthgym.data.encode import design_matrix
from healthgym.data.fitting.transform import Transform
from healthgym.data.prepare import SplitSettings, prepare
from healthgym.data.sequences import PreparedCohort
from healthgym.data.split import held_out
from healthgym.data.tables.table import check_table
from healthgym.errors import StorageError, TableError
from healthgym.storage.prepared import open_prepared, read_head

RELEASED = Path(__file__).parents[1] / "data" / "released"

# --- split -----------------------------------------------------------------------------------------


@given(ids=st.lists(st.integers(), unique=True, min_size=1), seed=st.integers(0, 5), data=st.data())
def test_holdout_depends_on_patient_and_seed_only(ids: list[int], seed: int, data: st.DataObject) -> None:
    alone = [bool(held_out([patient], 0.3, seed)[0]) for patient in ids]
    order = data.draw(st.permutations(range(len(ids))))
    assert held_out([ids[i] for i in order], 0.3, seed).tolist() == [alone[i] for i in order]


def test_holdout_has_its_share_and_changes_with_the_seed() -> None:
    shares = [held_out(range(20_000), 0.2, seed) for seed in (0, 1)]
    assert [share.mean() for share in shares] == pytest.approx([0.2, 0.2], abs=0.01)
    assert (shares[0] & shares[1]).mean() == pytest.approx(0.04, abs=0.01)
    assert not held_out(range(100), 0.0, 0).any()
    assert held_out(["7"], 0.5, 3) == held_out([7], 0.5, 3)


# --- the cohort ------------------------------------------------------------------------------------


def ragged_table(num_patients: int = 40) -> pd.DataFrame:
    frame = small_table(num_patients, 6)
    return frame[frame["Timestep"] < 2 + frame["PatientID"] % 5]


@pytest.fixture
def cohort(tmp_path: Path) -> PreparedCohort:
    return prepare(ragged_table(), small_schema(), tmp_path / "p.h5", SplitSettings(0.3, 1))


def test_every_patient_is_in_one_split(cohort: PreparedCohort) -> None:
    train, holdout = set(cohort.train.patient_ids), set(cohort.holdout.patient_ids)
    assert train | holdout == set(range(40))
    assert not train & holdout
    assert holdout == set(np.flatnonzero(held_out(range(40), 0.3, 1)))


def test_frames_are_the_checked_table(cohort: PreparedCohort) -> None:
    both = pd.concat([cohort.frame("train"), cohort.frame("holdout")]).sort_values(["PatientID", "Timestep"])
    expected = check_table(ragged_table(), small_schema())
    pd.testing.assert_frame_equal(both.reset_index(drop=True), expected, check_exact=True)
    part = cohort.frame("train", 3, 5)
    assert part["PatientID"].unique().tolist() == cohort.train.patient_ids[3:5].tolist()
    whole = cohort.frame("train")
    pd.testing.assert_frame_equal(
        part, whole[whole["PatientID"].isin(part["PatientID"])].reset_index(drop=True)
    )


def test_gather_gives_first_timesteps(cohort: PreparedCohort) -> None:
    long = cohort.train.at_least(4)
    assert (cohort.train.lengths_N[long] >= 4).all()
    assert len(long) == (cohort.train.lengths_N >= 4).sum()
    picked = long[::-1][:3]
    reals_BTR, codes_BTK, _ = cohort.train.gather(picked, 4)
    assert (reals_BTR.shape, reals_BTR.dtype) == ((3, 4, 1), np.float32)
    assert (codes_BTK.shape, codes_BTK.dtype) == ((3, 4, 2), np.uint8)
    frame = cohort.frame("train").set_index("PatientID")
    for b, patient in enumerate(cohort.train.patient_ids[picked]):
        rows = frame.loc[patient].iloc[:4]
        np.testing.assert_allclose(
            reals_BTR[b], cohort.transform.forward_reals(rows[["dose"]].to_numpy()), rtol=1e-6, atol=1e-7
        )
        np.testing.assert_array_equal(codes_BTK[b, :, 0], rows["drug"].cat.codes)
    short = np.flatnonzero(cohort.train.lengths_N == 4)[:1]
    reals_BTR, codes_BTK, lengths_B = cohort.train.gather(short, 6)
    assert lengths_B.tolist() == [4]
    assert not reals_BTR[0, 4:].any()
    assert not codes_BTK[0, 4:].any()
    np.testing.assert_array_equal(reals_BTR[:, :4], cohort.train.gather(short, 4)[0])


def test_what_is_fitted_comes_from_the_training_patients(cohort: PreparedCohort, tmp_path: Path) -> None:
    train = cohort.frame("train")
    fitted = Transform.fit(train, small_schema())
    np.testing.assert_array_equal(cohort.transform.lambda_R, fitted.lambda_R)
    changed = ragged_table()
    changed.loc[changed["PatientID"].isin(cohort.holdout.patient_ids), "dose"] *= 1e3
    other = prepare(changed, small_schema(), tmp_path / "q.h5", SplitSettings(0.3, 1))
    np.testing.assert_array_equal(other.correlation_FF, cohort.correlation_FF)
    np.testing.assert_array_equal(other.transform.range_R, cohort.transform.range_R)


def test_fills_come_from_the_training_patients(tmp_path: Path) -> None:
    schema = small_schema(dose={"missing": "carry_forward", "measured_flag": "dose (M)"})
    table = ragged_table().reset_index(drop=True)
    table.loc[table["Timestep"] == 0, "dose"] = np.nan
    held = table["PatientID"].isin(np.flatnonzero(held_out(range(40), 0.3, 1)))
    table.loc[held, "dose"] *= 1e3
    cohort = prepare(table, schema, tmp_path / "p.h5", SplitSettings(0.3, 1))
    filled = cohort.frame("holdout").query("Timestep == 0")["dose"]
    assert filled.tolist() == [pytest.approx(table.loc[~held, "dose"].median(), rel=0.02)] * len(filled)


def test_correlation_is_that_of_the_training_design(cohort: PreparedCohort) -> None:
    blocks = []
    for patient, length in enumerate(cohort.train.lengths_N):
        reals, codes, _ = cohort.train.gather(np.array([patient]), int(length))
        blocks.append(design_matrix(reals[0], codes[0], cohort.schema.layout))
    np.testing.assert_allclose(
        cohort.correlation_FF, np.corrcoef(np.concatenate(blocks), rowvar=False), atol=1e-9
    )


def test_training_values_lie_between_zero_and_one_but_for_the_most_extreme_patients(
    cohort: PreparedCohort,
) -> None:
    reals_BTR = cohort.train.gather(cohort.train.at_least(2), 2)[0]
    for beyond_BTR in (reals_BTR < 0, reals_BTR > 1):
        assert 0 < beyond_BTR.any(axis=(1, 2)).sum() < 10
    assert -1 < reals_BTR.min() < reals_BTR.max() < 2


def test_modelled_gaps_are_filled_for_training_and_blank_in_frames(tmp_path: Path) -> None:
    schema = small_schema(dose={"missing": "model", "measured_flag": "dose (M)"})
    table = ragged_table()
    table.loc[table.index[::3], "dose"] = np.nan
    cohort = prepare(table, schema, tmp_path / "p.h5", SplitSettings(0.3, 1))
    reals, codes, _ = cohort.train.gather(cohort.train.at_least(2), 2)
    assert np.isfinite(reals).all()
    assert set(np.unique(codes[..., 2])) == {0, 1}
    frame = cohort.frame("train")
    assert frame["dose"].isna().equals(frame["dose (M)"] == "False")
    expected = check_table(table, schema).set_index(["PatientID", "Timestep"])
    pd.testing.assert_frame_equal(
        frame.set_index(["PatientID", "Timestep"]), expected.loc[cohort.train.patient_ids]
    )


def test_text_ids_and_first_timestep_are_kept(tmp_path: Path) -> None:
    table = ragged_table().assign(
        PatientID=lambda f: "p" + f["PatientID"].astype(str), Timestep=lambda f: f["Timestep"] + 1
    )
    cohort = prepare(table, small_schema(), tmp_path / "p.h5")
    assert cohort.first_timestep == 1
    assert cohort.frame("holdout")["Timestep"].min() == 1
    assert "p7" in {*cohort.train.patient_ids, *cohort.holdout.patient_ids}


def test_max_patients_takes_the_lowest_ids(tmp_path: Path) -> None:
    cohort = prepare(ragged_table(), small_schema(), tmp_path / "p.h5", SplitSettings(0.3, 1, max_patients=9))
    assert sorted([*cohort.train.patient_ids, *cohort.holdout.patient_ids]) == list(range(9))


def test_no_holdout_and_no_training(tmp_path: Path) -> None:
    cohort = prepare(ragged_table(), small_schema(), tmp_path / "p.h5", SplitSettings(0.0))
    assert cohort.holdout.num_patients == 0
    assert cohort.frame("holdout").empty
    assert list(cohort.frame("holdout")) == list(cohort.frame("train"))
    with pytest.raises(TableError, match=r"all 1 patients are in the holdout of 99%.*smaller holdout"):
        prepare(ragged_table(1), small_schema(), tmp_path / "q.h5", SplitSettings(0.99))
    assert not (tmp_path / "q.h5").exists()


def test_a_constant_real_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"training patients: 'dose' = 3\. There is nothing to learn"):
        prepare(ragged_table().assign(dose=3.0), small_schema(), tmp_path / "p.h5")


def test_a_schema_without_reals(tmp_path: Path) -> None:
    schema = small_schema().model_copy(update={"variables": small_schema().variables[1:]})
    cohort = prepare(ragged_table(), type(schema).model_validate(schema.model_dump()), tmp_path / "p.h5")
    reals, codes, _ = cohort.train.gather(cohort.train.at_least(2)[:3], 2)
    assert reals.shape == (3, 2, 0)
    assert codes.shape == (3, 2, 2)


# --- the file --------------------------------------------------------------------------------------


def test_same_table_same_bytes(cohort: PreparedCohort, tmp_path: Path) -> None:
    shuffled = ragged_table().sample(frac=1, random_state=0)
    again = prepare(shuffled, small_schema(), tmp_path / "q.h5", SplitSettings(0.3, 1), sort=True)
    assert again.fingerprint == cohort.fingerprint
    assert (tmp_path / "q.h5").read_bytes() == (tmp_path / "p.h5").read_bytes()


def test_altered_cut_and_foreign_files_are_refused(cohort: PreparedCohort, tmp_path: Path) -> None:
    path = tmp_path / "p.h5"
    whole = path.read_bytes()
    for place in range(600, len(whole), len(whole) // 9):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(StorageError, match="does not match its checksum"):
            PreparedCohort.open(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(StorageError, match="cut short"):
        PreparedCohort.open(path)
    with pytest.raises(
        StorageError, match=r"no prepared cohort .*absent\.h5: prepare it first with healthgym prep"
    ):
        PreparedCohort.open(tmp_path / "absent.h5")
    path.write_text("text")
    with pytest.raises(StorageError, match="not a file of healthgym"):
        PreparedCohort.open(path)


@pytest.mark.parametrize("opens", [read_head, lambda path: open_prepared(path, verify=False)])
def test_damage_is_a_sentence_where_no_checksum_is_taken(
    cohort: PreparedCohort, tmp_path: Path, opens: Callable[[Path], object]
) -> None:
    path = tmp_path / "p.h5"
    whole = path.read_bytes()
    for size in (513, 2000, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StorageError, match=rf"p\.h5 has {size} bytes where its seal says .*cut short"):
            opens(path)
    path.write_bytes(whole[:512] + bytes(100) + whole[612:])
    with pytest.raises(StorageError, match=r"p\.h5 is damaged: .*prepare it again"):
        opens(path)


def test_a_failed_write_leaves_the_old_file(cohort: PreparedCohort, tmp_path: Path) -> None:
    before = (tmp_path / "p.h5").read_bytes()

    class Breaks(Transform):
        def forward_reals(self, raw_R: Any) -> Any:
            raise RuntimeError("power cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("healthgym.data.fitting.fitting.Transform", Breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            prepare(ragged_table(), small_schema(), tmp_path / "p.h5")
    assert (tmp_path / "p.h5").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["p.h5"]


def test_the_first_released_form_stays_readable() -> None:
    """`released/prepared-1.h5` was written once and is never written anew."""
    cohort = PreparedCohort.open(RELEASED / "prepared-1.h5")
    assert cohort.fingerprint.startswith("00d092fb9462")
    assert [variable.name for variable in cohort.schema.encoded] == ["dose", "drug", "sex", "dose (M)"]
    assert cohort.train.patient_ids.tolist() == ["p1", "p11", "p2", "p3", "p4", "p6", "p7", "p8", "p9"]
    assert cohort.holdout.patient_ids.tolist() == ["p0", "p10", "p5"]
    assert cohort.train.lengths_N.tolist() == [3, 3, 4, 5, 6, 3, 4, 5, 6]
    frame = cohort.frame("train", 0, 1)
    assert frame["dose"].round(3).fillna(-1).tolist() == [73.995, -1.0, 9.937]
    assert frame["drug"].tolist() == ["none", "A", "B + C"]
    reals, codes, _ = cohort.train.gather(np.array([0]), 2)
    np.testing.assert_allclose(reals[0, :, 0], [0.8707, 0.8707], atol=1e-6)
    assert codes[0].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert cohort.transform.lambda_R[0] == pytest.approx(0.038962754)


def test_plain_h5py_can_read_it(cohort: PreparedCohort, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "p.h5") as file:
        assert file.attrs["kind"] == "prepared cohort"
        rows = int(file["train/lengths"][:].sum())
        assert file["train/raw"].shape == (rows, 1)
        assert b'"first_timestep": 0' in file["head"][()]


def test_gathering_reads_only_what_it_needs(tmp_path: Path) -> None:
    prepare(small_table(3000, 60), small_schema(), tmp_path / "p.h5")
    cohort = PreparedCohort.open(tmp_path / "p.h5", verify=False)
    tracemalloc.start()
    cohort.train.gather(np.arange(0, 2000, 100), 60)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000  # the rows alone take 1 MB
