"""One file of a synthetic cohort, as HDF5 or Parquet: columns of equal length, one row per timestep.

An HDF5 shard explains itself to h5py alone:

    with h5py.File("shard-00000.h5") as file:
        {name: column[:] for name, column in file["columns"].items()}  # one row per timestep
        file["columns/Gender"].attrs["labels"]                         # what 0, 1, ... mean
        file["offsets"][:]                        # patient n has rows offsets[n]:offsets[n + 1]

A Parquet shard opens in pandas with labels as categories. The same content gives the same bytes, since
no time and no name of a machine is written.

What compressing costs, measured with `benchmarks/shards.py` (4,096 patients x 60 timesteps, 3 reals and 10
categorical variables, one thread of a busy Xeon, the disk left out):

    hdf5     none       290,000 patients/s    1,821 bytes/patient
    hdf5     lzf         92,000                 787
    hdf5     gzip        83,000                 653     (HDF5's own packing: 55,000 and 696)
    parquet  zstd        73,000                 661
    parquet  snappy      90,000                 735
    parquet  gzip         9,000                 651

gzip is the default: every HDF5 library reads it without a plugin. What is left are mostly the random low
bits of the reals. Shards of 1,024 patients cost a third more time, of 16,384 a sixth less.
"""

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from healthgym.errors import CohortError
from healthgym.faults import patiently, reading
from healthgym.schema import Schema, Variable
from healthgym.storage.hdf5 import open_to_read

FileFormat: TypeAlias = Literal["hdf5", "parquet"]
Compression: TypeAlias = Literal["none", "gzip", "lzf", "zstd", "snappy"]

SUFFIXES: Mapping[str, str] = {"hdf5": ".h5", "parquet": ".parquet"}
COMPRESSIONS: Mapping[str, tuple[str, ...]] = {
    "hdf5": ("gzip", "lzf", "none"),
    "parquet": ("zstd", "snappy", "gzip", "none"),
}
"""What each format offers, the default first."""

KIND = "synthetic cohort shard"
VERSION = 1
_CHUNK_ROWS = 16_384
_GZIP_LEVEL = 1


@dataclass(frozen=True)
class Shard:
    """Decoded patients, numbered `first_patient` upwards.

    Args:
        schema: what the columns mean.
        first_patient: number of the first patient.
        lengths_N: timesteps of each patient.
        columns: an array of sum(lengths_N) values per variable, but for the gap between visits: float32
            reals, NaN where blank, and class indices of type `code_dtype`, `blank_code` where blank.
        num_candidates: patients sampled for it, those included that a guardrail dropped; 0 if none ever is.
        first_timestep: number of each patient's first timestep.
        times_N: times of all rows, where visits are not numbered.
    """

    schema: Schema
    first_patient: int
    lengths_N: NDArray[np.int32]
    columns: Mapping[str, NDArray[Any]]
    num_candidates: int = 0
    first_timestep: int = 0
    times_N: NDArray[Any] | None = None

    @property
    def num_rows(self) -> int:
        """Timesteps of all patients."""
        return int(self.lengths_N.sum())


def code_dtype(variable: Variable) -> type[np.uint8] | type[np.uint16]:
    """Return the type of a class index, with room for the blank."""
    return np.uint8 if len(variable.classes) < 256 else np.uint16


def blank_code(variable: Variable) -> int:
    """Return what stands for a blank among class indices: the type's largest number."""
    return int(np.iinfo(code_dtype(variable)).max)


def variables_in_order(schema: Schema) -> tuple[Variable, ...]:
    """Return variables as the user declared them, then the flags that were derived.

    The gap between visits is left out: the times say it.
    """
    declared = {variable.name for variable in schema.variables}
    return schema.variables + tuple(v for v in schema.encoded if v.name not in declared and v != schema.gap)


def encode_shard(shard: Shard, file_format: FileFormat, compression: Compression) -> bytes:
    """Return the bytes of the file that holds a shard; equal shards give equal bytes."""
    encode = _encode_hdf5 if file_format == "hdf5" else _encode_parquet
    return encode(shard, compression)


def read_shard(path: Path, schema: Schema) -> pd.DataFrame:
    """Return a shard as a long table: keys, float32 reals, categoricals of labels; blanks are NaN.

    Raises:
        CohortError: the file is not a shard of this kind, version and schema.
        UnreadableError: the system refuses to read it.
    """

    def read() -> pd.DataFrame:
        with reading(path):
            return _read_hdf5(path, schema) if path.suffix == ".h5" else _read_parquet(path, schema)

    try:
        return patiently(read, f"reading {path}")
    except (OSError, KeyError, pa.ArrowException) as error:
        raise CohortError(f"Cannot read the shard {path}: {error}. Make it anew.") from error


def _key_columns(shard: Shard) -> dict[str, NDArray[Any]]:
    """Return the patient's number and the timestep of each row."""
    num_patients = len(shard.lengths_N)
    last = shard.first_patient + num_patients
    patients_N = np.arange(shard.first_patient, last, dtype=np.int32 if last < 2**31 else np.int64)
    starts_N = np.cumsum(shard.lengths_N) - shard.lengths_N
    timesteps: NDArray[Any] = np.arange(shard.num_rows) - np.repeat(
        starts_N - shard.first_timestep, shard.lengths_N
    )
    small = abs(shard.first_timestep) < 2**30
    if shard.times_N is not None:
        timesteps = shard.times_N
    if timesteps.dtype.kind == "i":
        timesteps = timesteps.astype(np.int32 if small else np.int64)
    return {
        shard.schema.keys.patient: np.repeat(patients_N, shard.lengths_N),
        shard.schema.keys.timestep: timesteps,
    }


# --- HDF5 ----------------------------------------------------------------------------------------


def _encode_hdf5(shard: Shard, compression: Compression) -> bytes:
    schema, image = shard.schema, io.BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v110")) as file:
        file.attrs.update({"kind": KIND, "version": VERSION, "schema": schema.to_json()})
        file.attrs["description"] = _description(schema)
        file["offsets"] = np.concatenate([[0], np.cumsum(shard.lengths_N, dtype=np.int64)])
        columns, links = file.create_group("columns", track_order=True), link_names(schema)
        for name, values in _key_columns(shard).items():
            dataset = _add_column(columns, links[name], values, compression, zlib.Z_DEFAULT_STRATEGY)
            dataset.attrs.update({"name": name, "kind": "key"})
        for variable in variables_in_order(schema):
            values = shard.columns[variable.name]
            dataset = _add_column(columns, links[variable.name], values, compression, zlib.Z_RLE)
            dataset.attrs.update(_attributes(variable))
    return image.getvalue()


def _add_column(
    columns: h5py.Group, name: str, values: NDArray[Any], compression: Compression, strategy: int
) -> h5py.Dataset:
    """Write a dataset of the given compression; gzip's chunks are packed here.

    The library's own filter looks for repeats at any distance. A column repeats the value just before, or not
    at all: looking for runs only (zlib's RLE strategy) takes less than half the time and packs better, and
    every reader unpacks it the same.
    """
    num_rows, wide = len(values), values.itemsize > 1
    chunk = min(_CHUNK_ROWS, num_rows)
    filters: dict[str, Any] = {"chunks": (chunk,), "shuffle": wide and compression != "none"}
    if compression != "gzip":
        named = None if compression == "none" else compression
        return columns.create_dataset(name, data=values, compression=named, **filters)
    dataset = columns.create_dataset(
        name,
        (num_rows,),
        values.dtype,
        compression="gzip",
        compression_opts=_GZIP_LEVEL,
        **filters,
    )
    for start in range(0, num_rows, chunk):
        part = values[start : start + chunk]
        part = np.pad(part, (0, chunk - len(part)))  # HDF5 stores whole chunks
        if wide:  # what HDF5 calls shuffling: all first bytes, then all second bytes, ...
            part = part.view(np.uint8).reshape(chunk, -1).T
        packer = zlib.compressobj(_GZIP_LEVEL, strategy=strategy)
        dataset.id.write_direct_chunk((start,), packer.compress(part.tobytes()) + packer.flush())
    return dataset


def link_names(schema: Schema) -> dict[str, str]:
    """Return each column's name as HDF5 allows it: without a slash, which would make a group.

    A name that HDF5 would take for another column's is numbered; the attribute `name` has the true one.
    """
    keys = (schema.keys.patient, schema.keys.timestep)
    names = [*keys, *(variable.name for variable in variables_in_order(schema))]
    links = {name: name for name in names if "/" not in name and name != "."}
    for name in names:
        if name not in links:
            plain = name.replace("/", "|") if name != "." else "|"
            numbered = (f"{plain} ({i})" for i in range(2, len(names) + 2))
            links[name] = next(link for link in (plain, *numbered) if link not in links.values())
    return links


def _attributes(variable: Variable) -> dict[str, Any]:
    common = {
        "name": variable.name,
        "kind": variable.kind,
        "description": variable.description,
        "static": variable.static,
    }
    if variable.kind == "real":
        return {**common, "unit": variable.unit}
    whole = all(isinstance(code, int) for code in variable.codes)
    codes: Any = np.array(variable.codes, dtype=np.int64) if whole else [str(c) for c in variable.codes]
    blank = {"blank": blank_code(variable)} if variable.missing == "model" else {}
    return {**common, "labels": list(variable.labels), "codes": codes, **blank}


def _description(schema: Schema) -> str:
    return (
        f"Synthetic patients in the form of {schema.title or schema.name}, drawn from noise through a "
        f"trained generator; copies of real patients were not looked for. One row per patient and "
        f"{schema.timestep_unit}; a categorical column holds the index into its attribute 'labels'."
    )


def _read_hdf5(path: Path, schema: Schema) -> pd.DataFrame:
    with open_to_read(path) as file:
        _check(path, file.attrs.get("kind"), file.attrs.get("version"), file.attrs.get("schema"), schema)
        columns, links = file["columns"], link_names(schema)
        frame: dict[str, Any] = {
            key: columns[links[key]][:] for key in (schema.keys.patient, schema.keys.timestep)
        }
        for variable in variables_in_order(schema):
            values = columns[links[variable.name]][:]
            frame[variable.name] = values if variable.kind == "real" else _categorical(values, variable)
    return pd.DataFrame(frame)


def _categorical(codes: NDArray[Any], variable: Variable) -> Any:
    signed: NDArray[np.int32] = np.where(codes == blank_code(variable), -1, codes.astype(np.int32))
    return pd.Categorical.from_codes(signed, categories=pd.Index(variable.labels))


def _check(path: Path, kind: Any, version: Any, schema_json: Any, schema: Schema) -> None:
    if kind != KIND or version is None or int(version) != VERSION:
        raise CohortError(
            f"{path} is a '{kind}' of version {version}; a '{KIND}' of version {VERSION} was expected."
        )
    if schema_json != schema.to_json():
        raise CohortError(f"{path} has another schema than the cohort's manifest. Make this shard anew.")


# --- Parquet -------------------------------------------------------------------------------------


def _encode_parquet(shard: Shard, compression: Compression) -> bytes:
    schema = shard.schema
    arrays, fields = [], []
    for name, values in _key_columns(shard).items():
        arrays.append(pa.array(values))
        fields.append(pa.field(name, arrays[-1].type, nullable=False, metadata={"kind": "key"}))
    for variable in variables_in_order(schema):
        arrays.append(_arrow_array(shard.columns[variable.name], variable))
        notes = {
            key: json.dumps(value, default=np.ndarray.tolist) for key, value in _attributes(variable).items()
        }
        fields.append(pa.field(variable.name, arrays[-1].type, metadata=notes))
    about = {
        "kind": KIND,
        "version": str(VERSION),
        "schema": schema.to_json(),
        "description": _description(schema),
    }
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=about))
    image = io.BytesIO()
    # One row group: the dictionary of labels is then written once and read back whole.
    pq.write_table(
        table,
        image,
        compression=compression,
        row_group_size=max(1, shard.num_rows),
        use_dictionary=[variable.name for variable in schema.categoricals],
        column_encoding={
            **{
                key: "DELTA_BINARY_PACKED" if pa.types.is_integer(kind) else "BYTE_STREAM_SPLIT"
                for key in (schema.keys.patient, schema.keys.timestep)
                if (kind := table.schema.field(key).type)
            },
            **{v.name: "BYTE_STREAM_SPLIT" for v in schema.reals if v != schema.gap},
        },
    )
    return image.getvalue()


def _arrow_array(values: NDArray[Any], variable: Variable) -> pa.Array:
    if variable.kind == "real":
        return pa.array(values, mask=np.isnan(values))
    indices = pa.array(values.astype(np.int32), mask=values == blank_code(variable))
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(variable.labels)))


def _read_parquet(path: Path, schema: Schema) -> pd.DataFrame:
    table = pq.read_table(path)
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    _check(path, about.get("kind"), about.get("version"), about.get("schema"), schema)
    frame: pd.DataFrame = table.to_pandas()
    for variable in variables_in_order(schema):
        if variable.kind != "real":
            frame[variable.name] = frame[variable.name].cat.set_categories(list(variable.labels))
    return frame
