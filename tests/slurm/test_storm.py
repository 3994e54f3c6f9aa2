"""Many preemptions of real trainings, on both kinds of partition at once."""

import subprocess
import sys
from pathlib import Path

import tiny
from slurm_cluster import Cluster

from healthgym.launch.jobs import TrainJob
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint

EPOCHS = 12  # of 8 steps, for each preemption


def newest_step(run_dir: Path) -> str:
    return next((path.name for path in list_checkpoints(run_dir / "checkpoints")), "")


def test_storm(cluster: Cluster, tmp_path: Path, kills: int) -> None:
    tiny.cohort(tmp_path)
    runs, numbers, undisturbed = {}, {}, {}
    for partition, system in (("grace", "v2"), ("nograce", "v1")):
        config = tiny.config(
            tmp_path, system, training={"epochs": kills * EPOCHS}, checkpoint={"every_steps": 10, "keep": 2}
        )
        alone = TrainJob.of(tmp_path / f"undisturbed-{system}", config)
        undisturbed[partition] = subprocess.Popen([sys.executable, "-c", ALONE, *map(str, arguments(alone))])
        runs[partition] = tmp_path / system
        job = TrainJob.of(runs[partition], config)
        numbers[partition] = cluster.submit(job, cluster.settings(tmp_path, partition))
    for _ in range(kills):
        before = {partition: newest_step(run) for partition, run in runs.items()}
        for partition, run in runs.items():
            cluster.until(
                f"progress on {partition}",
                lambda run=run, old=before[partition]: newest_step(run) != old,
            )
        cluster.preempt(*numbers.values())
    for partition, number in numbers.items():
        assert cluster.until_over(number) == "COMPLETED"
        assert cluster.restarts(number) >= kills
        assert undisturbed[partition].wait(300) == 0
        system = runs[partition].name
        alone, stormed = tmp_path / f"undisturbed-{system}", runs[partition]
        tiny.assert_same_run(load_checkpoint(alone), load_checkpoint(stormed))
        assert tiny.losses(alone / "metrics.jsonl") == tiny.losses(stormed / "metrics.jsonl")


ALONE = """
import sys
from pathlib import Path
from healthgym.launch.jobs import TrainJob
TrainJob(Path(sys.argv[1]), sys.argv[2])()
"""


def arguments(job: TrainJob) -> tuple[Path, str]:
    return job.run_dir, job.config_json
