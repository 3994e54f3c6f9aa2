"""Copies between the host and a device while the device computes."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class Transfer:
    """Tensors on their way to the host.

    On CUDA they are copied to pinned memory on a stream of their own, so that later work need not wait for
    them. On a CPU they are there already.

    Args:
        tensors: all on one device; they may be overwritten once later work was queued behind the copies.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._tensors = dict(tensors)
        device = next(iter(tensors.values())).device
        if device.type == "cuda":
            self._begin(_stream(device))

    def _begin(self, stream: torch.cuda.Stream) -> None:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            for name, tensor in self._tensors.items():
                there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                there.copy_(tensor, non_blocking=True)
                tensor.record_stream(stream)  # its memory is not given away before the copy
                self._tensors[name] = there
            self._arrived = torch.cuda.Event()
            self._arrived.record(stream)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the tensors as arrays, when they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {name: tensor.numpy() for name, tensor in self._tensors.items()}


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device.

    To CUDA it is copied from pinned memory, so that the host need not wait for earlier work of the device.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
