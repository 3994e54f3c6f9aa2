"""The progress that is shown while a cohort is made."""

import io

import pytest

from healthgym.synthesis import progress as progress_module
from healthgym.synthesis.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_plain_line_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    log = io.StringIO()
    with Progress(num_patients=1000, num_shards=4, stream=log) as progress:
        progress.finished(250, made=False)
        for _ in range(10):
            clock[0] += 4
            progress.made(50)
        progress.finished(250, made=True)
    lines = log.getvalue().splitlines()
    assert lines == [
        "synthesis: 650 of 1,000 patients, 1 of 4 shards written, 12 patients/s, 28 s left",
        "synthesis: 750 of 1,000 patients, 2 of 4 shards written, 12 patients/s, 20 s left",
    ]


def test_short_work_leaves_a_log_alone() -> None:
    log = io.StringIO()
    with Progress(num_patients=10, num_shards=1, stream=log) as progress:
        progress.made(10)
        progress.finished(10, made=True)
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    with Progress(num_patients=1000, num_shards=4, stream=terminal) as progress:
        progress.finished(250, made=False)
        progress.made(750)
        progress.finished(750, made=True)
    shown = terminal.getvalue()
    assert "1000/1000" in shown
    assert "2/4 shards" in shown
    assert "\r" in shown
