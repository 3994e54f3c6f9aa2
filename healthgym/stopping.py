"""Requests to stop: set by a signal, honoured between steps.

A scheduler announces a preemption or a time limit by SIGTERM, SIGUSR1 or SIGUSR2, a user by Ctrl-C. The
handlers here only set a flag; the work checks `requested()` between two steps, saves, and exits. Nothing is
saved inside a signal handler.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 85
"""Exit status of a program that saved and is to be resumed; a batch script requeues the job."""

FENCED = 86
"""Exit status of a program that a newer one has replaced; it is not restarted."""

LOST = 137
"""Exit status, as of a killed process, if another process of the job was lost: a batch script counts
a crash and requeues the job up to its limit of crashes."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class Stopped(Exception):
    """Work without intermediate results ended because a stop was requested."""


_reasons: list[str] = []


def requested() -> str | None:
    """Return the name of the first signal since `clear()`, e.g. "SIGTERM", or None."""
    return _reasons[0] if _reasons else None


def request(reason: str) -> None:
    """Set the flag without a signal."""
    _reasons.append(reason)


def clear() -> None:
    """Clear the flag."""
    _reasons.clear()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Let signals set the flag inside the block; the previous handlers are restored afterwards.

    A second Ctrl-C raises KeyboardInterrupt at once. Only the main thread may set handlers; in another thread
    the block runs without them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise_flag) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def without_saving() -> Iterator[None]:
    """For work that saves no intermediate state: SIGTERM ends it, and the time-limit warning is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = {signal.SIGTERM: signal.SIG_DFL, signal.SIGUSR1: signal.SIG_IGN, signal.SIGUSR2: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_in_worker() -> None:
    """Let a worker process ignore the signals: a scheduler signals all processes, and the parent decides."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _raise_flag(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if number == signal.SIGINT and name in _reasons:
        raise KeyboardInterrupt
    _reasons.append(name)
