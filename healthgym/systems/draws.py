"""Sources of random numbers for systems: `Draws` in a training step, `SampleDraws` in sampling.

Both are functions of position (see `healthgym.seeds`), so that there is no state to save.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from healthgym import seeds
from healthgym.systems import device_rows


class Draws(ABC):
    """The randomness of one training step. Numbers of different purposes have different names.

    The first dimension of a drawn array is that of the batch: a process with part of the global batch
    gets its rows of the array that a single process would draw.
    """

    @abstractmethod
    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return U(0,1) numbers, float32."""

    @abstractmethod
    def shared_uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return U(0,1) numbers that are the same in every process."""

    def from_row(self, first_row: int) -> "Draws":
        """Return the draws of rows `first_row ...` of this process's batch."""
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
    """Numbers that depend only on (seed, step, name, row of the global batch).

    Args:
        seed: the run's seed.
        step: number of the step.
        device: of the numbers. On CUDA they come from the device's own Philox generator, so that numbers
            differ between CPU and CUDA.
        first_row: index of this process's first row in the global batch.
        num_rows: number of rows of the global batch, None if all are this process's. On CUDA the numbers
            depend on it.
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
        return type(self)(self._seed, self._step, self._device, self._first_row + first_row, self._num_rows)

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
        # The numbers depend on the number of rows: every process draws those of the global batch.
        count = num_rows or first_row + shape[0]
        rows = torch.rand(count, *shape[1:], generator=generator, device=self._device)
        return rows[first_row : first_row + shape[0]]


def box_muller(u: Tensor, v: Tensor) -> Tensor:
    """Return N(0,1) numbers from pairs of U[0,1) numbers.

    Source: Box and Muller, *A note on the generation of random normal deviates*, 1958.
    """
    return torch.sqrt(-2 * torch.log1p(-u)) * torch.cos(2 * torch.pi * v)


class KeptDraws(Draws):
    """Draws in the same memory at every step, so that a CUDA graph reads new numbers there."""

    def __init__(self) -> None:
        self._source: Draws | None = None
        self._kept: dict[tuple[str, str, tuple[int, ...]], Tensor] = {}
        self._parts: dict[int, KeptDraws] = {}

    def renew(self, source: Draws) -> None:
        """Copy the numbers of another step."""
        self._source = source
        for first_row, part in self._parts.items():
            part.renew(source.from_row(first_row))
        for (kind, name, shape), numbers in self._kept.items():
            numbers.copy_(getattr(source, kind)(name, shape))

    def from_row(self, first_row: int) -> "KeptDraws":
        if not first_row:
            return self
        if first_row not in self._parts:
            assert self._source is not None
            part = self._parts[first_row] = KeptDraws()
            part.renew(self._source.from_row(first_row))
        return self._parts[first_row]

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._keep("uniform", name, shape)

    def shared_uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._keep("shared_uniform", name, shape)

    def _keep(self, kind: str, name: str, shape: tuple[int, ...]) -> Tensor:
        key = (kind, name, shape)
        if key not in self._kept:
            self._kept[key] = getattr(self._source, kind)(name, shape)
        return self._kept[key]


def to_index(u: Tensor, count: int | Tensor) -> Tensor:
    """Return floor(u count), limited to count - 1, since float32 may round u count up to count."""
    index: Tensor = (u * count).long().clamp_(max=count - 1)
    return index


@dataclass(frozen=True)
class SampleDraws:
    """The randomness of sampling: a function of (seed, number of the patient, purpose).

    A patient's numbers therefore do not depend on its batch, shard or process. For numbers that differ by
    timestep, the timestep is part of the purpose, or all timesteps of a patient are drawn as one row.

    Args:
        seed: the cohort's.
        first_patient: number of the first patient.
        num_patients: number of patients.
    """

    seed: int
    first_patient: int
    num_patients: int

    @property
    def patients(self) -> range:
        """The patients' numbers."""
        return range(self.first_patient, self.first_patient + self.num_patients)

    def part(self, first: int, count: int) -> "SampleDraws":
        """Return the draws of `count` of these patients, from the first-th on; fewer at the end."""
        return SampleDraws(self.seed, self.first_patient + first, min(count, self.num_patients - first))

    def uniform_rows(self, row_shape: tuple[int, ...], *purpose: str | int) -> NDArray[np.float32]:
        """Return U[0,1) numbers, one row per patient, shape (num_patients, *row_shape).

        Args:
            row_shape: shape of a patient's numbers. Rows of different shapes overlap within one purpose, so a
                variable size, such as the number of timesteps, must be part of the purpose.
            purpose: of the numbers, such as ("slot", timestep).
        """
        return seeds.uniform_rows(
            row_shape, self.num_patients, self.first_patient, self.seed, "synthesis", *purpose
        )

    def uniform_on(self, device: torch.device, row_shape: tuple[int, ...], *purpose: str | int) -> Tensor:
        """Return the numbers of `uniform_rows` on a device, computed there."""
        if device.type == "cpu":
            return torch.from_numpy(self.uniform_rows(row_shape, *purpose))
        return self.uniform_of(device, row_shape, [purpose])[0]

    def uniform_of(
        self, device: torch.device, row_shape: tuple[int, ...], purposes: Sequence[tuple[str | int, ...]]
    ) -> Tensor:
        """Return the numbers of several purposes on a device, (purposes, num_patients, *row_shape)."""
        if device.type == "cpu":
            rows = [torch.from_numpy(self.uniform_rows(row_shape, *purpose)) for purpose in purposes]
            return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)
        first, count = self.first_patient, self.num_patients
        positions = [("synthesis", *purpose) for purpose in purposes]
        return device_rows.uniform_rows_of(row_shape, count, first, device, self.seed, positions)

    def stream(self, patient: int, *purpose: str | int) -> np.random.Generator:
        """Return an endless stream of one patient's numbers; `patient` is its number in the cohort."""
        return seeds.stream(self.seed, "synthesis", patient, *purpose)
