"""If a checkpoint, a line of losses or a plot cannot be written, training continues and prints a note."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from full_disk import files_of_at_most

from healthgym import faults, files, stopping
from healthgym.errors import StorageError
from healthgym.files import append_bytes
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint, step_of
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.training import run as run_module
from healthgym.training.monitoring import metrics as metrics_module
from healthgym.training.monitoring.metrics import MetricsFile, read_metrics
from healthgym.training.run import train


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(faults, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.001)
    tiny.cohort(tmp_path)
    return tmp_path


def failing(call: Callable[..., Any], number: int, times: range) -> Callable[..., Any]:
    """Return `call`, which fails at some of its calls."""
    calls = iter(range(10**9))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) in times:
            raise OSError(number, os.strerror(number))
        return call(*args, **kwargs)

    return wrapped


def run(folder: Path, name: str = "run", **checkpoint: Any) -> str:
    stream = io.StringIO()
    config = tiny.config(folder, checkpoint={"every_steps": 2, "keep": 99} | checkpoint)
    assert train(folder / name, config, stream)
    return stream.getvalue()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EACCES])
def test_training_continues_while_a_checkpoint_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run(folder, "straight")
    monkeypatch.setattr(
        run_module, "write_checkpoint", failing(run_module.write_checkpoint, number, range(1, 3))
    )
    said = run(folder)
    steps = sorted(step_of(path) for path in list_checkpoints(folder / "run/checkpoints"))
    total = load_checkpoint(folder / "straight").progress.step
    assert steps == [step for step in range(2, total + 1, 2) if step not in (4, 6)] + [total] * (total % 2)
    assert "note: there is no checkpoint of step 4: Cannot write to" in said
    assert "there is no checkpoint of step 6" in said
    assert "the newest checkpoint is of step 2" in said
    assert said.count("saving works again: there is a checkpoint of step 8") == 1
    tiny.assert_same_run(load_checkpoint(folder / "straight"), load_checkpoint(folder / "run"))


def test_a_checkpoint_that_fails_for_a_moment_is_written_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files.os, "fsync", failing(os.fsync, errno.ESTALE, range(30, 33)))
    said = run(folder)
    assert "there is no checkpoint" not in said
    assert "it works again" in capsys.readouterr().err


def test_the_last_checkpoint_is_an_error_where_it_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        run_module, "write_checkpoint", failing(run_module.write_checkpoint, errno.ENOSPC, range(1, 10**6))
    )
    with pytest.raises(
        StorageError, match=r"Cannot write to .*no space is left there.*resumes from the last"
    ):
        run(folder)
    assert [step_of(path) for path in list_checkpoints(folder / "run/checkpoints")] == [2]
    monkeypatch.undo()
    run(folder)  # the same command goes on
    assert load_checkpoint(folder / "run").progress.step > 2


def test_a_last_checkpoint_that_failed_once_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, "straight", every_steps=10**6)
    total = load_checkpoint(folder / "straight").progress.step
    monkeypatch.setattr(
        run_module, "write_checkpoint", failing(run_module.write_checkpoint, errno.ENOSPC, range(1))
    )
    run(folder, every_steps=total)
    assert load_checkpoint(folder / "run").progress.step == total


def test_lines_of_losses_wait_for_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, "straight")
    monkeypatch.setattr(metrics_module, "append_bytes", failing(append_bytes, errno.ENOSPC, range(1, 3)))
    assert run(folder).count("no space is left there") == 1
    expected, found = (read_metrics(folder / name / "metrics.jsonl") for name in ("straight", "run"))
    assert [line["step"] for line in found] == [line["step"] for line in expected]


def test_waiting_lines_are_written_before_the_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = failing(append_bytes, errno.ENOSPC, range(4, 5))  # the line before the signal
    monkeypatch.setattr(metrics_module, "append_bytes", lost)
    assert_losses_survive(folder, monkeypatch)


def test_a_power_failure_after_a_checkpoint_costs_no_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable, fsync = 0, os.fsync

    def watched(handle: int) -> None:
        nonlocal durable
        fsync(handle)
        if "metrics.jsonl" in Path(f"/proc/self/fd/{handle}").readlink().name:
            durable = os.fstat(handle).st_size

    monkeypatch.setattr(os, "fsync", watched)
    assert_losses_survive(folder, monkeypatch, lambda path: os.truncate(path, durable))


def assert_losses_survive(
    folder: Path, monkeypatch: pytest.MonkeyPatch, break_down: Callable[[Path], None] = lambda path: None
) -> None:
    """A run that is stopped at step 5 and resumed has the losses of an uninterrupted one."""
    config = tiny.config(folder, training={"log_every_steps": 1})
    tiny.stop_at_steps(monkeypatch, WGANSystem, 5)
    assert not train(folder / "run", config, io.StringIO())
    stopping.clear()
    break_down(folder / "run/metrics.jsonl")
    assert train(folder / "run", config, io.StringIO())
    monkeypatch.undo()
    assert train(folder / "whole", config, io.StringIO())
    assert tiny.losses(folder / "run/metrics.jsonl") == tiny.losses(folder / "whole/metrics.jsonl")


def test_a_line_that_is_written_in_part_is_taken_back(tmp_path: Path) -> None:
    path, limit = tmp_path / "metrics.jsonl", 100
    metrics = MetricsFile(path, 0)
    metrics.append({"step": 1})
    with files_of_at_most(limit):
        metrics.append({"step": 2, "loss": "x" * limit})
    assert path.read_text() == '{"step": 1}\n'
    metrics.append({"step": 3})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]


def test_a_plot_that_cannot_be_drawn_fails_no_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "draw_losses", failing(run_module.draw_losses, errno.ENOSPC, range(9)))
    assert (
        f"note: the losses were not plotted: Cannot write {folder / 'run' / 'losses.png'}: no space is left "
        f"there. Free some space, or choose another path."
    ) in run(folder)


def test_a_run_that_has_no_room_for_a_checkpoint_does_not_begin(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 1 << 20, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(files.os, "statvfs", lambda path: full)
    with pytest.raises(StorageError, match="no space is left there"):
        run(folder)
    assert not (folder / "run/config.yaml").exists()
