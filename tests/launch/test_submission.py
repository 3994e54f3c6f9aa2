"""Submitting jobs, with stand-ins for the programs of Slurm."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from counting import CountJob
from fake_slurm import FakeSlurm

from healthgym.errors import HealthgymError, LaunchError
from healthgym.launch import executor, submission
from healthgym.launch.jobs import SynthesizeJob, TrainJob
from healthgym.launch.tracking import track


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    tmp_path.chmod(0o755)
    fake = FakeSlurm(tmp_path / "bin", monkeypatch)
    fake.says("sbatch", "Submitted batch job 41\n")
    for name in ("srun", "scontrol", "squeue"):
        fake.says(name)
    fake.says("sacct", status=1, error="Slurm accounting storage is disabled")
    return fake


def settings(folder: Path, **values: object) -> Path:
    path = folder / "site.yaml"
    values = {"time": '"60"', "node_local": "[]", **values}
    path.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    return path


def said(target: Path) -> dict[str, Any]:
    [path] = target.glob("submissions/*/submission.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_one_job(slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert executor.launch(CountJob(run), str(settings(tmp_path))) == 0
    assert [call.split()[0] for call in slurm.calls("sbatch")] == ["--test-only", slurm.calls("sbatch")[1]]
    [folder] = (run / "submissions").iterdir()
    assert said(run)["places"] == {"41": ""}
    shown = capsys.readouterr().out
    for line in (
        f"Submitted count as job 41 ({settings(tmp_path)})",
        f"logs    {folder}",
        f"follow  tail -F {folder}/41_0_log.out",
        f"status  python -m healthgym status {run}",
        "cancel  scancel 41",
        "resume  a preempted job resumes by itself",
    ):
        assert line in shown


def test_only_plain_values_are_pickled(slurm: FakeSlurm, tmp_path: Path) -> None:
    submission.submit(CountJob(tmp_path / "run"), settings(tmp_path))
    [path] = tmp_path.glob("run/submissions/*/41_submitted.pkl")
    with path.open("rb") as stream:
        submitted = pickle.load(stream).function
    assert vars(submitted) == {"job": CountJob(tmp_path / "run"), "folder": path.parent}
    assert path.stat().st_size < 2000


def test_a_task_queued_by_an_earlier_version_makes_its_shards_only() -> None:
    job = SynthesizeJob(Path("cohort"), "{}", "1/3")
    queued = pickle.dumps(job, protocol=2).replace(b"X\4\0\0\0task", b"X\5\0\0\0place")
    assert b"place" in queued
    assert pickle.loads(queued) == job


def test_an_array(slurm: FakeSlurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    submission.submit(CountJob(run), settings(tmp_path, array="{tasks: 3, at_once: 2}"))
    assert said(run)["places"] == {"41_0": "0/3", "41_1": "1/3", "41_2": "2/3"}
    [script] = run.glob("submissions/*/41_submission.sh")
    assert "#SBATCH --array=0-2%2\n" in script.read_text()
    assert len(list(run.glob("submissions/*/41_*_submitted.pkl"))) == 3


def test_a_dry_run_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert executor.launch(CountJob(run), str(settings(tmp_path)), dry_run=True) == 0
    assert "#SBATCH --signal=USR2@120\n" in capsys.readouterr().out
    assert executor.launch(CountJob(run), "local", dry_run=True) == 0
    assert "Nothing was started" in capsys.readouterr().out
    assert not run.exists()


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("allocation failure: Invalid partition name specified", "partition"),
        ("error: Batch job submission failed: Invalid account or account/partition combination", "account"),
        ("allocation failure: Invalid qos specification", "qos"),
        ("allocation failure: Requested time limit is invalid (missing or exceeds some limit)", "time"),
        ("allocation failure: Requested node configuration is not available", "constraint, memory_gb"),
        ("error: Invalid generic resource (gres) specification", "gpus_per_node or gpu_type"),
        ("error: Invalid feature specification", "constraint"),
        ("error: Batch job submission failed: Invalid job array specification", "array.tasks"),
    ],
)
def test_a_refusal_names_the_key(slurm: FakeSlurm, tmp_path: Path, words: str, key: str) -> None:
    slurm.says("sbatch", status=1, error=words)
    path = settings(tmp_path)
    with pytest.raises(LaunchError) as caught:
        submission.submit(CountJob(tmp_path / "run"), path)
    assert words in str(caught.value)
    assert f"Look at the key {key}" in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "run").exists(), "a refused submission left a folder"


def test_a_refusal_after_the_trial(slurm: FakeSlurm, tmp_path: Path) -> None:
    script = slurm.folder / "sbatch"
    script.write_text('#!/bin/sh\n[ "$1" = --test-only ] && exit 0\necho "Job violates policy" >&2\nexit 1\n')
    with pytest.raises(LaunchError, match="Job violates policy"):
        submission.submit(CountJob(tmp_path / "run"), settings(tmp_path))
    assert not list((tmp_path / "run" / "submissions").iterdir()), "a refused submission left its folder"


def test_a_folder_that_nodes_do_not_share(slurm: FakeSlurm, tmp_path: Path) -> None:
    path = settings(tmp_path, node_local=f"[{tmp_path / 'scratch'}]")
    with pytest.raises(
        LaunchError, match=r"which compute nodes do not share .* correct node_local in .*site.yaml"
    ):
        submission.submit(CountJob(tmp_path / "scratch" / "run"), path)
    with pytest.raises(LaunchError, match=r"data\.h5 lies in"):
        submission.submit(CountJob(tmp_path / "run", reads=(tmp_path / "scratch" / "data.h5",)), path)
    assert not slurm.calls("sbatch")


def test_by_default_temporary_folders_are_not_shared(slurm: FakeSlurm, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text('time: "60"\n')
    with pytest.raises(LaunchError, match="/tmp, which compute nodes do not share"):
        submission.submit(CountJob(Path("/tmp/run")), path)


def test_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"no sbatch and no srun and no scontrol.*--on local"):
        submission.submit(CountJob(tmp_path / "run"), settings(tmp_path))


def test_a_live_job_is_not_doubled(slurm: FakeSlurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    submission.submit(CountJob(run), settings(tmp_path))
    slurm.says("squeue", f"{said(run)['name']}|41|PENDING|(Priority)\n")
    with pytest.raises(LaunchError, match=r"Job 41 is queued or running .*\(scancel 41\)"):
        submission.submit(CountJob(run), settings(tmp_path))


def test_jobs_of_a_folder_are_not_those_of_its_copy(slurm: FakeSlurm, tmp_path: Path) -> None:
    run, copy, moved = (tmp_path / name for name in ("run", "copy", "moved"))
    submission.submit(CountJob(run), settings(tmp_path))
    slurm.says("squeue", f"{said(run)['name']}|41|PENDING|(Priority)\n")
    shutil.copytree(run, copy)
    assert track(copy) == []
    submission.submit(CountJob(copy), settings(tmp_path))
    assert [job.number for job in track(run)] == ["41"]
    run.rename(moved)
    assert [job.number for job in track(moved)] == ["41"]


def test_another_cluster_s_job_of_that_number_is_not_ours(slurm: FakeSlurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    submission.submit(CountJob(run), settings(tmp_path))
    slurm.says("squeue", "healthgym-count-ffffff|41|PENDING|(Priority)\n")
    submission.submit(CountJob(run), settings(tmp_path))
    assert len(list((run / "submissions").iterdir())) == 2


def test_only_dead_tasks_are_submitted_again(slurm: FakeSlurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = settings(tmp_path, array="{tasks: 3}")
    submission.submit(CountJob(run), path)
    name = said(run)["name"]
    slurm.says("squeue", f"{name}|41_0|RUNNING|n1\n{name}|41_1|FAILED|n2\n{name}|41_2|PENDING|()\n")
    slurm.says("sbatch", "Submitted batch job 42\n")
    submission.submit(CountJob(run), path)
    newest = max(run.glob("submissions/*/submission.json"), key=lambda path: path.stat().st_mtime_ns)
    assert json.loads(newest.read_text())["places"] == {"42": "1/3"}
    with pytest.raises(LaunchError, match="is queued or running"):
        submission.submit(CountJob(run), settings(tmp_path, array="{tasks: 4}"))


def test_charliecloud_s_mount_points(slurm: FakeSlurm, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    container = f"{{kind: charliecloud, image: {image}, binds: [/a:/b/c]}}"
    submission.submit(CountJob(tmp_path / "run"), settings(tmp_path, container=container))
    assert (image / str(tmp_path / "run").lstrip("/")).is_dir()
    assert (image / "b" / "c").is_dir()
    (image / "d").write_text("a file in the way")
    with pytest.raises(LaunchError, match=r"cannot be made: File exists.*mkdir -p .*image/d"):
        submission.submit(
            CountJob(tmp_path / "other"), settings(tmp_path, container=container.replace("/b/c", "/d"))
        )


def test_ranks_for_work_of_one(slurm: FakeSlurm, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"asks for 2 processes .*, but count runs in one\. Set both to 1"):
        submission.submit(CountJob(tmp_path / "run", ranks=False), settings(tmp_path, nodes=2))


def test_the_job_s_own_check_comes_before_the_queue(slurm: FakeSlurm, tmp_path: Path) -> None:
    job = TrainJob(tmp_path / "run", json.dumps({"data": str(tmp_path / "none.h5")}))
    with pytest.raises(HealthgymError, match=r"none\.h5"):
        submission.submit(job, settings(tmp_path))
    assert not slurm.calls("sbatch")
    submission.submit(job, settings(tmp_path), after=["40"])  # a job before it will make the file
    [script] = tmp_path.glob("run/submissions/*/41_submission.sh")
    assert "#SBATCH --dependency=afterok:40\n" in script.read_text()


def test_not_a_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert executor.launch(CountJob(tmp_path / "run"), "slurm") == 1
    assert "expected here, debug, local or a YAML file" in capsys.readouterr().err
    assert executor.launch(CountJob(tmp_path / "run"), str(tmp_path / "none.yaml")) == 1
    assert "Cannot read" in capsys.readouterr().err
