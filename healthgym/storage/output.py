"""Writing HDF5 files such that a failing disk does not crash HDF5."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from healthgym.storage.tree import SEAL_BYTES


class Output(io.RawIOBase):
    """A file that HDF5 writes through.

    When a write fails on a full disk, HDF5 leaves its open objects in a state in which closing them fails
    too, or crashes the process. This class hides failures from HDF5: it keeps the first one, writes nothing
    more, and `check` raises it.

    Args:
        path: the file to make.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("w+b", buffering=0)
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise the first failure, if there was one.

        Raises:
            OSError: there is no room, or the device fails.
        """
        if self._failure:
            raise self._failure

    def write(self, content: Any) -> int:
        """Write all of the content, or nothing after a failure."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        try:
            while len(rest) and not self._failure:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._failure = self._failure or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def readable(self) -> bool:
        """HDF5 reads its own output while it writes."""
        return True

    writable = seekable = readable

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            try:
                self._file.close()
            except OSError as error:
                self._failure = self._failure or error
        super().close()


@contextmanager
def hdf5_output(path: Path, **layout: Any) -> Iterator[tuple[h5py.File, Output]]:
    """Yield a new HDF5 file with room for a seal, and its output.

    Args:
        path: the file to make.
        layout: further properties of `h5py.File`.

    Raises:
        OSError: there is no room, or the device fails; after the file was closed.
    """
    output = Output(path)
    try:
        with h5py.File(output, "w", userblock_size=SEAL_BYTES, libver=("earliest", "v110"), **layout) as file:
            yield file, output
    finally:
        output.close()
    output.check()
