"""The next command that a program prints works, and `status` says when a run has ended."""

import shlex
from pathlib import Path

import pytest
import tiny

from healthgym import stopping
from healthgym.commands.main import main
from healthgym.config import RunConfig
from healthgym.launch.jobs import TrainJob
from healthgym.launch.perform import perform


def followed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the arguments of the suggested next command."""
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  next  "))
    program, *words = shlex.split(line.removeprefix("  next  "))
    assert program == "healthgym"
    return words


def settings(folder: Path, epochs: int) -> RunConfig:
    return tiny.config(folder, "ar", training={"epochs": epochs, "validation": 0})


def test_each_next_line_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a b"  # quoted where it is typed
    folder.mkdir()
    monkeypatch.chdir(folder)
    tiny.cohort(folder, num_patients=160)
    assert perform(TrainJob.of(Path("runs/a"), settings(folder, 1)), None) == 0
    synthesize = followed(capsys)
    assert synthesize[:3] == ["synthesize", "--run-dir", "runs/a"], "as it is typed here"
    few = [*synthesize[:3], "--patients", "49", "--out", "few"]
    assert main(few) == 0
    said = capsys.readouterr().out
    assert "  note  a report needs at least 50 patients" in said
    assert "  next  " not in said
    assert main(synthesize) == 0
    evaluate = followed(capsys)
    assert main([*evaluate, "--dry-run"]) == 0
    assert evaluate[evaluate.index("--out") + 1] == "runs/a/report"


def test_status_says_done_once_a_run_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        capsys.readouterr()
        assert main(["status", str(tmp_path / "run")]) == 0
        return capsys.readouterr().out

    tiny.cohort(tmp_path)
    job = TrainJob.of(tmp_path / "run", settings(tmp_path, 2))
    assert perform(job, None) == 0
    assert "run: done: trained " in said()
    monkeypatch.setattr(stopping, "requested", lambda: "a test")
    longer = TrainJob.of(tmp_path / "run", settings(tmp_path, 3))
    assert perform(longer, None) == stopping.INTERRUPTED
    assert "run: done" not in said(), "more epochs were asked for, and it was stopped"
