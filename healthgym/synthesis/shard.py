"""One shard: a pure function of (checkpoint, plan, number of the shard).

Shapes: N patients of the shard, B patients of a batch, T timesteps, R reals, K categorical variables.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from healthgym.data.length_groups import draw_lengths
from healthgym.data.tables.visits import follow_times, visit_times
from healthgym.errors import CohortError
from healthgym.schema import Schema, measured_class
from healthgym.stopping import Stopped
from healthgym.storage.shard import Shard, blank_code, code_dtype
from healthgym.storage.shards import Disagreement
from healthgym.synthesis.conditions import read_conditions
from healthgym.synthesis.plan import SynthesisPlan
from healthgym.synthesis.source import Source
from healthgym.systems.base import Made, Making, SampleDraws, System

_ROWS_AT_ONCE = 16_384

_Part: TypeAlias = tuple[NDArray[np.int64], Made]
"""Indices of some of a shard's patients, and these patients as sampled."""

_Batch: TypeAlias = tuple[NDArray[np.int64], Making]
"""Indices of some of a shard's patients, and these patients as they are being sampled."""


@dataclass(frozen=True)
class Computed:
    """Sampled patients of a shard.

    Args:
        parts: all of its patients.
        tried: number of patients sampled, including those that a guardrail rejected.
    """

    parts: list[_Part]
    tried: int


_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_WHOLE = 2.0**53


def make_shard(
    source: Source,
    system: System,
    plan: SynthesisPlan,
    index: int,
    stop: Callable[[], object] = lambda: None,
    tell: Callable[[int], None] = lambda patients: None,
) -> tuple[Shard, dict[str, Disagreement]] | None:
    """Make a shard: compute its patients, batch by batch, and pack them.

    Args:
        source: schema, transform and lengths.
        system: trained.
        plan: of the cohort.
        index: the shard's number.
        stop: called before each batch; a true value ends the work.
        tell: called with the number of patients after each batch.

    Returns:
        The shard and the disagreement of its static variables, or None if stopped.
    """
    computed = compute_shard(source, system, plan, index, stop, tell)
    return None if computed is None else pack_shard(source, plan, index, computed)


def compute_shard(
    source: Source,
    system: System,
    plan: SynthesisPlan,
    index: int,
    stop: Callable[[], object] = lambda: None,
    tell: Callable[[int], None] = lambda patients: None,
) -> Computed | None:
    """Do the part of `make_shard` that needs the system: sample all patients."""
    return next((computed for _, computed in compute_shards(source, system, plan, [index], stop, tell)), None)


def compute_shards(
    source: Source,
    system: System,
    plan: SynthesisPlan,
    indices: Iterable[int],
    stop: Callable[[], object] = lambda: None,
    tell: Callable[[int], None] = lambda patients: None,
) -> Iterator[tuple[int, Computed]]:
    """Yield the numbers of shards and their sampled patients; end within a shard if stopped.

    A GPU begins with a batch before the one before it is read, also when that was a shard's last one: it
    computes while results are copied, and sent to other processes.
    """
    batches = _begun(source, system, plan, indices, stop)
    parts: list[_Part] = []
    tried = 0
    for batch in _one_ahead(batches) if system.device.type == "cuda" else batches:
        parts.append((batch.members_B, batch.finish()))
        tried += batch.tried
        tell(len(batch.members_B))
        if batch.is_last:
            yield batch.index, Computed(parts, tried)
            parts, tried = [], 0


@dataclass(frozen=True)
class _Begun:
    """A batch of patients that are being computed.

    Args:
        index: of the shard.
        members_B: indices of the patients within the shard.
        finish: waits for them.
        tried: number of patients sampled, including those that a guardrail rejected.
        is_last: whether it is the shard's last batch.
    """

    index: int
    members_B: NDArray[np.int64]
    finish: Making
    tried: int
    is_last: bool


def _begun(
    source: Source, system: System, plan: SynthesisPlan, indices: Iterable[int], stop: Callable[[], object]
) -> Iterator[_Begun]:
    """Yield batches that were begun, shard after shard, until stopped."""
    for index in indices:
        batches, left = _batches(source, system, plan, index, stop), len(plan.patients(index))
        while left:
            if stop():
                return
            before = system.num_candidates
            try:
                members_B, finish = next(batches)
            except Stopped:
                return
            left -= len(members_B)
            yield _Begun(index, members_B, finish, system.num_candidates - before, is_last=not left)


def _one_ahead(batches: Iterator[_Begun]) -> Iterator[_Begun]:
    """Yield each batch after the next one was begun, also if that fails: no finished batch is lost."""
    waiting, failure = next(batches, None), None
    while waiting is not None:
        try:
            following = next(batches, None)
        except Exception as error:
            following, failure = None, error
        yield waiting
        waiting = following
    if failure is not None:
        raise failure


def pack_shard(
    source: Source, plan: SynthesisPlan, index: int, computed: Computed
) -> tuple[Shard, dict[str, Disagreement]]:
    """Do the rest of `make_shard`, without the system: columns in the variables' units, lengths and times."""
    lengths_N = np.empty(len(plan.patients(index)), np.int32)
    for members_B, made in computed.parts:
        lengths_N[members_B] = made.lengths_B
    columns = _Columns(source, lengths_N)
    for part in computed.parts:
        columns.put(*part)
    first = plan.patients(index).start
    finished, times_N = _with_times(columns.finish(), lengths_N, source)
    shard = Shard(
        source.schema,
        first,
        lengths_N,
        finished,
        computed.tried,
        source.first_timestep,
        times_N,
        source.written_decimals,
        source.dates,
    )
    return shard, columns.disagreements


def _batches(
    source: Source, system: System, plan: SynthesisPlan, index: int, stop: Callable[[], object]
) -> Iterator[_Batch]:
    """Yield the shard's patients in batches, each begun when it is asked for."""
    if system.makes_lengths:
        return _of_generated_lengths(source, system, plan, index, stop)
    return _of_drawn_lengths(source, system, plan, index)


def _of_drawn_lengths(source: Source, system: System, plan: SynthesisPlan, index: int) -> Iterator[_Batch]:
    """Yield patients of the lengths drawn by the plan.

    A patient of length L is sampled at the shortest length >= L that the system was trained at, and
    shortened. If training patients differ in length, the plan's length only determines the length of
    sampling, and the patient's own length is drawn given its static classes. Patients sampled at one length
    use consecutive rows of noise, independent of their numbers.
    """
    first, lengths_N = plan.patients(index).start, plan.lengths(index, source.lengths)
    ends = np.array(sorted({*source.stages, int(lengths_N.max())}))
    sampled_N = ends[np.searchsorted(ends, lengths_N)]
    begun = 0
    for length in np.unique(sampled_N):
        members_L = np.flatnonzero(sampled_N == length)
        for start in range(0, len(members_L), plan.batch_size):
            members_B = members_L[start : start + plan.batch_size]
            draws = SampleDraws(plan.seed, first + begun, len(members_B))
            if _given_classes(source, plan):
                yield members_B, _sample_given(source, system, draws, int(length))
            else:
                yield members_B, system.begin_sample(lengths_N[members_B], draws, int(length))
            begun += len(members_B)


def _given_classes(source: Source, plan: SynthesisPlan) -> bool:
    """Return whether a patient's length is drawn given its static classes."""
    return bool(source.length_groups) and plan.timesteps == "training"


def _sample_given(source: Source, system: System, draws: SampleDraws, length: int) -> Making:
    """Begin to sample patients at one length, and draw their own lengths given their static classes."""
    groups = [group for group in source.length_groups if group.stage == length]
    u_B = draws.uniform_rows((), "length given classes").astype(np.float64)
    static = {v.name: k for k, v in enumerate(source.schema.categoricals) if v.static}

    def choose(codes_KB: NDArray[np.uint8]) -> NDArray[np.int32]:
        return draw_lengths(groups, length, {name: codes_KB[k] for name, k in static.items()}, u_B)

    shortest = min(min(group.lengths) for group in groups)
    return system.begin_sample_given(choose, shortest, draws, length)


def _of_generated_lengths(
    source: Source, system: System, plan: SynthesisPlan, index: int, stop: Callable[[], object]
) -> Iterator[_Batch]:
    """Yield patients whose lengths are generated with them.

    Block i has patients i * size to (i + 1) * size - 1 of the cohort, independent of the shards: a patient is
    always sampled together with the same others, since floating-point sums depend on the batch. A shard that
    needs part of a block samples all of it and keeps its part.
    """
    patients, size = plan.patients(index), system.block or plan.batch_size
    timesteps = None if plan.timesteps == "training" else plan.timesteps
    conditions = read_conditions(plan.where, plan.shares, source.schema)
    for start in range(patients.start // size * size, patients.stop, size):
        wanted = range(max(start, patients.start), min(start + size, patients.stop))
        making = system.begin_make(SampleDraws(plan.seed, start, size), timesteps, conditions, stop)
        yield np.arange(wanted.start, wanted.stop) - patients.start, _part_of(making, wanted, start)


def _part_of(making: Making, wanted: range, start: int) -> Making:
    """Return the wanted patients of a block that begins at this one."""
    return lambda: making().patients(slice(wanted.start - start, wanted.stop - start))


class _Columns:
    """A shard's columns, filled batch by batch."""

    def __init__(self, source: Source, lengths_N: NDArray[np.integer[Any]]) -> None:
        self._source, self._schema = source, source.schema
        self.lengths_N = lengths_N.astype(np.int32)
        self.disagreements: dict[str, Disagreement] = {}
        self._starts_N = np.cumsum(lengths_N, dtype=np.int64) - lengths_N
        rows = int(lengths_N.sum())
        self._reals = np.empty((len(self._schema.reals), rows), dtype=np.float32)
        self._codes = np.empty((len(self._schema.categoricals), rows), dtype=np.uint8)
        self._scaled = True

    def put(self, members_B: NDArray[np.int64], made: Made) -> None:
        """Store the kept timesteps of a batch's patients."""
        self._scaled = made.scaled
        for position, found in made.disagreements.items():
            name, counts = self._schema.encoded[position].name, Disagreement(**found._asdict())
            known = self.disagreements.get(name)
            self.disagreements[name] = known + counts if known else counts
        timestep_T = np.arange(made.codes_KTB.shape[1])
        kept_BT: Any = timestep_T < self.lengths_N[members_B, None]
        rows = (self._starts_N[members_B, None] + timestep_T)[kept_BT]
        where: Any = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        if kept_BT.all():
            kept_BT = ...  # a mask takes ten times as long
        for column, real_TB in zip(self._reals, made.reals_RTB, strict=True):
            column[where] = real_TB.T[kept_BT].ravel()
        for codes, code_TB in zip(self._codes, made.codes_KTB, strict=True):
            codes[where] = code_TB.T[kept_BT].ravel()

    def finish(self) -> dict[str, NDArray[Any]]:
        """Return raw reals and class indices, missing where the generated flag says "not measured"."""
        for row, variable in enumerate(self._schema.reals):
            # Times must stay within the range of real patients, as values made from cells do anyway.
            if self._scaled and variable.name in _times(self._schema):
                np.clip(self._reals[row], 0.0, 1.0, out=self._reals[row])
        for start in range(0, self._reals.shape[1] if self._scaled else 0, _ROWS_AT_ONCE):
            part = self._reals[:, start : start + _ROWS_AT_ONCE]
            with np.errstate(over="ignore"):  # too large values are refused below
                part[:] = self._source.transform.inverse_reals(part.T).T  # in float64, then float32
        self._refuse_out_of_range()
        self._round()
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

    def _round(self) -> None:
        """Round reals to the decimals of the training data."""
        decimals, times = self._source.written_decimals, _times(self._schema)
        for row, variable in enumerate(self._schema.reals):
            if variable.name in decimals and variable.name not in times:
                values = np.round(self._reals[row].astype(np.float64), decimals[variable.name])
                self._reals[row] = values + 0.0  # no negative zero

    def _refuse_out_of_range(self) -> None:
        """Refuse reals beyond float32: infinity is not a value of a clinical variable."""
        for variable, values in zip(self._schema.reals, self._reals, strict=True):
            whole = self._source.written_decimals.get(variable.name) == 0
            largest = _LARGEST_WHOLE if whole else _LARGEST
            if count := int((np.abs(values) > largest).sum()):
                raise CohortError(
                    f"The trained system makes {count} value(s) of '{variable.name}' beyond {largest:.2g}, "
                    "the largest number of a shard, far outside the range of its training data. Choose an "
                    "earlier checkpoint with --checkpoint or, for v3, --set system.guardrail.kind=clamp."
                )


def _times(schema: Schema) -> set[str]:
    """Return the variables that are times: the gap between visits and the time of follow-up."""
    return {schema.gap.name if schema.gap else "", schema.follow_up.time if schema.follow_up else ""} - {""}


def _with_times(
    columns: dict[str, NDArray[Any]], lengths_N: NDArray[np.int32], source: Source
) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """Turn gaps into times, and the time after the last row into the time of follow-up.

    Returns:
        the columns without the gap, and the rows' times; None if timesteps are numbered.
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
