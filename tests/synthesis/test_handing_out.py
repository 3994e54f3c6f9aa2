"""Distributing a cohort: reading by pandas alone, one file, enlarging it, starting again after an error."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from fake_system import FakeSystem, open_fake, write_fake

from healthgym.errors import CohortError, ConfigError
from healthgym.files import sha256_of
from healthgym.launch.jobs import SynthesizeJob
from healthgym.storage.shards import open_cohort, receipt_path
from healthgym.strict import parse
from healthgym.synthesis import cohort as cohort_module
from healthgym.synthesis.cohort import SynthesisRequest, synthesize
from healthgym.synthesis.plan import agree, read_plan


@pytest.fixture
def request_(tmp_path: Path) -> SynthesisRequest:
    lengths, decimals = {"4": 2, "9": 3}, {"Load": 1, "Age": 0, "Lactate": 2}
    checkpoint = write_fake(tmp_path / "fake.json", lengths=lengths, decimals=decimals)
    return SynthesisRequest(
        checkpoint=checkpoint,
        out=tmp_path / "cohort",
        patients=70,
        patients_per_shard=20,
        batch_size=16,
        workers=1,
    )


def made(request: SynthesisRequest, **changes: Any) -> Path:
    changed = request.model_copy(update=changes)
    assert synthesize(changed, open_fake).state == "complete"
    return changed.out


def test_pandas_reads_the_folder_of_a_parquet_cohort(request_: SynthesisRequest) -> None:
    folder = made(request_, file_format="parquet", compression=None)
    frame = pd.read_parquet(folder)
    assert frame["PatientID"].unique().tolist() == list(range(70))
    assert frame["Gender"].dtype == "category"
    assert (frame["Age"].dtype, frame["Load"].dtype) == (np.int64, np.float64)
    assert (frame["Load"] == frame["Load"].round(1)).all()
    pd.testing.assert_frame_equal(frame, open_cohort(folder).table())


def test_every_format_holds_the_same_patients(request_: SynthesisRequest, tmp_path: Path) -> None:
    tables = {}
    for name in ("hdf5", "parquet", "csv"):
        folder = made(request_, file_format=name, compression=None, out=tmp_path / name)
        tables[name] = open_cohort(folder).table()
    pd.testing.assert_frame_equal(tables["hdf5"], tables["parquet"])
    pd.testing.assert_frame_equal(tables["hdf5"], tables["csv"], check_dtype=False)
    columns = pd.read_csv(tmp_path / "csv" / "_columns.csv").set_index("column")
    assert columns.loc["Load", ["kind", "unit", "decimals"]].tolist() == ["real", "copies/mL", 1]
    assert columns.loc["Gender", ["labels", "codes"]].tolist() == ["Male; Female", "1; 2"]


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet", ".h5"])
def test_one_file_has_all_patients_whatever_the_shards_are(
    request_: SynthesisRequest, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"all{ending}"
    folder = made(request_, one_file=path)
    expected = open_cohort(folder).table()
    if ending == ".h5":
        with h5py.File(path) as file:
            assert file["offsets"][-1] == len(expected) == len(file["columns/Load"])
            np.testing.assert_allclose(file["columns/Load"][:], expected["Load"], rtol=1e-6)
            labels = file["columns/Gender"].attrs["labels"]
            assert labels[file["columns/Gender"][:]].tolist() == expected["Gender"].tolist()
        return
    found = pd.read_parquet(path) if ending == ".parquet" else pd.read_csv(path)
    assert list(found) == list(expected)
    for name, column in expected.items():
        if column.dtype == "category":
            assert found[name].astype(str).tolist() == column.astype(str).tolist()
        else:
            np.testing.assert_array_equal(found[name], column)
    assert (tmp_path / "all.columns.csv").exists() == ending.startswith(".csv")
    first = sha256_of(path)
    path.unlink()
    made(request_, one_file=path)  # nothing is made anew but the file
    made(request_, one_file=path)
    assert sha256_of(path) == first


@pytest.mark.parametrize("name", ["visits.csv", "visits.columns.csv"])
def test_one_file_replaces_no_file_of_the_user(request_: SynthesisRequest, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    said = rf"--one-file .*visits.csv: .*{name} exists already, and was not written from the cohort"
    with pytest.raises(CohortError, match=said):
        made(request_, one_file=tmp_path / "visits.csv")
    assert not request_.out.exists(), "this is said before anything is made"
    job = SynthesizeJob.of(**request_.model_dump(exclude={"task"}) | {"one_file": tmp_path / "visits.csv"})
    with pytest.raises(CohortError, match=said):
        job.check()
    assert (tmp_path / name).read_text() == "mine"


def test_a_name_that_says_no_format_is_refused_at_once(request_: SynthesisRequest) -> None:
    with pytest.raises(
        ConfigError, match=r"one_file: 'all.xlsx' must end in \.csv, \.csv\.gz, \.parquet, \.h5"
    ):
        parse(SynthesisRequest, {"out": "c", "patients": 3, "one_file": "all.xlsx"}, "the command line")


@pytest.mark.parametrize(("first", "shards"), [(70, 4 + 7), (60, 10)])
def test_a_finished_cohort_is_enlarged_by_more_shards(
    request_: SynthesisRequest, first: int, shards: int
) -> None:
    folder = made(request_, patients=first)
    before = {path.name: sha256_of(path) for path in (folder / "shards").iterdir()}
    old = open_cohort(folder).table()
    outcome = synthesize(request_.model_copy(update={"patients": 200}), open_fake)
    assert (outcome.state, outcome.patients_made) == ("complete", 200 - first)
    after = {path.name: sha256_of(path) for path in (folder / "shards").iterdir()}
    assert (len(after), {name: after[name] for name in before}) == (shards, before)
    cohort = open_cohort(folder)
    cohort.verify()
    table = cohort.table()
    assert table["PatientID"].nunique() == cohort.num_patients == 200
    pd.testing.assert_frame_equal(table.iloc[: len(old)], old)
    values = table.groupby("PatientID")["Load"].agg(lambda loads: tuple(loads))
    assert values.nunique() == 200  # nobody is made twice
    with pytest.raises(CohortError, match="It has 200 patients; choose another folder with --out for fewer"):
        synthesize(request_.model_copy(update={"patients": first}), open_fake)


def test_several_tasks_enlarge_a_cohort_together(request_: SynthesisRequest, tmp_path: Path) -> None:
    alone, folder = made(request_, out=tmp_path / "alone"), made(request_)
    made(request_, out=alone, patients=150)
    states = [
        synthesize(request_.model_copy(update={"patients": 150, "task": f"{i}/3"}), open_fake).state
        for i in (2, 0, 1)
    ]
    assert states == ["waiting", "waiting", "complete"]
    assert [r.sha256 for r in open_cohort(folder).manifest.shards] == [
        r.sha256 for r in open_cohort(alone).manifest.shards
    ]


def test_a_cohort_that_was_refused_before_its_first_shard_is_begun_again(
    request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise CohortError("the guardrail keeps nobody")

    with monkeypatch.context() as patched:
        patched.setattr(FakeSystem, "begin_sample", refuse)
        with pytest.raises(CohortError, match="keeps nobody"):
            synthesize(request_, open_fake)
    made(request_, seed=4, file_format="parquet", compression=None)
    assert {path.suffix for path in (request_.out / "shards").iterdir()} == {".parquet"}


def test_a_command_whose_folder_another_one_took_writes_nothing(
    request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = FakeSystem.begin_sample
    other = cohort_module.make_plan(request_, "b" * 64, "cpu")

    def take_over(self: FakeSystem, *arguments: Any) -> Any:
        agree(request_.out, other)
        return begin(self, *arguments)

    monkeypatch.setattr(FakeSystem, "begin_sample", take_over)
    with pytest.raises(CohortError, match="another command has begun a cohort there with other settings"):
        synthesize(request_, open_fake)
    assert read_plan(request_.out) == other
    assert not receipt_path(request_.out, 0).exists()
