"""The interface of all systems.

Shapes: B batch, T timesteps, F features, R reals, K binary and categorical variables.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from healthgym.distributed.share import WHOLE, Share
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.conditions import NO_CONDITIONS, Conditions
from healthgym.systems.decode import begin_decode, decode
from healthgym.systems.draws import Draws, KeptDraws, PositionDraws, SampleDraws
from healthgym.systems.patients import Batch, Disagreement, Made, Making

__all__ = [
    "Batch",
    "Disagreement",
    "Draws",
    "KeptDraws",
    "Made",
    "Making",
    "PositionDraws",
    "SampleDraws",
    "State",
    "System",
]

# Nested mappings whose leaves are tensors or plain numbers.
State = dict[str, Any]


class System(ABC):
    """Networks, optimisers and latent memory that are trained on batches and generate patients.

    Attributes:
        real_form: form of real variables in training batches: scaled to [0, 1], or codes of their cells.
        whole_patients: whether a batch may have patients of different lengths, with padding masked.
        validates: whether it has `validate`, and keeps the weights with the lowest validation loss.
        makes_lengths: whether the number of timesteps is generated with the patient, by `make`; otherwise it
            is drawn from the training patients' lengths and passed to `sample`.
        takes_conditions: whether `make` supports conditions.
        scores_patients: whether it has `nats_by_patient`.
        block: for systems that generate lengths, number of patients per call of `make`; 0 for the plan's
            batch size. Blocks are aligned to multiples of it, independent of the shards.
        preview_cost: time of `preview` for one patient, in training steps of one patient, roughly.
        layout: meaning of the features.
        device: of all tensors.
        share: this process's part of each batch; all of it unless the trainer sets another.
        num_candidates: number of patients sampled so far, including those that a guardrail rejected; 0
            without a guardrail that rejects.
    """

    real_form: ClassVar[Literal["scaled", "cells"]] = "scaled"
    whole_patients: ClassVar[bool] = False
    takes_conditions: ClassVar[bool] = False
    scores_patients: ClassVar[bool] = False
    validates: ClassVar[bool] = False
    makes_lengths: ClassVar[bool] = False
    block: int = 0
    preview_cost: ClassVar[float] = 0.1
    layout: FeatureLayout
    device: torch.device
    num_candidates: int = 0
    share: Share = WHOLE

    # --- training --------------------------------------------------------------------------------

    def train_step(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Take one step and return its losses as detached scalars, still on the device.

        With several processes, a loss of the global batch is the mean of theirs, weighted by patients.

        Args:
            batch: patients, or this process's share of them.
            draws: the step's randomness.
        """
        losses = self.compute_step(batch, draws)
        self.count_step(batch)
        return losses

    def compute_step(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Do the device's part of a step; state in Python is updated by `count_step`."""
        raise NotImplementedError

    def count_step(self, batch: Batch) -> None:  # noqa: B027 - most systems have no state in Python
        """Do Python's part of a step, after the device's."""

    def step_kind(self, batch: Batch) -> Hashable | None:
        """Return a key: steps with equal keys share one CUDA graph. None if this step must not use one."""
        return None

    def plan(self, total_steps: int) -> None:  # noqa: B027 - most systems have no schedule
        """Set the planned number of steps: at each start, and when a time limit determines it."""

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Return sums over validation patients, as scalars on the device.

        Returns:
            `nats`, minus the log-likelihood, and `timesteps`, their number.
        """
        raise NotImplementedError

    def keep_if_best(self, value: float) -> bool:
        """Keep these weights for sampling if this validation loss is the lowest so far; return whether so."""
        raise NotImplementedError

    def exclude_unseen(self, seen: Sequence[NDArray[np.bool_]]) -> None:  # noqa: B027 - most cannot
        """Never sample classes that no training patient has; called before the first step.

        Args:
            seen: for each categorical variable, whether training patients have each of its classes.
        """

    def check_length(self, length: int) -> None:  # noqa: B027 - most systems take any length
        """Raise ConfigError if sequences of this length do not fit the system."""

    # --- sampling --------------------------------------------------------------------------------

    def sample(self, lengths_B: NDArray[np.integer[Any]], draws: SampleDraws, length: int) -> Made:
        """Sample patients of given lengths.

        A patient depends on the weights, the seed, the patient's number and `length`, not on the batch.

        Args:
            lengths_B: timesteps of each patient, at most `length`.
            draws: their randomness, with their numbers.
            length: timesteps to sample before patients are shortened to their lengths.

        Raises:
            CohortError: the system generated numbers that are not finite.
        """
        return self.begin_sample(lengths_B, draws, length)()

    def begin_sample(self, lengths_B: NDArray[np.integer[Any]], draws: SampleDraws, length: int) -> Making:
        """Begin `sample`; the returned function waits for the result, which a GPU computes meanwhile."""
        x_BTF = self.sample_features(length, draws.seed, draws.first_patient, draws.num_patients)
        return begin_decode(x_BTF[:, : int(lengths_B.max())], lengths_B, self.layout)

    def preview(self, lengths_B: NDArray[np.integer[Any]], draws: SampleDraws, length: int) -> Made:
        """Make patients to look at during training, as `sample` does or by a faster way.

        Raises:
            CohortError: the system made numbers that are not finite.
        """
        return self.sample(lengths_B, draws, length)

    def begin_sample_given(
        self,
        choose: Callable[[NDArray[np.uint8]], NDArray[np.integer[Any]]],
        shortest: int,
        draws: SampleDraws,
        length: int,
    ) -> Making:
        """Begin to sample patients whose lengths are drawn given their static classes.

        Args:
            choose: returns the lengths of patients with these classes (K, B), of which only static ones
                matter.
            shortest: number of timesteps that every patient has, which determine the static classes.
            draws, length: as for `sample`.
        """
        x_BTF = self.sample_features(length, draws.seed, draws.first_patient, draws.num_patients)
        seen = decode(x_BTF[:, :shortest], np.full(len(x_BTF), shortest), self.layout)
        lengths_B = choose(seen.codes_KTB[:, 0])
        return begin_decode(x_BTF[:, : int(lengths_B.max())], lengths_B, self.layout)

    def sample_features(self, length: int, seed: int, first_patient: int, num_patients: int) -> Tensor:
        """Generate features of patients first_patient, first_patient + 1, ... of the cohort with this seed.

        Systems that generate values and not features implement `begin_sample` or `begin_make` instead.

        Returns:
            x_BTF: reals in [0, 1]; each categorical block has non-negative scores, of which the largest is
                the class.
        """
        raise NotImplementedError

    def make(
        self, draws: SampleDraws, timesteps: int | None = None, conditions: Conditions = NO_CONDITIONS
    ) -> Made:
        """Sample patients with generated lengths; for systems that generate lengths.

        Args:
            draws: their randomness, with their numbers; one complete block.
            timesteps: the length of each patient, if the user gave one.
            conditions: on the patients, for systems that support conditions.

        Raises:
            CohortError: such patients are too rare to be sampled.
        """
        return self.begin_make(draws, timesteps, conditions)()

    def begin_make(
        self,
        draws: SampleDraws,
        timesteps: int | None = None,
        conditions: Conditions = NO_CONDITIONS,
        stop: Callable[[], object] = lambda: None,
    ) -> Making:
        """Begin `make`; the returned function waits for the result, which a GPU computes meanwhile.

        Args:
            draws, timesteps, conditions: as for `make`.
            stop: for systems that try several times until the conditions are met: called between attempts.

        Raises:
            Stopped: `stop` returned a true value.
        """
        raise NotImplementedError

    def check_conditions(
        self, conditions: Conditions, timesteps: int | None = None, counted: bool = False
    ) -> None:
        """Refuse conditions that too few training patients or too few sampled patients meet.

        Args:
            conditions: on the patients.
            timesteps: the length of each patient, if the user gave one; the conditions do not exclude it.
            counted: whether enough training patients are known to meet all of it; otherwise, their number is
                estimated by the system.

        Raises:
            ConfigError: there are too few such patients.
        """
        raise NotImplementedError

    # --- state -----------------------------------------------------------------------------------

    @abstractmethod
    def state(self) -> State:
        """Return everything that the next step depends on, as nested mappings of tensors and numbers.

        The tensors are the live ones: copy them before the next step.
        """

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Load the result of `state`; leaves may be tensors or numpy arrays."""

    @abstractmethod
    def sampling_state(self) -> State:
        """Return the part of the state that sampling needs, which a release contains."""

    def released_state(self, longest: int) -> State:
        """Return the state for sampling patients of at most `longest` timesteps.

        Unlike `sampling_state`, it does not tell how many timesteps the longest training patient has.
        """
        return self.sampling_state()

    @abstractmethod
    def load_sampling_state(self, state: State) -> None:
        """Load the result of `sampling_state`: the system can then sample, but not be trained further."""

    # --- queries ---------------------------------------------------------------------------------

    def nats_by_patient(self, batch: Batch) -> Tensor:
        """Return minus the log-likelihood of each patient under the weights that sampling uses, nats (B,)."""
        raise NotImplementedError

    def memory_slots(self) -> Tensor | None:
        """Return the filled slots of the latent memory, shape (M, Z); None for a system without one."""
        return None

    def memory_prototypes(self, batch: Batch) -> Tensor:
        """Return each patient's prototype as in the latent memory, shape (B, Z)."""
        raise NotImplementedError

    def num_parameters(self) -> int:
        """Return the number of trained parameters."""
        return 0

    def shapes(self, length: int) -> str:
        """Return a line per stage with its shape, for sequences of this length; empty without stages."""
        return ""
