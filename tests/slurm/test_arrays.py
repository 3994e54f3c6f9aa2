"""Bulk synthesis as an array: whatever happens to its tasks, the cohort is that of one process."""

import json
import os
import signal
from pathlib import Path

import pytest
import tiny
from slurm_cluster import Cluster

from healthgym.errors import LaunchError
from healthgym.launch.jobs import SynthesizeJob
from healthgym.launch.tracking import track
from healthgym.storage.shards import open_cohort
from healthgym.training.run import train

SHARDS = 6
PATIENTS = 1800  # of which the batches of two make slow shards


def request(run_dir: Path, out: Path) -> SynthesizeJob:
    return SynthesizeJob.of(
        run_dir=run_dir,
        out=out,
        patients=SHARDS * PATIENTS,
        patients_per_shard=PATIENTS,
        batch_size=2,
        workers=1,
        task="0/1",
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run and the cohort that one process makes of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    tiny.cohort(folder)
    train(folder / "run", tiny.config(folder))
    request(folder / "run", folder / "cohort")()
    return folder


def shards(cohort: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cohort / "shards").iterdir()}


def made_at(cohort: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (cohort / "shards").iterdir()}


def process_of(cluster: Cluster, out: Path, task: str) -> int:
    """Return the process number of an array task, after it has recorded that it runs."""
    cluster.until("the task's start", lambda: list(out.glob(f"submissions/*/state-{task}.json")))
    [state] = out.glob(f"submissions/*/state-{task}.json")
    return int(json.loads(state.read_text())["pid"])


def assert_same_cohort(cohort: Path, undisturbed: Path) -> None:
    open_cohort(cohort).verify()
    assert shards(cohort) == shards(undisturbed / "cohort")


def test_more_tasks_than_shards(cluster: Cluster, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "cohort"
    settings = cluster.settings(tmp_path, array="{tasks: 8}")
    array = cluster.submit(request(undisturbed / "run", out), settings)
    tasks = [tracked.task for tracked in track(out)]
    assert tasks == [f"{task}/8" for task in range(SHARDS)], "tasks without shards are not submitted"
    for task in range(SHARDS):
        assert cluster.until_over(f"{array}_{task}") == "COMPLETED"
    assert_same_cohort(out, undisturbed)


def test_preempted_array(cluster: Cluster, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "cohort"
    settings = cluster.settings(tmp_path, array="{tasks: 2}")
    array = cluster.submit(request(undisturbed / "run", out), settings)
    receipts = out / "_receipts"
    cluster.until("a first shard", lambda: receipts.is_dir() and len(list(receipts.iterdir())) >= 2)
    cluster.preempt(f"{array}_0", f"{array}_1")
    before = made_at(out)
    assert before
    for task in range(2):
        assert cluster.until_over(f"{array}_{task}") == "COMPLETED"
        assert cluster.restarts(f"{array}_{task}") == 1
    assert_same_cohort(out, undisturbed)
    assert made_at(out).items() >= before.items(), "a finished shard was made again"


def test_failed_task_is_submitted_again_alone(cluster: Cluster, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "cohort"
    settings = cluster.settings(tmp_path, array="{tasks: 3}", restarts_after_crash=0)
    job = request(undisturbed / "run", out)
    array = cluster.submit(job, settings)
    cluster.until("its start", lambda: any(t.task == "1/3" and t.state == "running" for t in track(out)))
    with pytest.raises(LaunchError, match=r"Nothing to submit .* queued or running already"):
        cluster.submit(job, settings)
    os.kill(process_of(cluster, out, f"{array}_1"), signal.SIGKILL)
    assert cluster.until_over(f"{array}_1") == "FAILED"
    for task in (0, 2):
        assert cluster.until_over(f"{array}_{task}") == "COMPLETED"
    assert not (out / "_manifest.json").exists(), "an incomplete cohort was declared complete"
    assert {t.task: t.state for t in track(out)} == {"0/3": "finished", "1/3": "failed", "2/3": "finished"}
    before = made_at(out)
    again = cluster.submit(job, settings)
    assert cluster.until_over(again) == "COMPLETED"
    assert [t.task for t in track(out)][3:] == ["1/3"]
    assert_same_cohort(out, undisturbed)
    assert made_at(out).items() >= before.items(), "a finished shard was made again"


def test_a_bad_node_costs_its_own_shards_only(cluster: Cluster, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "cohort"
    settings = cluster.settings(tmp_path, array="{tasks: 2}", cpus_per_task=4)  # a node each
    array = cluster.submit(request(undisturbed / "run", out), settings)
    process_of(cluster, out, f"{array}_0")
    process = process_of(cluster, out, f"{array}_1")
    node = cluster.show(f"{array}_1")["NodeList"]
    cluster.control("kill-node", node)
    os.kill(process, signal.SIGKILL)
    try:
        for task, restarts in ((0, 0), (1, 1)):
            assert cluster.until_over(f"{array}_{task}") == "COMPLETED"
            assert cluster.restarts(f"{array}_{task}") == restarts
    finally:
        cluster.control("start-node", node)
    assert_same_cohort(out, undisturbed)
