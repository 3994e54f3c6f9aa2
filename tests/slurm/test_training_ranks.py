"""Real trainings, preempted or with a process killed, end with the same bits as uninterrupted ones."""

import os
import signal
from pathlib import Path

import pytest
import tiny
from slurm_cluster import Cluster

from healthgym.launch.jobs import TrainJob
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint

EPOCHS = 60  # of 8 steps
SAME_UNTIL = 60  # steps; then float32 has doubled the last bits too often


def config(folder: Path):  # type: ignore[no-untyped-def]
    """Return settings of a run long enough to be disturbed twice."""
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


def wait_for_a_save(cluster: Cluster, run: Path, after: int = 0) -> int:
    """Wait for a checkpoint after that step; return its step."""

    def newest() -> int:
        return max(
            (int(path.stem.split("-")[1]) for path in list_checkpoints(run / "checkpoints")), default=0
        )

    cluster.until(f"a checkpoint after step {after}", lambda: newest() > after)
    return newest()


def test_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    where = cluster.settings(tmp_path, nodes=2, tasks_per_node=1)
    undisturbed = cluster.submit(TrainJob.of(tmp_path / "undisturbed", config(tmp_path)), where)
    assert cluster.show(undisturbed)["NumNodes"].split("-")[0] == "2"  # "2-2" while it waits
    assert cluster.until_over(undisturbed) == "COMPLETED"
    TrainJob.of(tmp_path / "one", config(tmp_path))()
    assert_equal_losses(tmp_path / "one", tmp_path / "undisturbed")

    run = tmp_path / "disturbed"
    number = cluster.submit(TrainJob.of(run, config(tmp_path)), where)
    wait_for_a_save(cluster, run)
    cluster.preempt(number)
    wait_for_a_save(cluster, run, after=load_checkpoint(run).progress.step)
    os.kill(process(number, 1), signal.SIGKILL)
    assert cluster.until_over(number) == "COMPLETED"
    assert cluster.restarts(number) == 2
    logs = "".join(path.read_text() for path in run.glob("submissions/*/*_log.err"))
    assert "resuming from step" in logs
    assert load_checkpoint(run).progress.num_processes == 2
    assert load_checkpoint(run).progress.step == 8 * EPOCHS
    tiny.assert_same_run(load_checkpoint(tmp_path / "undisturbed"), load_checkpoint(run))


def test_ar_is_preempted(cluster: Cluster, tmp_path: Path) -> None:
    """Schedule, moving average and the best weights so far go on where they were."""
    tiny.cohort(tmp_path)
    training = {"epochs": EPOCHS, "log_every_steps": 4, "patience": None}
    settings = tiny.config(tmp_path, "ar", training=training, checkpoint={"every_steps": 20})
    TrainJob.of(tmp_path / "undisturbed", settings)()
    run = tmp_path / "run"
    number = cluster.submit(TrainJob.of(run, settings), cluster.settings(tmp_path))
    wait_for_a_save(cluster, run)
    cluster.preempt(number)
    assert cluster.until_over(number) == "COMPLETED"
    assert cluster.restarts(number) == 1
    logs = "".join(path.read_text() for path in run.glob("submissions/*/*_log.err"))
    assert "resuming from step" in logs
    tiny.assert_same_run(load_checkpoint(tmp_path / "undisturbed"), load_checkpoint(run))


def assert_equal_losses(one: Path, two: Path) -> None:
    """One process and two agree, except for the order of float32 sums."""
    left, right = (tiny.losses(run / "metrics.jsonl") for run in (one, two))
    assert [line["step"] for line in left] == [line["step"] for line in right]
    for first, second in zip(left, right, strict=True):
        if first["step"] <= SAME_UNTIL:
            assert first == pytest.approx(second, rel=1e-3)
