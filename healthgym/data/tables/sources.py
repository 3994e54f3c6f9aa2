"""The source of a table: files, a public data set, or the simulator."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pandas as pd

from healthgym import __version__
from healthgym.data.tables.dialect import FOUND_OUT, Given
from healthgym.data.tables.fetch import DATASETS, check_counts, fetch
from healthgym.data.tables.reading import FORMS, read_parts, read_table
from healthgym.data.tables.table import check_columns
from healthgym.errors import ConfigError, TableError, nearest
from healthgym.files import sha256_of
from healthgym.schema import Schema
from healthgym.words import one_form

SIMULATED = "simulated_art_hiv"
_SIMULATED_PATIENTS = 8_916
_CHUNK_PATIENTS = 5_000
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Source:
    """The source of a table: its name in messages, its identity, an iterator over its chunks, its files."""

    name: str
    identity: str
    parts: Callable[[], Iterable[pd.DataFrame]]
    files: Sequence[Path] = ()


def check_named(table: Path | None, dataset: str | None) -> None:
    """Refuse to go on without exactly one table that is there, or is known.

    Raises:
        ConfigError: with what to give.
    """
    if (table is None) == (dataset is None):
        raise ConfigError("Give either --table FILE or --dataset NAME.")
    if table is not None and not list_tables(table):
        wanted = f"no table in this folder ({', '.join(FORMS)})" if table.is_dir() else "no such file"
        raise ConfigError(f"--table {table}: there is {wanted}. Check the path.")
    known = [*DATASETS, SIMULATED]
    if dataset is not None and dataset not in known:
        raise ConfigError(
            f"--dataset {dataset}: unknown{nearest(dataset, known)}; known are {', '.join(known)}."
        )


def find_source(
    schema: Schema,
    table: Path | None,
    dataset: str | None,
    seed: int,
    max_patients: int | None,
    cache: Path | None,
    given: Given = FOUND_OUT,
) -> Source:
    """Return where the table comes from, fetched if need be; `given` says how its files are written."""
    check_named(table, dataset)
    if table is not None:
        return _named(table, list_tables(table), schema, given)
    assert dataset is not None
    if dataset == SIMULATED:
        from healthgym.data.simulation.simulate import simulate_chunks

        number = max_patients or _SIMULATED_PATIENTS
        name = f"{number:,} simulated patients"
        identity = f"{SIMULATED}:{number} patients, seed {seed}, healthgym {__version__}"
        return Source(name, identity, lambda: simulate_chunks(number, seed, chunk_patients=_CHUNK_PATIENTS))
    path = fetch(DATASETS[dataset], cache)

    def read_fetched() -> Iterator[pd.DataFrame]:
        frame = read_table(path, schema)
        check_counts(frame, DATASETS[dataset], schema, str(path))
        yield frame

    return Source(str(path), f"sha256:{sha256_of(path)}", read_fetched)


def _named(table: Path, files: Sequence[Path], schema: Schema, given: Given) -> Source:
    before = {file: _stamp(file) for file in files}
    # Names and order of the files do not affect the cohort, so they are not part of its identity.
    contents = sorted(_digest(file) + str(partition_of(table, file) or "") for file in files)
    digests = hashlib.sha256("".join(contents).encode()).hexdigest()
    alone = files == [table]

    def read() -> Iterator[pd.DataFrame]:
        for file, part in read_files(table, schema, given):
            if not alone:
                check_columns(part, schema, str(file))
            yield part
        if list_tables(table) != files or any(_stamp(file) != before[file] for file in files):
            raise TableError(
                f"{table}: was changed while it was being read. Wait until it is complete, then give the "
                "same command again."
            )

    name = str(table) if alone else f"{table} ({len(files)} files)"
    identity = f"sha256:{contents[0]}" if alone else f"{len(files)} files, sha256:{digests}"
    identity += "".join(f", {what} {value!r}" for what, value in vars(given).items() if value)
    return Source(name, identity, read, files)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return size and time of the last change of a file, None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def read_files(table: Path, schema: Schema, given: Given = FOUND_OUT) -> Iterator[tuple[Path, pd.DataFrame]]:
    """Yield each part of a table in a file, or in the files of a folder or pattern, and its file.

    Raises:
        TableError: a file cannot be read, or there is none.
    """
    files = list_tables(table)
    if not files:
        raise TableError(f"{table}: there is no table ({', '.join(FORMS)}). Check the path.")
    for file in files:
        beside = partition_of(table, file)
        for part in read_parts(file, schema, beside=beside.keys(), given=given):
            known = {name: value for name, value in beside.items() if name not in part}
            named = part if files == [table] else part.rename_axis(index=_place(file, table, part))
            yield file, named.assign(**known)


def _place(file: Path, table: Path, part: pd.DataFrame) -> str:
    name = file.relative_to(table) if partition_of(table, file) else file.name
    return f"{name} {part.index.name or 'row'}"


def partition_of(table: Path, file: Path) -> dict[str, str | None]:
    """Return the columns that stand in names of folders, such as sex=F, as Spark and Dask do."""
    folders = file.relative_to(table).parts[:-1] if table in file.parents else ()
    named = [tuple(map(unquote, folder.split("=", 1))) for folder in folders]
    return {one_form(name): None if value == _NO_VALUE else value for name, value in named}


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise TableError(
            f"{path}: cannot be read: {error.strerror}. --table takes a file, a folder or a pattern of files."
        ) from None


def list_tables(table: Path) -> list[Path]:
    """Return the file; or all tables of a folder, or those that a pattern like FOLDER/*.csv names; sorted."""
    if table.is_file():
        return [table]
    if (table / "_delta_log").exists():
        raise TableError(
            f"{table}: is a Delta Lake table, whose files also contain deleted and replaced rows. Export its "
            "current rows as a Parquet or CSV file."
        )
    return sorted(_in_folder(table) if table.is_dir() else filter(_is_table, table.parent.glob(table.name)))


def _in_folder(folder: Path) -> Iterator[Path]:
    """Yield the tables in a folder, and in folders of partitions (column=value) in it."""
    for path in folder.iterdir():
        if _is_table(path):
            yield path
        elif "=" in path.name and path.is_dir():
            yield from _in_folder(path)


def _is_table(path: Path) -> bool:
    return path.name.lower().endswith(FORMS) and path.name[0] not in "._"
