"""A job that cannot run is refused before it is queued, unless an earlier stage makes its input."""

import re
from pathlib import Path

import pytest
import tiny
import yaml
from tables import VARIABLES, small_table

from healthgym.errors import HealthgymError
from healthgym.launch.executor import launch
from healthgym.launch.jobs import EvaluateJob, PrepareJob, SynthesizeJob, TrainJob
from healthgym.launch.perform import Job
from healthgym.launch.pipeline import show_pipeline
from healthgym.storage.checkpoint import load_checkpoint

REPORT = Path(__file__).parents[2] / "configs" / "report.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "small", "variables": VARIABLES}))
    small_table().to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "empty").mkdir()
    return tmp_path


def prepare_job(folder: Path, **changes: object) -> PrepareJob:
    return PrepareJob.of(
        **{"schema_path": folder / "s.yaml", "table": folder / "t.csv", "out": folder / "p.h5"} | changes
    )


def evaluate_job(folder: Path, **changes: object) -> EvaluateJob:
    table = folder / "t.csv"
    usual = {"schema_path": folder / "s.yaml", "real": table, "synthetic": table, "out": folder / "report"}
    return EvaluateJob.of(**usual | {"config": REPORT} | changes)


def refused(folder: Path) -> list[tuple[Job, str]]:
    """Return jobs that cannot run, and the expected messages."""
    absent, out = folder / "absent", folder / "c"
    return [
        (
            TrainJob.of(folder / "run", tiny.config(folder)),
            "prepared.h5: prepare it first with healthgym prepare, or give its path by --data",
        ),
        (SynthesizeJob.of(run_dir=absent, out=out, patients=9), "absent does not exist: check --run-dir, or"),
        (
            SynthesizeJob.of(checkpoint=absent, out=out, patients=9),
            "absent does not exist: check --checkpoint",
        ),
        (
            SynthesizeJob.of(run_dir=folder / "empty", out=out, patients=9),
            "empty holds no checkpoint: check --run-dir. Give a run folder",
        ),
        (prepare_job(folder, table=absent), "absent: there is no such file. Check the path"),
        (evaluate_job(folder, real=absent), "--real"),
        (evaluate_job(folder, synthetic=absent), "--synthetic"),
        (evaluate_job(folder, holdout=absent), "--holdout"),
    ]


def test_a_dry_run_refuses_what_cannot_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    for job, said in refused(folder):
        assert launch(job, dry_run=True) == 1, job
        written = capsys.readouterr()
        assert said in written.err, job
        assert written.out == ""
    assert sorted(folder.rglob("*")) == before


def test_a_dry_run_for_slurm_refuses_it_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cpu.yaml").write_text('time: "60"\nnode_local: []\n')
    assert launch(prepare_job(folder, table=folder / "absent"), str(folder / "cpu.yaml"), dry_run=True) == 1
    assert "there is no such file" in capsys.readouterr().err
    assert launch(prepare_job(folder), str(folder / "cpu.yaml"), dry_run=True) == 0


def test_what_a_stage_before_will_make_is_awaited(folder: Path) -> None:
    for job, _ in refused(folder):
        job.check(awaited=True)


def test_what_no_stage_makes_up_for_is_refused_even_when_awaited(folder: Path) -> None:
    with pytest.raises(HealthgymError, match="--holdout 1: give the share"):
        prepare_job(folder, holdout=1.0).check(awaited=True)


def test_a_dry_run_approves_what_is_there(folder: Path) -> None:
    for job in (prepare_job(folder), evaluate_job(folder, holdout=folder / "t.csv")):
        assert launch(job, dry_run=True) == 0


def test_the_first_stage_of_a_pipeline_awaits_nothing(folder: Path) -> None:
    (folder / "cpu.yaml").write_text('time: "60"\nnode_local: []\n')
    stage = {"resources": str(folder / "cpu.yaml"), "schema_path": str(folder / "s.yaml")}
    stage |= {"table": str(folder / "absent"), "out": str(folder / "p.h5")}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"prepare": stage}))
    with pytest.raises(HealthgymError, match="there is no such file"):
        show_pipeline(folder / "pipeline.yaml")


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HealthgymError, match=r"absent does not exist: check the path\. Give a run folder"):
        load_checkpoint(tmp_path / "absent")


def trained_on_slurm(folder: Path, **resources: object) -> str:
    """Return the output of a dry run of training the tiny cohort with these resources."""
    settings = folder / "site.yaml"
    settings.write_text(yaml.safe_dump({"time": "60", "node_local": [], **resources}))
    tiny.cohort(folder)
    return str(settings)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"nodes": 3, "tasks_per_node": 3}, "A batch has 8 patients and 9 processes share"),
        (
            {"nodes": 2, "tasks_per_node": 4, "memory_gb": 1},
            r"would have 0\.25 GB of memory .*divided by tasks_per_node\), and training this system needs",
        ),
    ],
)
def test_resources_that_cannot_do_are_refused_in_a_dry_run(
    folder: Path, resources: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = TrainJob.of(folder / "run", tiny.config(folder, "v1"))
    assert launch(job, trained_on_slurm(folder, **resources), dry_run=True) == 1
    assert re.search(message, capsys.readouterr().err)
    enough = {"nodes": 2, "tasks_per_node": 4, "memory_gb": 8}
    assert launch(job, trained_on_slurm(folder, **enough), dry_run=True) == 0


def test_memory_of_other_jobs_is_looked_at_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(prepare_job(folder), trained_on_slurm(folder, memory_gb=0.1), dry_run=True) == 1
    assert "preparing a table needs more than 0.3 GB" in capsys.readouterr().err
