"""One file of a synthetic cohort, as HDF5, Parquet or CSV: one row per timestep.

An HDF5 shard can be read with h5py alone:

    with h5py.File("shard-00000.h5") as file:
        {name: column[:] for name, column in file["columns"].items()}  # one row per timestep
        file["columns/Gender"].attrs["labels"]                         # what 0, 1, ... mean
        file["offsets"][:]                        # patient n has rows offsets[n]:offsets[n + 1]

A Parquet shard opens in pandas with labels as categories, and pandas.read_parquet reads a cohort's folder. A
CSV shard has labels too, and numbers with the decimals of the training data. The same content gives the same
bytes, since no time and no host name is written.

Cost of compression, measured with `benchmarks/shards.py` (4,096 patients x 60 timesteps, 3 reals and 10
categorical variables, one thread of a busy Xeon, without the disk):

    hdf5     none       290,000 patients/s    1,821 bytes/patient
    hdf5     lzf         92,000                 787
    hdf5     gzip        83,000                 653     (HDF5's own filter: 55,000 and 696)
    parquet  zstd        73,000                 661
    parquet  snappy      90,000                 735
    parquet  gzip         9,000                 651

gzip is the default: every HDF5 library reads it without a plugin. The compressed size consists mostly of the
    random
low bits of the reals. Shards of 1,024 patients take a third more time per patient, of 16,384 a sixth less.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from healthgym.errors import CohortError
from healthgym.faults import patiently, reading
from healthgym.schema import Schema
from healthgym.storage.formats.hdf5 import encode_hdf5, read_hdf5
from healthgym.storage.formats.table import encode_csv, encode_parquet, read_csv, read_parquet
from healthgym.storage.forms import Compression, FileFormat
from healthgym.storage.shard import Shard

_ENCODERS = {"hdf5": encode_hdf5, "parquet": encode_parquet, "csv": encode_csv}
_READERS = {".h5": read_hdf5, ".parquet": read_parquet, ".csv": read_csv, ".csv.gz": read_csv}


def suffix(file_format: FileFormat, compression: Compression) -> str:
    """Return the suffix of a shard's file."""
    if file_format == "csv":
        return ".csv.gz" if compression == "gzip" else ".csv"
    return {"hdf5": ".h5", "parquet": ".parquet"}[file_format]


def encode_shard(shard: Shard, file_format: FileFormat, compression: Compression) -> bytes:
    """Return the bytes of a shard's file; equal shards give equal bytes."""
    return _ENCODERS[file_format](shard, compression)


def read_shard(path: Path, schema: Schema) -> pd.DataFrame:
    """Return a shard as a long table: keys, float32 reals, categoricals of labels; blanks are NaN.

    Times are numbers, days where the file has dates.

    Raises:
        CohortError: the file is not a shard of this kind, version and schema.
        UnreadableError: the system refuses to read it.
    """
    reader = next(_READERS[end] for end in _READERS if path.name.endswith(end))

    def read() -> pd.DataFrame:
        with reading(path):
            return reader(path, schema)

    try:
        return patiently(read, f"reading {path}")
    except (OSError, KeyError, pa.ArrowException) as error:
        raise CohortError(
            f"Cannot read the shard {path}: {error}. Delete it and give the command that made the cohort "
            "again."
        ) from error
