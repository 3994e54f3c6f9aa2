"""Capturing work of a device as a CUDA graph, which is replayed in one launch."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Results = dict[str, Tensor]
_FEWEST = 64


class Capture(Protocol):
    """The interface of capturing calls."""

    def rehearse(self, call: Callable[[], Results]) -> Results:
        """Make a call as it will be captured."""

    def capture(self, call: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        """Return a function that replays a call, and the memory of its results; nothing is computed yet."""


class CudaCapture:
    """Captures CUDA graphs that share one memory pool: each may overwrite intermediate results of another."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, call: Callable[[], Results]) -> Results:
        usual = torch.cuda.current_stream()
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            results = call()
        usual.wait_stream(self._stream)
        return results

    def capture(self, call: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        graph, mode = (
            torch.cuda.CUDAGraph(),
            "thread_local",
        )  # batches are read, and pinned, in another thread
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
            results = call()
        return graph.replay, results


class CapturedMap:
    """A map of rows to rows without gradients, captured once for each shape of its inputs.

    Every result comes from a replay, also the first of a shape: the kernels that a library chooses during
    capture may round differently from those it chooses otherwise. Batches are padded with zeros to a power of
    two, so that few shapes are met.

    Args:
        call: maps (B, ...), and tensors that all rows share, to named (B, ...), row by row; the weights that
            it reads may change in place.
        capture: captures the map.
    """

    def __init__(self, call: Callable[..., Results], capture: Capture) -> None:
        self._call, self._capture = call, capture
        self._kept: dict[tuple[int, ...], tuple[list[Tensor], Callable[[], None], Results]] = {}

    @torch.no_grad()
    def __call__(self, x: Tensor, *shared: Tensor) -> Results:
        """Return the map's results."""
        count = len(x)
        shape = (max(1 << (count - 1).bit_length(), _FEWEST), *x.shape[1:])
        if shape not in self._kept:
            self._kept[shape] = self._capture_call([x.new_zeros(shape), *map(torch.clone, shared)])
        (kept, *kept_shared), replay, results = self._kept[shape]
        kept[:count].copy_(x)
        kept[count:].zero_()
        for memory, new in zip(kept_shared, shared, strict=True):
            memory.copy_(new)
        replay()
        return {name: result[:count].clone() for name, result in results.items()}

    def _capture_call(self, kept: list[Tensor]) -> tuple[list[Tensor], Callable[[], None], Results]:
        def call() -> Results:
            return self._call(*kept)

        for _ in range(2):  # libraries choose their algorithms
            self._capture.rehearse(call)
        return kept, *self._capture.capture(call)
