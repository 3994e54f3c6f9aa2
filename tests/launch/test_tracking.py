"""The state of a job, from the scheduler and from the job's own records."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from counting import CountJob
from fake_slurm import FakeSlurm

from healthgym.__main__ import main
from healthgym.launch import submission
from healthgym.launch.slurm.queue import Queued
from healthgym.launch.tracking import judge, track

HERE = {"host": socket.gethostname(), "pid": os.getpid()}


@pytest.mark.parametrize(
    ("queued", "own", "state"),
    [
        (None, {}, "unknown"),
        ("PENDING", {}, "queued"),
        ("CONFIGURING", {}, "queued"),
        ("PENDING", {"state": "interrupted"}, "preempted"),
        ("PENDING", {"state": "running"}, "preempted"),
        ("REQUEUED", {"state": "running"}, "preempted"),
        ("RUNNING", {"state": "running", "host": "n1"}, "running"),
        ("RUNNING", {"state": "interrupted"}, "running"),
        ("COMPLETING", {"state": "finished"}, "finished"),
        ("COMPLETING", {"state": "interrupted"}, "queued"),
        ("RUNNING", {"state": "finished"}, "running"),
        ("COMPLETED", {"state": "finished"}, "finished"),
        ("FAILED", {"state": "finished"}, "finished"),
        ("FAILED", {"state": "running"}, "failed"),
        ("TIMEOUT", {}, "failed"),
        ("OUT_OF_MEMORY", {"state": "running"}, "failed"),
        ("CANCELLED", {"state": "interrupted"}, "cancelled"),
        ("CANCELLED", {}, "cancelled"),
        ("FAILED", {"state": "failed"}, "failed"),
        (None, {"state": "finished"}, "finished"),
        (None, {"state": "failed"}, "failed"),
        (None, {"state": "fenced"}, "fenced"),
        (None, {"state": "interrupted"}, "interrupted"),
        (None, {"state": "running", "job": "slurm:c:1", **HERE}, "lost"),
        (None, {"state": "running", "job": "", **HERE}, "running"),
        (None, {"state": "running", "job": "", "host": "elsewhere", "pid": 1}, "lost"),
        (None, {"state": "running", "job": "", **HERE, "pid": 2**22 + 1}, "lost"),
    ],
)
def test_judge(queued: str | None, own: dict[str, Any], state: str) -> None:
    assert judge(Queued(queued, "") if queued else None, own)[0] == state


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    tmp_path.chmod(0o755)
    fake = FakeSlurm(tmp_path / "bin", monkeypatch)
    fake.says("sbatch", "Submitted batch job 41\n")
    for name in ("srun", "scontrol", "squeue", "sacct"):
        fake.says(name)
    return fake


@pytest.fixture
def run(slurm: FakeSlurm, tmp_path: Path) -> Path:
    """A run folder with an array of three tasks submitted for it."""
    settings = tmp_path / "site.yaml"
    settings.write_text('time: "60"\nnode_local: []\narray: {tasks: 3}\n')
    submission.submit(CountJob(tmp_path / "run"), settings)
    return tmp_path / "run"


def name(run: Path) -> str:
    [path] = run.glob("submissions/*/submission.json")
    return str(json.loads(path.read_text())["name"])


def test_squeue_and_sacct_together(slurm: FakeSlurm, run: Path) -> None:
    slurm.says(
        "sacct", f"{name(run)}|41_0|CANCELLED by 0|n1\n{name(run)}|41_1|FAILED|n1\nother|41_2|FAILED|\n"
    )
    slurm.says("squeue", f"{name(run)}|41_1|RUNNING|n2\n{name(run)}|41_2|PENDING|(Resources)\n")
    assert [job.state for job in track(run)] == ["cancelled", "running", "queued"]
    assert track(run)[2].detail == "(Resources)"


def test_without_accounting(slurm: FakeSlurm, run: Path) -> None:
    slurm.says("sacct", status=1, error="Slurm accounting storage is disabled")
    slurm.says("squeue", f"{name(run)}|41_2|PENDING|(Priority)\n")
    [folder] = (run / "submissions").iterdir()
    for task, state in ((0, "finished"), (1, "failed")):
        (folder / f"state-41_{task}.json").write_text(json.dumps({"state": state, "message": "why"}))
    assert [job.state for job in track(run)] == ["finished", "failed", "queued"]


def test_without_slurm(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert {job.state for job in track(run)} == {"unknown"}


def test_status_for_people(slurm: FakeSlurm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.says("squeue", f"{name(run)}|41_0|RUNNING|n1\n{name(run)}|41_1|FAILED|n2\n")
    assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{run}: nothing made yet\n")
    assert "count job 41_0 (task 0/3) running" in shown
    assert "count job 41_1 (task 1/3) failed: Slurm says FAILED" in shown
    assert f"logs {run}/submissions/" in shown
    assert main(["status", "--json", str(run)]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert [job["number"] for job in jobs] == ["41_0", "41_1", "41_2"]
    assert [job["task"] for job in jobs] == [job["place"] for job in jobs] == ["0/3", "1/3", "2/3"]


def test_a_large_array_is_counted(
    slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "site.yaml"
    settings.write_text('time: "60"\nnode_local: []\narray: {tasks: 20}\n')
    run = tmp_path / "run"
    submission.submit(CountJob(run), settings)
    lines = [f"{name(run)}|41_{task}|{'FAILED' if task == 4 else 'PENDING'}|\n" for task in range(20)]
    slurm.says("squeue", "".join(lines))
    capsys.readouterr()
    main(["status", str(run)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[1] == "  1 failed, 19 queued"
    assert shown[2].startswith("  count job 41_4")


def test_only_the_latest_of_each_task_is_shown(
    slurm: FakeSlurm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.says(
        "squeue", f"{name(run)}|41_0|RUNNING|n1\n{name(run)}|41_1|FAILED|n2\n{name(run)}|41_2|FAILED|n2\n"
    )
    slurm.says("sbatch", "Submitted batch job 42\n")
    submission.submit(CountJob(run), tmp_path / "site.yaml")
    capsys.readouterr()
    main(["status", str(run)])
    shown = capsys.readouterr().out
    assert "41_1" not in shown
    assert "42_0 (task 1/3)" in shown
    main(["status", "--all", str(run)])
    assert "41_1 (task 1/3) failed" in capsys.readouterr().out


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path / "none")]) == 1
    assert "does not exist, and no job was ever submitted" in capsys.readouterr().err


def test_progress_of_each_kind_of_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(folder: Path) -> str:
        assert main(["status", str(folder)]) == 0
        return capsys.readouterr().out.splitlines()[0]

    cohort = tmp_path / "cohort"
    (cohort / "_receipts").mkdir(parents=True)
    (cohort / "_plan.json").write_text('{"num_patients": 10, "patients_per_shard": 4}')
    (cohort / "_receipts" / "shard-00000.json").write_text("{}")
    assert "1 of 3 shards finished; not complete" in said(cohort)
    (cohort / "_manifest.json").write_text("{}")
    assert "done: " in said(cohort)
    # Enlarged from 10 to 13 patients: the third shard stays incomplete.
    (cohort / "_manifest.json").write_text('{"num_patients": 10}')
    (cohort / "_plan.json").write_text('{"num_patients": 13, "patients_per_shard": 4, "earlier": [10]}')
    assert "synthesis, 1 of 4 shards finished; the cohort of the first 10 patients is complete" in said(
        cohort
    )
    (cohort / "_manifest.json").write_text('{"num_patients": 13}')
    assert "done: 1 of 4 shards" in said(cohort)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    assert "nothing saved yet" in said(run)
    (run / "checkpoints" / "step-000000120.h5").write_text("")
    (run / "metrics.jsonl").write_text('{"step": 130, "epoch": 1, "length": 20}\n')
    (run / "config.yaml").write_text("training: {epochs: 3}\n")
    assert "saved as step-000000120.h5; step 130, epoch 2 of 3, length 20" in said(run)
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("")
    assert "done: " in said(report)
    prepared = tmp_path / "prepared.h5"
    prepared.write_bytes(b"12345")
    assert "a file of 5 bytes" in said(prepared)
