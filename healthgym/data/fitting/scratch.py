"""Numbers that lie on disk while a table is prepared.

What is read back is what was written: each file is compared with the size and the checksum of what was meant
to be in it before its first value is used. A full disk, a quota or a failing device can lose a write without
an error, and may have room again when the next file is written.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from healthgym.errors import StorageError
from healthgym.storage.rows import RowsOnDisk

CHECKED_BYTES = 1 << 20


class ScratchFile:
    """Rows of numbers, written one after the other.

    Args:
        path: the file to make.
        dtype: of the numbers.
        width: numbers of a row.
    """

    def __init__(self, path: Path, dtype: DTypeLike, width: int = 1) -> None:
        self._path, self._dtype, self._width = path, np.dtype(dtype), width
        self._num_rows = self._checksum = 0
        self._is_checked = True
        path.touch()

    def append(self, rows: NDArray[Any]) -> None:
        """Write the next rows.

        Raises:
            OSError: there is no room, or the device fails.
        """
        content = np.ascontiguousarray(rows, self._dtype).data
        with self._path.open("ab") as file:  # unlike `ndarray.tofile`, a write or close that fails raises
            file.write(content)
        self._num_rows += len(rows)
        self._checksum = zlib.crc32(content, self._checksum)
        self._is_checked = False

    def blocks(self, num_rows: int) -> Iterator[NDArray[Any]]:
        """Yield all numbers in blocks of this many rows."""
        self._check()
        with self._path.open("rb") as file:
            while len(block := np.fromfile(file, self._dtype, num_rows * self._width)):
                yield block

    def take(self, rows_N: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows by position."""
        self._check()
        return RowsOnDisk(self._path, self._dtype, (self._num_rows, self._width)).take(rows_N)

    def _check(self) -> None:
        """Compare the file with the bytes written, once after each write.

        Raises:
            StorageError: they differ.
        """
        if self._is_checked:
            return
        size = checksum = 0
        with self._path.open("rb") as file:
            while chunk := file.read(CHECKED_BYTES):
                size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
        meant = self._num_rows * self._width * self._dtype.itemsize
        if (size, checksum) != (meant, self._checksum):
            what = (
                f"has {size:,} bytes of {meant:,}" if size != meant else "has other bytes than were written"
            )
            raise StorageError(
                f"The scratch file {self._path} {what}: the disk was full for a moment, or is failing. Free "
                f"some space there, or give another --out, and give the same command again."
            )
        self._is_checked = True
