"""Training steps on CUDA as single launches.

A step is tens of thousands of small operations, and a GPU is done with one sooner than Python asks for the
next. A CUDA graph records them once and launches them as one piece; then only the batch and the step's
random numbers are new, copied to where the recording reads them.

Each kind of step (a length of the curriculum, the latent memory filling or full) is recorded apart, after
a few that were taken as usual. Steps that must not be repeated as they were are taken as usual.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from healthgym.errors import ConfigError
from healthgym.nn.recording import CudaRecorder, Recorder, Results
from healthgym.systems.base import Batch, Draws, KeptDraws, System

Losses = Results
_USUAL_STEPS = 3  # so that libraries have chosen their algorithms and buffers are there


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
        say: told why a step is not recorded, where people look.
        give_up: whether steps that cannot be recorded are taken as usual from then on; else they are errors.
    """

    def __init__(
        self,
        system: System,
        recorder: Recorder,
        say: Callable[[str], None] = lambda text: None,
        give_up: bool = False,
    ) -> None:
        self._system, self._recorder, self._say, self._give_up = system, recorder, say, give_up
        self._kinds: dict[Hashable, _Kind] = {}
        self._told = self._given_up = False

    def __call__(self, batch: Batch, draws: Draws) -> Losses:
        """Do what `System.train_step` does; the losses stand until the next step."""
        name = self._system.step_kind(batch)
        if name is None and batch.is_padded and not self._told:
            self._told = True
            self._say(
                "note: batches of patients of different length are not recorded in this system: their steps "
                "are taken one operation at a time"
            )
        if name is None or self._given_up:
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
                if self._give_up:
                    self._given_up = True
                    self._kinds.clear()
                    self._say(
                        f"note: this step cannot be recorded as a CUDA graph ({reason}); steps are taken one "
                        f"operation at a time"
                    )
                    return self._system.train_step(batch, draws)
                raise ConfigError(
                    f"This step cannot be recorded as a CUDA graph ({reason}). Start the same run again with "
                    f"training.cuda_graphs=false: it goes on from the last checkpoint."
                ) from error
        kind.repeat()
        self._system.count_step(kind.kept)
        return kind.losses


def choose_steps(
    system: System, wanted: bool | Literal["auto"], say: Callable[[str], None]
) -> tuple[Callable[[Batch, Draws], Losses], str]:
    """Return what takes a system's steps, and what a run's first line says of it (nothing on a CPU).

    Args:
        system: whose; with its share of each batch.
        wanted: `training.cuda_graphs`.
        say: told later why a step is not recorded.
    """
    one_by_one = "steps taken one operation at a time"
    if system.device.type != "cuda":
        return system.train_step, f"{one_by_one}: CUDA graphs need CUDA" if wanted is True else ""
    if wanted is False:
        return system.train_step, f"{one_by_one} (training.cuda_graphs=false)"
    if wanted == "auto" and not system.share.ranks.alone:
        return (
            system.train_step,
            f"{one_by_one}: several processes record them with training.cuda_graphs=true",
        )
    recorder = CudaRecorder(system.device)
    return RecordedSteps(system, recorder, say, give_up=wanted == "auto"), "steps recorded as CUDA graphs"
