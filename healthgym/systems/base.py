"""What every system offers, and how it draws its randomness.

Shapes: B batch, T timesteps, F features.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from healthgym import seeds
from healthgym.distributed.share import WHOLE, Share
from healthgym.layout import FeatureLayout

# Nested mappings whose leaves are tensors or plain numbers.
State = dict[str, Any]


class Draws(ABC):
    """The randomness of one training step. A name says what the numbers are for.

    The first dimension of a drawn array is the batch's: a process that holds part of the global batch
    gets its rows of what a single process would draw.
    """

    @abstractmethod
    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return U(0,1) numbers, float32."""

    @abstractmethod
    def shared_uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return U(0,1) numbers that are the same in every process."""

    def from_row(self, first_row: int) -> "Draws":
        """Return what rows `first_row ...` of this process's batch draw."""
        if first_row:
            raise NotImplementedError(f"{type(self).__name__} draws for whole batches only")
        return self

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return N(0,1) numbers, by the Box-Muller transform of two uniform ones."""
        u = self.uniform(name, (shape[0], 2, *shape[1:]))
        return box_muller(u[:, 0], u[:, 1])

    def index(self, name: str, num_rows: int, count: int | Tensor) -> Tensor:
        """Return whole numbers uniform in 0..count-1, int64 (num_rows,); the count may be on the device."""
        return to_index(self.uniform(name, (num_rows,)), count)

    def shared_index(self, name: str, num_rows: int, count: int) -> Tensor:
        """Return whole numbers uniform in 0..count-1 that are the same in every process."""
        return to_index(self.shared_uniform(name, (num_rows,)), count)


class PositionDraws(Draws):
    """Numbers that depend on (seed, step, name, row of the global batch) and nothing else.

    Args:
        seed: the run's seed.
        step: the step about to be taken.
        device: where the numbers are wanted. On CUDA they come from the device's own Philox generator,
            so a run's numbers differ between CPU and CUDA.
        first_row: place of this process's first row in the global batch.
        num_rows: rows of the global batch, None if they are all this process's. On CUDA they decide the
            numbers.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        device: torch.device,
        first_row: int = 0,
        num_rows: int | None = None,
    ) -> None:
        self._seed, self._step, self._device = seed, step, device
        self._first_row, self._num_rows = first_row, num_rows

    def from_row(self, first_row: int) -> "PositionDraws":
        return PositionDraws(
            self._seed, self._step, self._device, self._first_row + first_row, self._num_rows
        )

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._draw(name, shape, self._first_row, self._num_rows)

    def shared_uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._draw(name, shape, 0, None)

    def _draw(self, name: str, shape: tuple[int, ...], first_row: int, num_rows: int | None) -> Tensor:
        position = ("train", self._step, name)
        if self._device.type == "cpu":
            return torch.from_numpy(seeds.uniform_rows(shape[1:], shape[0], first_row, self._seed, *position))
        generator = torch.Generator(self._device)
        generator.manual_seed(int(seeds.key(self._seed, *position)[0] >> np.uint64(1)))
        # The numbers depend on how many are drawn at once: every process draws the global batch's.
        count = num_rows or first_row + shape[0]
        rows = torch.rand(count, *shape[1:], generator=generator, device=self._device)
        return rows[first_row : first_row + shape[0]]


def box_muller(u: Tensor, v: Tensor) -> Tensor:
    """Return N(0,1) numbers from pairs of U[0,1) numbers.

    Source: Box and Muller, *A note on the generation of random normal deviates*, 1958.
    """
    return torch.sqrt(-2 * torch.log1p(-u)) * torch.cos(2 * torch.pi * v)


class KeptDraws(Draws):
    """Draws that lie in the same memory at every step, so that a recorded step reads new numbers there."""

    def __init__(self) -> None:
        self._source: Draws | None = None
        self._kept: dict[tuple[str, str, tuple[int, ...]], Tensor] = {}

    def renew(self, source: Draws) -> None:
        """Take the numbers of another step."""
        self._source = source
        for (kind, name, shape), numbers in self._kept.items():
            numbers.copy_(getattr(source, kind)(name, shape))

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._keep("uniform", name, shape)

    def shared_uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._keep("shared_uniform", name, shape)

    def _keep(self, kind: str, name: str, shape: tuple[int, ...]) -> Tensor:
        place = (kind, name, shape)
        if place not in self._kept:
            self._kept[place] = getattr(self._source, kind)(name, shape)
        return self._kept[place]


def to_index(u: Tensor, count: int | Tensor) -> Tensor:
    """Return floor(u count), which float32 may round up to count, kept below it."""
    index: Tensor = (u * count).long().clamp_(max=count - 1)
    return index


class System(ABC):
    """Networks, optimisers and latent memory that learn from batches and make patients.

    Attributes:
        layout: meaning of the features.
        device: where all of it lives.
        share: this process's part of each batch; all of it unless the trainer sets another.
        num_candidates: patients that `sample` has tried so far, those counted in whom a guardrail
            dropped; 0 where none is ever dropped.
    """

    layout: FeatureLayout
    device: torch.device
    num_candidates: int = 0
    share: Share = WHOLE

    def train_step(self, x_BTF: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Take one step and return its losses as detached scalars, still on the device.

        With several processes, a loss of the global batch is the mean of theirs, weighted by patients.

        Args:
            x_BTF: a batch of features, or this process's share of one: reals in [0, 1], categorical
                blocks one-hot.
            draws: the step's randomness.
        """
        losses = self.compute_step(x_BTF, draws)
        self.count_step(x_BTF)
        return losses

    def compute_step(self, x_BTF: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Do the device's part of a step; all that Python keeps of it is left to `count_step`."""
        raise NotImplementedError

    def count_step(self, x_BTF: Tensor) -> None:  # noqa: B027 - most systems keep nothing in Python
        """Do Python's part of a step, after the device's."""

    def step_kind(self, x_BTF: Tensor) -> Hashable | None:
        """Return what two steps share whose device's parts are the same operations; None for a step that
        must not be recorded and repeated.
        """
        return None

    @abstractmethod
    def sample(self, length: int, seed: int, first_patient: int, num_patients: int) -> Tensor:
        """Make patients first_patient, first_patient + 1, ... of the cohort with this seed.

        A patient depends on the weights, the seed and the patient's number alone, not on the batch.

        Returns:
            x_BTF: reals in [0, 1]; each categorical block holds non-negative scores, the largest of
            which is the class.
        """

    @abstractmethod
    def state(self) -> State:
        """Return everything that the next step depends on, as nested mappings of tensors and numbers.

        The tensors are the live ones: copy them before the next step.
        """

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Take over what `state` returned; leaves may be tensors or numpy arrays."""

    @abstractmethod
    def sampling_state(self) -> State:
        """Return the part of the state that `sample` needs: what a release carries."""

    @abstractmethod
    def load_sampling_state(self, state: State) -> None:
        """Take over what `sampling_state` returned: the system can sample, but not go on training."""

    def num_parameters(self) -> int:
        """Return the number of trained numbers."""
        return 0

    def check_length(self, length: int) -> None:  # noqa: B027 - most systems take any length
        """Raise ConfigError if sequences of this length do not fit the system."""

    def shapes(self, length: int) -> str:
        """Return a line per stage with its shape, for sequences of this length; nothing if it has none."""
        return ""
