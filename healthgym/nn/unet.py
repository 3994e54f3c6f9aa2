"""The denoiser of v3: a one-dimensional U-Net along clinical time.

Inside it is a two-dimensional one on images of height 1 with the channels last in memory: the layout in
which libraries convolve fastest (a sixth less time on a CPU), and which tensor cores want.

Shapes: B batch, F features, T timesteps, C channels, E width of a level's embedding, S noise levels.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_GROUPS = 8  # of every GroupNorm; C must be a larger multiple


@dataclass(frozen=True)
class Stage:
    """One row of the shape contract.

    Args:
        name: the stage, which is also the name of its parameters' module where it has one.
        width: number of output features or channels.
        length: number of output timesteps.
        note: change of the length, or empty.
    """

    name: str
    width: int
    length: int
    note: str = ""


def sinusoid_table(num_levels: int, dim: int) -> Tensor:
    """Return the fixed embedding of every noise level, shape (S, E).

        table[s, 2k] = sin(s / 10000^(2k/E)),  table[s, 2k+1] = cos(s / 10000^(2k/E))

    Source: Vaswani et al. 2017, section 3.5.
    """
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10_000.0) / dim))
    angle = torch.arange(num_levels, dtype=torch.float64)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim].float()


class LevelFiLM(nn.Module):
    """Scale and shift of every channel, from the noise level: table, Linear, SiLU, Linear.

    Source: Perez et al. 2018 (FiLM), with the sinusoidal table of `sinusoid_table`.
    """

    table: Tensor

    def __init__(self, num_levels: int, embedding_dim: int, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("table", sinusoid_table(num_levels, embedding_dim), persistent=False)
        self.first = nn.Linear(embedding_dim, 2 * num_channels)
        self.second = nn.Linear(2 * num_channels, 2 * num_channels)

    def forward(self, level_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return (gamma, beta), each of shape (B, C, 1, 1)."""
        film_B2C11 = self.second(F.silu(self.first(self.table[level_B])))[..., None, None]
        gamma, beta = film_B2C11.chunk(2, dim=1)
        return gamma, beta


class Conv(nn.Conv1d):
    """A convolution along time of images of height 1."""

    def forward(self, x_BC1T: Tensor) -> Tensor:
        """Return a tensor (B, C, 1, T'), in the layout of the input."""
        weight, padding = self.weight.unsqueeze(2), (0, int(self.padding[0]))
        return F.conv2d(x_BC1T, weight, self.bias, (1, *self.stride), padding)


class UpConv(nn.ConvTranspose1d):
    """A transposed convolution along time of images of height 1."""

    def forward(self, x_BC1T: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return a tensor (B, C, 1, T'), in the layout of the input."""
        weight, padding = self.weight.unsqueeze(2), (0, int(self.padding[0]))
        return F.conv_transpose2d(x_BC1T, weight, self.bias, (1, *self.stride), padding)


class ResidualBlock(nn.Module):
    """GroupNorm, FiLM x (1 + gamma) + beta, SiLU, Conv k3, GroupNorm, SiLU, Conv k3, + input."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NUM_GROUPS, num_channels)
        self.conv1 = Conv(num_channels, num_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, num_channels)
        self.conv2 = Conv(num_channels, num_channels, 3, padding=1)

    def forward(self, x_BC1T: Tensor, film: tuple[Tensor, Tensor]) -> Tensor:
        """Return a tensor of the shape of x_BC1T."""
        gamma, beta = film
        no_gradient = not torch.is_grad_enabled()
        hidden = torch.addcmul(beta, self.norm1(x_BC1T), 1.0 + gamma)
        hidden = self.conv1(F.silu(hidden, inplace=no_gradient))
        out: Tensor = self.conv2(F.silu(self.norm2(hidden), inplace=no_gradient))
        return out.add_(x_BC1T)


class UNet1d(nn.Module):
    """Predict the noise in x_BFT at level s.

    An MLP per timestep leads in, `depth` times a residual block (whose output is kept as a skip) and
    a halving of the length, two blocks in the middle, the way back up with the skips added, a
    convolution, and an MLP per timestep out. `stages` lists all shapes.

    Source: Ronneberger et al. 2015; Ho et al. 2020; Kuo et al. 2023, arXiv 2303.12281.

    Args:
        num_features: F.
        num_channels: C, the width of every stage; a multiple of 8, at least 16.
        depth: how often the length is halved.
        num_levels: S.
        embedding_dim: E, even.
    """

    def __init__(
        self, num_features: int, num_channels: int, depth: int, num_levels: int, embedding_dim: int
    ) -> None:
        super().__init__()
        self.num_features, self.num_channels, self.depth = num_features, num_channels, depth
        width = num_channels

        def film() -> LevelFiLM:
            return LevelFiLM(num_levels, embedding_dim, width)

        self.enter = nn.Sequential(nn.Linear(num_features, width), nn.SiLU(), nn.Linear(width, width))
        self.down_film = nn.ModuleList(film() for _ in range(depth))
        self.down_block = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.down = nn.ModuleList(Conv(width, width, 4, stride=2, padding=1) for _ in range(depth))
        self.middle_film = film()
        self.middle_block = nn.ModuleList(ResidualBlock(width) for _ in range(2))
        self.up = nn.ModuleList(UpConv(width, width, 4, stride=2, padding=1) for _ in range(depth))
        self.up_film = nn.ModuleList(film() for _ in range(depth))
        self.up_block = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.out_conv = Conv(width, width, 3, padding=1)
        self.leave = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, num_features))

    def forward(self, x_BFT: Tensor, level_B: Tensor) -> Tensor:
        """Return eps_BFT, the predicted noise; T may be any length of at least 2^depth.

        Patients at one level may share it: a level_B of one is for all.
        """
        hidden = self.enter(x_BFT.transpose(1, 2)).unsqueeze(1).permute(0, 3, 1, 2)
        skips = []
        for film, block, down in zip(self.down_film, self.down_block, self.down, strict=True):
            hidden = block(hidden, film(level_B))
            skips.append(hidden)
            hidden = down(hidden)
        middle = self.middle_film(level_B)
        for block in self.middle_block:
            hidden = block(hidden, middle)
        for up, film, block in zip(self.up, self.up_film, self.up_block, strict=True):
            skip = skips.pop()
            hidden = block(fit_length(up(hidden), skip.shape[-1]) + skip, film(level_B))
        last_B1TC = self.out_conv(hidden).permute(0, 2, 3, 1)
        eps_BTF: Tensor = self.leave(last_B1TC.squeeze(1))
        return eps_BTF.transpose(1, 2)

    def stages(self, length: int) -> list[Stage]:
        """Return the shape contract for inputs of `length` timesteps, in the order of the forward pass."""
        width, kept, rows = self.num_channels, [], [Stage("input", self.num_features, length)]
        rows.append(Stage("enter", width, length))
        for i in range(self.depth):
            rows.append(Stage(f"down_block.{i}", width, length, "kept as a skip"))
            kept.append(length)
            dropped = "halved" if length % 2 == 0 else "halved, an odd last timestep is dropped"
            length //= 2
            rows.append(Stage(f"down.{i}", width, length, dropped))
        rows += [Stage(f"middle_block.{i}", width, length) for i in range(2)]
        for i in range(self.depth):
            target, length = kept.pop(), 2 * length
            rows.append(Stage(f"up.{i}", width, length, "doubled"))
            rows.append(Stage(f"up_block.{i}", width, target, _fitting(length, target)))
            length = target
        rows.append(Stage("out_conv", width, length))
        rows.append(Stage("leave", self.num_features, length))
        return rows


def fit_length(x: Tensor, length: int) -> Tensor:
    """Crop or right-pad the last axis with zeros to `length` timesteps."""
    return F.pad(x, (0, length - x.shape[-1]))


def shape_table(stages: list[Stage]) -> str:
    """Return the shape contract as aligned text, one stage per line."""
    lines = [("stage", "shape", "note")]
    lines += [(row.name, f"(B, {row.width}, {row.length})", row.note) for row in stages]
    widths = [max(len(line[i]) for line in lines) for i in range(2)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in lines)


def _fitting(length: int, target: int) -> str:
    if length == target:
        return "skip added"
    return f"{'padded' if length < target else 'cropped'} {length} -> {target}, skip added"
