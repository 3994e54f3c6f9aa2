"""A shard as a readable table in Parquet or CSV: labels, numbers with the decimals of the data, dates.

A real variable of whole numbers is a column of integers, one with decimals a column of float64 rounded to
them, so that 61.2 is shown as 61.2 in every program. A variable whose decimals are unknown is float32, as
sampled.
"""

import gzip
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from healthgym.errors import CohortError
from healthgym.schema import Schema, Variable
from healthgym.storage.shard import (
    DAY_ZERO,
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

_MS_PER_DAY = 86_400_000
_ZERO = np.datetime64(DAY_ZERO, "ms")


def table_of(shard: Shard) -> pa.Table:
    """Return a shard as an Arrow table, with the meaning of the columns in its schema."""
    arrays = [_key(name, values, shard) for name, values in key_columns(shard).items()]
    for variable in variables_in_order(shard.schema):
        arrays.append(_array(shard.columns[variable.name], variable, shard))
    fields = [
        pa.field(name, array.type, nullable=notes["kind"] != "key", metadata=_as_text(notes))
        for (name, notes), array in zip(column_notes(shard).items(), arrays, strict=True)
    ]
    about = {
        "kind": KIND,
        "version": str(VERSION),
        "schema": shard.schema.to_json(),
        "description": describe(shard.schema),
    }
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=about))


def frame_of(tables: Sequence[pa.Table]) -> pd.DataFrame:
    """Return tables of one cohort as one, with labels as categories."""
    frame: pd.DataFrame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
    return frame


def _as_text(notes: dict[str, Any]) -> dict[str, str]:
    if notes["kind"] == "key":
        return {name: str(value) for name, value in notes.items()}
    return {name: json.dumps(value, default=np.ndarray.tolist) for name, value in notes.items()}


def _key(name: str, values: NDArray[Any], shard: Shard) -> pa.Array:
    return _dates(values) if name in shard.dates else pa.array(values)


def _array(values: NDArray[Any], variable: Variable, shard: Shard) -> pa.Array:
    if variable.name in shard.dates:
        return _dates(values)
    if variable.kind == "real":
        decimals = shard.decimals.get(variable.name)
        if decimals is None:
            return pa.array(values, mask=np.isnan(values))
        exact, blank = np.round(values.astype(np.float64), decimals), np.isnan(values)
        return pa.array(exact, mask=blank).cast(pa.int64()) if decimals == 0 else pa.array(exact, mask=blank)
    indices = pa.array(values.astype(np.int32), mask=values == blank_code(variable))
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(variable.labels)))


def _dates(days: NDArray[Any]) -> pa.Array:
    """Return days since `DAY_ZERO` as timestamps in milliseconds."""
    whole = np.round(days.astype(np.float64) * _MS_PER_DAY).astype("timedelta64[ms]")
    return pa.array(_ZERO + whole)


def _days(moments: pd.Series) -> NDArray[Any]:
    """Return timestamps as days since `DAY_ZERO`, integers if all are whole."""
    ms = (pd.to_datetime(moments).to_numpy("datetime64[ms]") - _ZERO).astype(np.int64)
    return ms // _MS_PER_DAY if not (ms % _MS_PER_DAY).any() else ms / _MS_PER_DAY


def _canonical(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return a table in the form of `read_shard`: float32 reals, times as numbers."""
    for name in (schema.keys.timestep, *(variable.name for variable in schema.reals)):
        if name in frame and frame[name].dtype.kind == "M":
            frame[name] = _days(frame[name])
    for variable in variables_in_order(schema):
        if variable.kind == "real":
            frame[variable.name] = frame[variable.name].astype(np.float32)
        else:
            frame[variable.name] = frame[variable.name].cat.set_categories(list(variable.labels))
    return frame


# --- Parquet -------------------------------------------------------------------------------------


def encode_parquet(shard: Shard, compression: str) -> bytes:
    """Return the bytes of the file that holds a shard."""
    image, table = io.BytesIO(), table_of(shard)
    # One row group: the dictionary of labels is then written once and read back completely.
    with pq.ParquetWriter(image, table.schema, **parquet_layout(table.schema, compression)) as writer:
        writer.write_table(table, max(1, shard.num_rows))
    return image.getvalue()


def parquet_layout(schema: pa.Schema, compression: str) -> dict[str, Any]:
    """Return options of the columns: rounded reals and labels are dictionaries."""
    encodings = {}
    for field in schema:
        key = field.metadata[b"kind"] == b"key"
        if pa.types.is_integer(field.type) and key:
            encodings[field.name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_float32(field.type) or (pa.types.is_float64(field.type) and key):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
    rest = [field.name for field in schema if field.name not in encodings]
    return {"compression": compression, "use_dictionary": rest, "column_encoding": encodings}


def read_parquet(path: Path, schema: Schema) -> pd.DataFrame:
    """Return a shard as a long table, as `healthgym.storage.shard_file.read_shard` has it."""
    table = pq.read_table(path, partitioning=None)
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    check(str(path), about.get("kind"), about.get("version"), about.get("schema"), schema)
    return _canonical(table.to_pandas(), schema)


# --- CSV -----------------------------------------------------------------------------------------


def encode_csv(shard: Shard, compression: str) -> bytes:
    """Return the bytes of the file that holds a shard: UTF-8, words in quotes, blanks empty."""
    content = csv_of(shard)
    if compression == "none":
        return content
    packer = zlib.compressobj(6, wbits=31)  # gzip's format, without the time
    return packer.compress(content) + packer.flush()


def csv_of(shard: Shard, header: bool = True) -> bytes:
    """Return a shard's rows as CSV text, after the names of its columns."""
    table, image = table_of(shard), io.BytesIO()
    for index, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = pa.string()
        elif pa.types.is_timestamp(kind):
            kind = pa.date32() if shard.dates[field.name] else pa.timestamp("s")
        if kind != field.type:
            table = table.set_column(index, field.name, table.column(index).cast(kind, safe=False))
    pc.write_csv(table, image, pc.WriteOptions(include_header=header, quoting_style="needed"))
    return image.getvalue()


def read_csv(path: Path, schema: Schema) -> pd.DataFrame:
    """Return a shard as a long table, as `healthgym.storage.shard_file.read_shard` has it.

    Raises:
        CohortError: its columns differ from the schema's.
    """
    words = [variable.name for variable in variables_in_order(schema) if variable.kind != "real"]
    options = pc.ConvertOptions(
        column_types=dict.fromkeys(words, pa.dictionary(pa.int32(), pa.string())),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.name.endswith(".gz") else content
    except (EOFError, zlib.error) as error:
        raise OSError(str(error)) from error
    table = pc.read_csv(io.BytesIO(content), convert_options=options)
    names = [schema.keys.patient, schema.keys.timestep, *(v.name for v in variables_in_order(schema))]
    if table.column_names != names:
        raise CohortError(
            f"{path} has other columns than the cohort's manifest says. Delete this shard and give the "
            "command that made the cohort again."
        )
    return _canonical(table.to_pandas(date_as_object=False), schema)
