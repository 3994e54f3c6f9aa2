"""v3's U-Net and training step written plainly: what ours are measured against.

One-dimensional convolutions on (B, C, T) tensors, the loss and the update as Kuo et al. 2023 (arXiv
2303.12281) have them.

Shapes: B batch, F features, C channels, T timesteps, P timesteps of the canvas.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from healthgym.nn.unet import ResidualBlock, UNet1d, fit_length
from healthgym.systems.base import Draws
from healthgym.systems.denoising.diffusion import DiffusionSystem


class PlainUNet:
    """The forward pass of v3's U-Net as it reads on paper.

    Args:
        ours: whose weights it takes.
    """

    def __init__(self, ours: UNet1d) -> None:
        self.ours = ours

    def __call__(self, x_BFT: Tensor, level_B: Tensor) -> Tensor:
        """Return eps_BFT."""
        net, skips = self.ours, []
        hidden = net.enter(x_BFT.transpose(1, 2)).transpose(1, 2)
        for film, block, down in zip(net.down_film, net.down_block, net.down, strict=True):
            hidden = _residual(block, hidden, film(level_B))
            skips.append(hidden)
            hidden = nn.Conv1d.forward(down, hidden)
        for block in net.middle_block:
            hidden = _residual(block, hidden, net.middle_film(level_B))
        for up, film, block in zip(net.up, net.up_film, net.up_block, strict=True):
            skip = skips.pop()
            hidden = fit_length(nn.ConvTranspose1d.forward(up, hidden), skip.shape[-1]) + skip
            hidden = _residual(block, hidden, film(level_B))
        out: Tensor = net.leave(nn.Conv1d.forward(net.out_conv, hidden).transpose(1, 2)).transpose(1, 2)
        return out


def _residual(block: ResidualBlock, x_BCT: Tensor, film: tuple[Tensor, Tensor]) -> Tensor:
    gamma, beta = (part.squeeze(-1) for part in film)
    hidden = nn.Conv1d.forward(block.conv1, F.silu(block.norm1(x_BCT) * (1 + gamma) + beta))
    return x_BCT + nn.Conv1d.forward(block.conv2, F.silu(block.norm2(hidden)))


class PublishedDiffusion:
    """The plain training step with weights and settings taken over from ours.

    Args:
        ours: a v3 system; it is only read.
    """

    def __init__(self, ours: DiffusionSystem) -> None:
        self.ours, self.weights = ours, copy.deepcopy(ours.denoiser)
        self.network = PlainUNet(self.weights)
        group = ours.optimiser.adam.param_groups[0]
        self.optimiser = torch.optim.Adam(self.weights.parameters(), lr=group["lr"], betas=group["betas"])

    def train_step(self, x_BTF: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Take a step of the same name and meaning as ours."""
        x_BFP, mask_B1P = self.ours.to_canvas(x_BTF)
        level_B = draws.index("level", len(x_BFP), self.ours.schedule.num_levels)
        eta = draws.normal("noise", tuple(x_BFP.shape))
        w = draws.uniform("blend", tuple(x_BFP.shape))
        alpha_bar = self.ours.schedule.alpha_bar_S[level_B].view(-1, 1, 1)
        noised = torch.sqrt(alpha_bar) * x_BFP + torch.sqrt(1 - alpha_bar) * eta
        eps = self.network(noised, level_B)
        count = mask_B1P.sum() * x_BFP.shape[1]
        noise_loss = (((eps - eta) ** 2) * mask_B1P).sum() / count
        mixed = w * eta + (1 - w) * eps
        clean = (noised - torch.sqrt(1 - alpha_bar) * mixed) / (torch.sqrt(alpha_bar) + 1e-8)
        reconstruction_loss = (((clean - x_BFP) ** 2) * mask_B1P).sum() / count
        loss = noise_loss + self.ours.config.reconstruction_weight * reconstruction_loss
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.parameters(), self.ours.config.gradient_clip)
        self.optimiser.step()
        return {"loss": loss.detach(), "noise_loss": noise_loss.detach()}
