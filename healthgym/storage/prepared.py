"""The prepared cohort on disk: compact codes, rows of all patients one after the other.

    head            JSON text: schema, transform, fills, recipe, first timestep
    correlation     (F, F) float64, of the training patients' design matrix
    train, holdout  groups:
        reals       (rows, R) float32, transformed, gaps filled
        codes       (rows, K) uint8, class indices, gaps filled
        raw         (rows, R) float64, in the variables' units, NaN where the table has no value
        lengths     (N,) int32, timesteps of each patient
        patient_ids (N,) int64 or text

Datasets are contiguous, so that they are read by position through a memory map: memory holds only what
is used. The file is sealed by a SHA-256 (see `healthgym.storage.tree`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from healthgym.errors import StorageError
from healthgym.files import atomic_path
from healthgym.storage.tree import SEAL_BYTES, check_kind, check_size, seal_file, verify_seal

KIND = "prepared cohort"
VERSION = 1
_ROW_TYPES = {"reals": "<f4", "codes": "u1", "raw": "<f8"}


@dataclass(frozen=True)
class SplitArrays:
    """One split: memory maps of its rows and lengths, and a function that reads the ids."""

    reals: NDArray[np.float32]
    codes: NDArray[np.uint8]
    raw: NDArray[np.float64]
    lengths: NDArray[np.int32]
    read_ids: Callable[[], NDArray[Any]]


class SplitWriter:
    """Fills one split's rows from the first to the last."""

    def __init__(self, group: h5py.Group) -> None:
        self._group = group
        self._next = 0

    def append(self, reals: NDArray[Any], codes: NDArray[Any], raw: NDArray[Any]) -> None:
        """Write the next rows."""
        end = self._next + len(reals)
        for name, block in (("reals", reals), ("codes", codes), ("raw", raw)):
            self._group[name][self._next : end] = block
        self._next = end


@contextmanager
def prepared_writer(
    path: Path,
    patients: Mapping[str, tuple[NDArray[Any], NDArray[np.int32]]],
    num_reals: int,
    num_codes: int,
) -> Iterator[tuple[h5py.File, dict[str, SplitWriter]]]:
    """Yield a file, to be closed with `write_head`, and a writer per split; whole afterwards, or absent.

    Args:
        path: the file to make or replace.
        patients: (patient ids, lengths) of each split; their sum says how many rows it takes.
        num_reals: R.
        num_codes: K.
    """
    widths = {"reals": num_reals, "codes": num_codes, "raw": num_reals}
    with atomic_path(path) as beside:
        with h5py.File(
            beside,
            "w",
            userblock_size=SEAL_BYTES,
            libver=("earliest", "v110"),
            alignment_threshold=512,
            alignment_interval=64,
        ) as file:
            file.attrs.update({"kind": KIND, "version": VERSION})
            writers = {}
            for split, (ids, lengths) in patients.items():
                group = file.create_group(split, track_order=True)
                group["lengths"] = lengths.astype("<i4")
                group["patient_ids"] = ids if ids.dtype.kind == "i" else ids.astype(h5py.string_dtype())
                rows = int(lengths.sum(dtype=np.int64))
                for name, width in widths.items():
                    group.create_dataset(name, shape=(rows, width), dtype=_ROW_TYPES[name])
                writers[split] = SplitWriter(group)
            yield file, writers
        seal_file(beside)


def write_head(file: h5py.File, head: Mapping[str, Any], correlation_FF: NDArray[np.float64]) -> None:
    """Write what belongs to the whole cohort."""
    file["head"] = json.dumps(head, allow_nan=False)
    file["correlation"] = correlation_FF


def read_head(path: Path) -> dict[str, Any]:
    """Return a prepared cohort's head without reading its rows.

    Raises:
        StorageError: the file is missing, cut short, visibly altered, or of another kind or version.
    """
    _require(path)
    check_size(path)
    with _reading(path) as file:
        return dict(json.loads(file["head"][()]))


def open_prepared(
    path: Path, verify: bool
) -> tuple[dict[str, Any], NDArray[np.float64], dict[str, SplitArrays], str]:
    """Open a prepared cohort.

    Args:
        path: the file.
        verify: whether every byte is checked against the seal (reads the file once).

    Returns:
        head, correlation_FF, splits by name, SHA-256.

    Raises:
        StorageError: the file is missing, cut short, altered, or of another kind or version.
    """
    _require(path)
    seal = verify_seal(path) if verify else check_size(path)
    with _reading(path) as file:
        splits = {
            name: SplitArrays(
                **{rows: _map(path, group[rows]) for rows in (*_ROW_TYPES, "lengths")},
                read_ids=partial(_ids, path, name, seal),
            )
            for name, group in file.items()
            if isinstance(group, h5py.Group)
        }
        return json.loads(file["head"][()]), file["correlation"][()], splits, seal


def _require(path: Path) -> None:
    if not path.exists():
        raise StorageError(
            f"There is no prepared cohort {path}: prepare it first with jobs/prepare.py, or give its path by "
            f"--data."
        )


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    """Open a prepared cohort; what HDF5 or JSON stumbles over is damage."""
    try:
        with h5py.File(path, "r") as file:
            check_kind(file, path, KIND, (VERSION,))
            yield file
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise StorageError(
            f"{path} is damaged: {' '.join(str(error).split())}. Use another copy of it, or prepare it anew."
        ) from error


def _map(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    """Return a dataset as a read-only memory map."""
    if dataset.size == 0:
        return np.empty(dataset.shape, dataset.dtype)
    return np.asarray(np.memmap(path, dataset.dtype, "r", dataset.id.get_offset(), dataset.shape))


def _ids(path: Path, split: str, seal: str) -> NDArray[Any]:
    if check_size(path) != seal:
        raise StorageError(f"{path} was replaced by another cohort meanwhile. Start again.")
    with _reading(path) as file:
        dataset = file[split]["patient_ids"]
        return np.asarray(dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()])
