"""The plain batch scripts, submitted without Python on the login node."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import tiny
import yaml
from slurm_cluster import Cluster

from healthgym.launch.tracking import track
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint
from healthgym.storage.shards import open_cohort
from healthgym.training.run import train

ROOT = Path(__file__).parent.parent.parent
EPOCHS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared cohort, settings, and an undisturbed run."""
    folder = tmp_path_factory.mktemp("plain")
    tiny.cohort(folder)
    config = tiny.config(folder, "v1", training={"epochs": EPOCHS}, checkpoint={"every_steps": 10})
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    train(folder / "undisturbed", config)
    return folder


def sbatch(cluster: Cluster, folder: Path, options: list[str], script: str, *arguments: object) -> str:
    """Submit a script from the checkout; return the job's number."""
    os.environ["PYTHON"] = sys.executable
    log = f"--output={folder}/slurm-%A_%a.out"
    words = ["--parsable", "--chdir", str(ROOT), "--mem=500M", "--cpus-per-task=1", log, *options]
    return cluster.run("sbatch", *words, f"slurm/{script}.sbatch", *map(str, arguments)).strip()


def test_train(cluster: Cluster, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--partition=grace", "--time=10", "--signal=USR2@60"]
    number = sbatch(cluster, tmp_path, options, "train", run, folder / "tiny.yaml")
    cluster.until("a first save", lambda: list_checkpoints(run / "checkpoints"))
    assert [job.state for job in track(run)] == ["running"]
    cluster.preempt(number)
    assert [job.state for job in track(run)] == ["preempted"]
    owner = run / "owner.json"
    cluster.until("its second life", lambda: json.loads(owner.read_text())["life"] == 1)
    os.kill(json.loads(owner.read_text())["pid"], signal.SIGKILL)
    assert cluster.until_over(number) == "COMPLETED"
    assert cluster.restarts(number) == 2
    assert [job.state for job in track(run)] == ["finished"]
    tiny.assert_same_run(load_checkpoint(folder / "undisturbed"), load_checkpoint(run))


def test_synthesize(cluster: Cluster, folder: Path, tmp_path: Path) -> None:
    cohort, arguments = tmp_path / "cohort", (folder / "undisturbed", 40, "--patients-per-shard", 10)
    options = ["--partition=grace", "--export=ALL,TASKS=3"]
    array = sbatch(cluster, tmp_path, [*options, "--array=0,2"], "synthesize", cohort, *arguments)
    for task in (0, 2):
        assert cluster.until_over(f"{array}_{task}") == "COMPLETED"
    assert not (cohort / "_manifest.json").exists()
    again = sbatch(cluster, tmp_path, [*options, "--array=1"], "synthesize", cohort, *arguments)
    assert cluster.until_over(f"{again}_1") == "COMPLETED"
    open_cohort(cohort).verify()
    assert sorted(job.task for job in track(cohort) if job.state == "finished") == ["0/3", "1/3", "2/3"]


def test_wrong_words_end_at_once(cluster: Cluster, tmp_path: Path) -> None:
    number = sbatch(cluster, tmp_path, ["--partition=grace"], "train", tmp_path / "run")
    assert cluster.until_over(number) == "FAILED"
    [log] = tmp_path.glob("slurm-*.out")
    assert "usage: sbatch slurm/train.sbatch RUN_FOLDER CONFIG" in log.read_text()


def test_work_that_saves_nothing_is_not_queued_again_at_its_limit(cluster: Cluster, tmp_path: Path) -> None:
    report = tmp_path / "report"
    wait = tmp_path / "wait.py"
    wait.write_text(
        "import time\nfrom healthgym import stopping\nwith stopping.without_saving():\n    time.sleep(600)\n"
    )
    os.environ["PYTHON"] = sys.executable
    script = (ROOT / "slurm" / "evaluate.sbatch").read_text().replace('"jobs/$program"', f'"{wait}"')
    (tmp_path / "evaluate.sbatch").write_text(script)
    words = [
        "--parsable",
        "--partition=grace",
        "--time=1",
        "--mem=500M",
        "--cpus-per-task=1",
        "--signal=USR2@30",
    ]
    places = [f"--output={tmp_path}/log", str(tmp_path / "evaluate.sbatch"), str(report), "s", "r", "c"]
    number = cluster.run("sbatch", *words, *places).strip()
    assert cluster.until_over(number) == "TIMEOUT"
    assert cluster.restarts(number) == 0
