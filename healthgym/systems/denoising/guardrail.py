"""Treatment of synthetic reals of v3 outside the range of the training data, [-1, 1].

Shapes: B batch, F features, R reals (the first features), T timesteps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from healthgym.config import ClampConfig, DynamicConfig, RejectConfig
from healthgym.errors import SamplingError

_JUDGED_CANDIDATES = 256  # least number of candidates before their acceptance rate is judged


class Guardrail(ABC):
    """Corrects the predicted clean data at every noise level, and accepts or rejects the sampled patients."""

    max_attempts: int = 1

    def correct(self, reals_BRT: Tensor) -> Tensor:
        """Return the corrected clean reals for the next level."""
        return reals_BRT

    @abstractmethod
    def accepts(self, reals_BRT: Tensor) -> Tensor:
        """Return whether each patient is accepted, bool of shape (B,), given the sampled reals."""

    def hopeless(self, candidates: int, accepted: int) -> SamplingError | None:
        """Return an error if sampling should be given up."""
        return None


class RejectGuardrail(Guardrail):
    """Accept a patient whose reals are all in [-1, 1] at all timesteps; else sample again, as published."""

    def __init__(self, config: RejectConfig) -> None:
        self.max_attempts = config.max_attempts
        self.min_acceptance = config.min_acceptance

    def accepts(self, reals_BRT: Tensor) -> Tensor:
        """Return whether each patient is in range."""
        return (reals_BRT.abs() <= 1.0).flatten(1).all(dim=1)

    def hopeless(self, candidates: int, accepted: int) -> SamplingError | None:
        """Return an error if the acceptance rate of a few hundred candidates is too low."""
        if candidates < _JUDGED_CANDIDATES or accepted >= self.min_acceptance * candidates:
            return None
        return SamplingError(
            f"The guardrail accepted {accepted} of {candidates} sampled patients "
            f"({accepted / candidates:.1%}), under system.guardrail.min_acceptance = "
            f"{self.min_acceptance:.1%}. {_ADVICE}"
        )


class ClampGuardrail(Guardrail):
    """Clip the predicted clean reals to [-1, 1] at every level, as Ho et al. 2020 do; accept all patients."""

    def correct(self, reals_BRT: Tensor) -> Tensor:
        """Return the clipped reals."""
        return reals_BRT.clamp(-1.0, 1.0)

    def accepts(self, reals_BRT: Tensor) -> Tensor:
        """Return True for all patients."""
        return torch.ones(len(reals_BRT), dtype=torch.bool, device=reals_BRT.device)


class DynamicGuardrail(ClampGuardrail):
    """Dynamic thresholding: clip a patient's predicted reals at a quantile q of their magnitude, and
    divide by it where it is over 1.

    Source: Saharia et al. 2022, *Photorealistic text-to-image diffusion models*, section 2.3.
    """

    def __init__(self, config: DynamicConfig) -> None:
        self.quantile = config.quantile

    def correct(self, reals_BRT: Tensor) -> Tensor:
        """Return the reals scaled into [-1, 1]."""
        magnitude = reals_BRT.abs().flatten(1)
        q_B11 = torch.quantile(magnitude, self.quantile, dim=1).clamp(min=1.0).view(-1, 1, 1)
        return reals_BRT.clamp(-q_B11, q_B11) / q_B11


_ADVICE = (
    "The denoiser often makes reals outside the range of the training data, which more training mends. "
    "Train longer, or set system.guardrail.kind to clamp or dynamic to correct patients instead of "
    "dropping them."
)


def give_up(patient: int, attempts: int, candidates: int, accepted: int) -> SamplingError:
    """Return the error for a patient of whom no attempt was accepted."""
    return SamplingError(
        f"Patient {patient}: none of {attempts} attempts (system.guardrail.max_attempts) stayed in range; "
        f"of all {candidates} candidates here {accepted} did ({accepted / candidates:.1%}). {_ADVICE}"
    )


def build_guardrail(config: RejectConfig | ClampConfig | DynamicConfig) -> Guardrail:
    """Return the guardrail of a configuration."""
    return _GUARDRAILS[type(config)](config)


_GUARDRAILS: dict[type, Callable[..., Guardrail]] = {
    RejectConfig: RejectGuardrail,
    ClampConfig: lambda config: ClampGuardrail(),
    DynamicConfig: DynamicGuardrail,
}
