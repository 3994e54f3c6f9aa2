"""Assignment of patients to batches: a function of (seed, step).

An epoch has the stages in order of length; a stage has all batches of its patients (see `data.stages`) in
random order, without the last incomplete batch. There is no shuffled list: the random order is computed for
the positions of a batch, and one index by length serves all stages.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from healthgym import seeds
from healthgym.config import CurriculumConfig
from healthgym.data.stages import Stages, stages_of
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
        num_patients: number of patients in it.
        num_batches: number of complete batches.
        first: position of its first patient in the order of lengths.
    """

    length: int
    num_patients: int
    num_batches: int
    first: int = 0


@dataclass(frozen=True)
class Position:
    """The position of a step in the curriculum, counted from 0."""

    epoch: int
    stage: int
    batch: int


class Curriculum:
    """The order of all batches.

    Attributes:
        stages: by length.
        stage_patients: the patients of each stage.

    Args:
        config: lengths and batch size.
        patients: the training patients.
        seed: the run's seed.

    Raises:
        ConfigError: a stage has no complete batch.
    """

    def __init__(self, config: CurriculumConfig, patients: HasLengths, seed: int) -> None:
        self.batch_size, self._seed = config.batch_size, seed
        self.stage_patients = stages_of(config, patients.lengths_N)
        self.stages = tuple(
            Stage(stage.length, stage.count, stage.count // config.batch_size, stage.first)
            for stage in self.stage_patients.stages
        )
        _check(self.stages, config, int(patients.lengths_N.max(initial=0)))
        self._ends = np.cumsum([stage.num_batches for stage in self.stages])
        self._order = _by_length(patients, self.stage_patients)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return int(self._ends[-1])

    @property
    def max_length(self) -> int:
        """Length of the last stage."""
        return self.stages[-1].length

    def position(self, step: int) -> Position:
        """Return the position of a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        stage = int(np.searchsorted(self._ends, within, side="right"))
        return Position(epoch, stage, within - int(self._ends[stage] - self.stages[stage].num_batches))

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the patients of a step's batch, int64 (batch_size,)."""
        position = self.position(step)
        first = position.batch * self.batch_size
        positions_B = np.arange(first, first + self.batch_size)
        stage = self.stages[position.stage]
        chosen_B = seeds.shuffled(
            positions_B, stage.num_patients, self._seed, "order", position.epoch, position.stage
        )
        return chosen_B if self._order is None else self._order[stage.first + chosen_B].astype(np.int64)

    def length(self, step: int) -> int:
        """Return T, the timesteps of a step's batch."""
        return self.stages[self.position(step).stage].length

    def timesteps_between(self, start: int, stop: int) -> int:
        """Return the timesteps per sequence, summed over steps start..stop-1, as a measure of work."""
        return self._timesteps_before(stop) - self._timesteps_before(start)

    def _timesteps_before(self, step: int) -> int:
        epochs, within = divmod(step, self.steps_per_epoch)
        total = epochs * sum(stage.length * stage.num_batches for stage in self.stages)
        for stage in self.stages:
            taken = min(within, stage.num_batches)
            total, within = total + taken * stage.length, within - taken
        return total


def _by_length(patients: HasLengths, stages: Stages) -> NDArray[Any] | None:
    """Return the patients in the stages' order by length; None if all are in every stage."""
    if not stages.divided and (patients.lengths_N >= stages.lengths[-1]).all():
        return None
    order_N = np.argsort(patients.lengths_N if stages.divided else -patients.lengths_N, kind="stable")
    return order_N.astype(np.min_scalar_type(len(order_N)))


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
