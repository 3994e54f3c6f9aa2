"""Assignment of training patients to the stages of a curriculum, including shortened and left-out patients.

If all patients have equal length, or a user lists the stages, stages have increasing length: each has all
    patients
with at least that number of timesteps, shortened to it. If lengths differ, `auto` and `full` make stages that
partition the patients by length, so that all train at full length: patients with a short follow-up are often
    the
sickest and must not be left out. A stage's shorter patients are padded and masked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.config import CurriculumConfig
from healthgym.data.class_counts import LENGTH
from healthgym.data.sequences import Sequences
from healthgym.errors import ConfigError, listed
from healthgym.schema import Schema
from healthgym.schema.cells import Cells

_MOST_STAGES = 8
_FAR = 2.0  # times the 99% quantile of length: longer patients are shortened to it
AT_LEAST = 10  # least number of patients in a group whose share is shown
_GROUPS = ("full length", "cut", "left out")


@dataclass(frozen=True)
class StagePatients:
    """The patients of one stage, in the order defined by `Stages`.

    Args:
        length: timesteps of the stage's batches.
        first, count: position of the first patient in the order, and the number of patients.
    """

    length: int
    first: int
    count: int


@dataclass(frozen=True)
class Stages:
    """All stages, by length.

    Args:
        stages: their patients.
        divided: whether the stages partition the patients by increasing length, padded to the stage's length;
            otherwise a stage has all patients of at least its length, the longest first, shortened to it.
    """

    stages: tuple[StagePatients, ...]
    divided: bool

    @property
    def lengths(self) -> tuple[int, ...]:
        """Timesteps of each stage."""
        return tuple(stage.length for stage in self.stages)

    def group_of(self, lengths_N: NDArray[Any]) -> NDArray[np.int64]:
        """Return the use of each patient: 0 at full length, 1 shortened, 2 left out."""
        known = np.array(self.lengths)
        if self.divided:
            return np.asarray((lengths_N > known[-1]).astype(np.int64))
        return np.where(lengths_N < known[0], 2, np.where(np.isin(lengths_N, known), 0, 1)).astype(np.int64)


def stages_of(config: CurriculumConfig, lengths_N: NDArray[Any]) -> Stages:
    """Return the stages of patients of these lengths.

    Raises:
        ConfigError: there are fewer patients than in a batch.
    """
    num_patients = len(lengths_N)
    if isinstance(config.lengths, str) and num_patients < config.batch_size:
        raise ConfigError(
            f"curriculum.batch_size is {config.batch_size} and there are {num_patients} training patients: "
            f"not one whole batch. Choose a batch size of at most {num_patients}."
        )
    if not isinstance(config.lengths, str):
        return _growing(config.lengths, lengths_N)
    if config.lengths == "whole":
        raise ConfigError(
            "curriculum.lengths is whole, but this system learns from patients of one length at a time. "
            "Write lengths: auto, full, or a list of lengths."
        )
    longest = int(lengths_N.max(initial=0))
    if (lengths_N == longest).all():
        every = range(config.every, longest, config.every)
        return _growing((longest,) if config.lengths == "full" else (*every, longest), lengths_N)
    most = 1 if config.lengths == "full" else min(_MOST_STAGES, num_patients // config.batch_size)
    return Stages(_divided(np.sort(lengths_N), config.batch_size, most), divided=True)


def _growing(lengths: Sequence[int], lengths_N: NDArray[Any]) -> Stages:
    counts = [(length, int((lengths_N >= length).sum())) for length in lengths]
    return Stages(tuple(StagePatients(length, 0, count) for length, count in counts), divided=False)


def _divided(sorted_N: NDArray[Any], batch_size: int, most: int) -> tuple[StagePatients, ...]:
    """Partition patients at quantiles of length; merge stages that do not fill a batch."""
    usual = int(np.quantile(sorted_N, 0.99, method="inverted_cdf"))
    last = int(sorted_N[-1]) if sorted_N[-1] <= _FAR * usual else usual
    shares = np.arange(1, most) / most
    inner = np.quantile(sorted_N, shares, method="inverted_cdf") if most > 1 else np.empty(0)
    shortest = [int(sorted_N[0])] if most > 1 else []
    ends = sorted({*shortest, *(int(end) for end in inner if end < last), last})
    stages: list[StagePatients] = []
    first = 0
    for end in ends:
        stop = len(sorted_N) if end == last else int(np.searchsorted(sorted_N, end, side="right"))
        if stop - first >= batch_size:
            stages.append(StagePatients(end, first, stop - first))
            first = stop
    if first < len(sorted_N):  # the longest patients do not fill a batch: they join the previous stage
        before = stages.pop() if stages else StagePatients(last, 0, 0)
        stages.append(StagePatients(last, before.first, len(sorted_N) - before.first))
    return tuple(stages)


# --- use of the patients ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """Numbers of training patients used at full length, shortened, and left out.

    Args:
        counts: number of patients of each of these groups, in this order.
        classes: {static variable: {label: share in each group}}; None for groups of fewer than 10 patients.
    """

    counts: tuple[int, int, int]
    classes: Mapping[str, Mapping[str, tuple[float | None, ...]]] = field(default_factory=dict)

    @property
    def left_out(self) -> float:
        """The share of patients that are left out."""
        return self.counts[2] / max(sum(self.counts), 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON; counts from 1 to 9 are given as "fewer than 10"."""
        shown = [f"fewer than {AT_LEAST}" if 0 < count < AT_LEAST else count for count in self.counts]
        values: dict[str, Any] = {"patients": dict(zip(_GROUPS, shown, strict=True))}
        if self.classes:
            values["shares"] = {
                name: {label: dict(zip(_GROUPS, shares, strict=True)) for label, shares in table.items()}
                for name, table in self.classes.items()
            }
        return values

    def to_json(self) -> str:
        """Return the same as JSON text."""
        return json.dumps(self.to_dict())

    def lines(self) -> list[str]:
        """Return the numbers as lines of text; one line if all patients are used at full length."""
        total = max(sum(self.counts), 1)
        if self.counts[0] == total:
            return [f"all {total:,} training patients are used at full length"]
        counted = ", ".join(
            f"{count:,} ({count / total:.1%}) {name}"
            for count, name in zip(self.counts, _GROUPS, strict=True)
        )
        return [f"training patients: {counted}"] + [
            f"  {name} {label}: {_shares(shares)}"
            for name, table in self.classes.items()
            for label, shares in table.items()
        ]


def in_a_sentence(usage: Mapping[str, Any]) -> str:
    """Return the result of `Usage.to_dict` as a sentence."""
    counted = ", ".join(f"{count} {name}" for name, count in usage["patients"].items())
    shares = (
        f"{name} {label}: "
        + ", ".join(_share(share, group) for group, share in row.items() if share is not None)
        for name, table in usage.get("shares", {}).items()
        for label, row in table.items()
    )
    return "; ".join([counted, *shares])


def _shares(shares: Sequence[float | None]) -> str:
    told = [_share(share, name) for share, name in zip(shares, _GROUPS, strict=True) if share is not None]
    return ", ".join(told) or f"in no group of {AT_LEAST} patients"


def _share(share: float, name: str) -> str:
    return f"{share:.0%} of those {'at ' if name == 'full length' else ''}{name}"


def usage_of(stages: Stages, patients: Sequences, schema: Schema) -> Usage:
    """Return the use of the training patients, and how the groups differ in static classes."""
    lengths_N = patients.lengths_N
    if int(lengths_N.min()) == int(lengths_N.max()) == stages.lengths[-1]:
        return Usage((len(lengths_N), 0, 0))
    group_N = stages.group_of(lengths_N)
    counts = np.bincount(group_N, minlength=3)
    if counts[0] == len(group_N):
        return Usage((len(group_N), 0, 0))
    classes: dict[str, dict[str, tuple[float | None, ...]]] = {}
    codes_NS, names = static_codes(patients, schema)
    for code_N, name in zip(codes_NS.T, names, strict=True):
        labels = schema[name].labels
        table = np.stack([np.bincount(code_N[group_N == g], minlength=len(labels)) for g in range(3)])
        classes[name] = {
            label: tuple(float(table[g, k] / counts[g]) if counts[g] >= AT_LEAST else None for g in range(3))
            for k, label in enumerate(labels)
        }
    return Usage((int(counts[0]), int(counts[1]), int(counts[2])), classes)


def static_codes(patients: Sequences, schema: Schema) -> tuple[NDArray[np.uint8], list[str]]:
    """Return each patient's static classes, shape (N, S), and the names of these variables."""
    static = [k for k, variable in enumerate(schema.categoricals) if variable.static]
    names = [schema.categoricals[k].name for k in static]
    return patients.first_codes()[:, static], names


def static_pieces(patients: Sequences, schema: Schema, cells: Cells) -> tuple[NDArray[np.int64], list[str]]:
    """Return the pieces of each patient's static reals and of its length, shape (N, S), and their names."""
    static = [r for r, variable in enumerate(schema.reals) if variable.static]
    names = [*(schema.reals[r].name for r in static), LENGTH]
    length_N = cells.length.encode(patients.lengths_N.astype(np.float64))
    return np.column_stack([patients.first_pieces()[:, static], length_N]), names


def refuse_left_out(usage: Usage, config: CurriculumConfig) -> None:
    """Refuse to leave out more patients than the settings accept.

    Raises:
        ConfigError: describes these patients, with what to do.
    """
    if usage.left_out <= config.accept_left_out:
        return
    raise ConfigError(
        f"{usage.counts[2]:,} of {sum(usage.counts):,} training patients ({usage.left_out:.1%}) are shorter "
        f"than the first stage of curriculum.lengths and would be left out:\n"
        + "\n".join(f"  {line}" for line in usage.lines())
        + f"\nSet curriculum.lengths=auto, which trains on all patients, or begin {_begin(config)} at a "
        f"smaller length; curriculum.accept_left_out={_rounded_up(usage.left_out):g} accepts it as it is."
    )


def _begin(config: CurriculumConfig) -> str:
    return f"curriculum.lengths ({listed(str(each) for each in config.lengths)})"


def _rounded_up(share: float) -> float:
    return float(np.ceil(share * 100) / 100)
