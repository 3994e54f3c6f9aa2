"""The source of synthetic patients: a checkpoint's system, transform and lengths."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from healthgym.config import SAMPLING_SETTINGS, CurriculumConfig, RunConfig
from healthgym.data.class_counts import ClassCounts
from healthgym.data.fitting.transform import Transform
from healthgym.data.length_groups import LengthGroup, from_text
from healthgym.errors import ConfigError, listed
from healthgym.schema import Schema
from healthgym.schema.cells import Cells
from healthgym.schema.timing import TimeForm
from healthgym.storage.checkpoint import Checkpoint, load_checkpoint
from healthgym.strict import Mark, differences, marked, merge, parse, parse_override
from healthgym.systems.base import System
from healthgym.systems.build import build_system
from healthgym.systems.patients import CohortFacts


@dataclass(frozen=True)
class Source:
    """A trained system, to be built on a device.

    Args:
        sha256: the checkpoint's.
        schema: what the features mean.
        transform: fitted on the training patients.
        lengths: {length: training patients of that length}.
        stages: lengths the system was trained at.
        build: builds the trained system on a device, "cpu" or "cuda", with changed sampling settings, as
            `key.path=value`.
        first_timestep: number of each patient's first timestep, as in the training table.
        time: facts that turn generated gaps into visit times.
        length_groups: lengths of training patients by static classes; None if all have the same length.
        usage: number of training patients used, from `Usage.to_dict`.
        decimals: number of decimals of real variables, if known.
        class_counts: training patients by static classes; None if unknown, as in a release.
        cells: of the real variables; None if the cohort was prepared without.
        data: the prepared cohort it was trained on; None if the checkpoint is a release.
    """

    sha256: str
    schema: Schema
    transform: Transform
    lengths: Mapping[int, int]
    stages: tuple[int, ...]
    build: Callable[[str, Sequence[str]], System]
    first_timestep: int = 0
    time: TimeForm = field(default_factory=TimeForm)
    length_groups: tuple[LengthGroup, ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)
    decimals: Mapping[str, int] = field(default_factory=dict)
    class_counts: ClassCounts | None = None
    cells: Cells | None = None
    data: Path | None = None

    @cached_property
    def written_decimals(self) -> dict[str, int]:
        """Number of decimals of a cohort's real variables; times have a precision of their own."""
        follow = self.schema.follow_up.time if self.schema.follow_up else ""
        shown = {name: count for name, count in self.decimals.items() if name != follow}
        if self.schema.gap:
            shown.pop(self.schema.gap.name, None)
        whole = self.time.follow_per_unit == 1.0 and not self.time.follow_dated
        return shown | ({follow: 0} if follow and whole else {})

    @cached_property
    def dates(self) -> dict[str, bool]:
        """Columns that are dates in the training table, and whether they are whole days."""
        follow, found = self.schema.follow_up, {}
        if self.time.dated:
            found[self.schema.keys.timestep] = self.time.per_unit == 1.0
        if follow and self.time.follow_dated:
            found[follow.time] = self.time.follow_per_unit == 1.0
        return found


Opener: TypeAlias = Callable[[Path], Source]
"""Reads a checkpoint file. Worker processes import it by name."""


def open_source(checkpoint_path: Path) -> Source:
    """Read a checkpoint file.

    Raises:
        StorageError: the file is missing or damaged.
    """
    checkpoint = load_checkpoint(checkpoint_path)

    def build(device: str, settings: Sequence[str]) -> System:
        return trained_system(checkpoint, device, settings)

    counts = checkpoint.statistics.class_counts
    lengths = {int(length): int(count) for length, count in checkpoint.statistics.lengths_2U.T}
    return Source(
        sha256=checkpoint.sha256,
        schema=checkpoint.schema,
        transform=Transform.from_tree(checkpoint.transform),
        lengths=lengths,
        stages=tuple(map(int, checkpoint.statistics.stages))
        or _stages(checkpoint.config.curriculum, max(lengths)),
        build=build,
        first_timestep=checkpoint.statistics.first_timestep,
        time=TimeForm.from_tree(checkpoint.statistics.time),
        length_groups=from_text(checkpoint.statistics.length_groups),
        usage=json.loads(checkpoint.statistics.usage or "{}"),
        decimals=checkpoint.decimals,
        class_counts=ClassCounts.from_text(counts) if counts else None,
        cells=Cells.from_tree(checkpoint.cells) if checkpoint.cells else None,
        data=None if checkpoint.released else checkpoint.config.data,
    )


def trained_system(checkpoint: Checkpoint, device: str, settings: Sequence[str] = ()) -> System:
    """Build a checkpoint's system on a device; the system of a release can only sample.

    Raises:
        ConfigError: a setting is unknown, or is not a sampling setting.
    """
    system = build_system(
        resample(checkpoint.config, settings).system,
        checkpoint.schema.layout,
        torch.from_numpy(checkpoint.statistics.correlation_FF),
        torch.device(device),
        checkpoint.config.training.seed,
        facts_of(checkpoint),
    )
    if checkpoint.released:
        system.load_sampling_state(checkpoint.state)
    else:
        system.load_state(checkpoint.state)
    return system


def facts_of(checkpoint: Checkpoint) -> CohortFacts:
    """Return a checkpoint's facts about its training patients."""
    lengths, counts = checkpoint.statistics.lengths_2U
    # In a release, rare lengths count as their neighbours'; the last stage has the longest that are made.
    longest = max([int(lengths.max()), *map(int, checkpoint.statistics.stages)])
    return CohortFacts(
        Cells.from_tree(checkpoint.cells) if checkpoint.cells else None,
        checkpoint.statistics.num_patients,
        longest,
        float(np.average(lengths, weights=counts)),
    )


def resample(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """Return a trained system's settings with changed sampling settings.

    Raises:
        ConfigError: a setting is unknown, or is not a sampling setting.
    """
    values = config.model_dump(mode="json")
    for setting in settings:
        values = merge(values, parse_override(setting))
    changed = parse(RunConfig, values, "--set")
    learned = [
        line for line in differences(config, changed) if line.partition(":")[0] not in SAMPLING_SETTINGS
    ]
    if learned:
        raise ConfigError(
            "--set can change how a trained system samples, but not settings of its training:\n"
            + "\n".join(f"  - {line}" for line in learned)
            + f"\nLeave these out; {_may_be_set(config)}."
        )
    return changed


def _may_be_set(config: RunConfig) -> str:
    settings = marked(type(config.system), Mark.SAMPLING, prefix="system.")
    if not settings:
        return "this system has no settings of sampling"
    return f"{listed(sorted(settings))} may be set"


def _stages(curriculum: CurriculumConfig, longest: int) -> tuple[int, ...]:
    """Return the stages' lengths of an older checkpoint, from its longest length."""
    if curriculum.lengths == "auto":
        return (*range(curriculum.every, longest, curriculum.every), longest)
    return (longest,) if isinstance(curriculum.lengths, str) else tuple(map(int, curriculum.lengths))
