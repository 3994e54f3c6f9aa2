"""Opening HDF5 files: without a lock, and with file system errors distinguished from damage.

Files are written to a temporary name and renamed when complete, and never changed in place. A lock would
protect nothing, and many file systems of clusters have none (NFS without a lock daemon, Lustre mounted
without flock, some FUSE mounts). HDF5_USE_FILE_LOCKING in the environment overrides this.
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
        UnreadableError: the file system refuses, with the cause and the remedy.
        OSError, KeyError, RuntimeError, ValueError: HDF5 cannot read the content: the file is damaged.
    """
    with reading(path), h5py.File(path, "r", locking=False) as file:
        yield file
