"""A causal transformer: whole sequences in training, one timestep at a time in sampling.

Source: Vaswani et al., *Attention is all you need*, 2017; layer norm before each part as in Xiong et al.,
*On layer normalization in the transformer architecture*, ICML 2020.
Shapes: B batch, P positions, D width, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Drop = Callable[[str, Tensor], Tensor]
"""Dropout by name: returns the tensor with some entries zeroed and the others scaled up."""


def keep(name: str, x: Tensor) -> Tensor:
    """Return x: no dropout."""
    return x


@dataclass
class Cache:
    """Keys and values of the positions so far, one pair (B, H, P, D/H) per layer."""

    keys: list[Tensor]
    values: list[Tensor]
    num_positions: int = 0

    def first(self, count: int) -> "Cache":
        """Return the cache of the first patients only; it shares the memory."""
        return Cache([k[:count] for k in self.keys], [v[:count] for v in self.values], self.num_positions)


class Block(nn.Module):
    """Self-attention and two linear layers, each with a residual connection.

    Args:
        width: D.
        num_heads: H.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x_BPD: Tensor, drop: Drop, cache: tuple[Tensor, Tensor] | None, first: int) -> Tensor:
        B, P, D = x_BPD.shape
        q, k, v = self.qkv(self.norm1(x_BPD)).view(B, P, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            keys, values = cache
            keys[:, :, first : first + P], values[:, :, first : first + P] = k, v
            k, v = keys[:, :, : first + P], values[:, :, : first + P]
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x_BPD = x_BPD + drop("attention", self.out(y.transpose(1, 2).reshape(B, P, D)))
        return x_BPD + drop("feedforward", self.down(functional.gelu(self.up(self.norm2(x_BPD)))))


class CausalTransformer(nn.Module):
    """Blocks in which a position attends to itself and to earlier positions.

    Args:
        width: D.
        num_layers: blocks.
        num_heads: H; divides D.
    """

    def __init__(self, width: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.width, self.num_heads = width, num_heads
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BPD: Tensor, drop: Drop = keep) -> Tensor:
        """Return the outputs (B, P, D) of whole sequences."""
        for number, block in enumerate(self.blocks):

            def drop_here(name: str, x: Tensor, layer: int = number) -> Tensor:
                return drop(f"layer {layer}/{name}", x)

            x_BPD = block(x_BPD, drop_here, None, 0)
        normed: Tensor = self.norm(x_BPD)
        return normed

    def step(self, x_BD: Tensor, cache: Cache) -> Tensor:
        """Return the output (B, D) at the next position, and cache its keys and values."""
        x_BPD = x_BD.unsqueeze(1)
        for block, *pair in zip(self.blocks, cache.keys, cache.values, strict=True):
            x_BPD = block(x_BPD, keep, tuple(pair), cache.num_positions)
        cache.num_positions += 1
        normed: Tensor = self.norm(x_BPD[:, 0])
        return normed

    def cache(self, num_patients: int, num_positions: int, device: torch.device) -> Cache:
        """Return an empty cache."""
        shape = (num_patients, self.num_heads, num_positions, self.width // self.num_heads)
        layers = range(len(self.blocks))
        return Cache(
            [torch.zeros(shape, device=device) for _ in layers],
            [torch.zeros(shape, device=device) for _ in layers],
        )
