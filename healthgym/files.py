"""Atomic writes: write to a temporary file beside the target, fsync, rename, fsync the folder."""

import contextlib
import errno
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from healthgym.errors import StorageError, UnreadableError
from healthgym.faults import patiently, refused, sentence

CHUNK_BYTES = _PROBE_BYTES = 1 << 20
REPORT_BYTES = 1 << 20
"""Room that a report takes, about."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder, renamed to `path` on success and deleted on failure.

    The name is new each time, so that a file left by a killed process never blocks a later write, and
    two processes never share one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        yield beside
        fsync(beside)
        beside.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(beside)):
            error.filename = str(path)  # messages name the file that the user knows
        raise
    finally:
        with contextlib.suppress(OSError):  # the first error is more informative
            beside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically; transient errors are retried (`faults.patiently`)."""

    def write() -> None:
        with atomic_path(path) as beside:
            beside.write_bytes(content)

    patiently(write, f"writing {path}")


def append_bytes(path: Path, content: bytes) -> None:
    """Append to a file, all of the content or nothing.

    Raises:
        OSError: it could not be written whole; the file is as before.
    """
    with path.open("ab", buffering=0) as stream:
        size = stream.tell()
        try:
            if stream.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            stream.truncate(size)
            raise


def read_text(path: Path) -> str:
    """Read a small UTF-8 text file.

    Raises:
        FileNotFoundError: it does not exist.
        UnreadableError: the operating system refuses to read it.
        ValueError: it is not UTF-8.
    """

    def read() -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(path) from None
        except OSError as error:
            raise UnreadableError(sentence(error, path, "read") or f"Cannot read {path}: {error}.") from error

    return patiently(read, f"reading {path}")


def require_place(path: Path, size: int = 1 << 16, folder: bool = False) -> None:
    """Check before any work is done that a file can be written, or files in a folder.

    Nothing is left behind: the check writes a nameless file in the nearest folder that exists.

    Args:
        path: the file or folder.
        size: bytes that must fit.
        folder: whether it is a folder.

    Raises:
        StorageError: it cannot be written, with the cause and the remedy.
    """
    with refused(path, "write"):
        if folder and path.exists() and not path.is_dir():
            raise StorageError(f"{path} is a file; a folder is needed. Choose another path.")
        if not folder and path.is_dir():
            raise StorageError(f"{path} is a folder; give the name of a file in it.")
        nearest = path.absolute() if folder else path.absolute().parent
        while not nearest.exists():
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest) as probe:
            probe.write(bytes(min(size, _PROBE_BYTES)))
            probe.flush()
            os.fsync(probe.fileno())
        found = os.statvfs(nearest)
        if found.f_blocks and size > found.f_bavail * found.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; numbers that JSON lacks (NaN, infinity) are refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def typed(path: Path) -> str:
    """Return a path as a shell takes it in the current folder: relative where it lies there, and quoted."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def remove_stale(folder: Path, older_than: float = 0.0) -> None:
    """Delete temporary files of killed writers in `folder` that are older than a time as of `time.time()`."""
    for left in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if not older_than or left.stat().st_mtime < older_than:
                left.unlink()


def sha256_of(path: Path, start: int = 0) -> str:
    """Return the SHA-256 of a file's bytes from `start` on, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(start)
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_folder(path: Path) -> None:
    """Make a rename durable, except on network and FUSE file systems that cannot sync a folder."""
    try:
        fsync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM):
            raise


def fsync(path: Path) -> None:
    """Make the content of a file or folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
