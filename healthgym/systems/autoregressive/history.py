"""Summaries of a patient's earlier timesteps, computed by the same rule in training and sampling.

Legend: B patients, R real variables (varying ones only), K categorical variables (varying ones only).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

NUM_REFERENCES = 5
MEAN = 2  # index of the mean so far
NUM_MOVES = 3
NUMBERS_PER_REAL = 9
NUMBERS_PER_CLASS = 8
_DECAY = 0.8  # of the moving average, per timestep
_PRIOR_CHANGES, _PRIOR_MOVE = 2.0, 0.5


@dataclass(frozen=True)
class Context:
    """The references of the mixture of a real variable's next value.

    Args:
        references: normal scores of the value before, the one measured before that, the mean so far, a moving
            average and the first value, (N, 5).
        moves: one, the mean size of a change so far, and that at the last measurement, (N, 3).
    """

    references: Tensor
    moves: Tensor


@dataclass
class History:
    """Running sums over a patient's timesteps, each (B, R); class runs (B, K).

    Scores are normal scores of the values in force, 0 before the first.
    """

    score: Tensor
    score_before: Tensor
    first: Tensor
    average: Tensor
    count: Tensor
    total: Tensor
    squares: Tensor
    changes: Tensor
    moved: Tensor
    held_for: Tensor
    absent_for: Tensor
    class_held_for: Tensor

    @classmethod
    def empty(cls, num_patients: int, num_reals: int, num_classes: int, device: torch.device) -> "History":
        """Return the history before the first timestep."""
        widths = {each.name: num_reals for each in fields(cls)} | {"class_held_for": num_classes}
        return cls(
            **{name: torch.zeros(num_patients, width, device=device) for name, width in widths.items()}
        )

    @classmethod
    def stacked(cls, histories: Sequence["History"]) -> "History":
        """Return the histories before each of several timesteps, with fields (B, T, R) or (B, T, K)."""
        return cls(*(torch.stack([getattr(h, each.name) for h in histories], 1) for each in fields(cls)))

    def first_patients(self, count: int) -> "History":
        """Return the history of the first patients."""
        return History(*(getattr(self, each.name)[:count] for each in fields(self)))

    def add(self, score: Tensor, present: Tensor, changed: Tensor, class_changed: Tensor) -> "History":
        """Return the history with one more timestep.

        Args:
            score: normal scores in force, (B, R).
            present: whether the timestep has a value, (B, R).
            changed: whether it has a value that differs from the one before, or is the first, (B, R).
            class_changed: whether the last known class differs from the one before, (B, K).
        """
        seen, here, change = self.count > 0, present.to(score.dtype), (changed & present).to(score.dtype)
        move = torch.where(seen, (score - self.score).abs(), 0.0) * change
        known = seen | present
        return History(
            score=score,
            score_before=torch.where(present, torch.where(seen, self.score, score), self.score_before),
            first=torch.where(seen, self.first, score),
            average=torch.where(seen, _DECAY * self.average + (1 - _DECAY) * score, score),
            count=self.count + here,
            total=self.total + here * score,
            squares=self.squares + here * score.square(),
            changes=self.changes + change * seen,
            moved=self.moved + move,
            held_for=torch.where((change > 0) | ~known, 0.0, self.held_for + 1),
            absent_for=torch.where(present | ~known, 0.0, self.absent_for + 1),
            class_held_for=torch.where(class_changed, 0.0, self.class_held_for + 1),
        )

    def numbers(self) -> Tensor:
        """Return the inputs of the networks, (..., 9 R + 8 K).

        How long a class has lasted is told as a number, and exactly where it is short: what is measured
        every four hours is said by a step and not by a slope.
        """
        count = self.count.clamp_min(1.0)
        mean = self.total / count
        spread = (self.squares / count - mean.square()).clamp_min(0.0).sqrt()
        share = self.changes / (count - 1).clamp_min(1.0)
        per_real = [
            self.score,
            self.score - self.score_before,
            self.held_for.log1p(),
            mean,
            self._mean_move(),
        ]
        per_real += [share, spread, self.average, self.absent_for.log1p()]
        lasted = [self.class_held_for == steps for steps in range(NUMBERS_PER_CLASS - 1)]
        per_class = [self.class_held_for.log1p(), *(exactly.to(mean.dtype) for exactly in lasted)]
        return torch.cat([*per_real, *per_class], -1)

    def references(self) -> Tensor:
        """Return the five references of each real variable, (..., R, 5)."""
        mean = self.total / self.count.clamp_min(1.0)
        return torch.stack([self.score, self.score_before, mean, self.average, self.first], -1)

    def moves(self) -> Tensor:
        """Return the three sizes of movement of each real variable, (..., R, 3)."""
        last = (self.score - self.score_before).abs()
        return torch.stack([torch.ones_like(last), self._mean_move(), last], -1)

    def _mean_move(self) -> Tensor:
        prior = _PRIOR_CHANGES * _PRIOR_MOVE
        return (self.moved + prior) / (self.changes + _PRIOR_CHANGES)
