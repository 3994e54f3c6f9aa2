"""A real training on two nodes: preempted, and with a process killed, it ends as one process would."""

import os
import signal
import time
from pathlib import Path

import pytest
import tiny
from slurm_cluster import Cluster

from healthgym.launch.jobs import TrainJob
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint

EPOCHS = 60  # of 8 steps
SAME_UNTIL = 60  # steps; then float32 has doubled the last bits too often


def train_on_two_nodes(cluster: Cluster, folder: Path) -> tuple[str, Path]:
    """Submit a run of two processes, and wait for its first checkpoint."""
    job = TrainJob.of(folder / "two", config(folder))
    number = cluster.submit(job, cluster.settings(folder, nodes=2, tasks_per_node=1))
    cluster.until("a checkpoint", lambda: list_checkpoints(folder / "two" / "checkpoints"), seconds=240)
    return number, folder / "two"


def config(folder: Path):  # type: ignore[no-untyped-def]
    """Return settings of a run long enough to be disturbed."""
    return tiny.config(
        folder, "v3", training={"epochs": EPOCHS, "log_every_steps": 4}, checkpoint={"every_steps": 20}
    )


def process(number: str, rank: int) -> int:
    """Return the number of a rank's process, by its environment: both nodes are on this host."""
    wanted = {f"SLURM_JOB_ID={number}".encode(), f"SLURM_PROCID={rank}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            is_python = (folder / "comm").read_text().startswith("python")
        except OSError:
            continue
        if is_python and wanted <= set(environment):
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank} of job {number}")


def test_two_nodes_equal_one_process(cluster: Cluster, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    number, run = train_on_two_nodes(cluster, tmp_path)
    assert cluster.show(number)["NumNodes"] == "2"
    cluster.preempt(number)
    assert cluster.until_over(number, seconds=400) == "COMPLETED"
    assert cluster.restarts(number) == 1
    began = time.monotonic()
    TrainJob.of(tmp_path / "one", config(tmp_path))()
    print(f"{load_checkpoint(run).progress} on two nodes; one process took {time.monotonic() - began:.0f} s")
    assert load_checkpoint(run).progress.num_processes == 2
    one, two = (tiny.losses(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for left, right in zip(one, two, strict=True):
        if left["step"] <= SAME_UNTIL:
            assert left == pytest.approx(right, rel=1e-3)


def test_a_killed_process_costs_the_steps_since_the_last_save(cluster: Cluster, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    number, run = train_on_two_nodes(cluster, tmp_path)
    os.kill(process(number, 1), signal.SIGKILL)
    cluster.until("the next life", lambda: cluster.restarts(number) == 1)
    assert cluster.until_over(number, seconds=400) == "COMPLETED"
    logs = "".join(path.read_text() for path in run.glob("submissions/*/*_log.err"))
    assert "going on from step" in logs
    assert load_checkpoint(run).progress.step == 8 * EPOCHS
