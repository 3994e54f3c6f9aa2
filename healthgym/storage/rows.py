"""Rows of numbers in a file, read by position.

A memory map would be simpler, but an input/output error or a truncated file ends a process that reads through
a map by the signal SIGBUS, without a message. Here these are exceptions, and transient ones are retried
(`healthgym.faults`).
"""

import contextlib
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from healthgym.errors import StorageError
from healthgym.faults import patiently, reading

_NEAR_BYTES = 1 << 12
"""Rows closer than this are read together with the rows between them."""
_READ_AT_ONCE = 1 << 12  # rows


class RowsOnDisk:
    """A two-dimensional array in a file, of which only the requested rows are in memory.

    The file is opened once, so that rows of a file which replaces it later are never mixed in.

    Args:
        path: the file, which must not change.
        dtype: of the numbers.
        shape: rows and columns.
        offset: bytes before the first row.
    """

    def __init__(self, path: Path, dtype: DTypeLike, shape: tuple[int, int], offset: int = 0) -> None:
        self.dtype, self.shape = np.dtype(dtype), shape
        self._path, self._offset = path, offset
        self._row_bytes = shape[1] * self.dtype.itemsize
        with reading(path):
            self._keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        self._identity = _identity(self._file)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self._row_bytes

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return consecutive rows."""
        first, last, step = rows.indices(len(self))
        assert step == 1
        return self._read(first, max(0, last - first))

    def take(self, rows: NDArray[np.int64], axis: int = 0) -> NDArray[Any]:
        """Return rows by position, as `numpy.ndarray.take` does with the first axis.

        Args:
            rows: positions, of any shape; successive near ones are read together.
            axis: 0.

        Raises:
            UnreadableError: the file system refuses to read them.
            StorageError: the file was truncated after it was opened.
        """
        assert axis == 0
        flat = np.asarray(rows, np.int64).ravel()
        taken = np.empty((len(flat), self.shape[1]), self.dtype)
        if taken.size:
            self._fill(taken, flat)
        return taken.reshape(*np.shape(rows), self.shape[1])

    def _fill(self, taken: NDArray[Any], flat: NDArray[np.int64]) -> None:
        starts = self._starts(flat)
        if len(starts) > len(flat) // 4:  # scattered: from the first row in the file to the last
            order = np.argsort(flat, kind="stable")
            flat, starts = flat[order], self._starts(flat[order])
        else:
            order = None
        ends = [*starts[1:].tolist(), len(flat)]
        for start, end in zip(starts.tolist(), ends, strict=True):
            first, last = int(flat[start]), int(flat[end - 1])
            block = self._read(first, last - first + 1)
            taken[slice(start, end) if order is None else order[start:end]] = block[flat[start:end] - first]

    def _starts(self, flat: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where a new read begins: the position decreases or jumps far, or the read is large."""
        distance = np.diff(flat, prepend=flat[:1])
        is_start = (distance < 0) | (distance > max(1, _NEAR_BYTES // self._row_bytes))
        is_start[::_READ_AT_ONCE] = True
        return np.flatnonzero(is_start)

    def _read(self, first: int, number: int) -> NDArray[Any]:
        size, position = number * self._row_bytes, self._offset + first * self._row_bytes
        with contextlib.suppress(OSError):
            content = os.pread(self._file, size, position)
            if len(content) == size:
                return np.frombuffer(content, self.dtype).reshape(number, self.shape[1])
        whole = bytearray(size)
        patiently(lambda: self._read_into(memoryview(whole), position), f"reading {self._path}")
        return np.frombuffer(whole, self.dtype).reshape(number, self.shape[1])

    def _read_into(self, view: memoryview, position: int) -> None:
        with reading(self._path):
            try:
                while len(view):
                    content = os.pread(self._file, len(view), position)
                    if not content:
                        raise self._gone(f"ends at byte {position:,}")
                    view[: len(content)] = content
                    view, position = view[len(content) :], position + len(content)
            except OSError:
                self._open_again()  # the handle may be stale
                raise

    def _open_again(self) -> None:
        with contextlib.suppress(OSError):
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            if _identity(file) != self._identity:
                os.close(file)
                raise self._gone("was replaced by another file")
            self._close()
            self._keep(file)

    def _keep(self, file: int) -> None:
        self._file, self._close = file, weakref.finalize(self, os.close, file)

    def _gone(self, how: str) -> StorageError:
        return StorageError(f"{self._path} {how} while it was read. Use another copy of it, or start again.")


def _identity(file: int) -> tuple[int, int]:
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns
