"""Noise levels of v3: the share of the data's variance at each, and the two losses.

Shapes: B batch, F features, T timesteps, S noise levels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_DIVISION_GUARD = 1e-8


@dataclass(frozen=True)
class NoiseSchedule:
    """Variances of the forward process; level 0 has the least noise.

        x_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s) eta,   alpha_bar_s = prod_{r<=s} (1 - beta_r)

    Source: Ho et al. 2020, equation 4.

    Args:
        beta_S: variance added at each level.
        alpha_bar_S: remaining share of the data's variance at each level.
    """

    beta_S: Tensor
    alpha_bar_S: Tensor

    @classmethod
    def linear(
        cls, num_levels: int, first_beta: float, last_beta: float, device: torch.device | str = "cpu"
    ) -> "NoiseSchedule":
        """Return the schedule whose beta rises linearly from `first_beta` to `last_beta`."""
        beta_S = torch.linspace(first_beta, last_beta, num_levels, dtype=torch.float64)
        alpha_bar_S = torch.cumprod(1.0 - beta_S, 0)
        return cls(beta_S.float().to(device), alpha_bar_S.float().to(device))

    @property
    def num_levels(self) -> int:
        """S."""
        return len(self.beta_S)

    def add_noise(self, x_BFT: Tensor, eta_BFT: Tensor, level_B: Tensor) -> Tensor:
        """Return x_s: the data at a noise level."""
        signal, noise = self._parts(level_B)
        return signal * x_BFT + noise * eta_BFT

    def remove_noise(self, x_BFT: Tensor, eps_BFT: Tensor, level_B: Tensor) -> Tensor:
        """Return x_0 from x_s and its noise: the inverse of `add_noise`."""
        signal, noise = self._parts(level_B)
        return (x_BFT - noise * eps_BFT) / (signal + _DIVISION_GUARD)

    def noise_in(self, x_BFT: Tensor, clean_BFT: Tensor, level_B: Tensor) -> Tensor:
        """Return the noise that turned `clean_BFT` into x_s."""
        signal, noise = self._parts(level_B)
        return (x_BFT - signal * clean_BFT) / noise

    def _parts(self, level_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of data and noise, each of shape (B, 1, 1)."""
        alpha_bar = self.alpha_bar_S[level_B].view(-1, 1, 1)
        return alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()


def masked_mse(predicted_BFT: Tensor, target_BFT: Tensor, mask_B1T: Tensor) -> Tensor:
    """Return the mean squared error over the masked-in timesteps and all features."""
    error = (predicted_BFT - target_BFT).square() * mask_B1T
    return error.sum() / (mask_B1T.sum() * predicted_BFT.shape[1])


def patient_mse(predicted_BFT: Tensor, target_BFT: Tensor, mask_B1T: Tensor) -> Tensor:
    """Return the mean over patients of the mean squared error over a patient's timesteps."""
    error_B = ((predicted_BFT - target_BFT).square() * mask_B1T).sum((1, 2))
    return (error_B / (mask_B1T.sum((1, 2)) * predicted_BFT.shape[1])).mean()


def blended_reconstruction(
    schedule: NoiseSchedule,
    x_BFT: Tensor,
    eps_BFT: Tensor,
    eta_BFT: Tensor,
    blend_BFT: Tensor,
    level_B: Tensor,
) -> Tensor:
    """Return x0_hat from a mixture of the true and the predicted noise.

        e = w eta + (1 - w) eps,   x0_hat = (x_s - sqrt(1 - alpha_bar) e) / (sqrt(alpha_bar) + 1e-8)

    Source: the published Health Gym v3; w is drawn anew for every element.

    Args:
        schedule: the noise levels.
        x_BFT: x_s, the noised data.
        eps_BFT: the predicted noise.
        eta_BFT: the true noise.
        blend_BFT: w, in [0, 1], the weight of the true noise.
        level_B: s.
    """
    return schedule.remove_noise(x_BFT, blend_BFT * eta_BFT + (1.0 - blend_BFT) * eps_BFT, level_B)
