"""A disk that is full."""

import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Disk:
    """Counts the files in a folder that this process opens to write, and has no room from one of them on.

    What is written to any file after that fails, whoever writes it (Python, HDF5, Arrow): no file may grow
    beyond `size` bytes. No root is needed, and no other process is concerned.

    Attributes:
        opened: names of the files that were opened to write since the last `watching`.
    """

    def __init__(self) -> None:
        self.opened: list[str] = []
        self._folder, self._full_from, self._size = "", -1, 0
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._lock = threading.Lock()
        sys.addaudithook(self._hear)  # there is no taking it back; it is deaf outside `watching`

    @contextmanager
    def watching(self, folder: Path, full_from: int = -1, size: int = 0) -> Iterator[None]:
        """Count what is opened in `folder` and below; there is no room from the given number on, if any."""
        self.opened, self._full_from, self._size, self._folder = [], full_from, size, str(folder)
        try:
            yield
        finally:
            self._folder = ""
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._folder or event != "open":
            return
        path, mode, flags = arguments
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR)) or any(c in (mode or "") for c in "wax+")
        if not writes or not str(path).startswith(self._folder):
            return
        with self._lock:
            if len(self.opened) == self._full_from:
                resource.setrlimit(resource.RLIMIT_FSIZE, (self._size, self._limits[1]))
            self.opened.append(str(path))
