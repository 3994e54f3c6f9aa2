"""Where a table comes from: files, a public data set, or the simulator."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from healthgym import __version__
from healthgym.data.fetch import DATASETS, check_counts, fetch
from healthgym.data.reading import FORMS, read_parts, read_table
from healthgym.data.table import check_columns
from healthgym.errors import ConfigError, TableError, nearest
from healthgym.files import sha256_of
from healthgym.schema import Schema

SIMULATED = "simulated_art_hiv"
_SIMULATED_PATIENTS = 8_916
_CHUNK_PATIENTS = 5_000


@dataclass(frozen=True)
class Source:
    """Where a table comes from: its name in messages, what identifies it, and how to get it in parts."""

    name: str
    identity: str
    parts: Callable[[], Iterable[pd.DataFrame]]


def check_named(table: Path | None, dataset: str | None) -> None:
    """Refuse to go on without exactly one table that is there, or is known.

    Raises:
        ConfigError: with what to give.
    """
    if (table is None) == (dataset is None):
        raise ConfigError("Give either --table FILE or --dataset NAME.")
    if table is not None and not _files(table):
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
) -> Source:
    """Return where the table comes from, fetched if need be."""
    check_named(table, dataset)
    if table is not None:
        return _named(table, _files(table), schema)
    assert dataset is not None
    if dataset == SIMULATED:
        from healthgym.data.simulate import simulate_chunks

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


def _named(table: Path, files: Sequence[Path], schema: Schema) -> Source:
    if files == [table]:
        return Source(str(table), f"sha256:{_digest(table)}", lambda: read_parts(table, schema))
    # Names and order of the files change nothing in the cohort, so they do not identify it.
    digests = hashlib.sha256("".join(sorted(map(_digest, files))).encode()).hexdigest()

    def read() -> Iterator[pd.DataFrame]:
        for file in files:
            for part in read_parts(file, schema):
                check_columns(part, schema, str(file))
                yield part.rename_axis(index=f"{file.name} {part.index.name or 'row'}")

    return Source(f"{table} ({len(files)} files)", f"{len(files)} files, sha256:{digests}", read)


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise TableError(
            f"{path}: cannot be read: {error.strerror}. --table takes a file, a folder or a pattern of files."
        ) from None


def _files(table: Path) -> list[Path]:
    """Return the file; or all tables of a folder, or those that a pattern like FOLDER/*.csv names; sorted."""
    if table.is_file():
        return [table]
    found = table.iterdir() if table.is_dir() else table.parent.glob(table.name)
    return sorted(path for path in found if path.name.lower().endswith(FORMS) and path.name[0] != ".")
