"""The program that makes a cohort, with a trained (tiny) system."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from healthgym import stopping
from healthgym.data.prepare import prepare
from healthgym.storage.checkpoint import list_checkpoints
from healthgym.storage.shards import open_cohort
from healthgym.training.run import train

PROGRAM = Path(__file__).parents[2] / "jobs" / "synthesize.py"


@pytest.fixture
def run_dir(trained: Path) -> Path:
    return trained / "v2"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stopping.clear()
    spec = importlib.util.spec_from_file_location("synthesize_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(run_dir: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--run-dir", str(run_dir), "--out", str(out), "--patients", "90"),
        *("--patients-per-shard", "40", "--workers", "1", *more),
    ]


def test_a_cohort_of_a_trained_system(
    program: ModuleType, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(words(run_dir, tmp_path / "c", "--seed", "3")) == 0
    assert "Cohort complete: " in capsys.readouterr().out
    reader = open_cohort(tmp_path / "c")
    frame = reader.read()
    assert reader.schema == tiny.SCHEMA
    assert list(frame) == ["PatientID", "Timestep", "x", "sex", "y", "drug"]
    assert (frame.groupby("PatientID")["sex"].nunique() == 1).all()
    real = tiny.table(ragged=True)
    for name in ("x", "y"):  # the generator's reals stay in the range of the training patients
        assert frame[name].between(real[name].min() - 1e-3, real[name].max() + 1e-3).all()
    assert set(frame.groupby("PatientID").size()) <= set(real.groupby("PatientID").size())
    assert program.main(words(run_dir, tmp_path / "c", "--seed", "3")) == 0
    with h5py.File(tmp_path / "c" / "shards" / "shard-00000.h5") as file:
        assert file["columns/x"].attrs["unit"] == "mg"


def test_parquet_by_two_tasks_of_an_array(
    program: ModuleType, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = words(run_dir, tmp_path / "c", "--format", "parquet", "--timesteps", "4")
    assert program.main([*asked, "--task", "1/2"]) == 0
    assert not (tmp_path / "c" / "_manifest.json").exists()
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert program.main(asked) == 0
    open_cohort(tmp_path / "c").verify()
    frame = pd.read_parquet(tmp_path / "c" / "shards" / "shard-00001.parquet")
    assert frame["PatientID"].unique().tolist() == list(range(40, 80))
    assert frame["sex"].cat.categories.tolist() == ["Male", "Female"]
    np.testing.assert_array_equal(frame.groupby("PatientID").size(), 4)


def test_a_cohort_is_numbered_from_where_the_table_was(program: ModuleType, tmp_path: Path) -> None:
    table = tiny.table()
    prepare(table.assign(Timestep=table["Timestep"] + 1), tiny.SCHEMA, tmp_path / "prepared.h5")
    assert train(tmp_path / "run", tiny.config(tmp_path, training={"epochs": 1}))
    assert program.main(words(tmp_path / "run", tmp_path / "c")) == 0
    timesteps = open_cohort(tmp_path / "c").read().groupby("PatientID")["Timestep"].agg(list)
    assert timesteps.tolist() == [[1, 2, 3, 4, 5, 6]] * 90


def test_a_cohort_keeps_to_its_checkpoint_while_training_goes_on(program: ModuleType, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    assert train(tmp_path / "run", tiny.config(tmp_path, training={"epochs": 1}))
    assert program.main([*words(tmp_path / "run", tmp_path / "c"), "--task", "1/2"]) == 0
    assert train(tmp_path / "run", tiny.config(tmp_path, training={"epochs": 2}))
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) > 1
    assert program.main(words(tmp_path / "run", tmp_path / "c")) == 0
    assert program.main([*words(tmp_path / "run", tmp_path / "newer"), "--checkpoint", "newest"]) == 0
    older, newer = (open_cohort(tmp_path / name).manifest for name in ("c", "newer"))
    assert older.checkpoint_sha256 != newer.checkpoint_sha256


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--one-file", "a.xls"], "one_file: 'a.xls' must end in .csv, .csv.gz, .parquet, .h5"),
        (["--format", "xls"], "file_format: must be 'hdf5', 'parquet' or 'csv' (given: 'xls')"),
        (["--compression", "zstd"], "compression 'zstd' is not for hdf5; choose gzip, lzf, none"),
        (["--task", "2/2"], "--task 2/2: expected i/n with i from 0 to n - 1"),
        (["--patients", "0"], "patients: must be greater than 0 (given: 0)"),
        (["--run-dir", "nowhere"], "nowhere"),
        (["--device", "cuda"], "is to be made on a CUDA device and there is none here"),
    ],
)
def test_a_bad_request_is_one_sentence(
    program: ModuleType,
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    sentence: str,
) -> None:
    assert program.main(words(run_dir, tmp_path / "c", *more)) == 1
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    assert not (tmp_path / "c" / "shards").exists()


def test_help_imports_nothing_heavy() -> None:
    listing = (
        f"import sys; sys.argv[1:] = ['--help']; import runpy\n"
        f"try: runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
        f"except SystemExit: print('HEAVY', sorted({{'torch', 'pandas', 'h5py'}} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", listing], check=True, capture_output=True, text=True).stdout
    assert "HEAVY []" in said
