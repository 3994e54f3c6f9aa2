"""The recurrent generator of v1 and v2.

Shapes: B batch, T timesteps, Z noise, H hidden, F features.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from healthgym.nn.heads import apply_heads
from healthgym.nn.precision import bfloat16_is_wanted
from healthgym.nn.recurrent import BiLSTM
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.bfloat16 import bfloat16_logits
from healthgym.systems.streaming import stream_heads, stream_logits

LEAK = 0.1


class BiLSTMGenerator(nn.Module):
    """Noise through two LSTMs and three affine maps to features.

    Source: Kuo et al., *Scientific Data* 2022.
    """

    def __init__(self, layout: FeatureLayout, latent_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.layout, self.latent_dim = layout, latent_dim
        self.recurrent = BiLSTM(latent_dim, hidden_dim)
        self.linear1 = nn.Linear(2 * hidden_dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, hidden_dim)
        self.linear3 = nn.Linear(hidden_dim, layout.num_features)

    def forward(self, z_BTZ: Tensor) -> Tensor:
        """Return x_BTF: reals in (0, 1), each categorical block a distribution."""
        if z_BTZ.device.type == "cpu" and not torch.is_grad_enabled():
            maps = (self.linear1, self.linear2, self.linear3)
            rounded = z_BTZ.dtype == torch.float32 and bfloat16_is_wanted(z_BTZ.device)
            make_logits = bfloat16_logits if rounded else stream_logits
            logits_FTB = make_logits(z_BTZ, self.recurrent, maps, LEAK)
            # As the critic and decoding read it: feature by feature, patients side by side.
            return stream_heads(logits_FTB, self.layout).permute(2, 1, 0)
        h = self.recurrent(z_BTZ.transpose(0, 1))
        h = leaky_relu(self.linear1(h), LEAK)
        h = leaky_relu(self.linear2(h), LEAK)
        return apply_heads(self.linear3(h), self.layout).transpose(0, 1)
