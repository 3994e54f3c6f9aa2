"""A wish to stop, raised by a signal, honoured between steps.

A scheduler announces a preemption or a time limit by SIGTERM, SIGUSR1 or SIGUSR2, a user by Ctrl-C. The
handlers here only set a flag; the work asks `requested()` where it is between two steps, saves, and
leaves. Nothing is ever saved inside a signal handler.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 85
"""Exit status of a program that saved and wants to go on later; a batch script requeues the job."""

FENCED = 86
"""Exit status of a program that a newer one has replaced; nobody restarts it."""

LOST = 137
"""Exit status, as of a killed process, where another process of the job was lost: a batch script counts
a crash and, within its number of crashes, queues the job again."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

_reasons: list[str] = []


def requested() -> str | None:
    """Return the first signal's name since `clear()`, e.g. "SIGTERM", or None: go on."""
    return _reasons[0] if _reasons else None


def request(reason: str) -> None:
    """Raise the flag by hand."""
    _reasons.append(reason)


def clear() -> None:
    """Lower the flag."""
    _reasons.clear()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Let the signals raise the flag inside the block; outside, all is as before.

    A second Ctrl-C does not wait: it raises KeyboardInterrupt. Python lets only the main thread set
    handlers; from another thread the block runs without.
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
    """For work that keeps nothing half done: SIGTERM ends it, and a warning of the time limit passes by."""
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
    """Make a helper process deaf to the signals: its parent decides. A scheduler signals them all."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _raise_flag(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if number == signal.SIGINT and name in _reasons:
        raise KeyboardInterrupt
    _reasons.append(name)
