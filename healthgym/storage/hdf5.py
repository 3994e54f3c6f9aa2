"""How an HDF5 file on disk is opened: without a lock, and with refusals of the system told from damage.

Our files are written beside their target and renamed when they are whole, and no program changes one in
place. So a lock protects nothing, and many file systems of clusters have none (NFS without a lock daemon,
Lustre mounted without flock, some FUSE mounts). HDF5_USE_FILE_LOCKING in the environment overrules this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from healthgym.faults import reading


@contextmanager
def open_to_read(path: Path) -> Iterator[h5py.File]:
    """Open a file to read.

    Raises:
        UnreadableError: the system refuses, with the cause and the remedy.
        OSError, KeyError, RuntimeError, ValueError: HDF5 stumbles over the content, which is damage.
    """
    with reading(path), h5py.File(path, "r", locking=False) as file:
        yield file
