"""Similarity of a system's patients to real ones during training, by which a checkpoint is chosen."""

import math
from typing import Literal

import numpy as np
import torch

from healthgym import seeds
from healthgym.data.sequences import Sequences
from healthgym.errors import CohortError, DivergenceError
from healthgym.systems.base import SampleDraws, System
from healthgym.training.monitoring.similarity import Patients, compare
from healthgym.training.monitoring.validation import Validation

_MOST_SAMPLED = 512  # patients: KS distances err by some hundredths
_LEAST_STEPS, _MOST_STEPS = 100, 1_000  # between two measurements by default, which end an epoch if they can
_SHARE_OF_TIME = 0.05  # of training that measuring may take by default, about


class SampledValidation(Validation):
    """Compares patients that a system makes with real ones by a few metrics, whose mean is `distance`.

    The patients it makes are a function of the weights and the run's seed, of the first patients' lengths, so
    that two measurements differ by the weights alone. The first process makes and compares them.

    Args:
        patients: real ones; of many, some are taken.
        system: the one in training.
        batch_size: of the curriculum.
        steps_per_epoch: of the curriculum.
        longest: timesteps that the system learns from at most.
        seed: the run's.
        every_steps: steps between two measurements; `auto`: whole epochs of 100 steps and more, or 1,000
            steps if an epoch has more; more than that if measuring would take over 5% of the time.
        patience: measurements without improvement that end a run; `auto` and None: however many.
        held_out: whether the patients are not trained on.
    """

    loss, keeps_checkpoints = "distance", True

    def __init__(
        self,
        patients: Sequences,
        system: System,
        batch_size: int,
        steps_per_epoch: int,
        longest: int,
        seed: int,
        every_steps: int | Literal["auto"] = "auto",
        patience: int | Literal["auto"] | None = "auto",
        held_out: bool = False,
    ) -> None:
        super().__init__(patients, system, batch_size, steps_per_epoch, 1, patience)
        order_N = seeds.permutation(patients.num_patients, seed, "figures")
        self._chosen_B = np.sort(order_N[:_MOST_SAMPLED])
        self._longest, self._seed, self._held_out = min(longest, patients.max_length), seed, held_out
        cost = system.preview_cost * len(self._chosen_B) / batch_size
        self.every_steps = spaced(steps_per_epoch, cost) if every_steps == "auto" else every_steps

    def patience(self, total: int) -> float:
        return math.inf if self._patience == "auto" else super().patience(total)

    def stalled(self, total: int) -> bool:
        """Tell whether it has not improved for as long as would end a run that stops by itself."""
        return self.since >= self._usual_patience(total)

    @property
    def _whom(self) -> str:
        return f"{'held-out' if self._held_out else 'training'} patients"

    def description(self) -> str:
        return (
            f"compared with {len(self._chosen_B):,} {self._whom} every {self.every_steps:,} steps; the "
            f"checkpoint that comes nearest to them makes the patients"
        )

    def verdict(self, total: int) -> str:
        said = (
            f"synthesis uses the checkpoint of step {self.best_step:,}, the nearest to {self._whom}: "
            f"distance {self.best:.3g} (--checkpoint newest for the last one)"
        )
        if self.stalled(total):
            said += f"; it has not improved since, in {self.since:,} measurements"
        return said

    def _found(self, step: int) -> tuple[float, dict[str, float]]:
        metrics = self.system.share.ranks.from_first(self.metrics)
        if not metrics:
            raise DivergenceError(f"the system generates numbers that are not finite at step {step - 1}")
        return float(np.mean(list(metrics.values()))), {
            f"validation_{name}": value for name, value in metrics.items()
        }

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Return all metrics; none if the patients have numbers that are not finite."""
        system, number = self.system, len(self._chosen_B)
        reals_BTR, codes_BTK, lengths_B = self.patients.gather(self._chosen_B, self._longest)
        real = Patients(reals_BTR.transpose(2, 1, 0), codes_BTK.transpose(2, 1, 0), lengths_B)
        try:
            made = system.preview(lengths_B, SampleDraws(self._seed, 0, number), self._longest)
        except CohortError:
            return {}
        return compare(system.layout, real, Patients(made.reals_RTB, made.codes_KTB, made.lengths_B))


def spaced(steps_per_epoch: int, cost: float) -> int:
    """Return the steps between two measurements, each of which takes the time of `cost` steps."""
    least = max(_LEAST_STEPS, math.ceil(cost / _SHARE_OF_TIME))
    if steps_per_epoch > _MOST_STEPS:
        return max(_MOST_STEPS, least)
    return steps_per_epoch * -(-least // steps_per_epoch)
