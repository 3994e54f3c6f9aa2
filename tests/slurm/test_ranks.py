"""Two ranks on two nodes: they stop together, and one that dies takes the other along."""

import json
import os
import signal
from pathlib import Path

import pytest
import tiny
from counting import CountJob
from slurm_cluster import Cluster
from test_faults import assert_right, started

from healthgym.launch.jobs import TrainJob
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint


def settings(cluster: Cluster, folder: Path) -> Path:
    return cluster.settings(folder, nodes=2, tasks_per_node=1)


def test_both_preempted(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    number = cluster.submit(CountJob(run, steps=200), settings(cluster, tmp_path))
    started(cluster, run)
    cluster.preempt(number)
    assert cluster.until_over(number) == "COMPLETED"
    assert_right(run, 200, [0, 1])


def test_one_killed(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    number = cluster.submit(CountJob(run, steps=200), settings(cluster, tmp_path))
    started(cluster, run)
    os.kill(int((run / "pid-1").read_text()), signal.SIGKILL)
    assert cluster.until_over(number) == "COMPLETED"
    assert_right(run, 200, [0, 1])


@pytest.mark.parametrize("fault", ["preempted", "killed"])
def test_training(cluster: Cluster, tmp_path: Path, fault: str) -> None:
    tiny.cohort(tmp_path)
    config = tiny.config(tmp_path, "v2", training={"epochs": 40}, checkpoint={"every_steps": 10})
    where = settings(cluster, tmp_path)
    undisturbed = cluster.submit(TrainJob.of(tmp_path / "undisturbed", config), where)
    assert cluster.until_over(undisturbed, seconds=240) == "COMPLETED"
    run = tmp_path / "run"
    number = cluster.submit(TrainJob.of(run, config), where)
    cluster.until("a first save", lambda: list_checkpoints(run / "checkpoints"))
    if fault == "preempted":
        cluster.preempt(number)
    else:
        os.kill(json.loads((run / "owner.json").read_text())["pid"], signal.SIGKILL)
    assert cluster.until_over(number, seconds=240) == "COMPLETED"
    assert cluster.restarts(number) == 1
    tiny.assert_same_run(load_checkpoint(tmp_path / "undisturbed"), load_checkpoint(run))
