"""The lines at the end of each batch script: which jobs are requeued and which are not."""

import os
import subprocess
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from healthgym.launch.slurm.sbatch import REQUEUE_LINES

RESTARTS_LEFT = "JobId=7 JobName=x Restarts={} BatchFlag=1"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin", monkeypatch)
    fake.says("sleep")
    fake.says("scontrol", RESTARTS_LEFT.format(0))
    return fake


def end_with(
    status: int, folder: Path, restarts: int = 2, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the lines after work that ended with this status."""
    lines = [
        f"(exit {status})",
        "status=$?",
        f"submission='{folder}'",
        f"restarts={restarts}",
        *REQUEUE_LINES,
    ]
    return subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", **environment},
        capture_output=True,
        text=True,
    )


def requeued(slurm: FakeSlurm) -> list[str]:
    return [call.removeprefix("requeue ") for call in slurm.calls("scontrol") if call.startswith("requeue ")]


@pytest.mark.parametrize(
    ("status", "again"),
    [
        (0, False),
        (1, False),  # an error of ours or the user's
        (2, False),
        (85, True),  # saved on request
        (86, False),  # fenced: somebody newer is at work
        (126, False),
        (127, False),  # no such interpreter
        (134, True),  # aborted
        (137, True),  # killed: no memory, or by hand
        (138, True),  # told to stop before it could listen: SIGUSR1, SIGUSR2, SIGTERM
        (139, True),
        (140, True),
        (143, True),
        (255, False),  # srun's own failure
    ],
)
def test_which_status(slurm: FakeSlurm, tmp_path: Path, status: int, again: bool) -> None:
    done = end_with(status, tmp_path)
    assert requeued(slurm) == (["7"] if again else [])
    assert bool(slurm.calls("sleep")) == again
    assert done.returncode == status


def test_a_task_of_an_array_is_queued_alone(slurm: FakeSlurm, tmp_path: Path) -> None:
    end_with(85, tmp_path, SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="3")
    assert requeued(slurm) == ["5_3"]


def test_crashes_in_a_row_are_counted(slurm: FakeSlurm, tmp_path: Path) -> None:
    for life in range(4):
        slurm.says("scontrol", RESTARTS_LEFT.format(life))
        end_with(137, tmp_path, SLURM_RESTART_COUNT=str(life))
    assert requeued(slurm) == ["7", "7"]
    assert len((tmp_path / "crashes-7").read_text().splitlines()) == 4


def test_a_rank_killed_while_leaving_is_no_crash(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("scontrol", RESTARTS_LEFT.format(1))
    (tmp_path / "state-7.json").write_text('{\n "state": "interrupted",\n "life": 1,\n "pid": 4\n}\n')
    end_with(137, tmp_path, restarts=0, SLURM_RESTART_COUNT="1")
    assert requeued(slurm) == ["7"]


def test_a_record_of_an_earlier_life_does_not_count(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("scontrol", RESTARTS_LEFT.format(2))
    (tmp_path / "state-7.json").write_text('{\n "state": "interrupted",\n "life": 1,\n "pid": 4\n}\n')
    end_with(137, tmp_path, restarts=0, SLURM_RESTART_COUNT="2")
    assert requeued(slurm) == []


def test_a_job_that_lives_on_elsewhere_is_left_alone(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("scontrol", RESTARTS_LEFT.format(1))
    done = end_with(85, tmp_path)
    assert requeued(slurm) == []
    assert "lives on elsewhere (life 1)" in done.stderr


def test_a_refused_requeue_is_explained(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("scontrol", status=1)
    done = end_with(85, tmp_path)
    assert requeued(slurm) == ["7"]
    assert not slurm.calls("sleep")
    assert "could not be requeued; submit the same command again" in done.stderr
