"""The curriculum of systems that learn from whole patients of different lengths.

Shapes: N patients, B batch, T timesteps.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym import seeds
from healthgym.config import CurriculumConfig
from healthgym.data.stages import StagePatients, Stages
from healthgym.errors import ConfigError
from healthgym.training.curriculum import Curriculum, HasLengths, Stage

_LEAST_BATCHES, _SMALLEST_BATCH = 22, 8  # with few patients batches are smaller, for enough steps per epoch
_MULTIPLE = 8  # batches are padded to multiples of this number of timesteps, for few different shapes
_NEARLY_EQUAL = 0.9  # share of the longest length above which every batch is padded to the longest


class WholeCurriculum(Curriculum):
    """One stage with all patients at full length, without the last incomplete batch of an epoch.

    An epoch's order is random, and a batch is padded to its longest patient. Batches of similar lengths would
    save padding, but gradients are clipped per batch, those of long patients more often than those of short
    ones, so that short patients would have too much weight (of 353 patients with liver cirrhosis 7.7% had one
    visit, but 13.4% of the synthetic ones).

    Args:
        config: batch size; reduced to at least 8 if an epoch would have fewer than 22 steps. With fewer
            patients, a batch has all of them.
        patients: the training patients.
        seed: the run's seed.
        fixed_length: pad every batch to the longest patient of all, so that all steps have the same shape.

    Raises:
        ConfigError: there are no timesteps to learn from.
    """

    def __init__(
        self, config: CurriculumConfig, patients: HasLengths, seed: int, fixed_length: bool = False
    ) -> None:
        self._lengths_N, self._seed = patients.lengths_N, seed
        count, longest = len(patients.lengths_N), int(patients.lengths_N.max(initial=0))
        if count == 0 or longest == 0:
            raise ConfigError(
                "No training patient has a timestep to learn from. Check the prepared cohort's table."
            )
        self.batch_size = min(config.batch_size, max(count // _LEAST_BATCHES, _SMALLEST_BATCH), count)
        self.stages = (Stage(longest, count, count // self.batch_size),)
        self.stage_patients = Stages((StagePatients(longest, 0, count),), divided=True)
        self._ends = np.array([self.stages[0].num_batches])
        nearly_equal = int(patients.lengths_N.min()) >= _NEARLY_EQUAL * longest
        self.fixed_length = fixed_length or nearly_equal

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the patients of a step's batch, int64 (batch_size,), the shortest first."""
        position, (stage,) = self.position(step), self.stages
        first = position.batch * self.batch_size
        positions_B = np.arange(first, first + self.batch_size)
        chosen_B = seeds.shuffled(positions_B, stage.num_patients, self._seed, "order", position.epoch, 0)
        batch_B: NDArray[np.int64] = chosen_B[np.argsort(self._lengths_N[chosen_B], kind="stable")]
        return batch_B

    def length(self, step: int) -> int:
        """Return T, the timesteps of a step's padded batch."""
        return self.padded(self._lengths_N[self.batch(step)])

    def padded(self, lengths_B: NDArray[Any]) -> int:
        """Return the number of timesteps that a batch of these lengths is padded to."""
        if self.fixed_length:
            return self.max_length
        return min(-(-int(lengths_B.max()) // _MULTIPLE) * _MULTIPLE, self.max_length)


def default_epochs(num_patients: int) -> int:
    """Return the default number of epochs of a system that learns from whole patients.

    It decreases with the number of patients: 20 epochs at 3,500 patients, between 3 and 60. More epochs
        overfitted
    on 2,852 intensive-care stays: of 34 planned epochs the 18th was the best.
    """
    return round(float(np.clip(20 * (3500 / num_patients) ** 0.45, 3, 60)))
