"""Validation of a system on patients that it is not trained on, and selection of its best weights.

Shapes: N patients, B batch, T timesteps.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from healthgym import seeds
from healthgym.data.sequences import Sequences
from healthgym.errors import DivergenceError
from healthgym.nn.subnormals import subnormals_are_zero
from healthgym.systems.base import Batch, State, System

_FEWEST, _MOST = 10, 2_000  # validation patients
_MOST_STEPS = 1_000  # between two validations by default
_LEAST_PATIENCE, _PATIENCE = 5, 0.15  # number of validations, and share of the planned ones


def split(num_patients: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of training and of validation patients.

    Args:
        num_patients: all training patients.
        share: of validation patients; at least 10 and at most 2,000 patients, but never more than half.
        seed: the run's seed.
    """
    count = min(max(round(share * num_patients), _FEWEST), _MOST, num_patients // 2) if share else 0
    order_N = seeds.permutation(num_patients, seed, "validation")
    return np.sort(order_N[count:]), np.sort(order_N[:count])


class Validation:
    """Validates a system, and counts validations without improvement.

    Attributes:
        loss: name of the measured value: `nats` per timestep, or a `distance` (`SampledValidation`).
        keeps_checkpoints: whether the best weights need a checkpoint of their own; otherwise each checkpoint
            contains them.
        newest: the last validation loss; None before the first.
        best: the lowest loss so far, infinite before the first.
        best_step: step of the lowest loss.
        since: number of validations since then.

    Args:
        patients: validation patients.
        system: to be validated; has `validate` and `keep_if_best`.
        batch_size: number of patients per batch of a process.
        steps_per_epoch: of the curriculum.
        every_steps: steps between two validations; `auto`: an epoch, but at most 1,000 steps.
        patience: number of validations without improvement that ends a run; `auto`: 15% of the planned ones,
            but at least 5; None: never.
        fixed_length: T of all batches; None pads each to its longest patient.
    """

    loss = "nats"
    keeps_checkpoints = False

    def __init__(
        self,
        patients: Sequences,
        system: System,
        batch_size: int,
        steps_per_epoch: int,
        every_steps: int | Literal["auto"] = "auto",
        patience: int | Literal["auto"] | None = "auto",
        fixed_length: int | None = None,
    ) -> None:
        self.patients, self.system, self._fixed_length = patients, system, fixed_length
        self.every_steps = min(steps_per_epoch, _MOST_STEPS) if every_steps == "auto" else every_steps
        self._patience = patience
        self.newest: float | None = None
        self.best, self.best_step, self.since = math.inf, 0, 0
        order_N = np.argsort(patients.lengths_N, kind="stable")
        self._batches = np.array_split(order_N, -(-len(order_N) // batch_size))

    def is_due(self, step: int, total: int) -> bool:
        """Return whether to validate after `step` of `total` planned steps."""
        return step % self.every_steps == 0 or step >= total

    def patience(self, total: int) -> float:
        """Return the number of validations without improvement that ends a run of `total` planned steps."""
        if self._patience == "auto":
            return self._usual_patience(total)
        return math.inf if self._patience is None else self._patience

    def _usual_patience(self, total: int) -> int:
        return max(_LEAST_PATIENCE, round(_PATIENCE * total / self.every_steps))

    def stalled(self, total: int) -> bool:
        """Tell whether to say that it does not improve any more, where the run goes on all the same."""
        return False

    def description(self) -> str:
        """Return in words how it is measured."""
        return (
            f"validated on {self.patients.num_patients:,} more patients every {self.every_steps:,} steps; "
            f"the weights that do best on them make the patients"
        )

    def verdict(self, total: int) -> str:
        """Return a sentence on the weights that synthesis uses, given the planned number of steps."""
        return (
            f"synthesis uses the weights of step {self.best_step:,}, the best on validation patients: "
            f"{self.best:.5g} nats per timestep"
        )

    def shown(self) -> dict[str, float]:
        """Return the values of the progress line."""
        if self.newest is None:
            return {}
        return {f"validation_{self.loss}": self.newest, f"best_{self.loss}": self.best}

    def run(self, step: int) -> dict[str, float]:
        """Validate the system, let it keep its weights if they are the best, and return values to log.

        Raises:
            DivergenceError: the loss is not a finite number.
        """
        self.newest, others = self._found(step)
        if not math.isfinite(self.newest):
            raise DivergenceError(f"validation_{self.loss} is {self.newest} at step {step - 1}")
        if self.newest < self.best:
            self.best, self.best_step, self.since = self.newest, step, 0
        else:
            self.since += 1
        if not self.keeps_checkpoints:
            self.system.keep_if_best(self.newest)
        return self.shown() | {"best_step": self.best_step} | others

    def _found(self, step: int) -> tuple[float, dict[str, float]]:
        """Return the loss after this many steps, the same in every process, and other values to log."""
        return self.measure(), {}

    @torch.no_grad()
    def measure(self) -> float:
        """Return nats per timestep, the same in every process; each process computes every n-th batch."""
        system, ranks = self.system, self.system.share.ranks
        sums_2 = torch.zeros(2, dtype=torch.float64, device=system.device)
        for chosen_B in self._batches[ranks.process.rank :: ranks.process.num_processes]:
            length = self._fixed_length or int(self.patients.lengths_N[chosen_B].max())
            reals, codes, lengths = (
                torch.from_numpy(each).to(system.device)
                for each in self.patients.gather(chosen_B, length, system.real_form)
            )
            batch = Batch(system.layout, reals, codes, lengths, is_padded=True)
            with subnormals_are_zero():
                found = system.validate(batch)
            sums_2 += torch.stack([found[name].double() for name in ("nats", "timesteps")])
        nats, timesteps = ranks.sum(sums_2).tolist()
        return float(nats / timesteps)

    def state(self) -> State:
        """Return the state for `load_state`."""
        if self.newest is None:
            return {}
        return {
            **self.shown(),
            "best_step": self.best_step,
            "validations_since": self.since,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        if f"best_{self.loss}" in state:
            self.newest = float(state[f"validation_{self.loss}"])
            self.best = float(state[f"best_{self.loss}"])
            self.best_step, self.since = int(state["best_step"]), int(state["validations_since"])
