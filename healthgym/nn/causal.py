"""A causal transformer: whole sequences in training, one timestep at a time in sampling.

Source: Vaswani et al., *Attention is all you need*, 2017; layer norm before each part as in Xiong et al.,
*On layer normalization in the transformer architecture*, ICML 2020.
Shapes: B batch, P positions, D width, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

Drop = Callable[[str, Tensor], Tensor]
"""Dropout by name: returns the tensor with some entries zeroed and the others scaled up."""

Add = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]
"""`Cache.add` of a layer."""


def keep(name: str, x: Tensor) -> Tensor:
    """Return x: no dropout."""
    return x


class Cache(Protocol):
    """Keys and values of the positions so far, one pair (B, H, P, D/H) per layer."""

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store a position's keys and values (B, H, 1, D/H).

        Returns:
            keys and values to attend to, and what is added to the scores before the softmax, or None.
        """

    def advance(self) -> None:
        """Go on to the next position."""


@dataclass
class GrowingCache:
    """A cache whose position is known to Python, so that attention reads only what is filled."""

    keys: list[Tensor]
    values: list[Tensor]
    position: int = 0

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        keys, values, end = self.keys[layer], self.values[layer], self.position + 1
        keys[:, :, self.position : end], values[:, :, self.position : end] = k, v
        return keys[:, :, :end], values[:, :, :end], None

    def advance(self) -> None:
        self.position += 1

    def first(self, count: int) -> "GrowingCache":
        """Return the cache of the first patients only; it shares the memory."""
        return GrowingCache([k[:count] for k in self.keys], [v[:count] for v in self.values], self.position)


@dataclass
class FixedCache:
    """A cache whose position is a tensor, so that one CUDA graph serves all positions.

    Attention reads the whole cache, and a mask excludes what is not filled yet.

    Args:
        keys, values: of each layer.
        position_1: the current position, int64, advanced in place.
    """

    keys: list[Tensor]
    values: list[Tensor]
    position_1: Tensor

    def __post_init__(self) -> None:
        self._places_P = torch.arange(self.keys[0].shape[2], device=self.position_1.device)

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.position_1, k)
        values.index_copy_(2, self.position_1, v)
        if layer == 0:
            self._mask_1P = torch.zeros_like(self._places_P, dtype=k.dtype).masked_fill(
                self._places_P > self.position_1, -torch.inf
            )[None]
        return keys, values, self._mask_1P

    def advance(self) -> None:
        self.position_1 += 1


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

    def forward(self, x_BPD: Tensor, drop: Drop, add: Add | None) -> Tensor:
        B, P, D = x_BPD.shape
        q, k, v = self.qkv(self.norm1(x_BPD)).view(B, P, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        k, v, mask = (k, v, None) if add is None else add(k, v)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=add is None)
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

            x_BPD = block(x_BPD, drop_here, None)
        normed: Tensor = self.norm(x_BPD)
        return normed

    def step(self, x_BD: Tensor, cache: Cache) -> Tensor:
        """Return the output (B, D) at the next position, and cache its keys and values."""
        x_BPD = x_BD.unsqueeze(1)
        for number, block in enumerate(self.blocks):
            x_BPD = block(x_BPD, keep, partial(cache.add, number))
        cache.advance()
        normed: Tensor = self.norm(x_BPD[:, 0])
        return normed

    def cache(self, num_patients: int, num_positions: int, device: torch.device) -> GrowingCache:
        """Return an empty cache."""
        return GrowingCache(*self._memory(num_patients, num_positions, device))

    def fixed_cache(self, num_patients: int, num_positions: int, position_1: Tensor) -> FixedCache:
        """Return an empty cache whose position is a tensor."""
        return FixedCache(*self._memory(num_patients, num_positions, position_1.device), position_1)

    def _memory(
        self, num_patients: int, num_positions: int, device: torch.device
    ) -> tuple[list[Tensor], list[Tensor]]:
        shape = (num_patients, self.num_heads, num_positions, self.width // self.num_heads)
        layers = range(len(self.blocks))
        keys, values = ([torch.zeros(shape, device=device) for _ in layers] for _ in range(2))
        return keys, values
