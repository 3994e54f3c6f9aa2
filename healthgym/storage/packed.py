"""Text files compressed with gzip, bzip2, xz or Zstandard, or not at all."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa

PACKED = (".gz", ".bz2", ".xz", ".zst")


def open_packed(path: Path) -> AbstractContextManager[Any]:
    """Open a file for reading its decompressed content, according to its suffix.

    Raises:
        OSError: it cannot be opened; reading raises OSError or EOFError if it is damaged.
    """
    ending = path.suffix.lower()
    if ending == ".zst":
        return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")  # type: ignore[no-any-return]
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers[ending](path) if ending in openers else path.open("rb")
