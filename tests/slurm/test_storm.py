"""Twenty preemptions of a real training, on both kinds of partition and beside an array."""

import subprocess
import sys
from pathlib import Path

import tiny
from counting import CountJob, chain_of
from slurm_cluster import Cluster
from test_faults import saved

from healthgym.launch.jobs import TrainJob
from healthgym.launch.tracking import track
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint

PREEMPTIONS = 20
EPOCHS = 200  # of 8 steps
COUNTS = 4000


def newest_step(run_dir: Path) -> str:
    return next((path.name for path in list_checkpoints(run_dir / "checkpoints")), "")


def test_storm(cluster: Cluster, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    runs, numbers, undisturbed = {}, {}, {}
    for partition, system in (("grace", "v2"), ("nograce", "v1")):
        config = tiny.config(
            tmp_path, system, training={"epochs": EPOCHS}, checkpoint={"every_steps": 10, "keep": 2}
        )
        alone = TrainJob.of(tmp_path / f"undisturbed-{system}", config)
        undisturbed[partition] = subprocess.Popen([sys.executable, "-c", ALONE, *map(str, arguments(alone))])
        runs[partition] = tmp_path / system
        job = TrainJob.of(runs[partition], config)
        numbers[partition] = cluster.submit(job, cluster.settings(tmp_path, partition))
    counts = tmp_path / "counts"
    settings = cluster.settings(tmp_path, array="{tasks: 2}")
    array = cluster.submit(CountJob(counts, steps=COUNTS, pause=0.02), settings)
    tasks = [f"{array}_{index}" for index in range(2)]
    for _ in range(PREEMPTIONS):
        before = {partition: newest_step(run) for partition, run in runs.items()}
        for partition, run in runs.items():
            cluster.until(
                f"progress on {partition}",
                lambda run=run, old=before[partition]: newest_step(run) != old,
            )
        cluster.preempt(*numbers.values(), *tasks)
    for partition, number in numbers.items():
        assert cluster.until_over(number, seconds=300) == "COMPLETED"
        assert cluster.restarts(number) >= PREEMPTIONS
        assert undisturbed[partition].wait(300) == 0
        system = runs[partition].name
        alone, stormed = tmp_path / f"undisturbed-{system}", runs[partition]
        tiny.assert_same_run(load_checkpoint(alone), load_checkpoint(stormed))
        assert tiny.losses(alone / "metrics.jsonl") == tiny.losses(stormed / "metrics.jsonl")
    for index, task in enumerate(tasks):
        assert cluster.until_over(task, seconds=300) == "COMPLETED"
        assert saved(counts / f"{index}-of-2")["chain"] == chain_of(COUNTS)
        assert len(saved(counts / f"{index}-of-2")["lives"]) >= PREEMPTIONS  # type: ignore[arg-type]
    assert {tracked.state for tracked in track(counts)} == {"finished"}


ALONE = """
import sys
from pathlib import Path
from healthgym.launch.jobs import TrainJob
TrainJob(Path(sys.argv[1]), sys.argv[2])()
"""


def arguments(job: TrainJob) -> tuple[Path, str]:
    return job.run_dir, job.config_json
