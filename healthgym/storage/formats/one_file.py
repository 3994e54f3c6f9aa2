"""All patients of a complete cohort in one file, written shard by shard."""

import json
import zlib
from pathlib import Path

import pyarrow.parquet as pq

from healthgym.errors import CohortError, ConfigError
from healthgym.faults import sentence
from healthgym.files import atomic_path, write_text
from healthgym.storage.cohort_folder import ONE_FILES
from healthgym.storage.formats.hdf5 import encode_all
from healthgym.storage.formats.table import csv_of, parquet_layout, table_of
from healthgym.storage.forms import require_ending
from healthgym.storage.shard import columns_table
from healthgym.storage.shards import CohortReader


def write_one_file(reader: CohortReader, path: Path) -> None:
    """Write a cohort's patients to one file atomically; beside a CSV also a description of its columns.

    One shard at a time is in memory. The same cohort gives the same bytes.

    Args:
        reader: of a complete cohort.
        path: its suffix determines the format (`ENDINGS`).

    Raises:
        CohortError: a shard is missing or altered, or the file cannot be written.
        ConfigError: the name ends otherwise.
    """
    try:
        ending = require_ending(path)
    except ValueError as error:
        raise ConfigError(f"--one-file: {error}.") from None
    write = {".parquet": _write_parquet, ".h5": _write_hdf5}.get(ending, _write_csv)
    refuse_to_replace(path, reader.folder)
    try:
        # Noted first: if the job is killed in between, the same command may write the file again.
        write_text(reader.folder / ONE_FILES, json.dumps(sorted({*_noted(reader.folder), _absolute(path)})))
        with atomic_path(path) as beside:
            write(reader, beside, ending)
        if write is _write_csv:
            manifest = reader.manifest
            notes = columns_table(reader.schema, manifest.decimals, manifest.dates)
            write_text(_columns_path(path, ending), notes)
    except OSError as error:
        said = sentence(error, path, "write") or f"Cannot write {path}: {error}."
        raise CohortError(f"{said} The cohort itself is complete: the same command tries again.") from error


def refuse_to_replace(path: Path, folder: Path) -> None:
    """Refuse a path with a file that was not written from the cohort in a folder.

    Raises:
        CohortError: with what to do.
    """
    ending = require_ending(path)
    others = (_columns_path(path, ending),) if ending.startswith(".csv") else ()
    for each in (path, *others):
        if each.exists() and _absolute(path) not in _noted(folder):
            raise CohortError(
                f"--one-file {path}: {each} exists already, and was not written from the cohort {folder}. "
                "Give another name, or remove it."
            )


def _columns_path(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name.removesuffix(ending)}.columns.csv")


def _absolute(path: Path) -> str:
    return str(path.resolve())


def _noted(folder: Path) -> list[str]:
    """Return the files that were written from a cohort."""
    try:
        return list(map(str, json.loads((folder / ONE_FILES).read_text())))
    except (OSError, ValueError):
        return []


def _write_csv(reader: CohortReader, path: Path, ending: str) -> None:
    packer = zlib.compressobj(6, wbits=31) if ending.endswith(".gz") else None
    with path.open("wb") as stream:
        for number, shard in enumerate(reader.iter_shards()):
            content = csv_of(shard, header=number == 0)
            stream.write(packer.compress(content) if packer else content)
        if packer:
            stream.write(packer.flush())


def _write_parquet(reader: CohortReader, path: Path, ending: str) -> None:
    tables = (table_of(shard) for shard in reader.iter_shards())
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, **parquet_layout(first.schema, "zstd")) as writer:
        writer.write_table(first, first.num_rows)
        for table in tables:
            writer.write_table(table.cast(first.schema), table.num_rows)


def _write_hdf5(reader: CohortReader, path: Path, ending: str) -> None:
    encode_all(reader.iter_shards(), reader.num_patients, reader.num_rows, path)
