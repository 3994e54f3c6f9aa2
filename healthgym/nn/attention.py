"""Self-attention over the timesteps of a sequence.

Shapes: B batch, T timesteps, H width of the model, A heads.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from healthgym.nn.precision import bfloat16_is_wanted

_NORM_EPS = 1e-6
_SHORT, _SHORT_ROUNDED = 64, 128  # timesteps up to which computing one head after the other is faster


class SelfAttentionBlock(nn.Module):
    """Multi-head self-attention, output projection, residual, post-LayerNorm; no feed-forward part.

        y = LayerNorm(x + O softmax(Q K' / sqrt(H)) V)

    The scores are scaled by the width of the model, not of a head: the published generator does so,
    and its weights mean nothing under another scale.

    Source: Vaswani et al. 2017, equation 1 and section 3.2.2 (but for the scale); Kuo et al., Health
    Gym v2.5.

    Args:
        width: H.
        num_heads: A; must divide H.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = 1.0 / math.sqrt(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)

    def forward(self, x_BTH: Tensor) -> Tensor:
        """Return y_BTH, each timestep a mixture of all timesteps."""
        split = self.query_key_value(x_BTH).unflatten(-1, (3, self.num_heads, -1))
        if by_heads(x_BTH):
            heads = zip(*(part.unbind(-2) for part in split.unbind(-3)), strict=True)
            mixed_BTH = torch.cat([(self.scale * q @ k.mT).softmax(-1) @ v for q, k, v in heads], -1)
        else:
            query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, A, T, H/A)
            mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
            mixed_BTH = mixed.transpose(1, 2).flatten(2)
        normed: Tensor = self.norm(x_BTH + self.out(mixed_BTH))
        return normed


def by_heads(x_BTH: Tensor) -> bool:
    """Return whether to compute one head after the other, each for all patients at once.

    On a CPU torch's fused kernel works on blocks of a few timesteps of one patient. For short sequences it
    takes an eighth longer than one head at a time, and up to four times as long if each block is rounded to
    bfloat16 first. For longer ones it is faster, and its memory does not grow with the square of T.
    """
    short = _SHORT_ROUNDED if bfloat16_is_wanted(x_BTH.device) else _SHORT
    return x_BTH.device.type == "cpu" and x_BTH.shape[1] <= short


class ResidualLinear(nn.Module):
    """y = LayerNorm(x + W x + b), x of shape (..., H)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)

    def forward(self, x_BTH: Tensor) -> Tensor:
        """Return y of the shape of x."""
        normed: Tensor = self.norm(x_BTH + self.linear(x_BTH))
        return normed
