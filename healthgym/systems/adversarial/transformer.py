"""The generator of v2.5: self-attention over the noise of all timesteps.

Shapes: B batch, T timesteps, Z noise (the model's width), F features.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from healthgym.errors import ConfigError
from healthgym.nn.attention import ResidualLinear, SelfAttentionBlock
from healthgym.nn.heads import apply_heads
from healthgym.schema.layout import FeatureLayout

_NUM_BLOCKS = 3
# What is worked on at once then fits a core's cache: a fifth less time than with hundreds of patients.
CACHED_PATIENTS = 32


class TransformerGenerator(nn.Module):
    """Noise plus a learned position, three blocks of self-attention, an affine map to features.

    Source: Kuo et al., the Health Gym series, v2.5.

    Args:
        layout: meaning of the features.
        latent_dim: Z, width of the noise and of every block.
        num_heads: heads per block; must divide Z.
        num_positions: length of the longest sequence it can generate.

    Raises:
        ConfigError: the heads do not divide the width.
    """

    def __init__(self, layout: FeatureLayout, latent_dim: int, num_heads: int, num_positions: int) -> None:
        super().__init__()
        if latent_dim % num_heads:
            raise ConfigError(
                f"system.generator.num_heads is {num_heads}, which does not divide "
                f"system.latent.latent_dim = {latent_dim}; choose a divisor."
            )
        self.layout, self.latent_dim = layout, latent_dim
        self.positions = nn.Embedding(num_positions, latent_dim)
        self.blocks = nn.ModuleList(SelfAttentionBlock(latent_dim, num_heads) for _ in range(_NUM_BLOCKS))
        self.residual = ResidualLinear(latent_dim)
        self.out = nn.Linear(latent_dim, layout.num_features)

    def forward(self, z_BTZ: Tensor) -> Tensor:
        """Return x_BTF: reals in (0, 1), each categorical block a distribution.

        Raises:
            ConfigError: there are more timesteps than positions.
        """
        length = z_BTZ.shape[1]
        if length > self.positions.num_embeddings:
            raise ConfigError(
                f"A sequence of {length} timesteps is longer than the generator's positional table of "
                f"{self.positions.num_embeddings}. Set system.generator.num_positions to {length} or more "
                f"and train again, or use shorter sequences (curriculum.lengths)."
            )
        if z_BTZ.device.type == "cpu" and not torch.is_grad_enabled():
            return torch.cat([self._features(part_BTZ) for part_BTZ in z_BTZ.split(CACHED_PATIENTS)])
        return self._features(z_BTZ)

    def _features(self, z_BTZ: Tensor) -> Tensor:
        hidden = z_BTZ + self.positions.weight[: z_BTZ.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return apply_heads(self.out(relu(self.residual(hidden))), self.layout)
