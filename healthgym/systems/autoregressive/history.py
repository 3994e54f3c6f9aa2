"""Summaries of a patient's earlier timesteps, computed by the same rule in training and sampling.

Legend: B patients, R real variables (varying ones only), K categorical variables (varying ones only).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

NUM_REFERENCES = 5
MEAN = 2  # index of the mean so far
NUM_MOVES = 3
NUM_GAPS, IS_FIRST = 3, 2
NUM_LEFT = 3
NUMBERS_PER_REAL = 9
_EXACTLY = 7  # timesteps
NUM_PACES = 3
NUMBERS_PER_CLASS = 1 + _EXACTLY + NUM_PACES
_DECAY = 0.8  # of the moving average, per timestep
_PRIOR_CHANGES, _PRIOR_MOVE = 2.0, 0.5
_PRIOR_CLASS_CHANGES, _PRIOR_COUNT = 1.0, 6.0


@dataclass(frozen=True)
class Context:
    """The references of the mixture of a real variable's next value.

    Args:
        references: normal scores of the value before, the one measured before that, the mean so far, a moving
            average and the first value, (N, 5).
        moves: one, the mean size of a change so far, and that at the last measurement, (N, 3).
        gaps: log(1 + number of timesteps) since the last change and since the last measurement, and whether
            there is no value before, (N, 3).
        others: normal scores of all variables when this one last changed, 0 before its first value, (N, R).
        left: log(1 + number of timesteps left), whether none is, and whether one is, (N, 3); (N, 0) where all
            patients have as many timesteps.
    """

    references: Tensor
    moves: Tensor
    gaps: Tensor
    others: Tensor
    left: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Context":
        """Return the context with a function applied to each tensor."""
        return Context(*(function(getattr(self, each.name)) for each in fields(self)))


@dataclass(frozen=True)
class LastClass:
    """The class of a variable that was last known.

    Args:
        code_N: class; the number of classes where there is none.
        held_for_N: number of timesteps since it differed from the one before, int64.
        paces_NP: how often the variable changed so far: the logarithm of the share of its measurements,
            whether the last one was a change, and log(1 + timesteps since the last one). A first measurement
            later than the first timestep counts as a change.
        left_NX: as `Context.left`.
    """

    code_N: Tensor
    held_for_N: Tensor
    paces_NP: Tensor
    left_NX: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "LastClass":
        """Return this with a function applied to each tensor."""
        return LastClass(*(function(getattr(self, each.name)) for each in fields(self)))


@dataclass
class History:
    """Running sums over a patient's timesteps: of reals (B, R), `others` (B, R, R), of classes (B, K).

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
    others: Tensor
    class_held_for: Tensor
    class_changes: Tensor
    class_count: Tensor
    class_changed: Tensor
    class_absent_for: Tensor

    @classmethod
    def empty(cls, num_patients: int, num_reals: int, num_classes: int, device: torch.device) -> "History":
        """Return the history before the first timestep."""
        shapes = {
            each.name: (num_classes,) if each.name.startswith("class") else (num_reals,)
            for each in fields(cls)
        } | {"others": (num_reals, num_reals)}
        return cls(
            **{name: torch.zeros(num_patients, *shape, device=device) for name, shape in shapes.items()}
        )

    @classmethod
    def stacked(cls, histories: Sequence["History"]) -> "History":
        """Return the histories before each of several timesteps, with fields (B, T, R) or (B, T, K)."""
        return cls(*(torch.stack([getattr(h, each.name) for h in histories], 1) for each in fields(cls)))

    def first_patients(self, count: int) -> "History":
        """Return the history of the first patients."""
        return History(*(getattr(self, each.name)[:count] for each in fields(self)))

    def add(
        self,
        score: Tensor,
        present: Tensor,
        changed: Tensor,
        class_present: Tensor,
        class_changed: Tensor,
    ) -> "History":
        """Return the history with one more timestep.

        Args:
            score: normal scores in force, (B, R).
            present: whether the timestep has a value, (B, R).
            changed: whether it has a value that differs from the one before, or is the first, (B, R).
            class_present: whether the timestep has a class, (B, K).
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
            class_changes=self.class_changes + class_changed,
            class_count=self.class_count + class_present,
            class_changed=torch.where(class_present, class_changed.to(score.dtype), self.class_changed),
            class_absent_for=torch.where(class_present, 0.0, self.class_absent_for + 1),
            others=torch.where((change > 0).unsqueeze(-1), score.unsqueeze(-2), self.others),
        )

    def numbers(self) -> Tensor:
        """Return the inputs of the networks, (..., 9 R + 11 K).

        How long a class has lasted is told as a number, and exactly where it is short: what is measured
        every four hours is said by a step and not by a slope.
        """
        count = self.count.clamp_min(1.0)
        mean = self.total / count
        deviation = (self.squares / count - mean.square()).clamp_min(0.0).sqrt()
        share = self.changes / (count - 1).clamp_min(1.0)
        per_real = [
            self.score,
            self.score - self.score_before,
            self.held_for.log1p(),
            mean,
            self._mean_move(),
        ]
        per_real += [share, deviation, self.average, self.absent_for.log1p()]
        lasted = [self.class_held_for == steps for steps in range(_EXACTLY)]
        per_class = [self.class_held_for.log1p(), *(exactly.to(mean.dtype) for exactly in lasted)]
        per_class += self._paces().unbind(-1)
        return torch.cat([*per_real, *per_class], -1)

    def contexts(self, reals: Sequence[int], left: Tensor) -> dict[int, Context]:
        """Return what the mixture of each real variable refers to, given `Context.left`."""
        columns = zip(
            self.references().unbind(-2),
            self.moves().unbind(-2),
            self.gaps().unbind(-2),
            self.others.unbind(-2),
            strict=True,
        )
        return {r: Context(*column, left) for r, column in zip(reals, columns, strict=True)}

    def last_classes(self, classes: Sequence[int], codes: Tensor, left: Tensor) -> dict[int, LastClass]:
        """Return the last known class of each variable, from their codes (..., K), given `Context.left`."""
        columns = zip(
            codes.unbind(-1), self.class_held_for.long().unbind(-1), self._paces().unbind(-2), strict=True
        )
        return {k: LastClass(*column, left) for k, column in zip(classes, columns, strict=True)}

    def references(self) -> Tensor:
        """Return the five references of each real variable, (..., R, 5)."""
        mean = self.total / self.count.clamp_min(1.0)
        return torch.stack([self.score, self.score_before, mean, self.average, self.first], -1)

    def moves(self) -> Tensor:
        """Return the three sizes of movement of each real variable, (..., R, 3)."""
        last = (self.score - self.score_before).abs()
        return torch.stack([torch.ones_like(last), self._mean_move(), last], -1)

    def gaps(self) -> Tensor:
        """Return the times since the last change and measurement of each real variable, (..., R, 3)."""
        is_first = (self.count == 0).to(self.count.dtype)
        return torch.stack([self.held_for.log1p(), self.absent_for.log1p(), is_first], -1)

    def _paces(self) -> Tensor:
        rate = (self.class_changes + _PRIOR_CLASS_CHANGES) / (self.class_count + _PRIOR_COUNT)
        return torch.stack([rate.log(), self.class_changed, self.class_absent_for.log1p()], -1)

    def _mean_move(self) -> Tensor:
        prior = _PRIOR_CHANGES * _PRIOR_MOVE
        return (self.moved + prior) / (self.changes + _PRIOR_CHANGES)
