"""SIGKILL at random moments: a run always resumes, and ends with the bits of an uninterrupted one."""

import io
import os
import random
import signal
import time
from pathlib import Path

import pytest
import tiny

from healthgym.config import RunConfig
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint, read_checkpoint
from healthgym.training.run import train


def start(folder: Path, system: str) -> int:
    """Train in a child process that shares this one's imports; return its number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if train(folder / "run", settings(folder, system), io.StringIO()) else 2
        finally:
            os._exit(status)
    return child


def settings(folder: Path, system: str) -> RunConfig:
    return tiny.config(
        folder, system, training={"epochs": 5, "log_every_steps": 2}, checkpoint={"every_steps": 1, "keep": 2}
    )


@pytest.mark.slow
@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_kills(tmp_path: Path, system: str, kills: int) -> None:
    tiny.cohort(tmp_path)
    began = time.monotonic()
    train(tmp_path / "undisturbed", settings(tmp_path, system), io.StringIO())
    whole = time.monotonic() - began
    undisturbed = load_checkpoint(tmp_path / "undisturbed")
    moments = random.Random(0)
    wanted = kills // len(tiny.SYSTEMS) + 1
    killed = finished = 0
    while killed < wanted or not finished:
        child = start(tmp_path, system)
        # Any moment of a start, from the first import to the last save.
        time.sleep(moments.uniform(0, whole / 3))
        if killed < wanted:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            for path in list_checkpoints(tmp_path / "run/checkpoints"):
                read_checkpoint(path)  # each file that has a checkpoint's name is whole
            continue
        assert os.waitstatus_to_exitcode(status) == 0
        finished += 1
        tiny.assert_same_run(undisturbed, load_checkpoint(tmp_path / "run"))
        assert tiny.losses(tmp_path / "run/metrics.jsonl") == tiny.losses(
            tmp_path / "undisturbed/metrics.jsonl"
        )
        (tmp_path / "run").rename(tmp_path / f"finished-{finished}")
    print(f"{system}: {killed} kills, {finished} finished runs, undisturbed {whole:.1f} s")
