"""The recurrent generator on a CPU with products in bfloat16, for inference.

Only torch's own LSTM stores bfloat16 weights in the layout of the processor's instructions: products of
float32 that are rounded on the fly cost twice as much. Noise, weights and states are rounded to eight bits of
mantissa, as for `medium`; so are the outputs of the affine maps except the last.

Shapes: B batch, T timesteps, Z noise, H hidden, I inputs, K = I + H, G = 4H gates, F features.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu_, linear

from healthgym.nn.recurrent import BiLSTM

_TIMESTEPS = 8  # per call of the maps: their outputs then stay in a core's cache


def bfloat16_logits(
    z_BTZ: Tensor, recurrent: BiLSTM, maps: tuple[nn.Linear, nn.Linear, nn.Linear], leak: float
) -> Tensor:
    """Return the result of `stream_logits`, float32 (F, T, B), computed in bfloat16."""
    z_TBZ = z_BTZ.transpose(0, 1).bfloat16().contiguous()
    (T, B, _), H = z_TBZ.shape, recurrent.hidden_dim
    weights = _weights(recurrent)
    states = [
        _states(x_TBZ, *(each[stream] for each in weights)).split(_TIMESTEPS)
        for stream, x_TBZ in enumerate((z_TBZ, z_TBZ.flip(0)))
    ]
    first, second = ((each.weight.bfloat16(), each.bias.bfloat16()) for each in maps[:2])
    weight_0, weight_1 = (part.contiguous() for part in first[0].split(H, 1))
    logits_FTB = z_BTZ.new_empty(len(maps[2].weight), T, B)
    for h_0, h_1, part_FTB in zip(*states, logits_FTB.split(_TIMESTEPS, 1), strict=True):
        y = linear(h_0.flatten(0, 1), weight_0, first[1]).addmm_(h_1.flatten(0, 1), weight_1.t())
        y = leaky_relu_(linear(leaky_relu_(y, leak), *second), leak)
        # The features themselves are not rounded: reals would be on a grid, and classes would tie.
        torch.addmm(maps[2].bias.unsqueeze(1), maps[2].weight, y.float().t(), out=part_FTB.flatten(1))
    return logits_FTB


def _weights(recurrent: BiLSTM) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (D, G, I) and (D, G, H) and biases (D, G), gates in torch's order."""
    H, bias_DG = recurrent.hidden_dim, recurrent.input_bias_DG + recurrent.hidden_bias_DG
    order = torch.cat([torch.arange(H, 2 * H), torch.arange(H), torch.arange(2 * H, 4 * H)])
    input_DGI, hidden_DGH = recurrent.weight_DGK[:, order].bfloat16().split([recurrent.input_dim, H], -1)
    return input_DGI.contiguous(), hidden_DGH.contiguous(), bias_DG[:, order].bfloat16()


def _states(x_TBI: Tensor, input_GI: Tensor, hidden_GH: Tensor, bias_G: Tensor) -> Tensor:
    """Return h_TBH of one stream."""
    zero_1BH = x_TBI.new_zeros(1, x_TBI.shape[1], hidden_GH.shape[1])
    weights = (input_GI, hidden_GH, bias_G, torch.zeros_like(bias_G))
    h_TBH: Tensor = torch.lstm(x_TBI, (zero_1BH, zero_1BH), weights, True, 1, 0.0, False, False, False)[0]
    return h_TBH
