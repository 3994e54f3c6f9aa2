"""Batches on their way to the device: gathered there if the cohort fits, else read one step ahead.

What travels are compact codes; they become one-hot blocks on the device. Either way gives the same bits.

Shapes: B batch, T timesteps, R reals, K categorical variables, F features.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from healthgym.data.sequences import Sequences
from healthgym.distributed.share import Share
from healthgym.layout import FeatureLayout
from healthgym.nn.heads import one_hot
from healthgym.training.curriculum import Curriculum

_BLOCK_ROWS = 1 << 20
_SHARE_OF_FREE = 0.25  # of a device's free memory; the rest is the system's

Codes = tuple[Tensor, Tensor]  # reals_BTR, codes_BTK
Batch = tuple[NDArray[np.int64], int]  # patients, length


class _Source(Protocol):
    def __call__(self, chosen_B: NDArray[np.int64], length: int) -> Codes:
        """Return the first timesteps of some patients, on the device."""


class BatchLoader:
    """Gives features x_BTF on the device for (patients, length); to be closed at the end.

    Args:
        patients: the training patients.
        layout: of their features.
        device: where the system is.
        upcoming: the batches that will be asked for, in order; any other can be had too, but must be
            waited for.
        on_device: whether all codes go to the device; `auto`: if it is a GPU and they fit.
    """

    def __init__(
        self,
        patients: Sequences,
        layout: FeatureLayout,
        device: torch.device,
        upcoming: Iterable[Batch] = (),
        on_device: bool | Literal["auto"] = "auto",
    ) -> None:
        self._layout = layout
        self.resident = _fits(patients, device) if on_device == "auto" else on_device
        self._ahead = None if self.resident else _Ahead(patients, device, iter(upcoming))
        self._source: _Source = self._ahead or _Resident(patients, device)

    def __call__(self, chosen_B: NDArray[np.int64], length: int) -> Tensor:
        """Return the features of some patients' first timesteps."""
        reals_BTR, codes_BTK = self._source(chosen_B, length)
        return one_hot(reals_BTR, codes_BTK, self._layout)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._ahead:
            self._ahead.close()

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def upcoming(curriculum: Curriculum, share: Share, step: int) -> Iterator[Batch]:
    """Yield this process's part of the batches from `step` on, without end."""
    while True:
        batch_B = curriculum.batch(step)
        yield batch_B[share.own(len(batch_B))], curriculum.stages[curriculum.place(step).stage].length
        step += 1


def _fits(patients: Sequences, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(each.nbytes for each in patients.encoded) <= _SHARE_OF_FREE * free


def _sent(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on the device, without waiting for it to arrive."""
    return _pinned(array, device).to(device, non_blocking=True)


def _pinned(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


class _Resident:
    """All codes in the device's memory."""

    def __init__(self, patients: Sequences, device: torch.device) -> None:
        self._patients, self._device = patients, device
        self._reals, self._codes = (_copied(each, device) for each in patients.encoded)

    def __call__(self, chosen_B: NDArray[np.int64], length: int) -> Codes:
        first_B = _sent(self._patients.first_rows(chosen_B, length), self._device)
        rows_BT = first_B[:, None] + torch.arange(length, device=self._device)
        return self._reals[rows_BT], self._codes[rows_BT]


def _copied(rows: NDArray[Any], device: torch.device) -> Tensor:
    """Copy a memory map to the device block by block: the host holds one block at a time."""
    dtype = torch.from_numpy(np.empty(0, rows.dtype)).dtype
    whole = torch.empty(rows.shape, dtype=dtype, device=device)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = np.array(rows[start : start + _BLOCK_ROWS])
        whole[start : start + len(block)] = torch.from_numpy(block).to(device)
    return whole


class _Ahead:
    """Reads the next batch in a thread while the system works on this one.

    From a file in the page cache a batch takes a fraction of a millisecond; what a step must not wait for
    is the disk, once a cohort is larger than memory.
    """

    def __init__(self, patients: Sequences, device: torch.device, upcoming: Iterator[Batch]) -> None:
        self._patients, self._device, self._upcoming = patients, device, upcoming
        self._reader = ThreadPoolExecutor(1, "batches")
        self._next: Future[tuple[Batch, Codes] | None] = self._reader.submit(self._read)

    def __call__(self, chosen_B: NDArray[np.int64], length: int) -> Codes:
        found = self._next.result()
        if found is None or found[0][1] != length or not np.array_equal(found[0][0], chosen_B):
            found = (chosen_B, length), self._gather(chosen_B, length)
        else:
            self._next = self._reader.submit(self._read)
        reals, codes = found[1]
        return reals.to(self._device, non_blocking=True), codes.to(self._device, non_blocking=True)

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _read(self) -> tuple[Batch, Codes] | None:
        batch = next(self._upcoming, None)
        return None if batch is None else (batch, self._gather(*batch))

    def _gather(self, chosen_B: NDArray[np.int64], length: int) -> Codes:
        reals, codes = self._patients.gather(chosen_B, length)
        return _pinned(reals, self._device), _pinned(codes, self._device)
