"""The correlation loss.

Shapes: B patients, T timesteps, N rows, F features.
"""

import torch
from torch import Tensor


def correlation_matrix(x_NF: Tensor) -> Tensor:
    """Return Pearson correlations (F, F) of the columns.

    Standard deviations are unbiased; a column whose deviation is under 1e-8 is divided by 1 instead;
    values are clamped to [-1, 1] and the diagonal is 1.
    """
    centred = x_NF - x_NF.mean(0)
    deviation_F = centred.square().sum(0).div(x_NF.shape[0] - 1).clamp_min(1e-30).sqrt()
    scaled = centred / torch.where(deviation_F < 1e-8, 1.0, deviation_F)
    correlation = (scaled.T @ scaled / (x_NF.shape[0] - 1)).clamp(-1, 1)
    eye = torch.eye(x_NF.shape[1], dtype=x_NF.dtype, device=x_NF.device)
    return correlation * (1 - eye) + eye


def correlation_loss(fake_FF: Tensor, real_FF: Tensor, threshold_FF: Tensor) -> Tensor:
    """Return the mean absolute difference of two correlation matrices, both clipped in magnitude.

    Args:
        fake_FF: of generated rows.
        real_FF: of the training cohort.
        threshold_FF: U(0,1) numbers; both matrices are clipped to [-threshold, threshold].
    """
    clipped_fake = torch.clamp(fake_FF, -threshold_FF, threshold_FF)
    clipped_real = torch.clamp(real_FF, -threshold_FF, threshold_FF)
    return (clipped_fake - clipped_real).abs().mean()


def rows_of(x_BTF: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return the timesteps of all patients as rows, without those that a mask leaves out."""
    return x_BTF.flatten(0, 1) if mask_BT is None else x_BTF[mask_BT]
