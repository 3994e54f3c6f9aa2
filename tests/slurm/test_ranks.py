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

from healthgym.config import RunConfig
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


def config(folder: Path) -> RunConfig:
    return tiny.config(folder, "v2", training={"epochs": 40}, checkpoint={"every_steps": 10})


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared cohort and a run of two processes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    tiny.cohort(folder)
    number = cluster.submit(TrainJob.of(folder / "run", config(folder)), settings(cluster, folder))
    assert cluster.until_over(number, seconds=240) == "COMPLETED"
    return folder


@pytest.mark.parametrize("fault", ["preempted", "killed"])
def test_training(cluster: Cluster, tmp_path: Path, undisturbed: Path, fault: str) -> None:
    run = tmp_path / "run"
    number = cluster.submit(TrainJob.of(run, config(undisturbed)), settings(cluster, tmp_path))
    cluster.until("a first save", lambda: list_checkpoints(run / "checkpoints"))
    if fault == "preempted":
        cluster.preempt(number)
    else:
        os.kill(json.loads((run / "owner.json").read_text())["pid"], signal.SIGKILL)
    assert cluster.until_over(number, seconds=240) == "COMPLETED"
    assert cluster.restarts(number) == 1
    tiny.assert_same_run(load_checkpoint(undisturbed / "run"), load_checkpoint(run))
