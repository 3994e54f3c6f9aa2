"""The program that prepares a cohort: the first and repeated runs, and wrong arguments."""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import yaml
from tables import VARIABLES, small_table

from healthgym.data import command
from healthgym.data.sequences import PreparedCohort
from healthgym.data.tables.fetch import DATASETS
from healthgym.data.tables.reading import read_table
from healthgym.data.tables.table import check_table
from healthgym.evaluation.sources import open_real, title_of
from healthgym.schema import load_schema

ROOT = Path(__file__).parents[2]
ART_HIV = str(ROOT / "configs" / "schemas" / "art_hiv.yaml")

Prepare = Callable[..., tuple[int, str, str]]


def load_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_program", ROOT / "jobs" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "small", "variables": VARIABLES}))
    small_table(50, 4).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path


@pytest.fixture
def prepare(folder: Path, capsys: pytest.CaptureFixture[str]) -> Prepare:
    program = load_program()

    def run(*arguments: str) -> tuple[int, str, str]:
        status = program.main(list(arguments))
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


USUAL = ("s.yaml", "--table", "t.csv", "--out", "p.h5")


def test_prepare_says_what_came_of_it(prepare: Prepare, folder: Path) -> None:
    status, out, err = prepare(*USUAL)
    cohort = PreparedCohort.open(folder / "p.h5")
    assert (status, err) == (0, "")
    assert re.search(r"p\.h5 written: small, from .*t\.csv", out)
    assert "50, of 4 timesteps (200 rows)" in out
    assert f"{cohort.train.num_patients} to train on, {cohort.holdout.num_patients} held out (seed 0)" in out
    assert re.search(r"next +healthgym train ar --data .*p\.h5 --run-dir runs/p$", out, re.MULTILINE)


def test_the_same_command_again_changes_nothing(prepare: Prepare, folder: Path) -> None:
    prepare(*USUAL)
    before = (folder / "p.h5").stat()
    status, out, _ = prepare(*USUAL)
    assert status == 0
    assert "p.h5 is up to date" in out
    assert (folder / "p.h5").stat() == before


def test_another_command_does_not_lose_the_first_cohort(prepare: Prepare, folder: Path) -> None:
    prepare(*USUAL)
    before = (folder / "p.h5").read_bytes()
    status, _, err = prepare(*USUAL, "--seed", "1")
    assert status == 1
    assert re.search(
        r"p\.h5 was prepared differently \(seed: 0 -> 1\)\. Give another --out, or --overwrite", err
    )
    assert (folder / "p.h5").read_bytes() == before
    small_table(50, 4, seed=1).to_csv(folder / "t.csv", index=False)
    assert re.search(r"prepared differently \(table: sha256:\w+ -> sha256:\w+\)", prepare(*USUAL)[2])
    assert prepare(*USUAL, "--overwrite")[0] == 0
    assert (folder / "p.h5").read_bytes() != before


def test_the_table_itself_is_never_replaced(prepare: Prepare, folder: Path) -> None:
    (folder / "t.csv").rename(folder / "train.csv")
    before = (folder / "train.csv").read_bytes()
    table = ("s.yaml", "--table", "train.csv", "--overwrite")
    for out in (("--out", "./train.csv"), ("--out", "p.h5", "--tables", ".")):
        status, _, said = prepare(*table, *out)
        assert status == 1
        assert "train.csv is the table itself, which would be lost." in said
    assert (folder / "train.csv").read_bytes() == before


def test_tables_of_others_are_replaced_only_if_asked(prepare: Prepare, folder: Path) -> None:
    command = ("s.yaml", "--table", "t.csv", "--out", "p.h5", "--tables", "parts")
    assert prepare(*command)[0] == prepare(*command)[0] == 0
    before = (folder / "parts" / "holdout.csv").read_bytes()
    (folder / "parts" / "holdout.csv").write_text("mine")
    status, _, said = prepare(*command)
    assert status == 1
    assert "holdout.csv exists already, and is not a table of this cohort" in said
    assert (folder / "parts" / "holdout.csv").read_text() == "mine"
    assert prepare(*command, "--overwrite")[0] == 0
    assert (folder / "parts" / "holdout.csv").read_bytes() == before


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_damaged_cohort_is_prepared_again(prepare: Prepare, folder: Path, more: tuple[str, ...]) -> None:
    prepare(*USUAL)
    whole = (folder / "p.h5").read_bytes()
    (folder / "p.h5").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    status, out, err = prepare(*USUAL, *more)
    assert (status, err) == (0, "")
    assert "p.h5 was damaged and is written again: small" in out
    assert (folder / "p.h5").read_bytes() == whole


def test_a_cohort_that_was_cut_short_can_be_overwritten(prepare: Prepare, folder: Path) -> None:
    prepare(*USUAL)
    whole = (folder / "p.h5").read_bytes()
    (folder / "p.h5").write_bytes(whole[:3000])
    status, _, err = prepare(*USUAL)
    assert status == 1
    assert re.search(r"p\.h5 has 3000 bytes where .*Give another --out, or replace it with --overwrite", err)
    assert prepare(*USUAL, "--overwrite")[0] == 0
    assert (folder / "p.h5").read_bytes() == whole


def test_something_else_in_the_way_is_not_lost(prepare: Prepare, folder: Path) -> None:
    (folder / "p.h5").write_text("my thesis")
    status, _, err = prepare(*USUAL)
    assert status == 1
    assert "Give another --out, or replace it with --overwrite." in err
    assert (folder / "p.h5").read_text() == "my thesis"


@pytest.mark.parametrize("at_a_time", [7, 2000])
def test_tables_for_evaluation_fit_the_schema_again(
    prepare: Prepare, folder: Path, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "TABLE_PATIENTS", at_a_time)
    assert prepare(*USUAL, "--tables", "tables")[0] == 0
    schema, cohort = load_schema(folder / "s.yaml"), PreparedCohort.open(folder / "p.h5")
    for split in ("train", "holdout"):
        again = check_table(read_table(folder / "tables" / f"{split}.csv", schema), schema)
        pd.testing.assert_frame_equal(again, cohort.frame(split), check_exact=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s.yaml", "--out", "p.h5"], "Give either --table FILE or --dataset NAME"),
        ([*USUAL, "--dataset", "art_hiv"], "Give either --table FILE or --dataset NAME"),
        (
            ["s.yaml", "--dataset", "art_hvi", "--out", "p.h5"],
            r"art_hvi: unknown \(did you mean 'art_hiv'\?\)",
        ),
        (["s.yaml", "--table", "x.csv", "--out", "p.h5"], r"--table .*x\.csv: there is no such file"),
        ([*USUAL, "--holdout", "1"], "--holdout 1: give the share of patients"),
        ([*USUAL, "--holdout", "nan"], "--holdout nan: give the share of patients"),
        ([*USUAL, "--max-patients", "0"], "--max-patients 0: give at least 1"),
        (["none.yaml", "--table", "t.csv", "--out", "p.h5"], r"Cannot read .*none\.yaml"),
        ([*USUAL[:-1], "t.csv/p.h5"], r"Cannot write .*t\.csv/p\.h5: a part of the path is a file"),
        ([ART_HIV, *USUAL[1:]], "lacks 'VL', 'CD4'"),
    ],
)
def test_wrong_commands_end_in_a_sentence(prepare: Prepare, arguments: list[str], message: str) -> None:
    status, out, err = prepare(*arguments)
    assert status != 0
    assert out == ""
    assert err.startswith("error: ")
    assert re.search(message, err)
    assert not Path("p.h5").exists()


def test_unsorted_rows_need_a_word(prepare: Prepare, folder: Path) -> None:
    small_table(50, 4).sample(frac=1, random_state=0).to_csv(folder / "t.csv", index=False)
    status, _, err = prepare(*USUAL)
    assert status == 1
    assert "not sorted" in err
    assert prepare(*USUAL, "--sort")[0] == 0


def test_a_folder_of_files_is_one_table(prepare: Prepare, folder: Path) -> None:
    (folder / "parts").mkdir()
    for name, rows in (("b.csv", slice(80)), ("a.csv", slice(80, None))):
        small_table(50, 4)[rows].to_csv(folder / "parts" / name, index=False)
    status, out, err = prepare("s.yaml", "--table", "parts", "--out", "q.h5")
    assert (status, err) == (0, "")
    assert re.search(r"from .*parts \(2 files\)", out)
    assert "50, of 4 timesteps (200 rows)" in out
    again = prepare("s.yaml", "--table", "parts/*.csv", "--out", "q.h5")
    assert "q.h5 is up to date" in again[1]
    (folder / "none").mkdir()
    assert "there is no table in this folder" in prepare("s.yaml", "--table", "none", "--out", "r.h5")[2]


def test_simulated_patients(prepare: Prepare, folder: Path) -> None:
    status, out, _ = prepare(
        ART_HIV, "--dataset", "simulated_art_hiv", "--max-patients", "20", "--out", "p.h5"
    )
    assert status == 0
    assert "from 20 simulated patients" in out
    assert "3 real, 10 binary or categorical: 37 encoded columns" in out
    schema = PreparedCohort.open(folder / "p.h5").schema
    real = open_real(folder / "p.h5", schema)
    assert (
        title_of(schema, real) == "ART for HIV (simulated patients)"
    )  # so that no page passes them for real
    assert "simulated_art_hiv" in real.facts["real patients"]


def test_a_fetched_table_must_have_the_published_counts(prepare: Prepare, folder: Path) -> None:
    name = DATASETS["art_hiv"].file_name
    (folder / name).write_text("VL,PatientID,Timestep\n1.0,0,0\n")
    pin = {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
    (folder / f"{name}.verified.json").write_text(json.dumps(pin))
    status, _, err = prepare(ART_HIV, "--dataset", "art_hiv", "--cache", ".", "--out", "p.h5")
    assert status == 1
    assert "has 1 rows of 1 patients; art_hiv was published with 534,960 rows of 8,916" in err


def test_help_waits_for_no_heavy_library() -> None:
    program = ROOT / "jobs" / "prepare.py"
    script = (
        f"import runpy, sys; sys.argv = ['prepare.py', '--help']\n"
        f"try: runpy.run_path({str(program)!r}, run_name='__main__')\n"
        f"except SystemExit: print(sorted({{'numpy', 'pandas', 'torch'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "--table" in done.stdout
    assert done.stdout.endswith("[]\n")
