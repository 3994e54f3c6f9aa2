"""Capturing work of a device as a CUDA graph, which is replayed in one launch."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

Results = dict[str, Tensor]
_FEWEST = 64


class Recorder(Protocol):
    """The interface of capturing calls."""

    def rehearse(self, call: Callable[[], Results]) -> Results:
        """Make a call as it will be captured."""

    def record(self, call: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        """Return a function that replays a call, and the memory of its results; nothing is computed yet."""


class CudaRecorder:
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

    def record(self, call: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        graph, mode = (
            torch.cuda.CUDAGraph(),
            "thread_local",
        )  # batches are read, and pinned, in another thread
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
            results = call()
        return graph.replay, results


class RecordedNetwork:
    """A network without gradients, captured once for each shape of its input.

    Every result is a recorded one, also the first of a shape: kernels that a library chooses while it records
    may round otherwise than those it takes outside. Batches are filled up with zeros to a power of two, so
    that few shapes are met.

    Args:
        network: a map of (B, ...) to (B, ...), patient by patient; its weights may change in place.
        recorder: captures it.
    """

    def __init__(self, network: nn.Module, recorder: Recorder) -> None:
        self._network, self._recorder = network, recorder
        self._kept: dict[tuple[int, ...], tuple[Tensor, Callable[[], None], Results]] = {}

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return the network's outputs."""
        count = len(x)
        shape = (max(1 << (count - 1).bit_length(), _FEWEST), *x.shape[1:])
        if shape not in self._kept:
            self._kept[shape] = self._record(x.new_zeros(shape))
        kept, repeat, results = self._kept[shape]
        kept[:count].copy_(x)
        kept[count:].zero_()
        repeat()
        return results["output"][:count].clone()

    def _record(self, kept: Tensor) -> tuple[Tensor, Callable[[], None], Results]:
        def call() -> Results:
            return {"output": self._network(kept)}

        for _ in range(2):  # libraries choose their algorithms
            self._recorder.rehearse(call)
        return kept, *self._recorder.record(call)
