"""Running a job on this machine through submitit, with its log; Ctrl-C lets it save."""

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import submitit

from healthgym import stopping
from healthgym.errors import LaunchError
from healthgym.files import write_json
from healthgym.launch import records
from healthgym.launch.perform import VISIBLE_GPUS, Job
from healthgym.launch.slurm.spelling import require_log_folder
from healthgym.launch.submission import Submitted

_YEAR_MINUTES = 365 * 24 * 60
_POLL_SECONDS = 0.2


def run_local(job: Job) -> int:
    """Run a job in a process of its own, follow its log, and return its exit status.

    Ctrl-C (or SIGTERM) lets it save and exit; a second Ctrl-C kills it.

    Raises:
        HealthgymError: the job's check fails, or the submission folder is not private.
    """
    job.check()
    require_log_folder(records.submissions_folder(job.target), on_slurm=False)
    folder = records.new_submission(job.target)
    process, number = _start(job, folder)
    out, err = (folder / f"{number}_0_log.{end}" for end in ("out", "err"))
    with _asking(process) as asked, contextlib.ExitStack() as stack:
        streams = [(_Tail(out, stack), sys.stdout), (_Tail(err, stack), sys.stderr)]
        while process.poll() is None:
            _pass_on(streams)
            if asked.count("SIGINT") > 1:
                _kill(folder, number)
            time.sleep(_POLL_SECONDS)
        _pass_on(streams)
    return _status(folder, number, err)


def _start(job: Job, folder: Path) -> tuple[Any, str]:
    """Start submitit's controller, which ignores the terminal's Ctrl-C: this process forwards it."""
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=_YEAR_MINUTES)
    # submitit hides the GPUs unless it gets their numbers; the job makes them visible again.
    os.environ[VISIBLE_GPUS] = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        submitted = executor.submit(Submitted(job, folder))
    finally:
        signal.signal(signal.SIGINT, before)
        del os.environ[VISIBLE_GPUS]
    number = str(submitted.job_id)
    write_json(
        folder / "submission.json",
        {
            "kind": job.kind,
            "target": str(job.target.absolute()),
            "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
            "places": {f"local-{number}": ""},
        },
    )
    return submitted._process, number


@contextlib.contextmanager
def _asking(process: Any) -> Iterator[list[str]]:
    """Forward SIGINT and SIGTERM to the job as SIGTERM, and record their names."""
    asked: list[str] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(signal.Signals(number).name)
        if len(asked) == 1:
            print(
                "\nStopping: the job saves and exits. Ctrl-C again kills it.",
                file=sys.stderr,
                flush=True,
            )
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Tail:
    """Reads the lines added to a file since the last read; the file may not exist yet."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self.path = path
        self.stack = stack
        self.stream: TextIO | None = None

    def read(self) -> str:
        if self.stream is None and self.path.exists():
            self.stream = self.stack.enter_context(self.path.open(encoding="utf-8", errors="replace"))
        return self.stream.read() if self.stream else ""


def _pass_on(streams: list[tuple[_Tail, TextIO]]) -> None:
    for tail, target in streams:
        text = "".join(
            line for line in tail.read().splitlines(keepends=True) if not line.startswith("submitit ")
        )
        if text:
            target.write(text)
            target.flush()


def _kill(folder: Path, number: str) -> None:
    state = records.states(folder).get(f"local-{number}", {})
    with contextlib.suppress(OSError, KeyError):
        os.kill(int(state["pid"]), signal.SIGKILL)


def _status(folder: Path, number: str, err: Path) -> int:
    """Return the exit status for the job's last recorded state."""
    state = records.states(folder).get(f"local-{number}", {}).get("state", "")
    known = {"finished": 0, "interrupted": stopping.INTERRUPTED, "fenced": stopping.FENCED, "failed": 1}
    if state not in known:
        raise LaunchError(
            f"The job ended without a result: it was killed, or never started. Its log is {err}. Give the "
            "same command again to resume from the last checkpoint."
        )
    return known[state]
