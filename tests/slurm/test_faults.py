"""Each row of the signal table: preemption, time limits, cancelling, lost nodes.

After each fault the job ends by itself, with what an undisturbed one ends with, and no step that was
saved is done twice.
"""

import itertools
import json
import os
import signal
from pathlib import Path

import pytest
from counting import CountJob, chain_of
from slurm_cluster import Cluster

from healthgym.launch.tracking import track


def saved(folder: Path) -> dict[str, object]:
    path = folder / "saved.json"
    return json.loads(path.read_text()) if path.exists() else {"step": 0, "lives": []}


def started(cluster: Cluster, folder: Path, lives: int = 1) -> None:
    """Wait until a life of the job has saved something."""
    cluster.until("a first save", lambda: len(saved(folder)["lives"]) >= lives)  # type: ignore[arg-type]


def assert_right(folder: Path, steps: int, lives: list[int]) -> None:
    """The chain is whole, each life went on where the last had saved, and those lives made it."""
    end = saved(folder)
    assert end["chain"] == chain_of(steps)
    assert end["lives"] == lives
    saves = [tuple(map(int, line.split())) for line in (folder / "saves.log").read_text().splitlines()]
    ends = {
        begin: max(step for of, step in group) for begin, group in itertools.groupby(saves, lambda s: s[0])
    }
    assert list(ends)[1:] == list(ends.values())[:-1], f"a saved step was done twice: {ends}"


@pytest.fixture(params=["off", "on"])
def user_signal(request: pytest.FixtureRequest, cluster: Cluster):  # type: ignore[no-untyped-def]
    cluster.control("user-signal", request.param)
    yield request.param
    cluster.control("user-signal", "off")


@pytest.mark.parametrize("partition", ["grace", "nograce"])
def test_preempted(cluster: Cluster, tmp_path: Path, partition: str, user_signal: str) -> None:
    run = tmp_path / "run"
    number = cluster.submit(CountJob(run, steps=150), cluster.settings(tmp_path, partition))
    started(cluster, run)
    cluster.preempt(number)
    [tracked] = track(run)
    assert tracked.state == "preempted"
    assert cluster.until_over(number) == "COMPLETED"
    assert_right(run, 150, [0, 1])
    assert track(run)[0].state == "finished"


def test_requeued_by_hand(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    number = cluster.submit(CountJob(run, steps=150), cluster.settings(tmp_path))
    started(cluster, run)
    cluster.run("scontrol", "requeue", number)
    assert cluster.until_over(number) == "COMPLETED"
    assert_right(run, 150, [0, 1])


def test_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = cluster.settings(tmp_path, time='"2"')
    number = cluster.submit(CountJob(run, steps=1300, save_every=10_000), settings)
    cluster.until("a save before the limit", lambda: saved(run)["step"])
    assert cluster.until_over(number) == "COMPLETED"
    assert_right(run, 1300, sorted(saved(run)["lives"]))
    assert len(saved(run)["lives"]) > 1


def test_cancelled_stays_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = cluster.settings(tmp_path)
    number = cluster.submit(CountJob(run, steps=150), settings)
    started(cluster, run)
    cluster.run("scancel", number)
    assert cluster.until_over(number) == "CANCELLED"
    assert track(run)[0].state == "cancelled"
    assert 0 < int(str(saved(run)["step"])) < 150
    again = cluster.submit(CountJob(run, steps=150), settings)
    assert cluster.until_over(again) == "COMPLETED"
    assert_right(run, 150, [0, 0])


def test_task_killed(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    number = cluster.submit(CountJob(run, steps=150), cluster.settings(tmp_path))
    started(cluster, run)
    os.kill(int((run / "pid-0").read_text()), signal.SIGKILL)
    assert cluster.until_over(number) == "COMPLETED"
    assert_right(run, 150, [0, 1])


def test_a_job_that_always_crashes_ends(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = cluster.settings(tmp_path, restarts_after_crash=1)
    number = cluster.submit(CountJob(run, steps=10_000), settings)
    started(cluster, run)
    for lives in (1, 2):
        started(cluster, run, lives)
        os.kill(int((run / "pid-0").read_text()), signal.SIGKILL)
    assert cluster.until_over(number) == "FAILED"
    assert cluster.restarts(number) == 1
    assert track(run)[0].state == "failed"


def test_lost_node_leaves_two_writers(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    number = cluster.submit(CountJob(run, steps=1500), cluster.settings(tmp_path))
    started(cluster, run)
    old_pid, node = int((run / "pid-0").read_text()), cluster.show(number)["NodeList"]
    cluster.control("kill-node", node)
    try:
        cluster.until("a second life", lambda: len(saved(run)["lives"]) == 2)  # type: ignore[arg-type]
        cluster.until("the old writer to give up", lambda: not Path(f"/proc/{old_pid}/stat").exists())
        assert int(str(saved(run)["step"])) < 1500, "the old writer outlived the new one's whole work"
        assert cluster.until_over(number) == "COMPLETED"
    finally:
        cluster.control("start-node", node)
    assert saved(run)["chain"] == chain_of(1500)
    assert saved(run)["lives"] == [0, 1]
    [log] = (run / "submissions").glob(f"*/{number}_0_log.err")
    assert "This process" in log.read_text()
    assert cluster.restarts(number) == 1
