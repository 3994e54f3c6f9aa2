"""Progress of a cohort: a bar on a terminal, or a line at intervals in a log."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

_LOG_EVERY_SECONDS = 30.0


class Progress:
    """Counts patients and shards of one task.

    Args:
        num_patients: this task's patients.
        num_shards: this task's shards.
        stream: where to write; a bar is drawn if it is a terminal.
    """

    def __init__(self, num_patients: int, num_shards: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._num_patients, self._num_shards = num_patients, num_shards
        self._patients, self._shards, self._skipped = 0, 0, 0
        self._start = self._last_line = time.monotonic()
        self._bar = (
            tqdm(total=num_patients, unit=" patients", file=self._stream) if self._stream.isatty() else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._last_line != self._start:
            self._line()

    def made(self, patients: int) -> None:
        """Count patients that were computed."""
        self._patients += patients
        if self._bar is not None:
            self._bar.update(patients)
        elif time.monotonic() - self._last_line >= _LOG_EVERY_SECONDS:
            self._line()

    def finished(self, patients: int, made: bool) -> None:
        """Count a shard that is on disk, made now or found finished."""
        self._shards += 1
        self._skipped += 0 if made else patients
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._shards}/{self._num_shards} shards")
            self._bar.update(0 if made else patients)

    def _line(self) -> None:
        now = time.monotonic()
        self._last_line = now
        rate = self._patients / max(now - self._start, 1e-9)
        left = max(0, self._num_patients - self._skipped - self._patients)
        time_left = f", {left / rate:,.0f} s left" if rate > 0 else ""
        print(
            f"synthesis: {self._patients + self._skipped:,} of {self._num_patients:,} patients, "
            f"{self._shards} of {self._num_shards} shards written, {rate:,.0f} patients/s{time_left}",
            file=self._stream,
            flush=True,
        )
