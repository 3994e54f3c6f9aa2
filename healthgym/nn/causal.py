"""A causal transformer: whole sequences in training, one timestep at a time in sampling.

Source: Vaswani et al., *Attention is all you need*, 2017; layer norm before each part as in Xiong et al.,
*On layer normalization in the transformer architecture*, ICML 2020.
Shapes: B batch, P positions, D width, H heads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

Drop = Callable[[str, Tensor], Tensor]
"""Dropout by name: returns the tensor with some entries zeroed and the others scaled up."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`Cache.attend` of a layer."""

_AT_ONCE = 128  # patients whose products of attention fit a core's cache


def keep(name: str, x: Tensor) -> Tensor:
    """Return x: no dropout."""
    return x


class Cache(Protocol):
    """Keys and values of the positions so far."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store a position's keys and values, and attend to all positions so far.

        Args:
            layer: number of the layer.
            q, k, v: of the position, (B, H, 1, D/H).

        Returns:
            means of the values, (B, H, 1, D/H).
        """

    def advance(self) -> None:
        """Go on to the next position."""


@dataclass
class GrowingCache:
    """A cache whose position is known to Python, so that attention reads only what is filled.

    Scores are products and sums over all positions of some patients at a time. PyTorch's attention takes
    about twice as long for one query on a CPU: it multiplies one small matrix per patient and head.

    Args:
        keys, values: of each layer, (P, B, H, D/H).
        position: the current position.
    """

    keys: list[Tensor]
    values: list[Tensor]
    position: int = 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values, end = self.keys[layer], self.values[layer], self.position + 1
        keys[self.position], values[self.position] = k[:, :, 0], v[:, :, 0]
        q_BHX = q[:, :, 0] / math.sqrt(q.shape[-1])
        parts = []
        for first in range(0, len(q), _AT_ONCE):
            rows = slice(first, first + _AT_ONCE)
            weights_PBH = (keys[:end, rows] * q_BHX[rows]).sum(-1).softmax(0)
            parts.append((weights_PBH.unsqueeze(-1) * values[:end, rows]).sum(0))
        return torch.cat(parts).unsqueeze(2)

    def advance(self) -> None:
        self.position += 1

    def first(self, count: int) -> "GrowingCache":
        """Return the cache of the first patients only; it shares the memory."""
        keys, values = ([x[:, :count] for x in each] for each in (self.keys, self.values))
        return GrowingCache(keys, values, self.position)


@dataclass
class FixedCache:
    """A cache whose position is a tensor, so that one CUDA graph serves all positions.

    Attention reads the whole cache, and a mask excludes what is not filled yet.

    Args:
        keys, values: of each layer, (B, H, P, D/H).
        position_1: the current position, int64, advanced in place.
    """

    keys: list[Tensor]
    values: list[Tensor]
    position_1: Tensor

    def __post_init__(self) -> None:
        self._positions_P = torch.arange(self.keys[0].shape[2], device=self.position_1.device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.position_1, k)
        values.index_copy_(2, self.position_1, v)
        if layer == 0:
            self._mask_1P = torch.zeros_like(self._positions_P, dtype=k.dtype).masked_fill(
                self._positions_P > self.position_1, -torch.inf
            )[None]
        return functional.scaled_dot_product_attention(q, keys, values, attn_mask=self._mask_1P)

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

    def forward(self, x_BPD: Tensor, drop: Drop, attend: Attend) -> Tensor:
        B, P, D = x_BPD.shape
        q, k, v = self.qkv(self.norm1(x_BPD)).view(B, P, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v)
        x_BPD = x_BPD + drop("attention", self.out(y.transpose(1, 2).reshape(B, P, D)))
        return x_BPD + drop("feedforward", self.down(functional.gelu(self.up(self.norm2(x_BPD)))))


def _attend_to_earlier(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


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

            x_BPD = block(x_BPD, drop_here, _attend_to_earlier)
        normed: Tensor = self.norm(x_BPD)
        return normed

    def step(self, x_BD: Tensor, cache: Cache) -> Tensor:
        """Return the output (B, D) at the next position, and cache its keys and values."""
        x_BPD = x_BD.unsqueeze(1)
        for number, block in enumerate(self.blocks):
            x_BPD = block(x_BPD, keep, partial(cache.attend, number))
        cache.advance()
        normed: Tensor = self.norm(x_BPD[:, 0])
        return normed

    def cache(self, num_patients: int, num_positions: int, device: torch.device) -> GrowingCache:
        """Return an empty cache."""
        return GrowingCache(*self._memory((num_positions, num_patients), (), device))

    def fixed_cache(self, num_patients: int, num_positions: int, position_1: Tensor) -> FixedCache:
        """Return an empty cache whose position is a tensor."""
        return FixedCache(*self._memory((num_patients,), (num_positions,), position_1.device), position_1)

    def _memory(
        self, before: tuple[int, ...], after: tuple[int, ...], device: torch.device
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return zeros of keys and values; their shape is that of heads between these."""
        shape = (*before, self.num_heads, *after, self.width // self.num_heads)
        layers = range(len(self.blocks))
        keys, values = ([torch.zeros(shape, device=device) for _ in layers] for _ in range(2))
        return keys, values
