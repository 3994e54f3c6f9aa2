"""Formats of cohorts and their compressions, by name; imports no library that reads or writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

FileFormat: TypeAlias = Literal["hdf5", "parquet", "csv"]
Compression: TypeAlias = Literal["none", "gzip", "lzf", "zstd", "snappy"]

COMPRESSIONS: Mapping[str, tuple[str, ...]] = {
    "hdf5": ("gzip", "lzf", "none"),
    "parquet": ("zstd", "snappy", "gzip", "none"),
    "csv": ("none", "gzip"),
}
"""Compressions of each format, the default first."""

ENDINGS = (".csv", ".csv.gz", ".parquet", ".h5")


def require_ending(path: Path) -> str:
    """Return the suffix of a file's name, which determines its format.

    Raises:
        ValueError: it is none of `ENDINGS`.
    """
    found = next((end for end in ENDINGS if path.name.endswith(end)), None)
    if found is None:
        raise ValueError(f"'{path.name}' must end in {', '.join(ENDINGS)}, which says the format")
    return found
