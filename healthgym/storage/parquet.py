"""Reading Parquet tables of other programs in chunks."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from healthgym.words import one_form


def read_parquet_parts(
    path: Path, wanted: Sequence[str] | None, spare: Collection[str], cells: int | None
) -> Iterator[pd.DataFrame]:
    """Yield the rows of a file in chunks, at least one; keys in the index become columns.

    Args:
        path: the file.
        wanted: columns to read; all columns are read, so that messages can name them, if one of these is
            not there, or if None;
        spare: and not among these.
        cells: approximate size of a chunk, rows times columns; the whole table with all its columns if None.

    Raises:
        OSError, ValueError: the file is missing or damaged.
    """
    with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        if cells is None:
            yield _frame(file.read())
            return
        by_form = {one_form(name): name for name in names}
        columns = None
        if wanted is not None and len(by_form) == len(names) and set(wanted) - by_form.keys() <= set(spare):
            columns = [by_form[name] for name in wanted if name in by_form]
        if not file.metadata.num_rows:
            yield _frame(file.read())
        rows, first = max(1, cells // max(1, len(columns or names))), 0
        counted = _counted_index(file.schema_arrow)
        for batch in file.iter_batches(rows, columns=columns):
            frame = _frame(pa.Table.from_batches([batch]))
            for name, start, step in counted:
                frame[name] = start + step * np.arange(first, first + len(frame))
            first += len(frame)
            yield frame


def _counted_index(schema: pa.Schema) -> list[tuple[str, int, int]]:
    """Return (name, start, step) of a named range index, which pandas stores only as metadata."""
    columns = (schema.pandas_metadata or {}).get("index_columns", [])
    return [
        (column["name"], column["start"], column["step"])
        for column in columns
        if isinstance(column, dict) and column.get("name")
    ]


def _frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a data frame, with normalised names, and bytes, lists and mappings as text."""
    for i, field in enumerate(table.schema):
        if pa.types.is_nested(field.type) and not pa.types.is_dictionary(field.type):
            texts = [None if value is None else str(value) for value in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(texts, pa.string()))
            continue
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            words = [None if word is None else one_form(word) for word in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(words, pa.string()))
    frame: pd.DataFrame = table.to_pandas()
    named = [name for name in frame.index.names if name is not None]
    frame = frame.reset_index(level=named) if named else frame.reset_index(drop=True)
    return frame.set_axis([one_form(name) for name in frame.columns], axis=1)


def in_numpy(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a data frame as if it had been read from a Parquet file.

    The columns of Arrow and of pandas' nullable floats, which tell NaN from a missing value, become arrays of
    NumPy. Lists, arrays and mappings become text.
    """
    changed = frame.copy(deep=False)
    for i, kind in enumerate(frame.dtypes):
        column = frame.iloc[:, i]
        if isinstance(kind, pd.ArrowDtype):
            arrow: Any = column.array.__arrow_array__()
            changed.isetitem(i, _frame(pa.table({"0": arrow})).iloc[:, 0].to_numpy())
        elif isinstance(kind, pd.Float32Dtype | pd.Float64Dtype):
            changed.isetitem(i, column.to_numpy(np.dtype(kind.name.lower()), na_value=np.nan))
        elif pd.api.types.infer_dtype(column) == "mixed" and not column.map(_is_hashable).all():
            changed.isetitem(i, column.map(str, na_action="ignore").to_numpy())
    return changed


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
