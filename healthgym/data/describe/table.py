"""Reading any table as words, without a schema: a file, or the files of a folder or pattern."""

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from healthgym.data.describe.words import Words, words_of
from healthgym.data.tables.dialect import FOUND_OUT, Dialect, Given, with_point
from healthgym.data.tables.reading import csv_records, dialect_of, distinct, is_parquet, naming, require_known
from healthgym.data.tables.sources import check_named, list_tables, partition_of
from healthgym.storage.parquet import read_parquet_parts

MOST_CELLS = 25_000_000
"""Number of cells after which the rest of a table is not read."""
_CELLS = 1 << 20  # of a part


def read_words(table: Path, given: Given = FOUND_OUT, most_cells: int = MOST_CELLS) -> Words:
    """Return the words of a table.

    Raises:
        HealthgymError: there is none, it is damaged, or of a form that cannot be read.
    """
    check_named(table, None)
    files = list_tables(table)
    for file in files:
        require_known(file)
    return words_of(_parts(table, files, given), str(table), most_cells, _form(files, given))


def _form(files: list[Path], given: Given) -> str:
    """Return the format of the files as text."""
    with naming(files[0]):
        written = "Parquet" if is_parquet(files[0]) else str(dialect_of(files[0], given))
    return written + (f"; {len(files):,} files" if len(files) > 1 else "")


def _parts(table: Path, files: list[Path], given: Given) -> Iterator[pd.DataFrame]:
    for file in files:
        beside = partition_of(table, file)
        with naming(file):
            if is_parquet(file):
                parts = read_parquet_parts(file, None, (), _CELLS)
            else:
                parts = _csv_parts(file, dialect_of(file, given))
            for part in parts:
                yield part.assign(**{name: value for name, value in beside.items() if name not in part})


def _csv_parts(path: Path, dialect: Dialect) -> Iterator[pd.DataFrame]:
    for header, records in csv_records(path, dialect):
        rows = max(1, _CELLS // len(header))
        for first in range(0, len(records.ends_N), rows):
            frame = pd.read_csv(
                io.BytesIO(records.slice(first, first + rows).content),
                header=None,
                names=distinct(header),
                dtype=str,
                keep_default_na=False,
                index_col=False,
                skip_blank_lines=False,
                sep=dialect.separator,
            ).set_axis(header, axis=1)
            if dialect.decimal == ",":
                frame = frame.apply(lambda column: column.map(with_point))
            yield frame[~(frame == "").all(axis=1)]
