"""Whole files or none: write beside the target, fsync, rename, fsync the folder."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

_CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a fresh path in the target's folder; on success it becomes `path`, on failure it is gone.

    The name is new each time, so that a file left by a killed process never blocks a later write, and
    two processes never share one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        yield beside
        _fsync(beside)
        beside.replace(path)
        _fsync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a whole file or none."""
    with atomic_path(path) as beside:
        beside.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file or none."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a whole JSON file or none; numbers that JSON lacks (NaN, infinity) are refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def remove_stale(folder: Path, older_than: float = 0.0) -> None:
    """Delete what killed writers left in `folder`; `older_than` is a time as of `time.time()`."""
    for left in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if not older_than or left.stat().st_mtime < older_than:
                left.unlink()


def sha256_of(path: Path, start: int = 0) -> str:
    """Return the SHA-256 of a file's bytes from `start` on, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(start)
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
