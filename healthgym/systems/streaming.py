"""The recurrent generator on a CPU for inference: all layers in one pass through time.

Step t of the output needs only state t of both streams. The affine maps are therefore applied inside the loop
and the states of T timesteps are not stored: intermediate results stay in the cache, and memory grows with T
only
    for
noise and features.

A bias is a column of the weights, applied to a row of ones: a separate bias costs one more pass over the
    output. The
states of both streams share a row of ones between them.

Shapes: B batch, T timesteps, Z noise, H hidden, K = Z + H, G = 4H gates, D = 2 streams, F features.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu_

from healthgym.nn.recurrent import BiLSTM
from healthgym.schema.layout import FeatureLayout


def stream_logits(
    z_BTZ: Tensor, recurrent: BiLSTM, maps: tuple[nn.Linear, nn.Linear, nn.Linear], leak: float
) -> Tensor:
    """Return the output of the three affine maps on the states of two LSTMs, shape (F, T, B).

    Args:
        z_BTZ: noise; fastest if each timestep is contiguous.
        recurrent: two LSTMs, the second over reversed time.
        maps: applied to each timestep's two states, LeakyReLU between them.
        leak: slope of the LeakyReLU below zero.
    """
    (B, T, Z), H = z_BTZ.shape, recurrent.hidden_dim
    weight_DGK, bias_DG1 = _sigmoids_first(recurrent)
    noise_0, noise_1 = weight_DGK[..., :Z].contiguous()
    state_0 = torch.cat([weight_DGK[0, :, Z:], bias_DG1[0]], 1)
    state_1 = torch.cat([bias_DG1[1], weight_DGK[1, :, Z:]], 1)
    first = torch.cat([maps[0].weight[:, :H], maps[0].bias.unsqueeze(1), maps[0].weight[:, H:]], 1)
    second, third = (torch.cat([each.weight, each.bias.unsqueeze(1)], 1) for each in maps[1:])

    states = z_BTZ.new_zeros(2 * H + 1, B)
    states[H] = 1
    states_0, states_1 = states[: H + 1], states[H:]
    h_DHB = states.as_strided((2, H, B), ((H + 1) * B, B, 1))
    gates_DGB, squashed_DHB = z_BTZ.new_empty(2, 4 * H, B), z_BTZ.new_empty(2, H, B)
    gates_0, gates_1 = gates_DGB
    sigmoids, (forget, read, write, candidate) = gates_DGB[:, : 3 * H], gates_DGB.split(H, 1)
    cell_DHB = z_BTZ.new_zeros(2, H, B)
    after_first, after_second = (z_BTZ.new_ones(len(weight) + 1, B) for weight in (first, second))
    y_1, y_2 = after_first[:-1], after_second[:-1]
    logits_FTB = z_BTZ.new_empty(len(third), T, B)
    steps_ZB = [z_BZ.t() for z_BZ in z_BTZ.unbind(1)]
    for t in range(T):
        torch.mm(noise_0, steps_ZB[t], out=gates_0).addmm_(state_0, states_0)
        torch.mm(noise_1, steps_ZB[T - 1 - t], out=gates_1).addmm_(state_1, states_1)
        sigmoids.sigmoid_()
        candidate.tanh_()
        cell_DHB.mul_(forget).addcmul_(read, candidate)
        torch.tanh(cell_DHB, out=squashed_DHB)
        torch.mul(write, squashed_DHB, out=h_DHB)
        leaky_relu_(torch.mm(first, states, out=y_1), leak)
        leaky_relu_(torch.mm(second, after_first, out=y_2), leak)
        torch.mm(third, after_second, out=logits_FTB[:, t])
    return logits_FTB


def stream_heads(logits_FTB: Tensor, layout: FeatureLayout) -> Tensor:
    """Turn logits into the sigmoid of the reals and the softmax of each block, in place.

    A softmax along a contiguous axis of two to thirteen classes would cost five times as much.
    """
    logits_FTB[: layout.num_reals].sigmoid_()
    for span in layout.spans:
        block_CTB = logits_FTB[span]
        block_CTB.sub_(block_CTB.amax(0)).exp_().div_(block_CTB.sum(0))
    return logits_FTB


def _sigmoids_first(recurrent: BiLSTM) -> tuple[Tensor, Tensor]:
    """Return weights (D, G, K) and biases (D, G, 1), gates as forget, input, output, candidate."""
    H, bias_DG = recurrent.hidden_dim, recurrent.input_bias_DG + recurrent.hidden_bias_DG
    order = torch.cat([torch.arange(2 * H), torch.arange(3 * H, 4 * H), torch.arange(2 * H, 3 * H)])
    return recurrent.weight_DGK[:, order], bias_DG[:, order].unsqueeze(-1)
