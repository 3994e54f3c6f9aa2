"""Reading a clinical table from CSV or Parquet unchanged, as a whole or in chunks."""

import csv
import io
import lzma
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from healthgym.data.tables.dialect import (
    FOUND_OUT,
    SAMPLE_BYTES,
    AsUTF8,
    Dialect,
    Given,
    find_dialect,
    with_point,
)
from healthgym.data.tables.records import Readable, Records, read_records
from healthgym.errors import TableError, listed
from healthgym.faults import sentence
from healthgym.schema import Schema, Variable
from healthgym.storage.packed import PACKED, open_packed
from healthgym.storage.parquet import read_parquet_parts
from healthgym.words import one_form

FORMS = (*(f"{text}{packed}" for text in (".csv", ".tsv") for packed in ("", *PACKED)), ".parquet")
_ALONE = tuple(f"{text}{packed}" for text in (".txt", ".tab", ".dat") for packed in ("", *PACKED))
"""Endings of tables that are named one by one: in a folder they may be anything."""
# Since 3.1, pandas reads numbers to the last bit by itself, and calls the option that asks for it old.
_OLD_PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
_EXACT: Any = {"float_precision": "round_trip"} if _OLD_PANDAS else {}
_CELLS = 1 << 20  # of a chunk: about 50 MB of text
_EMPTY = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>")


def read_table(path: Path, schema: Schema) -> pd.DataFrame:
    """Return the table unchanged, including columns that are not in the schema.

    The index is the position of a row in the file: the line number of a CSV file (index name "line"), or the
        row
    counted from 0. Empty lines are skipped. An empty field, NA, NaN, null or None is a missing value, unless
    the schema has a class of that name.

    Raises:
        TableError: the file is missing, damaged, of another format, or has no column of the schema.
    """
    return next(read_parts(path, schema, None))


def require_known(path: Path) -> None:
    """Refuse a file whose name does not end as that of a table.

    Raises:
        TableError: with the endings that are known.
    """
    if not path.name.lower().endswith((*FORMS, *_ALONE)):
        raise TableError(
            f"{path}: the file name does not show the format. Give a table as {', '.join(FORMS)}."
        )


def is_parquet(path: Path) -> bool:
    """Return whether a file is a Parquet file, by its name."""
    return path.suffix.lower() == ".parquet"


def read_parts(
    path: Path,
    schema: Schema,
    cells: int | None = _CELLS,
    beside: Collection[str] = (),
    given: Given = FOUND_OUT,
) -> Iterator[pd.DataFrame]:
    """Yield the rows of `read_table` in parts (at least one) of about this many cells; in one part if None.

    Columns that the schema does not know may be left out; those `beside` the file are not missed. How a CSV
    file is written is found out where it is not `given`.
    """
    require_known(path)
    wanted = _wanted(schema)
    with naming(path):
        parts = (
            _parquet_parts(path, schema, cells, beside)
            if is_parquet(path)
            else _csv_parts(path, schema, cells, given)
        )
        for part in parts:
            if not set(wanted) & set(part.columns):
                raise TableError(
                    f"{path}: none of the schema's columns ({listed(wanted)}) are there; the file has "
                    f"{listed(part.columns)}. Check that file and schema belong together."
                )
            yield part


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an error in reading into a sentence."""
    try:
        yield
    except FileNotFoundError:
        raise TableError(f"{path}: there is no such file. Check the path.") from None
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        if said := sentence(error, path, "read"):
            raise TableError(said) from error
        reason = " ".join(str(error).split()).rstrip(".")
        raise TableError(f"{path}: cannot be read: {reason}. Correct the file or export it again.") from None


def _wanted(schema: Schema) -> list[str]:
    return [schema.keys.patient, schema.keys.timestep, *schema.names()]


def _parquet_parts(
    path: Path, schema: Schema, cells: int | None, beside: Collection[str]
) -> Iterator[pd.DataFrame]:
    derived = {variable.name for variable in schema.encoded} - {v.name for v in schema.variables}
    first = 0
    for part in read_parquet_parts(path, _wanted(schema), derived | set(beside), cells):
        yield part.set_axis(pd.RangeIndex(first, first + len(part)))
        first += len(part)


def _csv_parts(path: Path, schema: Schema, cells: int | None, given: Given) -> Iterator[pd.DataFrame]:
    parts = _csv_frames(path, schema, cells or _CELLS, given)
    if cells is not None:
        yield from parts
        return
    yield pd.concat(list(parts)).rename_axis(index="line")


def dialect_of(path: Path, given: Given = FOUND_OUT) -> Dialect:
    """Return the format of a CSV file."""
    with open_packed(path) as stream:
        return find_dialect(stream.read(SAMPLE_BYTES), given)


def csv_records(path: Path, dialect: Dialect) -> Iterator[tuple[list[str], Records]]:
    """Yield the header, and some records at a time that all have a field for each column.

    Raises:
        TableError: the file is damaged or of another form.
    """
    with open_packed(path) as raw:
        utf8 = dialect.encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        stream: Readable = raw if utf8 else AsUTF8(raw, dialect.encoding, path)
        header: list[str] = []
        for records in read_records(stream, path, dialect.separator):
            if not header:
                header = _header(records, path, dialect)
                records = records.slice(1)
            yield header, _sound(records, header, path)
    if not header:
        raise TableError(f"{path}: the first line is empty; it must name the columns.")


def _csv_frames(path: Path, schema: Schema, cells: int, given: Given) -> Iterator[pd.DataFrame]:
    dialect, packed = dialect_of(path, given), path.suffix.lower() in PACKED
    empty, header = True, list[str]()
    for header, sound in csv_records(path, dialect):
        _refuse_twice(header, schema, path)
        if not (sound.ended or packed):  # what was packed carries its length or an end
            _refuse_torn(sound, header, schema, path, dialect)
        rows = max(1, cells // len(header))
        for first in range(0, len(sound.ends_N), rows):
            part = _frame(sound.slice(first, first + rows), header, schema, path, dialect)
            empty &= part.empty
            if len(part):
                yield part
    if empty:
        yield pd.DataFrame(columns=distinct(header), index=pd.RangeIndex(0, name="line"))


def _sound(records: Records, header: list[str], path: Path) -> Records:
    """Return the records without empty lines, all with a field for each column.

    Raises:
        TableError: one has not: a row that was cut short does not have missing values.
    """
    wrong_N = records.fields_N != len(header)
    alone = np.flatnonzero(wrong_N & (records.fields_N == 1)).tolist()
    blank = [n for n in alone if not records.slice(n, n + 1).content.strip()]
    wrong_N[blank] = False
    if wrong_N.any():
        shown = [
            f"line {line} has {count}"
            for line, count in zip(records.lines_N[wrong_N][:3], records.fields_N[wrong_N][:3], strict=True)
        ]
        more = wrong_N.sum() - len(shown)
        raise TableError(
            f"{path}: rows have another number of fields than the {len(header)} of the header: "
            f"{', '.join(shown)}{f', and at least {more} more' if more else ''}. A row that was cut off is "
            f"damaged; a missing value is an empty field between its commas. Correct the rows, quote fields "
            f"that hold commas, or export the table again."
        )
    kept_N = np.ones(len(wrong_N), bool)
    kept_N[blank] = False
    return records.only(kept_N)


def _refuse_torn(records: Records, header: list[str], schema: Schema, path: Path, dialect: Dialect) -> None:
    """Refuse a last line without a line end, unless its last field proves that it is whole.

    Many programs leave the last line end out. So does a copy that was broken off, and then 1001.25 may read
    100. Nothing else in the file tells the two apart: the line is accepted where its last field is quoted, of
    no interest, or a class whose writing no other class continues.
    """
    if not len(records.ends_N):
        return
    row = records.slice(len(records.ends_N) - 1)
    text = io.StringIO(row.content.decode(errors="replace"))
    last, name = next(csv.reader(text, delimiter=dialect.separator))[-1], header[-1]
    classes = {word: k for v in schema.encoded if v.name == name for word, k in _class_words(v).items()}
    sure = last in classes and all(k == classes[last] for word, k in classes.items() if word.startswith(last))
    if sure or row.content.endswith(b'"') or name not in _wanted(schema):
        return
    raise TableError(
        f"{path}, line {row.lines_N[0]}: the file ends within a line, without a line end, so that '{name}' "
        f"({last!r}) may have been cut off, as in an incomplete copy. Compare it with the original; if "
        "nothing is missing, add a line end to the file."
    )


def _frame(records: Records, header: list[str], schema: Schema, path: Path, dialect: Dialect) -> pd.DataFrame:
    """Return the values of some records, each row named by its line; rows without any value are left out."""
    used = [name for name in _wanted(schema) if name in header]
    # Classes are read as the text that stands there: pandas would take the label True for the code 1.
    text = {schema.keys.patient, *(variable.name for variable in schema.categoricals)} & set(used)
    if dialect.decimal == ",":  # 5.000 may be five thousand there
        text = set(used)
    try:
        part: pd.DataFrame = pd.read_csv(
            io.BytesIO(records.content),
            header=None,
            names=distinct(header),
            dtype=dict.fromkeys(text, str),
            na_values={name: _missing_marks(schema, name) for name in used},
            keep_default_na=False,
            index_col=False,
            skip_blank_lines=False,
            low_memory=False,
            sep=dialect.separator,
            **_EXACT,
        )
    except UnicodeDecodeError:
        raise not_utf8(records, path) from None
    part.index = pd.Index(records.lines_N, name="line")
    if dialect.decimal == ",":
        for name in set(used) - {schema.keys.patient}:
            part[name] = _with_points(part[name], [v for v in schema.categoricals if v.name == name])
    for name in set(used) - text:
        if pd.api.types.infer_dtype(part[name]) == "boolean":  # the word True is no number
            part[name] = part[name].map(str, na_action="ignore")
    blank = part[used].isna().all(axis=1)
    return part[~blank] if used and blank.any() else part


def _with_points(column: pd.Series, own: list[Variable]) -> pd.Series:
    """Return a column of text, whose numbers have decimal commas, as numbers; classes stay as they are."""
    classes = {word for variable in own for word in _class_words(variable)}
    codes, uniques = pd.factorize(column)
    read = [word if word in classes else with_point(str(word)) for word in uniques]
    words = pd.Series(np.array([*read, None], dtype=object)[codes], index=column.index)
    numbers = pd.to_numeric(words, errors="coerce")
    return words if own or not numbers.notna().equals(words.notna()) else numbers


def distinct(header: list[str]) -> list[str]:
    """Return the columns' names; duplicates that are not needed get distinct names."""
    return [f"{name} (column {i})" if name in header[: i - 1] else name for i, name in enumerate(header, 1)]


def not_utf8(records: Records, path: Path) -> TableError:
    """Return the error for text in another encoding, with its line."""
    try:
        records.content.decode()
    except UnicodeDecodeError as error:
        line = records.lines_N[np.searchsorted(records.ends_N, error.start, side="right")]
        return TableError(
            f"{path}, line {line}: not UTF-8 text ({error.reason}). Save the table as UTF-8, "
            "or name its encoding by --encoding, such as latin-1."
        )
    raise AssertionError("the bytes are UTF-8 text")


def _missing_marks(schema: Schema, name: str) -> list[str]:
    """The words that mean a missing value in a column: those that are not one of its classes."""
    own = {word for variable in schema.encoded if variable.name == name for word in _class_words(variable)}
    return [mark for mark in _EMPTY if mark not in own]


def _class_words(variable: Variable) -> dict[str, int]:
    """Return the class of each code and label as written."""
    by_code = {str(code): k for k, code in enumerate(variable.codes)}
    return by_code | {label: k for k, label in enumerate(variable.labels)}


def _header(records: Records, path: Path, dialect: Dialect) -> list[str]:
    """Return the columns that the first record names."""
    line = records.slice(0, 1)
    try:
        text = io.StringIO(line.content.decode(), newline="")
        row = next(csv.reader(text, delimiter=dialect.separator), [])
    except UnicodeDecodeError:
        raise not_utf8(line, path) from None
    header = [one_form(name) for name in row]
    if not header:
        raise TableError(f"{path}: the first line is empty; it must name the columns.")
    return header


def _refuse_twice(header: list[str], schema: Schema, path: Path) -> None:
    """Refuse a header in which a column of the schema appears twice."""
    twice = sorted({name for name in header if header.count(name) > 1} & set(_wanted(schema)))
    if twice:
        raise TableError(f"{path}, line 1: column '{twice[0]}' appears twice in the header. Rename one.")
