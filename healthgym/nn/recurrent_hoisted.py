"""The passes of an LSTM for a device on which launching an operation costs more than its arithmetic.

They compute what `recurrent_passes` does, both directions at once, with as little as can be inside the loop
over timesteps: one matrix product and one pointwise operation. The products with the input, and those that
make the gradients of weights and input, run once for all timesteps before or after the loop.

What is pointwise in a timestep comes as an object of four methods: `recurrent_triton` has one kernel for
each, `PlainPointwise` the same as single operations, by which the passes are tested on any device.

Shapes: T timesteps, B batch, I inputs, H hidden, K = I + H, G = 4H gates (forget, input, candidate, output),
D = 2 directions. Within the passes each direction has its timesteps in the order in which it reads them.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tape:
    """The tape of a forward pass, for its derivatives.

    Args:
        x_DTBI: input, in each direction's order.
        gates_DTBG: after their sigmoid or tanh.
        cell_DTBH: s_t.
        hidden_DTBH: h_t.
    """

    x_DTBI: Tensor
    gates_DTBG: Tensor
    cell_DTBH: Tensor
    hidden_DTBH: Tensor


@dataclass(frozen=True)
class Gradients:
    """The tape of an adjoint pass, for the second derivative.

    Args:
        gates_DTBG: gradients with respect to the gates before their sigmoid or tanh.
        hidden_DTBH: with respect to h_t, by way of the output and of the next timestep.
        cell_DTBH: with respect to s_t.
    """

    gates_DTBG: Tensor
    hidden_DTBH: Tensor
    cell_DTBH: Tensor


@dataclass(frozen=True)
class Tangents:
    """The tape of a tangent pass, for the adjoint's tangent: the tangents of gates, s_t and h_t."""

    gates_DTBG: Tensor
    cell_DTBH: Tensor
    hidden_DTBH: Tensor


@dataclass(frozen=True)
class Incoming:
    """The gradients that a timestep receives from the next one, in a pass backward in time.

    Args:
        hidden_DBH: its gates' gradients times the recurrent weights.
        cell_DBH: its cell's gradient times its forget gate; each timestep leaves its own here.
    """

    hidden_DBH: Tensor
    cell_DBH: Tensor


class Pointwise(Protocol):
    """The pointwise operations of timestep t in each pass; results are written into the given buffers."""

    def forward(self, tape: Tape, t: int) -> None:
        """Compute gates, s_t and h_t, given the gates before their sigmoid or tanh."""

    def adjoint(
        self, tape: Tape, dh_LDBH: Tensor, incoming: Incoming, grads: Gradients, keep: bool, t: int
    ) -> None:
        """Compute the gradients of the gates, and if they are kept those of h_t and s_t.

        Args:
            tape: of the forward pass.
            dh_LDBH: of the outputs: of all timesteps, or of the last one.
            incoming: from timestep t + 1, if there is one; then what timestep t leaves to t - 1.
            grads: to fill.
            keep: whether gradients of h_t and s_t are wanted.
            t: the timestep.
        """

    def tangent(self, tape: Tape, dots: Tangents, t: int) -> None:
        """Compute the tangents of gates, s_t and h_t, given those of the gates before sigmoid or tanh."""

    def adjoint_tangent(
        self, tape: Tape, grads: Gradients, dots: Tangents, incoming: Incoming, out_DTBG: Tensor, t: int
    ) -> None:
        """Compute the tangents of the gates' gradients; `incoming` has those of what it holds."""


class Hoisted:
    """The passes, by way of some pointwise operations.

    Args:
        pointwise: what computes them.
    """

    def __init__(self, pointwise: Pointwise) -> None:
        self._pointwise = pointwise

    def forward(
        self, x_TBI: Tensor, weight_DGK: Tensor, bias_DG: Tensor, last_only: bool
    ) -> tuple[Tensor, Tape]:
        """Return h = LSTM(x; W), of shape (T, D, B, H) or of the last timestep (D, B, H), and the tape."""
        T, B, I = x_TBI.shape
        x_DTBI = _both_ways(x_TBI)
        weight_DIG, weight_DHG = weight_DGK[..., :I].mT, weight_DGK[..., I:].mT
        gates_DNG = torch.baddbmm(bias_DG.unsqueeze(1), x_DTBI.flatten(1, 2), weight_DIG)
        cell_DTBH = x_TBI.new_empty(2, T, B, weight_DHG.shape[1])
        tape = Tape(x_DTBI, gates_DNG.view(2, T, B, -1), cell_DTBH, torch.empty_like(cell_DTBH))
        for t in range(T):
            if t > 0:
                tape.gates_DTBG[:, t].baddbmm_(tape.hidden_DTBH[:, t - 1], weight_DHG)
            self._pointwise.forward(tape, t)
        h_TDBH = tape.hidden_DTBH.transpose(0, 1)
        return (h_TDBH[-1] if last_only else h_TDBH), tape

    def adjoint(
        self, dh_LDBH: Tensor, tape: Tape, weight_DGK: Tensor, wants_weights: bool, keep: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Gradients]:
        """Return dx, dW, db from dh.

        Args:
            dh_LDBH: gradients with respect to h_t, of all timesteps or of the last one.
            tape: of the forward pass.
            weight_DGK: weights.
            wants_weights: whether their gradients are wanted.
            keep: whether a derivative of this pass will follow.
        """
        T, I = tape.cell_DTBH.shape[1], tape.x_DTBI.shape[-1]
        kept = torch.empty_like(tape.cell_DTBH) if keep else tape.cell_DTBH  # a placeholder, not written
        grads = Gradients(torch.empty_like(tape.gates_DTBG), kept, torch.empty_like(kept) if keep else kept)
        incoming, dh_LDBH = _nothing_yet(tape), dh_LDBH.contiguous()
        for t in reversed(range(T)):
            self._pointwise.adjoint(tape, dh_LDBH, incoming, grads, keep, t)
            if t > 0:
                torch.bmm(grads.gates_DTBG[:, t], weight_DGK[..., I:], out=incoming.hidden_DBH)
        dx_TBI = _back_to_input(grads.gates_DTBG, weight_DGK[..., :I])
        if not wants_weights:
            return dx_TBI, None, None, grads
        dweight = torch.empty_like(weight_DGK)
        _add_weights(dweight, grads.gates_DTBG, tape.x_DTBI, tape.hidden_DTBH, beta=0)
        return dx_TBI, dweight, grads.gates_DTBG.sum((1, 2)), grads

    def adjoint_tangent(
        self, v_TBI: Tensor, tape: Tape, grads: Gradients, weight_DGK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return d/de of the two passes at x + e v, dh held fixed: of h (T, D, B, H), dx, dW and db."""
        T, B, I = v_TBI.shape
        v_DTBI = _both_ways(v_TBI)
        gates_DNG = torch.bmm(v_DTBI.flatten(1, 2), weight_DGK[..., :I].mT)
        cell_DTBH = torch.empty_like(tape.cell_DTBH)
        dots = Tangents(gates_DNG.view(2, T, B, -1), cell_DTBH, torch.empty_like(cell_DTBH))
        for t in range(T):
            if t > 0:
                dots.gates_DTBG[:, t].baddbmm_(dots.hidden_DTBH[:, t - 1], weight_DGK[..., I:].mT)
            self._pointwise.tangent(tape, dots, t)
        out_DTBG, incoming = torch.empty_like(tape.gates_DTBG), _nothing_yet(tape)
        for t in reversed(range(T)):
            self._pointwise.adjoint_tangent(tape, grads, dots, incoming, out_DTBG, t)
            if t > 0:
                torch.bmm(out_DTBG[:, t], weight_DGK[..., I:], out=incoming.hidden_DBH)
        dweight = torch.empty_like(weight_DGK)
        _add_weights(dweight, out_DTBG, tape.x_DTBI, tape.hidden_DTBH, beta=0)
        _add_weights(dweight, grads.gates_DTBG, v_DTBI, dots.hidden_DTBH, beta=1)
        dx_TBI = _back_to_input(out_DTBG, weight_DGK[..., :I])
        return dots.hidden_DTBH.transpose(0, 1), dx_TBI, dweight, out_DTBG.sum((1, 2))


def _both_ways(x_TBI: Tensor) -> Tensor:
    """Return a sequence in the order of each direction, (D, T, B, I)."""
    return torch.stack((x_TBI, x_TBI.flip(0)))


def _nothing_yet(tape: Tape) -> Incoming:
    """Return memory for the gradients that timesteps receive; the last one receives none."""
    like_DBH = tape.cell_DTBH[:, 0]
    return Incoming(torch.empty_like(like_DBH), torch.empty_like(like_DBH))


def _back_to_input(dgates_DTBG: Tensor, weight_DGI: Tensor) -> Tensor:
    """Return dx (T, B, I) of the gates' gradients, summed over directions."""
    D, T, B, _ = dgates_DTBG.shape
    dx_DTBI = torch.bmm(dgates_DTBG.flatten(1, 2), weight_DGI).view(D, T, B, -1)
    return dx_DTBI[0] + dx_DTBI[1].flip(0)


def _add_weights(
    dweight_DGK: Tensor, dgates_DTBG: Tensor, x_DTBI: Tensor, hidden_DTBH: Tensor, beta: int
) -> None:
    """Set (beta 0) or increase (1) a weights' gradient by sum_t dgates_t [x_t | h_(t-1)]'."""
    T, I = x_DTBI.shape[1], x_DTBI.shape[-1]
    x_DNI, dgates_DNG = x_DTBI.flatten(1, 2), dgates_DTBG.flatten(1, 2)
    dweight_DGK[..., :I].baddbmm_(dgates_DNG.mT, x_DNI, beta=beta)
    if T > 1:  # the first h is zero
        later_DNG, before_DNH = dgates_DTBG[:, 1:].flatten(1, 2), hidden_DTBH[:, :-1].flatten(1, 2)
        dweight_DGK[..., I:].baddbmm_(later_DNG.mT, before_DNH, beta=beta)
    elif not beta:
        dweight_DGK[..., I:].zero_()


class PlainPointwise:
    """Torch's operations, one after the other."""

    def forward(self, tape: Tape, t: int) -> None:
        f, i, g, o = tape.gates_DTBG[:, t].chunk(4, -1)
        f.sigmoid_(), i.sigmoid_(), g.tanh_(), o.sigmoid_()
        cell = i * g
        if t > 0:
            cell += f * tape.cell_DTBH[:, t - 1]
        tape.cell_DTBH[:, t] = cell
        tape.hidden_DTBH[:, t] = o * cell.tanh()

    def adjoint(
        self, tape: Tape, dh_LDBH: Tensor, incoming: Incoming, grads: Gradients, keep: bool, t: int
    ) -> None:
        T = tape.cell_DTBH.shape[1]
        (f, i, g, o), c = tape.gates_DTBG[:, t].chunk(4, -1), tape.cell_DTBH[:, t].tanh()
        dh = torch.zeros_like(c) if t < T - 1 else dh_LDBH[-1].clone()
        if t < T - 1:
            dh += incoming.hidden_DBH
            if len(dh_LDBH) == T:
                dh += dh_LDBH[t]
        ds = dh * o * (1 - c * c)
        if t < T - 1:
            ds += incoming.cell_DBH
        before = tape.cell_DTBH[:, t - 1] if t > 0 else torch.zeros_like(c)
        parts = ds * before * f * (1 - f), ds * g * i * (1 - i), ds * i * (1 - g * g), dh * c * o * (1 - o)
        grads.gates_DTBG[:, t] = torch.cat(parts, -1)
        incoming.cell_DBH.copy_(ds * f)
        if keep:
            grads.hidden_DTBH[:, t], grads.cell_DTBH[:, t] = dh, ds

    def tangent(self, tape: Tape, dots: Tangents, t: int) -> None:
        (f, i, g, o), c = tape.gates_DTBG[:, t].chunk(4, -1), tape.cell_DTBH[:, t].tanh()
        f_dot, i_dot, g_dot, o_dot = dots.gates_DTBG[:, t].chunk(4, -1)
        f_dot *= f * (1 - f)
        i_dot *= i * (1 - i)
        g_dot *= 1 - g * g
        o_dot *= o * (1 - o)
        cell_dot = i_dot * g + i * g_dot
        if t > 0:
            cell_dot += f_dot * tape.cell_DTBH[:, t - 1] + f * dots.cell_DTBH[:, t - 1]
        dots.cell_DTBH[:, t] = cell_dot
        dots.hidden_DTBH[:, t] = o_dot * c + o * (1 - c * c) * cell_dot

    def adjoint_tangent(
        self, tape: Tape, grads: Gradients, dots: Tangents, incoming: Incoming, out_DTBG: Tensor, t: int
    ) -> None:
        T = tape.cell_DTBH.shape[1]
        (f, i, g, o), c = tape.gates_DTBG[:, t].chunk(4, -1), tape.cell_DTBH[:, t].tanh()
        f_dot, i_dot, g_dot, o_dot = dots.gates_DTBG[:, t].chunk(4, -1)
        dh, ds, c_dot = grads.hidden_DTBH[:, t], grads.cell_DTBH[:, t], (1 - c * c) * dots.cell_DTBH[:, t]
        dh_dot = incoming.hidden_DBH if t < T - 1 else torch.zeros_like(c)
        # ds = dh o (1 - c c) + ds_(t+1) f_(t+1)
        ds_dot = (dh_dot * o + dh * o_dot) * (1 - c * c) - 2 * dh * o * c * c_dot
        if t < T - 1:
            ds_dot += incoming.cell_DBH
        before, before_dot = torch.zeros_like(c), torch.zeros_like(c)
        if t > 0:
            before, before_dot = tape.cell_DTBH[:, t - 1], dots.cell_DTBH[:, t - 1]
        # Two terms each, as `recurrent_passes` derives them.
        parts = (
            f * (1 - f) * (ds_dot * before + ds * before_dot) + (1 - 2 * f) * f_dot * ds * before,
            i * (1 - i) * (ds_dot * g + ds * g_dot) + (1 - 2 * i) * i_dot * ds * g,
            (1 - g * g) * (ds_dot * i + ds * i_dot) - 2 * g * g_dot * ds * i,
            o * (1 - o) * (dh_dot * c + dh * c_dot) + (1 - 2 * o) * o_dot * dh * c,
        )
        out_DTBG[:, t] = torch.cat(parts, -1)
        incoming.cell_DBH.copy_(ds_dot * f + ds * f_dot)
