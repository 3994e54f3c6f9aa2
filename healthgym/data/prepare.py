"""From a table to a prepared cohort: check, split, fit on the training patients, encode, write."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.correlation import Moments
from healthgym.data.encode import design_matrix, encode_codes
from healthgym.data.missing import Fills
from healthgym.data.sequences import PreparedCohort
from healthgym.data.split import held_out
from healthgym.data.table import check_rows
from healthgym.data.transform import BOXCOX_EPS, Transform
from healthgym.errors import TableError, listed
from healthgym.schema import Schema
from healthgym.storage.prepared import SplitWriter, prepared_writer, write_head

_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class SplitSettings:
    """Which patients are used, and how many of them are held out."""

    holdout: float = 0.2
    seed: int = 0
    max_patients: int | None = None


def prepare(
    frame: pd.DataFrame,
    schema: Schema,
    out: Path,
    split: SplitSettings = SplitSettings(),
    source: str = "table",
    sort: bool = False,
    recipe: dict[str, Any] | None = None,
) -> PreparedCohort:
    """Write a prepared cohort and open it.

    Args:
        frame: the table, as `read_table` gives it.
        schema: what its columns mean.
        out: the file to write; whole or absent.
        split: which patients to use and hold out. `max_patients` takes the lowest ids.
        source: names the table in messages.
        sort: whether rows that are out of order are sorted.
        recipe: what the cohort was made from, kept in the file.

    Raises:
        TableError: the table does not fit the schema, or leaves nothing to train on.
    """
    checked = check_rows(frame, schema, source, sort)
    ids, lengths_N = patients_of(checked, schema)
    if split.max_patients is not None:
        ids, lengths_N = ids[: split.max_patients], lengths_N[: split.max_patients]
        checked = checked.iloc[: lengths_N.sum()]
    held_N = held_out(ids, split.holdout, split.seed)
    refuse_all_held(held_N, split, source)
    train = ~np.repeat(held_N, lengths_N)
    fills = Fills.fit(checked[train], schema, source)
    table = fills.carry_forward(checked, schema, modelled=False)
    extremes = {v.name: (table[v.name][train].min(), table[v.name][train].max()) for v in schema.reals}
    refuse_constant(extremes, schema, source)
    transform = Transform.fit(table[train], schema)
    parts = {"train": ~held_N, "holdout": held_N}
    with prepared_writer(
        out,
        {name: (ids[chosen], lengths_N[chosen]) for name, chosen in parts.items()},
        len(schema.reals),
        len(schema.categoricals),
    ) as (file, writers):
        moments = Moments(schema.layout.num_features)
        encode_rows(table[train], schema, fills, transform, writers["train"], moments)
        encode_rows(table[~train], schema, fills, transform, writers["holdout"])
        first_timestep = int(checked[schema.keys.timestep].iloc[0])
        head = head_of(schema, transform, fills, first_timestep, recipe)
        write_head(file, head, moments.correlation())
    return PreparedCohort.open(out)


def patients_of(checked: pd.DataFrame, schema: Schema) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return each patient's id and number of timesteps."""
    patient = checked[schema.keys.patient].to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], patient[1:] != patient[:-1]]))
    return patient[starts], np.diff(starts, append=len(patient)).astype(np.int32)


def head_of(
    schema: Schema, transform: Transform, fills: Fills, first_timestep: int, recipe: dict[str, Any] | None
) -> dict[str, Any]:
    """Return what belongs to the whole cohort, as JSON has it."""
    return {
        "schema": schema.to_json(),
        "transform": {name: np.asarray(value).tolist() for name, value in transform.to_tree().items()},
        "fills": dict(fills.values),
        "first_timestep": first_timestep,
        "recipe": recipe or {},
    }


def refuse_all_held(held_N: NDArray[np.bool_], split: SplitSettings, source: str) -> None:
    """Somebody must be left to train on."""
    if held_N.all():
        raise TableError(
            f"{source}: all {len(held_N)} patients fall into the holdout of {split.holdout:.0%}, and none is "
            f"left to train on. Use more patients, a smaller holdout or another seed."
        )


def refuse_constant(extremes: Mapping[str, tuple[float, float]], schema: Schema, source: str) -> None:
    """A constant has no Box-Cox transform and nothing to learn.

    Args:
        extremes: lowest and highest value of real variables among the training patients.
    """
    shifts = {v.name: BOXCOX_EPS + v.offset for v in schema.reals}
    constant = [name for name, (low, high) in extremes.items() if low + shifts[name] == high + shifts[name]]
    if constant:
        shown = listed(f"'{name}' = {extremes[name][0]:g}" for name in constant)
        raise TableError(
            f"{source}: the same value in every row of the training patients: {shown}. There is nothing to "
            f"learn from it: take it out of the schema."
        )


def encode_rows(
    table: pd.DataFrame,
    schema: Schema,
    fills: Fills,
    transform: Transform,
    writer: SplitWriter,
    moments: Moments | None = None,
) -> None:
    """Encode and write one split's rows, block by block."""
    filled = fills.carry_forward(table, schema, modelled=True)
    names = [variable.name for variable in schema.reals]
    for start in range(0, len(table), _BLOCK_ROWS):
        block = filled.iloc[start : start + _BLOCK_ROWS]
        reals = transform.forward_reals(block[names].to_numpy(np.float64)).astype(np.float32)
        codes = encode_codes(block, schema)
        writer.append(reals, codes, table[names].iloc[start : start + _BLOCK_ROWS].to_numpy(np.float64))
        if moments is not None:
            moments.add(design_matrix(reals, codes, schema.layout))
