"""The batches of a run, in order, on the device: gathered there if the cohort fits, or read one step ahead.

Compact codes are transferred; features are computed on the device if the system needs them. Both ways give
the same bits.

Shapes: B batch, T timesteps, R reals, K categorical variables.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from healthgym.data.sequences import RealForm, Sequences
from healthgym.storage.rows import RowsOnDisk
from healthgym.systems.base import Batch, System
from healthgym.training.curriculum import Curriculum

BLOCK_ROWS = 1 << 20
_SHARE_OF_FREE = 0.25  # of a device's free memory; the rest is the system's

Codes = tuple[Tensor, Tensor, Tensor]  # reals_BTR, codes_BTK, lengths_B


class StepBatch(NamedTuple):
    """The batch of a training step.

    Args:
        step: its number, from 0.
        length: T, timesteps of the padded batch.
        batch_size: patients of the global batch.
        batch: this process's patients of it.
    """

    step: int
    length: int
    batch_size: int
    batch: Batch


class _Source(Protocol):
    def __call__(self, chosen_B: NDArray[np.int64], length: int) -> Codes:
        """Return the first timesteps of some patients."""


class Batches(Iterator[StepBatch]):
    """An endless iterator over this process's part of the batches, starting at a step; must be closed.

    Args:
        curriculum: assigns patients to batches.
        patients: the training patients.
        system: determines the form of reals, the device and this process's share.
        step: the first step.
        on_device: whether all codes are kept on the device; `auto`: if it is a GPU and they fit.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        patients: Sequences,
        system: System,
        step: int = 0,
        on_device: bool | Literal["auto"] = "auto",
    ) -> None:
        self._curriculum, self._system, self._step = curriculum, system, step
        form, device = system.real_form, system.device
        self.resident = fits(patients, form, device) if on_device == "auto" else on_device
        self._source: _Source = (_Resident if self.resident else _Gathered)(patients, form, device)
        self._reader = None if self.resident else ThreadPoolExecutor(1, "batches")
        self._next: Future[StepBatch] | None = self._reader.submit(self._read) if self._reader else None

    def __next__(self) -> StepBatch:
        """Return the next step's batch, and start reading the one after it."""
        if self._next is None or self._reader is None:
            return self._read()
        found = self._next.result()
        self._next = self._reader.submit(self._read)
        reals, codes, lengths = (
            each.to(self._system.device, non_blocking=True) for each in found.batch.tensors().values()
        )
        padded = found.batch.is_padded
        return found._replace(batch=Batch(self._system.layout, reals, codes, lengths, padded))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._reader:
            self._reader.shutdown(cancel_futures=True)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> StepBatch:
        step, chosen_B, length = (
            self._step,
            self._curriculum.batch(self._step),
            self._curriculum.length(self._step),
        )
        self._step += 1
        own_B = chosen_B[self._system.share.own(len(chosen_B))]
        padded = self._curriculum.stage_patients.divided
        batch = Batch(self._system.layout, *self._source(own_B, length), padded)
        return StepBatch(step, length, len(chosen_B), batch)


def fits(patients: Sequences, form: RealForm, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(each.nbytes for each in patients.encoded(form)) <= _SHARE_OF_FREE * free


def _pinned(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return a tensor in pinned memory, for asynchronous transfer to the device."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


class _Resident:
    """All codes in the device's memory."""

    def __init__(self, patients: Sequences, form: RealForm, device: torch.device) -> None:
        self._patients, self._device = patients, device
        self._reals, self._codes = (_copied(each, device) for each in patients.encoded(form))

    def __call__(self, chosen_B: NDArray[np.int64], length: int) -> Codes:
        first_B, lengths_B = (
            _pinned(each, self._device).to(self._device, non_blocking=True)
            for each in self._patients.rows_of(chosen_B, length)
        )
        timestep_T = torch.arange(length, device=self._device)
        rows_BT = first_B[:, None] + torch.minimum(timestep_T, lengths_B[:, None] - 1)
        padding_BT1 = (timestep_T >= lengths_B[:, None]).unsqueeze(-1)
        reals_BTR, codes_BTK = (
            each[rows_BT].masked_fill_(padding_BT1, 0) for each in (self._reals, self._codes)
        )
        return reals_BTR, codes_BTK, lengths_B


def _copied(rows: RowsOnDisk, device: torch.device) -> Tensor:
    """Copy rows to the device block by block, with one block at a time in host memory."""
    dtype = torch.from_numpy(np.empty(0, rows.dtype)).dtype
    whole = torch.empty(rows.shape, dtype=dtype, device=device)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = np.array(rows[start : start + BLOCK_ROWS])
        whole[start : start + len(block)] = torch.from_numpy(block).to(device)
    return whole


class _Gathered:
    """Codes gathered from the file, in the thread that reads ahead.

    From a file in the page cache a batch takes a fraction of a millisecond; reading ahead matters for cohorts
    larger than memory, which are read from the disk.
    """

    def __init__(self, patients: Sequences, form: RealForm, device: torch.device) -> None:
        self._patients, self._form, self._device = patients, form, device

    def __call__(self, chosen_B: NDArray[np.int64], length: int) -> Codes:
        reals, codes, lengths = self._patients.gather(chosen_B, length, self._form)
        return _pinned(reals, self._device), _pinned(codes, self._device), _pinned(lengths, self._device)
