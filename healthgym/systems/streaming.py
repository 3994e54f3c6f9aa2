"""The recurrent generator on a CPU when no gradient is wanted: all layers in one walk through time.

Step t of the output needs both streams' state t only, so that the affine maps follow inside the loop
and the states of T timesteps are never kept: what is worked on stays in the cache, and memory does not
grow with T beyond noise and features.

Shapes: B batch, T timesteps, Z noise, H hidden, G = 4H gates, K = Z + H, D = 2 streams, F features.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu_

from healthgym.layout import FeatureLayout
from healthgym.nn.recurrent import BiLSTM


def stream_logits(
    z_BTZ: Tensor, recurrent: BiLSTM, maps: tuple[nn.Linear, nn.Linear, nn.Linear], leak: float
) -> Tensor:
    """Return what the three affine maps make of the states of two LSTMs, shape (T, F, B).

    Args:
        z_BTZ: noise.
        recurrent: two LSTMs, the second over reversed time.
        maps: applied to each timestep's two states, LeakyReLU between them.
        leak: slope of the LeakyReLU below zero.
    """
    (B, T, Z), H = z_BTZ.shape, recurrent.hidden_dim
    weight_DKG, bias_D1G = _sigmoids_first(recurrent, H)
    first, second = ((m.bias, m.weight.t()) for m in maps[:2])
    last_bias_F1 = maps[2].bias.unsqueeze(1)
    zh_DBK = z_BTZ.new_zeros(2, B, Z + H)
    gates_DBG = z_BTZ.new_empty(2, B, 4 * H)
    forget, read, write, candidate = gates_DBG.split(H, -1)
    cell_DBH, squashed_DBH = z_BTZ.new_zeros(2, B, H), z_BTZ.new_empty(2, B, H)
    states_BDH = z_BTZ.new_empty(B, 2, H)
    logits_TFB = z_BTZ.new_empty(T, maps[2].out_features, B)
    for t in range(T):
        zh_DBK[0, :, :Z] = z_BTZ[:, t]
        zh_DBK[1, :, :Z] = z_BTZ[:, T - 1 - t]
        torch.baddbmm(bias_D1G, zh_DBK, weight_DKG, out=gates_DBG)
        gates_DBG[..., : 3 * H].sigmoid_()
        candidate.tanh_()
        cell_DBH.mul_(forget).addcmul_(read, candidate)
        torch.tanh(cell_DBH, out=squashed_DBH)
        torch.mul(write, squashed_DBH, out=zh_DBK[..., Z:])
        states_BDH.copy_(zh_DBK[..., Z:].transpose(0, 1))
        y_BH = leaky_relu_(torch.addmm(first[0], states_BDH.view(B, 2 * H), first[1]), leak)
        y_BH = leaky_relu_(torch.addmm(second[0], y_BH, second[1]), leak)
        torch.addmm(last_bias_F1, maps[2].weight, y_BH.t(), out=logits_TFB[t])
    return logits_TFB


def stream_heads(logits_TFB: Tensor, layout: FeatureLayout) -> Tensor:
    """Return sigmoid of the reals and softmax of each block, shape (F, T, B).

    A softmax along an axis of two to thirteen classes costs five times as much as one across planes.
    """
    x_FTB = logits_TFB.transpose(0, 1).contiguous()
    x_FTB[: layout.num_reals].sigmoid_()
    for span in layout.spans:
        block_CTB = x_FTB[span]
        block_CTB.sub_(block_CTB.amax(0)).exp_().div_(block_CTB.sum(0))
    return x_FTB


def _sigmoids_first(recurrent: BiLSTM, H: int) -> tuple[Tensor, Tensor]:
    """Return weights (D, K, G) and biases (D, 1, G), gates as forget, input, output, candidate."""
    order = torch.cat([torch.arange(2 * H), torch.arange(3 * H, 4 * H), torch.arange(2 * H, 3 * H)])
    bias_DG = recurrent.input_bias_DG + recurrent.hidden_bias_DG
    weight_DKG = recurrent.weight_DGK[:, order].transpose(1, 2).contiguous()
    return weight_DKG, bias_DG[:, order].unsqueeze(1)
