"""Errors of file systems: cause and remedy in words, and which are retried.

Reading and writing raise the same few error numbers, some of them only within a message of HDF5 or Arrow.
Here each has one sentence. Operations with transient errors (a server that restarts, a stale file handle) are
retried for a while before the error is raised.
"""

import contextlib
import errno
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from healthgym.errors import HealthgymError, StorageError, UnreadableError

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""How long an operation with a transient error is retried."""

FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 5.0


@dataclass(frozen=True)
class Cause:
    """Why a file could not be read or written.

    Args:
        words: what happened, as the end of a sentence.
        remedy: what to do about it, as a sentence without its full stop.
        passes: whether the error is transient.
    """

    words: str
    remedy: str
    passes: bool = False


_ACCESS = Cause("permission is denied", "Ask its owner for the right (ls -l shows who has it)")
_NETWORK = Cause(
    "the file system does not answer",
    "Check whether its server or the network is down, and give the same command again",
    passes=True,
)
_CAUSES = {
    errno.ENOSPC: Cause("no space is left there", "Free some space, or choose another path"),
    errno.EDQUOT: Cause("your quota there is exceeded", "Delete what is not needed, or choose another path"),
    errno.EFBIG: Cause(
        "the file would be larger than the limit",
        "Raise the limit (ulimit -f), or choose another path",
    ),
    errno.EROFS: Cause("that file system is read-only", "Choose a folder that you can write to"),
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.ENOENT: Cause("there is no such file or folder", "Check the path"),
    errno.ENOTDIR: Cause("a part of the path is a file and not a folder", "Check the path"),
    errno.EISDIR: Cause("it is a folder and not a file", "Check the path"),
    errno.EEXIST: Cause("a file of that name exists already", "Choose another path"),
    errno.ENOTEMPTY: Cause("the folder is not empty", "Choose another name"),
    errno.ENAMETOOLONG: Cause("the name is longer than the file system allows", "Choose a shorter one"),
    errno.ELOOP: Cause("its symbolic links lead in a circle", "Check the path"),
    errno.EMFILE: Cause("too many files are open", "Raise the limit (ulimit -n)"),
    errno.ENFILE: Cause("too many files are open on this machine", "Wait, and give the same command again"),
    errno.ENOLCK: Cause(
        "that file system has no file locks", "Set HDF5_USE_FILE_LOCKING=FALSE, which is safe here"
    ),
    errno.ENODEV: Cause("that file system cannot do this", "Use a copy on another file system"),
    errno.ENXIO: Cause("the device is gone", "Check whether the file system is still mounted"),
    errno.ENOTCONN: Cause("the file system is not connected", "Mount it again"),
    errno.EAGAIN: Cause("another program is using it", "Wait until it is done, or use a copy", passes=True),
    errno.EBUSY: Cause("another program is using it", "Wait until it is done, or use a copy", passes=True),
    errno.ETXTBSY: Cause(
        "another program is writing it", "Wait until it is done, or use a copy", passes=True
    ),
    errno.EINTR: Cause("it was interrupted", "Give the same command again", passes=True),
    errno.ESTALE: Cause(
        "the file handle is stale: the file was replaced, or its server was restarted",
        "Give the same command again",
        passes=True,
    ),
    errno.EIO: Cause(
        "the disk, or the network to it, reports an input/output error",
        "Check the disk and the network, or use a copy elsewhere",
        passes=True,
    ),
    errno.ETIMEDOUT: _NETWORK,
    errno.EHOSTDOWN: _NETWORK,
    errno.EHOSTUNREACH: _NETWORK,
    errno.ECONNRESET: _NETWORK,
    errno.EREMOTEIO: _NETWORK,
}
_OF_WRITING = [_CAUSES[number] for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)]
# Arrow and HDF5 write the number into their text: "[errno 28]", "errno = 28".
_NUMBER = re.compile(r"\berrno\W{1,3}([0-9]+)", re.IGNORECASE)


def cause_of(error: BaseException) -> Cause | None:
    """Return why the system refused, or None if the error has another cause, such as a damaged file."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and isinstance(error, OSError | RuntimeError | ValueError):
        found = _NUMBER.search(str(error))
        number = int(found[1]) if found else None
    return _CAUSES.get(number) if number is not None else None


def sentence(error: BaseException, path: object = None, doing: str = "") -> str | None:
    """Return "Cannot write PATH: no space is left there. Free ...", or None where `cause_of` knows none.

    Args:
        error: what was raised.
        path: the file; by default the one that the error names.
        doing: the verb; by default the one in the error, or "use".
    """
    cause = cause_of(error)
    if cause is None:
        return None
    named = path if path is not None else getattr(error, "filename", None)
    doing = doing or ("write" if cause in _OF_WRITING else "use")
    return f"Cannot {doing} {named if named is not None else 'a file'}: {cause.words}. {cause.remedy}."


@contextlib.contextmanager
def refused(path: Path, doing: str, kind: type[HealthgymError] = StorageError) -> Iterator[None]:
    """Turn file system errors inside the block into a sentence about `path`.

    Raises:
        HealthgymError: of the given kind. Errors unknown to `cause_of` are raised unchanged.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        said = sentence(error, path, doing)
        if said is None:
            raise
        raise kind(said) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors in reading `path` into a sentence.

    Raises:
        UnreadableError: the file may be intact.
        StorageError: the file does not exist.
    """
    try:
        with refused(path, "read", UnreadableError):
            yield
    except UnreadableError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise StorageError(str(error)) from error.__cause__
        raise


def patiently(
    action: Callable[[], T],
    what: str,
    patience: float | None = None,
    say: Callable[[str], object] | None = None,
) -> T:
    """Call `action`, and again as long as it fails with a transient error; return its result.

    Args:
        action: must leave nothing half done when it raises.
        what: a description for the log: "reading FILE".
        patience: seconds after the first failure; `PATIENCE_SECONDS` by default.
        say: called at the beginning and at the end of each series of failures; prints to standard error by
            default.

    Raises:
        Exception: the last one raised by `action`.
    """
    say, wait = say or _say, FIRST_WAIT_SECONDS
    until: float | None = None
    while True:
        try:
            done = action()
        except (OSError, RuntimeError, ValueError, HealthgymError) as error:
            cause = cause_of(error) or (cause_of(error.__cause__) if error.__cause__ else None)
            if cause is None or not cause.passes:
                raise
            now = time.monotonic()
            if until is None:
                until = now + (PATIENCE_SECONDS if patience is None else patience)
                say(f"note: {what}: {cause.words}; trying again for {until - now:.0f} s")
            if now >= until:
                raise
            time.sleep(min(wait, until - now))
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            continue
        if until is not None:
            say(f"note: {what}: it works again")
        return done


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
