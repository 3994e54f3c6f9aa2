"""A shard as HDF5: columns of numbers and class indices, with their meaning as attributes."""

import io
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.schema import Schema, Variable
from healthgym.storage.hdf5 import open_to_read
from healthgym.storage.output import hdf5_output
from healthgym.storage.shard import (
    KIND,
    VERSION,
    Shard,
    blank_code,
    check,
    column_notes,
    describe,
    key_columns,
    variables_in_order,
)

_CHUNK_ROWS = 16_384
_GZIP_LEVEL = 1


def encode_hdf5(shard: Shard, compression: str) -> bytes:
    """Return the bytes of a shard's file."""
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v110")) as file:
        write_head(file, shard.schema)
        file["offsets"] = np.concatenate([[0], np.cumsum(shard.lengths_N, dtype=np.int64)])
        columns, links = file.create_group("columns", track_order=True), link_names(shard.schema)
        keys = key_columns(shard)
        for name, notes in column_notes(shard).items():
            values = keys[name] if name in keys else shard.columns[name]
            strategy = zlib.Z_DEFAULT_STRATEGY if name in keys else zlib.Z_RLE
            dataset = _add_column(columns, links[name], values, compression, strategy)
            dataset.attrs.update(notes)
    return image.getvalue()


def write_head(file: h5py.File, schema: Schema) -> None:
    """Write the attributes of the file."""
    file.attrs.update({"kind": KIND, "version": VERSION, "schema": schema.to_json()})
    file.attrs["description"] = describe(schema)


def encode_all(shards: Iterable[Shard], num_patients: int, num_rows: int, path: Path) -> None:
    """Write the patients of several shards to one file, a shard at a time.

    Args:
        shards: at least one.
        num_patients, num_rows: of all of them.
        path: the file.
    """
    with hdf5_output(path) as (file, _):
        columns = file.create_group("columns", track_order=True)
        offsets = file.create_dataset("offsets", num_patients + 1, np.int64)
        patients, rows = 0, 0
        for shard in shards:
            keys, links = key_columns(shard), link_names(shard.schema)
            for name, notes in column_notes(shard).items():
                values = keys[name] if name in keys else shard.columns[name]
                if not rows:
                    _make_column(columns, links[name], num_rows, values, notes)
                columns[links[name]][rows : rows + len(values)] = values
            if not rows:
                write_head(file, shard.schema)
            ends = rows + np.cumsum(shard.lengths_N, dtype=np.int64)
            offsets[patients + 1 : patients + 1 + len(ends)] = ends
            patients, rows = patients + len(ends), int(ends[-1])


def _make_column(
    columns: h5py.Group, name: str, num_rows: int, like: NDArray[Any], notes: dict[str, Any]
) -> None:
    layout = {"chunks": (min(_CHUNK_ROWS, num_rows),), "compression": "gzip", "compression_opts": _GZIP_LEVEL}
    made = columns.create_dataset(name, num_rows, like.dtype, shuffle=like.itemsize > 1, **layout)
    made.attrs.update(notes)


def _add_column(
    columns: h5py.Group, name: str, values: NDArray[Any], compression: str, strategy: int
) -> h5py.Dataset:
    """Write a dataset of the given compression; chunks for gzip are compressed here.

    The library's own filter searches for repeats at any distance. In a column mostly the previous value is
    repeated: searching only for runs (zlib's RLE strategy) takes less than half the time and compresses
    better, and every reader can decompress it.
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
        if wide:  # HDF5's shuffle filter: all first bytes, then all second bytes, ...
            part = part.view(np.uint8).reshape(chunk, -1).T
        packer = zlib.compressobj(_GZIP_LEVEL, strategy=strategy)
        dataset.id.write_direct_chunk((start,), packer.compress(part.tobytes()) + packer.flush())
    return dataset


def link_names(schema: Schema) -> dict[str, str]:
    """Return names of the columns for HDF5: without a slash, which would make a group.

    Names that become equal are numbered; the attribute `name` has the original one.
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


def read_hdf5(path: Path, schema: Schema) -> pd.DataFrame:
    """Return a shard as a long table, as `healthgym.storage.shard_file.read_shard` has it."""
    with open_to_read(path) as file:
        check(str(path), file.attrs.get("kind"), file.attrs.get("version"), file.attrs.get("schema"), schema)
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
