"""Slurm's programs as small scripts that note how they were called and answer from files."""

import os
import stat
from pathlib import Path

import pytest


class FakeSlurm:
    """A folder of scripts in front of PATH.

    `says(program, text, status, error)` sets an answer; `calls(program)` are the words of each call.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._calls = folder / "calls"
        self._calls.mkdir(parents=True)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)

    def says(self, program: str, text: str = "", status: int = 0, error: str = "") -> None:
        """Let a program print this from now on."""
        for kind, content in (("out", text), ("err", error)):
            (self.folder / f"{program}.{kind}").write_text(content)
        script = self.folder / program
        script.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{self._calls / program}"\n'
            f'cat "{self.folder}/{program}.err" >&2\ncat "{self.folder}/{program}.out"\nexit {status}\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def calls(self, program: str) -> list[str]:
        """Return the words of each call of a program."""
        path = self._calls / program
        return path.read_text().splitlines() if path.exists() else []
