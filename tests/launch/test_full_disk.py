"""Every job on a disk that is full from the first, a middle or the last file on, and later has space."""

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import yaml
from full_disk import Disk

from healthgym.comparing.runs import compare_runs
from healthgym.data import command
from healthgym.data.request import PrepareRequest
from healthgym.evaluation import report
from healthgym.evaluation.report import evaluate
from healthgym.evaluation.sections import marginals, validity
from healthgym.launch.programs import ended
from healthgym.release.memory_audit import audit_memory
from healthgym.release.release import release
from healthgym.strict import parse
from healthgym.synthesis.cohort import SynthesisRequest, synthesize
from healthgym.training.run import train

CONFIG = Path(__file__).parents[2] / "configs" / "report.yaml"
DISK = Disk()
Does = Callable[[Path, Path], object]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the jobs start from: a schema, a table, a prepared cohort, a run."""
    folder = tmp_path_factory.mktemp("given")
    variables = [
        {"name": v.name, "kind": v.kind, "classes": v.classes, "static": v.static, "unit": v.unit}
        for v in tiny.SCHEMA.variables
    ]
    (folder / "schema.yaml").write_text(yaml.safe_dump({"name": "tiny", "variables": variables}))
    tiny.table(80).to_csv(folder / "table.csv", index=False)
    tiny.cohort(folder, num_patients=80)
    train(folder / "run", tiny.epoch_of(folder, "v1"), io.StringIO())
    (folder / "many").mkdir()
    tiny.cohort(folder / "many", num_patients=400)
    train(folder / "many" / "run", tiny.epoch_of(folder / "many", "v2"), io.StringIO())
    return folder


def prepares(given: Path, out: Path) -> object:
    files = {"schema_path": given / "schema.yaml", "table": given / "table.csv", "tables": out / "tables"}
    return command.run(PrepareRequest(out=out / "p.h5", **files))


def trains(given: Path, out: Path) -> object:
    config = tiny.epoch_of(given, "v1")
    often = config.checkpoint.model_copy(update={"every_steps": 2})
    return train(out / "run", config.model_copy(update={"checkpoint": often}), io.StringIO())


def _makes(form: str) -> Does:
    def makes(given: Path, out: Path) -> object:
        wanted = {"run_dir": given / "run", "out": out / "cohort", "patients": 40, "patients_per_shard": 20}
        return synthesize(parse(SynthesisRequest, wanted | {"file_format": form, "workers": 1}, "the test"))

    return makes


def judges(given: Path, out: Path) -> object:
    table = given / "table.csv"
    return evaluate(given / "schema.yaml", table, table, out / "report", CONFIG)


def compares(given: Path, out: Path) -> object:
    real = given / "prepared.h5"
    return compare_runs([given / "run"], given / "schema.yaml", real, out / "page", CONFIG, 60)


def releases(given: Path, out: Path) -> object:
    return release(given / "run", out / "r.h5", CONFIG, data=given / "prepared.h5", despite="a test")


def audits(given: Path, out: Path) -> object:
    return audit_memory(given / "many" / "run", given / "many" / "prepared.h5", out / "audit", CONFIG)


JOBS: dict[str, Does] = {
    "prepare": prepares,
    "train": trains,
    "synthesize HDF5": _makes("hdf5"),
    "synthesize Parquet": _makes("parquet"),
    "evaluate": judges,
    "compare": compares,
    "release": releases,
    "audit": audits,
}
NIGHTLY = {"compare", "release"}  # a whole report for each of eight full disks


def status(job: str, given: Path, out: Path) -> int:
    """Return the exit status of a program that does the job."""

    def work() -> int:
        JOBS[job](given, out)
        return 0

    return ended(work)


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def assert_same(job: str, whole: Path, again: Path) -> None:
    """The second call made the files of a call on an intact disk, except times."""
    assert files(again).keys() == files(whole).keys()
    if job == "train":
        assert tiny.losses(again / "run/metrics.jsonl") == tiny.losses(whole / "run/metrics.jsonl")
    elif job.partition(" ")[0] in ("prepare", "synthesize"):
        data = {name for name in files(whole) if not name.endswith("json")}
        assert {n: files(again)[n].read_bytes() for n in data} == {
            n: files(whole)[n].read_bytes() for n in data
        }


@pytest.mark.parametrize(
    "job", [pytest.param(job, marks=[pytest.mark.nightly] if job in NIGHTLY else []) for job in JOBS]
)
def test_a_job_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    job: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "SECTIONS", {"validity": validity.section, "marginals": marginals.section})
    whole, out = tmp_path / "whole", tmp_path / "full"
    with DISK.watching(whole):
        assert status(job, given, whole) == 0
    number, largest = len(DISK.opened), max(path.stat().st_size for path in files(whole).values())
    assert number > 2
    for first, size in ((0, 0), (0, largest // 2), (number // 2, 0), (number - 1, 0)):
        capsys.readouterr()
        with DISK.watching(out, first, size):
            ended_with = status(job, given, out)
        said = capsys.readouterr().err
        if ended_with or job != "train":  # whose picture and whose lines of losses may be missing
            assert ended_with == 1, (first, size)
            assert re.search("error: Cannot .*full/.*: the file would be larger", said), said
        assert "Traceback" not in said
        # What a release made for its card is kept, and an older checkpoint where a newer one took its place.
        left = {name for name in files(out) if ".work/" not in name and "/checkpoints/step-" not in name}
        assert left <= files(whole).keys(), (first, size)
        assert not [name for name in files(out) if name.endswith(".tmp")], (first, size)
        assert status(job, given, out) == 0, (first, size)
        assert_same(job, whole, out)
        shutil.rmtree(out)
