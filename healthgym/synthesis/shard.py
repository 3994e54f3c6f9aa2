"""One shard: a pure function of (checkpoint, plan, number of the shard).

Shapes: N patients of the shard, B patients of a batch, T timesteps, R reals, K categorical variables.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from healthgym.data.encode import measured_class
from healthgym.data.visits import follow_times, visit_times
from healthgym.schema import Schema
from healthgym.storage.shard_file import Shard, blank_code, code_dtype
from healthgym.storage.shards import Disagreement
from healthgym.synthesis.decode import Decoded, decode
from healthgym.synthesis.plan import SynthesisPlan
from healthgym.synthesis.source import Source
from healthgym.systems.base import System

_ROWS_AT_ONCE = 16_384


def make_shard(
    source: Source,
    system: System,
    plan: SynthesisPlan,
    index: int,
    stop: Callable[[], object] = lambda: None,
    tell: Callable[[int], None] = lambda patients: None,
) -> tuple[Shard, dict[str, Disagreement]] | None:
    """Make a shard's patients, batch by batch.

    A patient of length L is sampled at the shortest length >= L that the system was trained at, and cut.

    Args:
        source: schema, transform and lengths.
        system: trained.
        plan: the cohort's recipe.
        index: the shard's number.
        stop: asked before each batch; anything true ends the work.
        tell: told the number of patients after each batch.

    Returns:
        The shard and the disagreement of its static variables, or None if it was to stop.
    """
    lengths_N = plan.lengths(index, source.lengths)
    columns = _Columns(source.schema, lengths_N)
    disagreements: dict[str, Disagreement] = {}
    first, tried_before = plan.patients(index).start, system.num_candidates
    for sampled, place, members_B in _batches(lengths_N, source.stages, plan.batch_size):
        if stop():
            return None
        x_BTF = system.sample(sampled, plan.seed, first + place, len(members_B))
        longest = int(lengths_N[members_B].max())
        lengths_B = torch.from_numpy(lengths_N[members_B].astype(np.int64)).to(x_BTF.device)
        decoded = decode(x_BTF[:, :longest], lengths_B, source.schema)
        columns.put(decoded, members_B)
        for name, counts in decoded.disagreements.items():
            disagreements[name] = disagreements[name] + counts if name in disagreements else counts
        tell(len(members_B))
    tried = system.num_candidates - tried_before
    finished, times_N = _with_times(columns.finish(source), lengths_N, source)
    shard = Shard(source.schema, first, lengths_N, finished, tried, source.first_timestep, times_N)
    return shard, disagreements


def _batches(
    lengths_N: NDArray[np.int32], stages: tuple[int, ...], batch_size: int
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Yield (length to sample, place of the batch's noise in the shard, its patients).

    Patients who are sampled at one length follow each other in the noise, whatever their numbers.
    """
    ends = np.array(sorted({*stages, int(lengths_N.max())}))
    sampled_N = ends[np.searchsorted(ends, lengths_N)]
    place = 0
    for length in np.unique(sampled_N):
        members = np.flatnonzero(sampled_N == length)
        for start in range(0, len(members), batch_size):
            batch = members[start : start + batch_size]
            yield int(length), place, batch
            place += len(batch)


class _Columns:
    """A shard's columns, filled batch by batch."""

    def __init__(self, schema: Schema, lengths_N: NDArray[np.int32]) -> None:
        self._schema, self._lengths_N = schema, lengths_N
        self._starts_N = np.cumsum(lengths_N, dtype=np.int64) - lengths_N
        rows = int(lengths_N.sum())
        self._reals = np.empty((len(schema.reals), rows), dtype=np.float32)
        self._codes = np.empty((len(schema.categoricals), rows), dtype=np.uint8)

    def put(self, decoded: Decoded, members_B: NDArray[np.int64]) -> None:
        """Place the kept timesteps of a batch's patients."""
        timestep_T = np.arange(decoded.codes_KTB.shape[1])
        kept_BT: Any = timestep_T < self._lengths_N[members_B, None]
        rows = (self._starts_N[members_B, None] + timestep_T)[kept_BT]
        where: Any = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        if kept_BT.all():
            kept_BT = ...  # a mask takes ten times as long
        for column, real_TB in zip(self._reals, decoded.reals_RTB, strict=True):
            column[where] = real_TB.T[kept_BT].ravel()
        for codes, code_TB in zip(self._codes, decoded.codes_KTB, strict=True):
            codes[where] = code_TB.T[kept_BT].ravel()

    def finish(self, source: Source) -> dict[str, NDArray[Any]]:
        """Return raw reals and class indices, blank where the generated flag says "not measured"."""
        for row, variable in enumerate(self._schema.reals):
            if variable.name in _times(self._schema):  # neither may leave the range of real patients
                np.clip(self._reals[row], 0.0, 1.0, out=self._reals[row])
        for start in range(0, self._reals.shape[1], _ROWS_AT_ONCE):  # in float64, then float32
            part = self._reals[:, start : start + _ROWS_AT_ONCE]
            part[:] = source.transform.inverse_reals(part.T).T
        names = (variable.name for variable in self._schema.reals)
        columns: dict[str, NDArray[Any]] = dict(zip(names, self._reals, strict=True))
        for codes, variable in zip(self._codes, self._schema.categoricals, strict=True):
            columns[variable.name] = codes.astype(code_dtype(variable), copy=False)
        for variable in self._schema.variables:
            if variable.missing == "model" and variable.measured_flag:
                flag = self._schema[variable.measured_flag]
                blank = columns[flag.name] != measured_class(flag)
                column = columns[variable.name] = columns[variable.name].copy()
                column[blank] = np.nan if variable.kind == "real" else blank_code(variable)
        return columns


def _times(schema: Schema) -> set[str]:
    """Return the variables that are times: the gap between visits and the time of follow-up."""
    return {schema.gap.name if schema.gap else "", schema.follow_up.time if schema.follow_up else ""} - {""}


def _with_times(
    columns: dict[str, NDArray[Any]], lengths_N: NDArray[np.int32], source: Source
) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """Make times of gaps, and the time of follow-up of the wait after the last row.

    Returns:
        the columns without the gap, and the rows' times; none where timesteps are numbered.
    """
    schema = source.schema
    if not _times(schema) and schema.keys.visits is None:
        return columns, None
    gap_N = columns.pop(schema.gap.name) if schema.gap else None
    times_N = visit_times(gap_N, lengths_N, schema, source.time, source.first_timestep)
    if schema.follow_up:
        last = np.cumsum(lengths_N, dtype=np.int64) - 1
        last_P = times_N[last].astype(np.float64)
        wait_P = columns[schema.follow_up.time][last].astype(np.float64)
        ends_P = follow_times(wait_P, last_P, schema, source.time).astype(np.float32)
        # As float32 it may not fall before the last row.
        early_P = ends_P < last_P * schema.time_ratio
        ends_P[early_P] = np.nextafter(ends_P[early_P], np.float32(np.inf))
        columns[schema.follow_up.time] = np.repeat(ends_P, lengths_N)
    return columns, times_N if schema.keys.visits else None
