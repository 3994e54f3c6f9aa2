"""From a table to a prepared cohort: check, split, fit on the training patients, encode, write.

The table is read once, in chunks. Its rows are kept in temporary files beside the output, so that memory
grows with the number of patients (ids and lengths) and not of rows. The chunk size does not affect the
output.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.encode import design_matrix, encode_codes
from healthgym.data.fitting.correlation import Moments
from healthgym.data.fitting.fitting import fit
from healthgym.data.fitting.stream import Patients, RowStore
from healthgym.data.fitting.transform import Transform
from healthgym.data.sequences import PreparedCohort
from healthgym.data.split import held_out
from healthgym.data.tables.missing import Fills
from healthgym.errors import TableError
from healthgym.schema import Schema
from healthgym.schema.cells import LEAST_PATIENTS, Cells, to_lists
from healthgym.storage.prepared import SplitWriter, prepared_writer

_SUFFIX = ".rows"


@dataclass(frozen=True)
class SplitSettings:
    """The patients that are used, and the share that is held out.

    Args:
        holdout: share of the patients held out from training.
        seed: of the split.
        max_patients: use only this number of patients, those with the lowest ids.
        least_patients: k of `healthgym.schema.cells`: a trained system stores no single values of fewer
            patients.
    """

    holdout: float = 0.2
    seed: int = 0
    max_patients: int | None = None
    least_patients: int = LEAST_PATIENTS


def prepare(
    frame: pd.DataFrame,
    schema: Schema,
    out: Path,
    split: SplitSettings = SplitSettings(),
    source: str = "table",
    sort: bool = False,
    recipe: dict[str, Any] | None = None,
) -> PreparedCohort:
    """Call `prepare_parts` with a table in memory."""
    return prepare_parts([frame], schema, out, split, source, sort, recipe)


def prepare_parts(
    parts: Iterable[pd.DataFrame],
    schema: Schema,
    out: Path,
    split: SplitSettings = SplitSettings(),
    source: str = "table",
    sort: bool = False,
    recipe: dict[str, Any] | None = None,
) -> PreparedCohort:
    """Write a prepared cohort and open it.

    Args:
        parts: the table in chunks, from `read_parts`. Chunks may end within a patient, and patients may be in
            any order, but the rows of each patient must be in the order of time.
        schema: of the table.
        out: the file to write, atomically.
        split: the patients to use and to hold out.
        source: names the table in messages.
        sort: whether rows that are out of order are sorted.
        recipe: the origin of the cohort, stored in the file.

    Raises:
        TableError: the table does not fit the schema, or has no training patients.
    """
    with _scratch(out) as folder:
        store = RowStore(folder, schema, source)
        for part in parts:
            store.add(part)
        patients = store.patients(sort).only(slice(split.max_patients))
        held_N = held_out(patients.ids, split.holdout, split.seed)
        _refuse_all_held(held_N, split, source)
        train, holdout = patients.only(~held_N), patients.only(held_N)
        fills, transform, cells = fit(store, train, schema, source, folder, split.least_patients)
        sizes = {name: (each.ids, each.lengths_N) for name, each in (("train", train), ("holdout", holdout))}
        with prepared_writer(out, sizes, len(schema.reals), len(schema.categoricals)) as writer:
            encoder = _Encoder(store, schema, fills, transform, cells)
            moments = Moments(schema.layout.num_features)
            encoder.write(train, writer.splits["train"], moments)
            encoder.write(holdout, writer.splits["holdout"])
            head = _head(schema, transform, cells, fills, store, recipe)
            writer.write_head(head, moments.correlation())
    return PreparedCohort.open(out)


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside the output, and remove those of killed processes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{escape(out.name)}.*{_SUFFIX}"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(_SUFFIX, f".{out.name}.", out.parent) as folder:
        yield Path(folder)


def _head(
    schema: Schema,
    transform: Transform,
    cells: Cells,
    fills: Fills,
    store: RowStore,
    recipe: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the facts about the whole cohort, for JSON."""
    head: dict[str, Any] = {
        "schema": schema.to_json(),
        "transform": {name: np.asarray(value).tolist() for name, value in transform.to_tree().items()},
        "cells": to_lists(cells.to_tree()),
        "fills": dict(fills.values),
        "first_timestep": store.first_timestep,
        "recipe": recipe or {},
    }
    if schema.keys.visits or schema.follow_up:
        head["time"] = store.form.to_tree()
    if store.grid_counts:
        head["grid"] = str(store.grid_counts)
    return head


def _refuse_all_held(held_N: NDArray[np.bool_], split: SplitSettings, source: str) -> None:
    """Refuse a split without training patients."""
    if held_N.all():
        raise TableError(
            f"{source}: all {len(held_N)} patients are in the holdout of {split.holdout:.0%}, and none is "
            f"left to train on. Use more patients, a smaller holdout or another seed."
        )


@dataclass(frozen=True)
class _Encoder:
    """Encodes rows for a prepared cohort."""

    store: RowStore
    schema: Schema
    fills: Fills
    transform: Transform
    cells: Cells

    def write(self, patients: Patients, writer: SplitWriter, moments: Moments | None = None) -> None:
        """Encode and write one split's rows, block by block."""
        names = [variable.name for variable in self.schema.reals]
        for block in patients.blocks():
            carried = self.fills.carry_forward(self.store.read(block), self.schema, modelled=False)
            filled = self.fills.carry_forward(carried, self.schema, modelled=True)
            reals = self.transform.forward_reals(filled[names].to_numpy(np.float64)).astype(np.float32)
            codes = encode_codes(filled, self.schema)
            raw = carried[names].to_numpy(np.float64)
            writer.append(reals, codes, raw, self.cells.encode(raw, block.lengths_N))
            if moments is not None:
                moments.add(design_matrix(reals, codes, self.schema.layout))
