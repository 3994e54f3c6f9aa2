"""--on local: a process of its own, its log shown, Ctrl-C lets it save."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from counting import CountJob, chain_of

from healthgym import stopping
from healthgym.__main__ import main
from healthgym.launch import executor

PROGRAM = """
import sys
from pathlib import Path
from counting import CountJob
from healthgym.launch.executor import launch
sys.exit(launch(CountJob(Path(sys.argv[1]), steps=int(sys.argv[2])), sys.argv[3]))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return tmp_path / "run"


def begin(run: Path, steps: int, on: str) -> "subprocess.Popen[str]":
    """Start the program as a shell would, in a process group of its own, and wait for its first save."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(run), str(steps), on],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    while not (run / "saved.json").exists():
        assert program.poll() is None, program.communicate()
        time.sleep(0.05)
    return program


def step(run: Path) -> int:
    return int(json.loads((run / "saved.json").read_text())["step"])


def test_to_the_end(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert executor.launch(CountJob(run, steps=10, pause=0), "local") == 0
    assert capfd.readouterr().out == "counted to 10\n"
    assert main(["status", str(run)]) == 0
    assert "finished: counted to 10" in capfd.readouterr().out


@pytest.mark.parametrize("on", ["local", "here"])
def test_ctrl_c_saves_and_the_same_command_resumes(
    run: Path, on: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program = begin(run, 2000, on)
    os.killpg(program.pid, signal.SIGINT)  # a terminal signals the whole group
    out, err = program.communicate(timeout=30)
    assert program.returncode == stopping.INTERRUPTED, err
    reached = step(run)
    assert 0 < reached < 2000
    assert f"counted to {reached} of 2000" in out
    assert executor.launch(CountJob(run, steps=reached + 5), on) == 0
    assert json.loads((run / "saved.json").read_text())["chain"] == chain_of(reached + 5)


@pytest.mark.slow
def test_sigterm_saves_too(run: Path) -> None:
    program = begin(run, 2000, "local")
    program.terminate()
    _, err = program.communicate(timeout=30)
    assert program.returncode == stopping.INTERRUPTED
    assert "the job saves and exits" in err


@pytest.mark.slow
def test_a_killed_job_is_not_taken_for_a_finished_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = begin(run, 2000, "local")
    os.kill(int((run / "pid-0").read_text()), signal.SIGKILL)
    _, err = program.communicate(timeout=30)
    assert program.returncode == 1
    assert "error: The job ended without a result" in err
    assert main(["status", str(run)]) == 0
    assert "lost: it ended without recording an outcome" in capsys.readouterr().out


def test_an_error_reaches_the_user(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run.mkdir(mode=0o700)
    (run / "saved.json").write_text("{}")
    assert executor.launch(CountJob(run), "local") == 1
    assert "KeyError" in capfd.readouterr().err


def test_debug_lets_errors_through(run: Path) -> None:
    run.mkdir(mode=0o700)
    (run / "saved.json").write_text("{}")
    with pytest.raises(KeyError):
        executor.launch(CountJob(run), "debug")


def test_here_leaves_no_records_outside_slurm(run: Path) -> None:
    assert executor.launch(CountJob(run, steps=2, pause=0), "here") == 0
    assert not (run / "submissions").exists()


def test_here_inside_a_plain_slurm_job_leaves_records(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "88")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert executor.launch(CountJob(run, steps=2, pause=0), "here") == 0
    assert (run / "submissions" / "sbatch-88" / "state-88.json").exists()
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    assert "count job 88 finished: counted to 2" in capsys.readouterr().out
