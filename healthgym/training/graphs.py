"""Training steps as CUDA graphs.

A step has tens of thousands of small operations, and a GPU executes them faster than Python can launch them.
A CUDA graph captures them once and replays them in one launch; for each step, only the batch and the random
numbers are copied to the memory that the graph reads.

Each kind of step (a length of the curriculum, the latent memory filling or full) has its own graph, captured
after a few eager steps. Steps that cannot be replayed remain eager.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from healthgym.errors import ConfigError
from healthgym.nn.cuda_graphs import Capture, CudaCapture, Results
from healthgym.systems.base import Batch, Draws, KeptDraws, System

Losses = Results
_USUAL_STEPS = 3  # eager steps first, in which libraries choose their algorithms and allocate buffers


@dataclass
class _Kind:
    """One kind of step: the memory of its inputs, and its graph once it is captured."""

    kept: Batch
    draws: KeptDraws = field(default_factory=KeptDraws)
    usual_steps: int = 0
    replay: Callable[[], None] | None = None
    losses: Losses = field(default_factory=dict)

    @classmethod
    def like(cls, batch: Batch) -> "_Kind":
        """Return a kind of step with memory for batches of this shape."""
        reals, codes, lengths = map(torch.empty_like, batch.tensors().values())
        return cls(Batch(batch.layout, reals, codes, lengths, batch.is_padded))

    def renew(self, batch: Batch, draws: Draws) -> None:
        """Copy this step's batch and random numbers to the memory that the graph reads."""
        for name, kept in self.kept.tensors().items():
            kept.copy_(batch.tensors()[name])
        self.draws.renew(draws)

    @property
    def batch(self) -> Batch:
        """The stored batch without cached features: the graph must compute them."""
        return replace(self.kept)


class GraphSteps:
    """Runs a system's training steps, as CUDA graphs where possible.

    Args:
        system: to be trained.
        capture: captures steps.
        say: called with the reason if a step cannot be captured.
        give_up: whether to continue with eager steps if one cannot be captured; otherwise this is an error.
    """

    def __init__(
        self,
        system: System,
        capture: Capture,
        say: Callable[[str], None] = lambda text: None,
        give_up: bool = False,
    ) -> None:
        self._system, self._capture, self._say, self._give_up = system, capture, say, give_up
        self._kinds: dict[Hashable, _Kind] = {}
        self._told = self._given_up = False

    def __call__(self, batch: Batch, draws: Draws) -> Losses:
        """Run `System.train_step`; the losses are valid until the next step."""
        name = self._system.step_kind(batch)
        if name is None and batch.is_padded and not self._told:
            self._told = True
            self._say(
                "note: in this system steps of patients of different length cannot be CUDA graphs: they run "
                "one operation at a time"
            )
        if name is None or self._given_up:
            return self._system.train_step(batch, draws)
        if name not in self._kinds:
            self._kinds[name] = _Kind.like(batch)
        kind = self._kinds[name]
        kind.renew(batch, draws)
        if kind.usual_steps < _USUAL_STEPS:
            kind.usual_steps += 1
            return self._capture.rehearse(lambda: self._system.train_step(kind.batch, kind.draws))
        if kind.replay is None:
            try:
                kind.replay, kind.losses = self._capture.capture(
                    lambda: self._system.compute_step(kind.batch, kind.draws)
                )
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                if self._give_up:
                    self._given_up = True
                    self._kinds.clear()
                    self._say(
                        f"note: this step cannot be captured as a CUDA graph ({reason}); steps are taken one "
                        f"operation at a time"
                    )
                    return self._system.train_step(batch, draws)
                raise ConfigError(
                    f"This step cannot be captured as a CUDA graph ({reason}). Start the same run again with "
                    f"training.cuda_graphs=false: it resumes from the last checkpoint."
                ) from error
        kind.replay()
        self._system.count_step(kind.kept)
        return kind.losses


def choose_steps(
    system: System, wanted: bool | Literal["auto"], say: Callable[[str], None]
) -> tuple[Callable[[Batch, Draws], Losses], str]:
    """Return the function that runs a system's steps, and a note for a run's first line (empty on a CPU).

    Args:
        system: to be trained, with its share of each batch.
        wanted: `training.cuda_graphs`.
        say: called later with the reason if a step cannot be captured.
    """
    one_by_one = "steps taken one operation at a time"
    if system.device.type != "cuda":
        return system.train_step, f"{one_by_one}: CUDA graphs need CUDA" if wanted is True else ""
    if wanted is False:
        return system.train_step, f"{one_by_one} (training.cuda_graphs=false)"
    if wanted == "auto" and not system.share.ranks.alone:
        return (
            system.train_step,
            f"{one_by_one}: with several processes, set training.cuda_graphs=true to use CUDA graphs",
        )
    capture = CudaCapture(system.device)
    return GraphSteps(system, capture, say, give_up=wanted == "auto"), "steps as CUDA graphs"
