"""Training in an image under the real Slurm, by Charliecloud: preempted and cancelled jobs.

`make test-image` builds and unpacks the image first; that takes minutes, so it is run when the
Containerfile or the lock changes, not with each change of the code.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from slurm_cluster import Cluster

from healthgym.launch.jobs import TrainJob
from healthgym.launch.tracking import track
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.image


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the container does not see by default, unlike /tmp; with a prepared cohort."""
    monkeypatch.setenv("USER", "root")  # ch-run wants it
    folder = Path(tempfile.mkdtemp(prefix="healthgym-image-", dir="/var/tmp"))
    tiny.cohort(folder)
    yield folder
    shutil.rmtree(folder)


def settings(cluster: Cluster, folder: Path, partition: str) -> Path:
    image = os.environ.get("HEALTHGYM_TEST_IMAGE")
    if not image:
        pytest.skip("needs the image that `make test-image` builds")
    return cluster.settings(folder, partition, container=f"{{kind: charliecloud, image: {image}}}")


def job(folder: Path, name: str) -> TrainJob:
    config = tiny.config(folder, "v1", training={"epochs": 60}, checkpoint={"every_steps": 10})
    return TrainJob.of(folder / name, config)


def saved(run: Path) -> list[Path]:
    return list_checkpoints(run / "checkpoints")


@pytest.mark.parametrize("partition", ["grace", "nograce"])
def test_preempted(cluster: Cluster, folder: Path, partition: str) -> None:
    where = settings(cluster, folder, partition)
    undisturbed = cluster.submit(job(folder, "undisturbed"), where)
    assert cluster.until_over(undisturbed) == "COMPLETED"
    number = cluster.submit(job(folder, "run"), where)
    cluster.until("a first save", lambda: saved(folder / "run"))
    cluster.preempt(number)
    assert cluster.until_over(number) == "COMPLETED"
    assert cluster.restarts(number) == 1
    tiny.assert_same_run(load_checkpoint(folder / "undisturbed"), load_checkpoint(folder / "run"))
    [log] = (folder / "run" / "submissions").glob(f"*/{number}_0_log.err")
    assert "resuming from step" in log.read_text()


def test_cancelled(cluster: Cluster, folder: Path) -> None:
    number = cluster.submit(job(folder, "run"), settings(cluster, folder, "grace"))
    cluster.until("a first save", lambda: saved(folder / "run"))
    cluster.run("scancel", number)
    assert cluster.until_over(number) == "CANCELLED"
    assert track(folder / "run")[0].state == "cancelled"
