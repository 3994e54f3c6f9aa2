"""The prepared cohort on disk: compact codes, with the rows of all patients one after the other.

    head            JSON text: schema, transform, cells, fills, recipe, first timestep
    correlation     (F, F) float64, of the training patients' design matrix
    train, holdout  groups:
        reals       (rows, R) float32, transformed, gaps filled
        codes       (rows, K) uint8, class indices, gaps filled
        raw         (rows, R) float64, in the variables' units, NaN where the table has no value
        cells       (rows, R) int16, pieces of values, held and absent (see `healthgym.schema.cells`)
        lengths     (N,) int32, timesteps of each patient
        patient_ids (N,) int64 or text

Datasets are contiguous, so that rows can be read by position (`healthgym.storage.rows`) and only rows in use
are in memory. The file is sealed by a SHA-256 (see `healthgym.storage.tree`).
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from healthgym.errors import StorageError, listed
from healthgym.faults import patiently, reading
from healthgym.files import atomic_path
from healthgym.storage.hdf5 import open_to_read
from healthgym.storage.output import Output, hdf5_output
from healthgym.storage.rows import RowsOnDisk
from healthgym.storage.tree import check_kind, check_size, seal_file, verify_seal

KIND = "prepared cohort"
VERSION = 2
_READABLE = (1, 2)  # version 1 has no cells
_ROW_TYPES = {"reals": "<f4", "codes": "u1", "raw": "<f8", "cells": "<i2"}
_COMPARED_ROWS = 1 << 16


@dataclass(frozen=True)
class SplitArrays:
    """One split: its rows, which are read on access, its lengths, and a function that reads the ids.

    A cohort that was prepared before version 0.1.0 has no cells.
    """

    reals: RowsOnDisk
    codes: RowsOnDisk
    raw: RowsOnDisk
    lengths: NDArray[np.int32]
    read_ids: Callable[[], NDArray[Any]]
    cells: RowsOnDisk | None = None


class SplitWriter:
    """Writes the rows of one split from the first to the last.

    Args:
        writer: of the whole file.
        split: its name.
    """

    def __init__(self, writer: "PreparedWriter", split: str) -> None:
        self._writer, self._split = writer, split
        self._next = 0

    def append(
        self, reals: NDArray[Any], codes: NDArray[Any], raw: NDArray[Any], cells: NDArray[Any]
    ) -> None:
        """Write the next rows.

        Raises:
            OSError: there is no room, or the device fails.
        """
        for name, block in (("reals", reals), ("codes", codes), ("raw", raw), ("cells", cells)):
            self._writer.fill(f"{self._split}/{name}", self._next, block)
        self._next += len(reals)
        self._writer.output.check()


class PreparedWriter:
    """Writes a prepared cohort, and computes the checksum that each of its datasets should have.

    Args:
        file: the new file.
        output: the output of the file.
    """

    def __init__(self, file: h5py.File, output: Output) -> None:
        self.file, self.output = file, output
        self.splits: dict[str, SplitWriter] = {}
        self.meant: dict[str, int] = {}

    def add_split(self, split: str, ids: NDArray[Any], lengths: NDArray[np.int32], widths: Any) -> None:
        """Write a split's patients, and create the datasets of their rows."""
        self.put(f"{split}/lengths", lengths.astype("<i4"))
        self.put(f"{split}/patient_ids", ids if ids.dtype.kind == "i" else ids.astype(h5py.string_dtype()))
        rows = int(lengths.sum(dtype=np.int64))
        for name, width in widths.items():
            self.file[split].create_dataset(name, shape=(rows, width), dtype=_ROW_TYPES[name])
            self.meant[f"{split}/{name}"] = 0
        self.splits[split] = SplitWriter(self, split)

    def put(self, name: str, values: Any) -> None:
        """Write a whole dataset."""
        self.file[name] = values
        self.meant[name] = _checksum(values)

    def fill(self, name: str, start: int, rows: NDArray[Any]) -> None:
        """Write some rows of a dataset, the next ones."""
        dataset = self.file[name]
        rows = np.ascontiguousarray(rows, dataset.dtype)
        dataset[start : start + len(rows)] = rows
        self.meant[name] = _checksum(rows, self.meant[name])

    def write_head(self, head: Mapping[str, Any], correlation_FF: NDArray[np.float64]) -> None:
        """Write what belongs to the whole cohort."""
        self.put("head", json.dumps(head, allow_nan=False))
        self.put("correlation", correlation_FF)


@contextmanager
def prepared_writer(
    path: Path,
    patients: Mapping[str, tuple[NDArray[Any], NDArray[np.int32]]],
    num_reals: int,
    num_codes: int,
) -> Iterator[PreparedWriter]:
    """Yield a writer of a file, to be closed with its `write_head`; whole afterwards, or absent.

    Args:
        path: the file to make or replace.
        patients: (patient ids, lengths) of each split; their sum says how many rows it takes.
        num_reals: R.
        num_codes: K.

    Raises:
        OSError: there is no room, or the device fails.
        StorageError: the file does not hold what was written.
    """
    widths = {"reals": num_reals, "codes": num_codes, "raw": num_reals, "cells": num_reals}
    with atomic_path(path) as beside:
        with hdf5_output(beside, alignment_threshold=512, alignment_interval=64) as (file, output):
            file.attrs.update({"kind": KIND, "version": VERSION})
            writer = PreparedWriter(file, output)
            for split, (ids, lengths) in patients.items():
                file.create_group(split, track_order=True)
                writer.add_split(split, ids, lengths, widths)
            yield writer
        _compare(beside, path, writer.meant)
        seal_file(beside)


def _compare(beside: Path, path: Path, meant: Mapping[str, int]) -> None:
    """Read everything back before the file is sealed.

    Raises:
        StorageError: the content differs from what was written.
    """
    with _reading(beside) as file:
        wrong = [
            name for name, checksum in meant.items() if _checksum_on_disk(beside, file[name]) != checksum
        ]
    if wrong:
        raise StorageError(
            f"Cannot write {path}: {listed(wrong)} in it are not what was written: the disk was full for a "
            f"moment, or it fails. Free some space there, or give another --out."
        )


def _checksum_on_disk(path: Path, dataset: h5py.Dataset) -> int:
    if dataset.dtype.kind == "O":
        return _checksum(dataset.asstr()[()])
    if dataset.ndim != 2 or not dataset.size:
        return _checksum(dataset[()])
    rows, checksum = _rows(path, dataset), 0
    for first in range(0, len(rows), _COMPARED_ROWS):
        checksum = _checksum(rows[first : first + _COMPARED_ROWS], checksum)
    return checksum


def _checksum(values: Any, before: int = 0) -> int:
    """Return the CRC-32 of numbers or text, continuing from `before`."""
    if isinstance(values, str) or values.dtype.kind == "O":
        return zlib.crc32("\0".join(np.atleast_1d(values).tolist()).encode(), before)
    return zlib.crc32(np.ascontiguousarray(values).data, before)


def read_head(path: Path) -> dict[str, Any]:
    """Return a prepared cohort's head without reading its rows.

    Raises:
        StorageError: the file is missing, cut short, visibly altered, or of another kind or version.
    """
    _require(path)
    check_size(path)

    def read() -> dict[str, Any]:
        with _reading(path) as file:
            return dict(json.loads(file["head"][()]))

    return patiently(read, f"reading {path}")


def open_prepared(
    path: Path, verify: bool
) -> tuple[dict[str, Any], NDArray[np.float64], dict[str, SplitArrays], str]:
    """Open a prepared cohort.

    Args:
        path: the file.
        verify: whether every byte is checked against the seal (this reads the file once).

    Returns:
        head, correlation_FF, splits by name, SHA-256.

    Raises:
        StorageError: the file is missing, cut short, altered, or of another kind or version.
    """
    _require(path)
    seal = verify_seal(path) if verify else check_size(path)
    return patiently(lambda: _open(path, seal), f"reading {path}")


def _open(path: Path, seal: str) -> tuple[dict[str, Any], NDArray[np.float64], dict[str, SplitArrays], str]:
    with _reading(path) as file:
        splits = {
            name: SplitArrays(
                **{rows: _rows(path, group[rows]) for rows in _ROW_TYPES if rows in group},
                lengths=group["lengths"][()],
                read_ids=partial(_ids, path, name, seal),
            )
            for name, group in file.items()
            if isinstance(group, h5py.Group)
        }
        return json.loads(file["head"][()]), file["correlation"][()], splits, seal


def _require(path: Path) -> None:
    with reading(path):
        found = path.exists()
    if not found:
        raise StorageError(
            f"There is no prepared cohort {path}: prepare it first with healthgym prepare, or give its path "
            f"by --data."
        )


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    """Open a prepared cohort; errors of HDF5 or JSON mean damage, errors of the file system do not."""
    try:
        with open_to_read(path) as file:
            check_kind(file, path, KIND, _READABLE)
            yield file
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise StorageError(
            f"{path} is damaged: {' '.join(str(error).split())}. Use another copy of it, or prepare it again."
        ) from error


def _rows(path: Path, dataset: h5py.Dataset) -> RowsOnDisk:
    """Return a contiguous dataset's rows; HDF5 assigns no offset to an empty one."""
    return RowsOnDisk(path, dataset.dtype, dataset.shape, dataset.id.get_offset() or 0)


def _ids(path: Path, split: str, seal: str) -> NDArray[Any]:
    if check_size(path) != seal:
        raise StorageError(f"{path} was replaced by another cohort while it was used. Start again.")
    with _reading(path) as file:
        dataset = file[split]["patient_ids"]
        return np.asarray(dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()])
