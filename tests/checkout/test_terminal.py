"""Output at a terminal: problems of settings, the width of progress bars, closed pipes."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from healthgym import shipped
from healthgym.config import RunConfig
from healthgym.environment import threads_asked
from healthgym.errors import ConfigError
from healthgym.strict import parse
from healthgym.training.monitoring.progress import ProgressReport
from healthgym.training.run import choose_threads
from healthgym.words import counted

ROOT = Path(shipped.folder()).resolve().parent


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"training": {"epochs": 0}},
            "1 problem\n  - training.epochs: must be greater than 0, or 'auto' (given: 0)",
        ),
        ({"training": {"epochs": "x"}}, "training.epochs: must be a whole number, or 'auto' (given: 'x')"),
        ({"training": {"minutes": "x"}}, "training.minutes: must be a number (given: 'x')"),
        ({"training": {"validation": 2}}, "training.validation: must be less than 0.5 (given: 2)"),
        ({"training": {"device": "gpu"}}, "training.device: must be 'auto', 'cpu' or 'cuda' (given: 'gpu')"),
        ({"training": 3}, "training: must be 'key: value' settings (given: 3)"),
        ({"curriculum": {"lengths": [10, "a"]}}, "curriculum.lengths.1: must be a whole number (given: 'a')"),
        (
            {"system": {"kind": "x"}},
            "system: is of the unknown kind 'x'; known are 'wgan', 'diffusion', 'autore",
        ),
        ({"training": {"epochs": 0, "seed": "a"}}, "2 problems\n  - training.epochs"),
    ],
)
def test_problems_of_settings_are_told_in_plain_words(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(RunConfig, values, "s.yaml")
    assert said in str(raised.value)
    assert "Input should" not in str(raised.value)


@pytest.mark.parametrize(("columns", "shown"), [(80, "G 2.3"), (100, "corr 3.1"), (160, "1,234 seq/s")])
def test_the_bar_fits_the_terminal_and_stays_a_bar(columns: int, shown: str) -> None:
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    losses = {"critic_loss": -1.234, "generator_loss": 2.3, "gradient_penalty": 0.12, "correlation_loss": 3.1}
    with os.fdopen(writer, "w") as stream, ProgressReport(12_000, 0, stream) as report:
        report.log(30, "epoch 3/100 length 20", losses, 1234.0, 3600)
        report.expect(12_000)  # draws the bar anew
        stream.flush()
        text = b""
        while b"epoch 3/100" not in text:
            text += os.read(reader, 1 << 16)
    os.close(reader)
    lines = text.decode().replace("\n", "").split("\r")
    last = [line for line in lines if "epoch 3/100" in line][-1]
    assert len(last) <= columns
    assert last.rstrip().endswith(shown)
    assert "|        " in last


def test_whoever_reads_the_list_of_commands_may_leave() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for words in (["--help"], ["train", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "healthgym", *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert (done.returncode, done.stderr) == (0, "")
    os.close(writer)


def test_threads_are_as_many_as_the_user_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose_threads(RunConfig()) == 3
    five = parse(RunConfig, {"training": {"threads": 5}}, "s.yaml")
    assert choose_threads(five) == 5
    assert [threads_asked({"OMP_NUM_THREADS": text}) for text in ("", "0", "x", "2,4")] == [
        None,
        None,
        None,
        2,
    ]


def test_one_thing_is_not_several() -> None:
    assert (counted(1, "row"), counted(1200, "row"), counted(0, "row")) == ("1 row", "1,200 rows", "0 rows")
