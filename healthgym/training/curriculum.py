"""Which patients make which batch: a function of (seed, step).

One epoch walks the stages in order of length; a stage is every batch of the patients who have that many
timesteps, in a random order, the last incomplete batch left out. Nothing lists the patients of a stage: an
order is computed for the places of a batch, and one index serves all stages, if patients differ in length.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from healthgym import seeds
from healthgym.config import CurriculumConfig
from healthgym.errors import ConfigError


class HasLengths(Protocol):
    """Patients of known lengths."""

    @property
    def lengths_N(self) -> NDArray[np.int32]:
        """Timesteps of each patient."""


@dataclass(frozen=True)
class Stage:
    """One length of the curriculum.

    Args:
        length: timesteps.
        num_patients: who have them.
        num_batches: whole batches of them.
    """

    length: int
    num_patients: int
    num_batches: int


@dataclass(frozen=True)
class Place:
    """Where a step stands: all counted from 0."""

    epoch: int
    stage: int
    batch: int


class Curriculum:
    """The order of all batches.

    Attributes:
        stages: by length.
        num_cut: patients longer than the last stage, whose later timesteps are never seen.

    Args:
        config: lengths and batch size.
        patients: the training patients.
        seed: the run's seed.

    Raises:
        ConfigError: a stage would have no batch.
    """

    def __init__(self, config: CurriculumConfig, patients: HasLengths, seed: int) -> None:
        self.batch_size, self._seed = config.batch_size, seed
        counts = [
            (length, int((patients.lengths_N >= length).sum())) for length in _stage_lengths(config, patients)
        ]
        self.stages = tuple(Stage(length, count, count // config.batch_size) for length, count in counts)
        _check(self.stages, config, int(patients.lengths_N.max(initial=0)))
        self.num_cut = int((patients.lengths_N > self.max_length).sum())
        self._ends = np.cumsum([stage.num_batches for stage in self.stages])
        self._longest_first = _longest_first(patients, self.max_length)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one walk over all stages."""
        return int(self._ends[-1])

    @property
    def max_length(self) -> int:
        """Length of the last stage."""
        return self.stages[-1].length

    def place(self, step: int) -> Place:
        """Return where a step stands."""
        epoch, within = divmod(step, self.steps_per_epoch)
        stage = int(np.searchsorted(self._ends, within, side="right"))
        return Place(epoch, stage, within - int(self._ends[stage] - self.stages[stage].num_batches))

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the patients of a step's batch, int64 (batch_size,)."""
        place = self.place(step)
        first = place.batch * self.batch_size
        places_B = np.arange(first, first + self.batch_size)
        count = self.stages[place.stage].num_patients
        chosen_B = seeds.shuffled(places_B, count, self._seed, "order", place.epoch, place.stage)
        return chosen_B if self._longest_first is None else self._longest_first[chosen_B].astype(np.int64)

    def length(self, step: int) -> int:
        """Return T, the timesteps of a step's batch."""
        return self.stages[self.place(step).stage].length

    def timesteps_between(self, start: int, stop: int) -> int:
        """Return the timesteps per sequence, summed over steps start..stop-1: a measure of work."""
        return self._timesteps_before(stop) - self._timesteps_before(start)

    def _timesteps_before(self, step: int) -> int:
        epochs, within = divmod(step, self.steps_per_epoch)
        total = epochs * sum(stage.length * stage.num_batches for stage in self.stages)
        for stage in self.stages:
            taken = min(within, stage.num_batches)
            total, within = total + taken * stage.length, within - taken
        return total


def _longest_first(patients: HasLengths, length: int) -> NDArray[Any] | None:
    """Return the patients by length, so that each stage's come first; None if all are in every stage."""
    if (patients.lengths_N >= length).all():
        return None
    order_N = np.argsort(-patients.lengths_N, kind="stable")
    return order_N.astype(np.min_scalar_type(len(order_N)))


def _stage_lengths(config: CurriculumConfig, patients: HasLengths) -> tuple[int, ...]:
    if not isinstance(config.lengths, str):
        return config.lengths
    # The longest length that still fills a batch, so that a few long patients stop nobody.
    lengths = np.sort(patients.lengths_N)
    longest = int(lengths[-config.batch_size]) if len(lengths) >= config.batch_size else 0
    if longest == 0:
        raise ConfigError(
            f"curriculum.batch_size is {config.batch_size} and there are {len(lengths)} training patients: "
            f"not one whole batch. Choose a batch size of at most {len(lengths)}."
        )
    if config.lengths == "whole":
        raise ConfigError(
            "curriculum.lengths is whole, and this system learns from patients of one length at a time. "
            "Write lengths: auto, full, or a list of lengths."
        )
    if config.lengths == "full":
        return (longest,)
    return (*range(config.every, longest, config.every), longest)


def _check(stages: tuple[Stage, ...], config: CurriculumConfig, longest: int) -> None:
    if config.batch_size * stages[0].length < 2:
        raise ConfigError(
            "A batch of one patient with one timestep has no variance to learn from. Raise "
            "curriculum.batch_size to 2 or more, or start curriculum.lengths at 2."
        )
    for stage in stages:
        if stage.length > longest:
            raise ConfigError(
                f"curriculum.lengths asks for {stage.length} timesteps and the longest training patient has "
                f"{longest}. Leave out lengths above {longest}, or write lengths: auto."
            )
        if stage.num_batches == 0:
            raise ConfigError(
                f"The stage of length {stage.length} is empty: {stage.num_patients} training patients have "
                f"that many timesteps and a batch needs {config.batch_size}. Lower curriculum.batch_size or "
                f"leave out that length."
            )
