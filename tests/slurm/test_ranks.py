"""Two ranks on two nodes: they stop together, and if one dies the other ends too."""

import os
import signal
from pathlib import Path

from counting import CountJob
from slurm_cluster import Cluster
from test_faults import assert_right, started


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
