"""Training steps on CUDA as single launches.

A step is tens of thousands of small operations, and a GPU is done with one sooner than Python asks for the
next. A CUDA graph records them once and launches them as one piece; then only the batch and the step's
random numbers are new, copied to where the recording reads them.

Each kind of step (a length of the curriculum, the latent memory filling or full) is recorded apart, after
a few that were taken as usual. Steps that must not be repeated as they were, and those of several processes
or of micro-batches, are taken as usual.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from healthgym.errors import ConfigError
from healthgym.systems.base import Batch, Draws, KeptDraws, System

Losses = dict[str, Tensor]
_USUAL_STEPS = 3  # so that libraries have chosen their algorithms and buffers are there


class Recorder(Protocol):
    """What records calls."""

    def rehearse(self, call: Callable[[], Losses]) -> Losses:
        """Make a call as it will be recorded."""

    def record(self, call: Callable[[], Losses]) -> tuple[Callable[[], None], Losses]:
        """Return what repeats a call, and where its results will lie; nothing is computed yet."""


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory: each may overwrite what another left there."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, call: Callable[[], Losses]) -> Losses:
        usual = torch.cuda.current_stream()
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            losses = call()
        usual.wait_stream(self._stream)
        return losses

    def record(self, call: Callable[[], Losses]) -> tuple[Callable[[], None], Losses]:
        graph, mode = (
            torch.cuda.CUDAGraph(),
            "thread_local",
        )  # batches are read, and pinned, in another thread
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
            losses = call()
        return graph.replay, losses


@dataclass
class _Kind:
    """One kind of step: what it reads, and what repeats it once it is recorded."""

    kept: Batch
    draws: KeptDraws = field(default_factory=KeptDraws)
    usual_steps: int = 0
    repeat: Callable[[], None] | None = None
    losses: Losses = field(default_factory=dict)

    @classmethod
    def like(cls, batch: Batch) -> "_Kind":
        """Return a kind of step with memory for such batches."""
        reals, codes, lengths = map(torch.empty_like, batch.tensors().values())
        return cls(Batch(batch.layout, reals, codes, lengths, batch.is_padded))

    def renew(self, batch: Batch, draws: Draws) -> None:
        """Copy what is new in this step to where the recording reads it."""
        for name, kept in self.kept.tensors().items():
            kept.copy_(batch.tensors()[name])
        self.draws.renew(draws)

    @property
    def batch(self) -> Batch:
        """The kept batch, with nothing computed of it yet: the recording must compute that itself."""
        return replace(self.kept)


class RecordedSteps:
    """Takes a system's training steps, by repeating recorded ones where it can.

    Args:
        system: whose.
        recorder: records them.
    """

    def __init__(self, system: System, recorder: Recorder) -> None:
        self._system, self._recorder = system, recorder
        self._kinds: dict[Hashable, _Kind] = {}

    def __call__(self, batch: Batch, draws: Draws) -> Losses:
        """Do what `System.train_step` does; the losses stand until the next step."""
        share, name = self._system.share, self._system.step_kind(batch)
        if name is None or not share.whole(share.parts(len(batch))):
            return self._system.train_step(batch, draws)
        if name not in self._kinds:
            self._kinds[name] = _Kind.like(batch)
        kind = self._kinds[name]
        kind.renew(batch, draws)
        if kind.usual_steps < _USUAL_STEPS:
            kind.usual_steps += 1
            return self._recorder.rehearse(lambda: self._system.train_step(kind.batch, kind.draws))
        if kind.repeat is None:
            try:
                kind.repeat, kind.losses = self._recorder.record(
                    lambda: self._system.compute_step(kind.batch, kind.draws)
                )
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise ConfigError(
                    f"This step cannot be recorded as a CUDA graph ({reason}). Start the same run again with "
                    f"training.cuda_graphs=false: it goes on from the last checkpoint."
                ) from error
        kind.repeat()
        self._system.count_step(kind.kept)
        return kind.losses
