"""Read a clinical table from CSV or Parquet, as found, whole or in parts."""

import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import pandas as pd

from healthgym.errors import TableError, listed
from healthgym.schema import Schema, Variable
from healthgym.storage.parquet import read_parquet_parts

FORMS = (".csv", ".csv.gz", ".parquet")
# Since 3.1, pandas reads numbers to the last bit by itself, and calls the option that asks for it old.
_OLD_PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
_EXACT: Any = {"float_precision": "round_trip"} if _OLD_PANDAS else {}
_CELLS = 1 << 20  # of a part: some 50 MB of text
_EMPTY = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>")


def read_table(path: Path, schema: Schema) -> pd.DataFrame:
    """Return the table as found, columns that the schema does not know included.

    The index says where a row stands in the file: the line number of a CSV file (index name "line"),
    else the row counted from 0. Empty lines are left out. An empty field, NA, NaN, null or None is a
    missing value, unless the schema has a class of that name.

    Raises:
        TableError: the file is absent, damaged, of another format, or has nothing of the schema.
    """
    return next(read_parts(path, schema, None))


def read_parts(path: Path, schema: Schema, cells: int | None = _CELLS) -> Iterator[pd.DataFrame]:
    """Yield the rows of `read_table` in parts, at least one, of about so many cells; in one part if None.

    Columns that the schema does not know may be left out.
    """
    if not path.name.lower().endswith(FORMS):
        raise TableError(f"{path}: cannot tell the format from the name. Give a table as {', '.join(FORMS)}.")
    parquet, wanted = path.suffix.lower() == ".parquet", _wanted(schema)
    with _naming(path):
        parts = _parquet_parts(path, schema, cells) if parquet else _csv_parts(path, schema, cells)
        for part in parts:
            if not set(wanted) & set(part.columns):
                raise TableError(
                    f"{path}: none of the schema's columns ({listed(wanted)}) are there; the file has "
                    f"{listed(part.columns)}. Check that file and schema belong together."
                )
            yield part


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn a failure to read into a sentence."""
    try:
        yield
    except FileNotFoundError:
        raise TableError(f"{path}: there is no such file. Check the path.") from None
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save the table as UTF-8."
        ) from None
    except pd.errors.ParserWarning:
        raise TableError(
            f"{path}: rows have more fields than the header names. Mend the header, or quote fields that "
            f"hold commas."
        ) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ").rstrip(".")
        raise TableError(f"{path}: cannot be read: {reason}. Mend the file or export it again.") from None


def _wanted(schema: Schema) -> list[str]:
    return [schema.keys.patient, schema.keys.timestep, *schema.names()]


def _parquet_parts(path: Path, schema: Schema, cells: int | None) -> Iterator[pd.DataFrame]:
    derived = {variable.name for variable in schema.encoded} - {v.name for v in schema.variables}
    first = 0
    for part in read_parquet_parts(path, _wanted(schema), derived, cells):
        yield part.set_axis(pd.RangeIndex(first, first + len(part)))
        first += len(part)


def _csv_parts(path: Path, schema: Schema, cells: int | None) -> Iterator[pd.DataFrame]:
    header = _read_header(path)
    twice = sorted({name for name in header if header.count(name) > 1} & set(_wanted(schema)))
    if twice:
        raise TableError(f"{path}, line 1: column '{twice[0]}' stands twice in the header. Rename one.")
    used = [name for name in _wanted(schema) if name in header]
    if not used:
        yield pd.DataFrame(columns=header)
        return
    # Classes are read as the text that stands there: pandas would take the label True for the code 1.
    text = {schema.keys.patient, *(variable.name for variable in schema.categoricals)}
    reader = pd.read_csv(
        path,
        dtype={name: str for name in used if name in text},
        na_values={name: _missing_marks(schema, name) for name in used},
        keep_default_na=False,
        index_col=False,
        skip_blank_lines=False,
        low_memory=False,
        iterator=True,
        **_EXACT,
        encoding="utf-8-sig",
    )
    first, rows = 2, None if cells is None else max(1, cells // len(header))
    with reader:
        while (part := _next_rows(reader, rows)) is not None:
            part.index = pd.RangeIndex(first, first + len(part), name="line")
            first += len(part)
            for name in set(used) - text:
                if pd.api.types.infer_dtype(part[name]) == "boolean":  # the word True is no number
                    part[name] = part[name].map(str, na_action="ignore")
            blank = part[used].isna().all(axis=1)
            yield part[~blank] if blank.any() else part
            if rows is None:
                return


def _next_rows(reader: Any, rows: int | None) -> pd.DataFrame | None:
    with warnings.catch_warnings():
        # Rows with more fields than the header are an error. (With `usecols`, pandas would not say so.)
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            part: pd.DataFrame = reader.read(rows)
            return part
        except StopIteration:
            return None


def _missing_marks(schema: Schema, name: str) -> list[str]:
    """What stands for a missing value in a column: not what is one of its classes."""
    own: set[str] = set()
    for variable in schema.encoded:
        if variable.name == name:
            own = _class_words(variable)
    return [mark for mark in _EMPTY if mark not in own]


def _class_words(variable: Variable) -> set[str]:
    return {str(code) for code in variable.codes} | set(variable.labels)


def _read_header(path: Path) -> list[str]:
    packed = path.suffix.lower() == ".gz"
    with (
        cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
        if packed
        else path.open(encoding="utf-8-sig", newline="") as stream
    ):
        line = stream.readline(1 << 20)
    header = next(csv.reader(io.StringIO(line)), [])
    if not header:
        raise TableError(f"{path}: the first line is empty; it must name the columns.")
    other = re.search(r"[;\t|]", header[0])
    if len(header) == 1 and other:
        raise TableError(
            f"{path}, line 1: the header has one column, {line.strip()[:60]!r}: the file seems to be "
            f"separated by {other[0]!r}. Save it with commas."
        )
    return header
