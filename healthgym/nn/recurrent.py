"""A bidirectional LSTM with its first and second derivatives written out.

The gradient penalty differentiates an input gradient, so the LSTM is differentiated twice. Left to
autograd that is a graph of hundreds of small operations per timestep. Here the layer is one
differentiable operation whose backward is another one:

    forward          h = LSTM(x; W)
    backward         (dx, dW) from dh
    its derivative   for v, the gradient with respect to dx: one tangent pass forward in time and one
                     backward in time

The last rests on <v, dx> = d/de <dh, LSTM(x + e v; W)> at e = 0. Hence its gradient with respect to dh
is the tangent of h along v, and those with respect to x and W are the tangents of dx and dW.

Both directions run in one batched product per timestep; [x_t | h_(t-1)] is one matrix, so that a
timestep costs one product forward and one backward.

Source: Hochreiter and Schmidhuber, *Long short-term memory*, 1997, in the form with a forget gate of
Gers et al. 2000. Gate order and the two biases follow the published Health Gym code.

Shapes: T timesteps, B batch, I inputs, H hidden, G = 4H gates (forget, input, candidate, output),
K = I + H, D = 2 directions (the second reads time reversed).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_sigmoid_grad = torch.ops.aten.sigmoid_backward.grad_input
_tanh_grad = torch.ops.aten.tanh_backward.grad_input


class BiLSTM(nn.Module):
    """Two LSTMs over one sequence, the second over its time reversal; zero initial states.

    Args:
        input_dim: I, width of the input.
        hidden_dim: H, width of each direction's state.
    """

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.input_dim, self.hidden_dim = input_dim, hidden_dim
        self.weight_DGK = nn.Parameter(torch.empty(2, 4 * hidden_dim, input_dim + hidden_dim))
        self.input_bias_DG = nn.Parameter(torch.empty(2, 4 * hidden_dim))
        self.hidden_bias_DG = nn.Parameter(torch.empty(2, 4 * hidden_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each affine map uniformly within 1/sqrt(its width of input)."""
        input_bound, hidden_bound = 1 / math.sqrt(self.input_dim), 1 / math.sqrt(self.hidden_dim)
        with torch.no_grad():
            self.weight_DGK[..., : self.input_dim].uniform_(-input_bound, input_bound)
            self.weight_DGK[..., self.input_dim :].uniform_(-hidden_bound, hidden_bound)
            self.input_bias_DG.uniform_(-input_bound, input_bound)
            self.hidden_bias_DG.uniform_(-hidden_bound, hidden_bound)

    def forward(self, x_TBI: Tensor, *, last_only: bool = False, penalised: bool = False) -> Tensor:
        """Return the hidden states of both directions.

        Args:
            x_TBI: the sequence, time first.
            last_only: return only each direction's state after its last step.
            penalised: the result's gradient with respect to x_TBI will itself be differentiated, and
                nothing else of the result will be: the first backward then leaves out weight gradients.

        Returns:
            h_TBJ with J = 2H: at step t the forward state t beside the reversed stream's state t, as
            the published code has it, *not* re-reversed in time; or h_BJ of the last steps.
        """
        bias_DG = self.input_bias_DG + self.hidden_bias_DG
        weights = _Weights(self.weight_DGK, bias_DG)
        if penalised:
            h = _apply_forward(x_TBI, self.weight_DGK.detach(), bias_DG.detach(), weights, last_only)
        else:
            h = _apply_forward(x_TBI, self.weight_DGK, bias_DG, weights, last_only)
        return h.transpose(-3, -2).flatten(-2)  # (..., D, B, H) -> (..., B, 2H)


@dataclass(frozen=True)
class _Weights:
    """Weights as the second derivative sees them, whether or not the first one does."""

    weight_DGK: Tensor
    bias_DG: Tensor


@dataclass
class _Pass:
    """What a forward pass leaves for its derivatives; all time first."""

    xh_TDBK: Tensor  # [x_t | h_(t-1)]
    gates_TDBG: Tensor  # after their sigmoid or tanh
    cells_TDBH: Tensor
    tanh_cells_TDBH: Tensor


def _split(gates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return views of (forget and input together, forget, input, candidate, output)."""
    H = gates.shape[-1] // 4
    return (
        gates[..., : 2 * H],
        gates[..., :H],
        gates[..., H : 2 * H],
        gates[..., 2 * H : 3 * H],
        gates[..., 3 * H :],
    )


def _stack_directions(x_TBI: Tensor, hidden_dim: int) -> Tensor:
    """Return a buffer for [x_t | h_(t-1)] of both directions with x and h_(-1) = 0 filled in."""
    T, B, I = x_TBI.shape
    xh_TDBK = x_TBI.new_empty(T, 2, B, I + hidden_dim)
    xh_TDBK[:, 0, :, :I] = x_TBI
    xh_TDBK[:, 1, :, :I] = x_TBI.flip(0)
    xh_TDBK[0, :, :, I:] = 0
    return xh_TDBK


def _run(x_TBI: Tensor, weight_DGK: Tensor, bias_DG: Tensor, last_only: bool) -> tuple[Tensor, _Pass]:
    """Return the hidden states, (T, D, B, H) or (D, B, H), and what the derivatives need."""
    T, B, I = x_TBI.shape
    H = weight_DGK.shape[1] // 4
    xh = _stack_directions(x_TBI, H)
    gates = x_TBI.new_empty(T, 2, B, 4 * H)
    cells, tanh_cells = x_TBI.new_empty(T, 2, B, H), x_TBI.new_empty(T, 2, B, H)
    hidden = x_TBI.new_empty(1 if last_only else T, 2, B, H)
    weight_DKG, bias_D1G = weight_DGK.transpose(1, 2), bias_DG.unsqueeze(1)
    for t in range(T):
        a, s, c, h = gates[t], cells[t], tanh_cells[t], hidden[0 if last_only else t]
        torch.baddbmm(bias_D1G, xh[t], weight_DKG, out=a)
        forget_input, f, i, g, o = _split(a)
        forget_input.sigmoid_()
        g.tanh_()
        o.sigmoid_()
        torch.mul(i, g, out=s)
        if t > 0:
            s.addcmul_(f, cells[t - 1])
        torch.tanh(s, out=c)
        torch.mul(o, c, out=h)
        if t + 1 < T:
            xh[t + 1, :, :, I:] = h
    return hidden[0] if last_only else hidden, _Pass(xh, gates, cells, tanh_cells)


def _merge_directions(dxh_TDBI: Tensor) -> Tensor:
    """Add the second direction's gradient, turned back in time, to the first's."""
    return dxh_TDBI[:, 0] + dxh_TDBI[:, 1].flip(0)


def _product_sum(a_TDBG: Tensor, b_TDBK: Tensor, into_DGK: Tensor) -> None:
    """Add the sum over t of a_t' b_t, per direction, to a weight gradient."""
    for a, b in zip(a_TDBG, b_TDBK, strict=True):
        into_DGK.baddbmm_(a.transpose(1, 2), b)


class _Forward(torch.autograd.Function):
    """h = LSTM(x; W)."""

    @staticmethod
    def forward(
        ctx: Any, x_TBI: Tensor, weight_DGK: Tensor, bias_DG: Tensor, weights: _Weights, last_only: bool
    ) -> Tensor:
        hidden, saved = _run(x_TBI, weight_DGK, bias_DG, last_only)
        ctx.save_for_backward(x_TBI)
        ctx.weights, ctx.saved_pass, ctx.last_only = weights, saved, last_only
        return hidden

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> Any:
        (x_TBI,) = ctx.saved_tensors
        wants_weights = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        dx, dweight, dbias = _apply_backward(
            dh,
            x_TBI,
            ctx.weights.weight_DGK,
            ctx.weights.bias_DG,
            ctx.saved_pass,
            ctx.last_only,
            wants_weights,
        )
        return dx, dweight, dbias, None, None


class _Backward(torch.autograd.Function):
    """(dx, dW, db) as a function of (dh, x, W, b)."""

    @staticmethod
    def forward(
        ctx: Any,
        dh: Tensor,
        x_TBI: Tensor,
        weight_DGK: Tensor,
        bias_DG: Tensor,
        saved: _Pass,
        last_only: bool,
        wants_weights: bool,
    ) -> Any:
        T, I = x_TBI.shape[0], x_TBI.shape[2]
        gates, cells = saved.gates_TDBG, saved.cells_TDBH
        differentiable = any(ctx.needs_input_grad)
        da_all = torch.empty_like(gates)
        dxh_all = torch.empty_like(saved.xh_TDBK)
        dh_all = torch.empty_like(cells) if differentiable else None
        ds_all = torch.empty_like(cells) if differentiable else None
        dweight = torch.zeros_like(weight_DGK) if wants_weights else None
        carry = torch.zeros_like(cells[0])
        scratch = torch.empty_like(carry)
        dh_t, ds_t = torch.empty_like(carry), torch.empty_like(carry)
        for t in reversed(range(T)):
            if dh_all is not None and ds_all is not None:
                dh_t, ds_t = dh_all[t], ds_all[t]
            if t == T - 1:
                dh_t.copy_(dh if last_only else dh[t])
            elif last_only:
                dh_t.copy_(dxh_all[t + 1, :, :, I:])
            else:
                torch.add(dh[t], dxh_all[t + 1, :, :, I:], out=dh_t)
            forget_input, f, i, g, o = _split(gates[t])
            da = da_all[t]
            da_forget_input, da_f, da_i, da_g, da_o = _split(da)
            c = saved.tanh_cells_TDBH[t]
            torch.mul(dh_t, o, out=scratch)
            _tanh_grad(scratch, c, grad_input=scratch)
            torch.add(carry, scratch, out=ds_t)
            if t > 0:
                torch.mul(ds_t, cells[t - 1], out=da_f)
            else:
                da_f.zero_()
            torch.mul(ds_t, g, out=da_i)
            _sigmoid_grad(da_forget_input, forget_input, grad_input=da_forget_input)
            torch.mul(ds_t, i, out=da_g)
            _tanh_grad(da_g, g, grad_input=da_g)
            torch.mul(dh_t, c, out=da_o)
            _sigmoid_grad(da_o, o, grad_input=da_o)
            torch.mul(ds_t, f, out=carry)
            torch.bmm(da, weight_DGK, out=dxh_all[t])
            if dweight is not None:
                dweight.baddbmm_(da.transpose(1, 2), saved.xh_TDBK[t])
        dbias = da_all.sum((0, 2)) if wants_weights else None
        if differentiable:
            ctx.save_for_backward(weight_DGK)
            ctx.saved_pass, ctx.last_only = saved, last_only
            ctx.grads = (dh_all, ds_all, da_all)
            ctx.set_materialize_grads(False)
        return _merge_directions(dxh_all[..., :I]), dweight, dbias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_TBI: Tensor | None, dweight: Tensor | None, dbias: Tensor | None) -> Any:
        if dweight is not None or dbias is not None:
            raise RuntimeError("the LSTM's weight gradient is not differentiable; only its input gradient is")
        if v_TBI is None:
            return (None,) * 7
        (weight_DGK,) = ctx.saved_tensors
        saved: _Pass = ctx.saved_pass
        tangent = _tangent_forward(v_TBI, weight_DGK, saved)
        dx, da_dot = _tangent_backward(weight_DGK, saved, tangent, *ctx.grads)
        dweight = dbias = None
        if ctx.needs_input_grad[2]:
            dweight = torch.zeros_like(weight_DGK)
            _product_sum(da_dot, saved.xh_TDBK, dweight)
            _product_sum(ctx.grads[2], tangent.xh_TDBK, dweight)
        if ctx.needs_input_grad[3]:
            dbias = da_dot.sum((0, 2))
        h_dot = tangent.hidden_TDBH
        return h_dot[-1] if ctx.last_only else h_dot, dx, dweight, dbias, None, None, None


# torch leaves `apply` untyped.
_apply_forward: Callable[..., Tensor] = _Forward.apply
_apply_backward: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]] = _Backward.apply


@dataclass
class _Tangent:
    """Tangents of a pass along v; all time first."""

    xh_TDBK: Tensor
    gates_TDBG: Tensor
    cells_TDBH: Tensor
    tanh_cells_TDBH: Tensor
    hidden_TDBH: Tensor


def _tangent_forward(v_TBI: Tensor, weight_DGK: Tensor, saved: _Pass) -> _Tangent:
    """Return d/de of everything a forward pass computes at x + e v."""
    T, I, H = v_TBI.shape[0], v_TBI.shape[2], weight_DGK.shape[1] // 4
    xh = _stack_directions(v_TBI, H)
    gates, cells = torch.empty_like(saved.gates_TDBG), torch.empty_like(saved.cells_TDBH)
    tanh_cells, hidden = torch.empty_like(cells), torch.empty_like(cells)
    weight_DKG = weight_DGK.transpose(1, 2)
    for t in range(T):
        forget_input, f, i, g, o = _split(saved.gates_TDBG[t])
        a_dot, s_dot, c_dot, h_dot = gates[t], cells[t], tanh_cells[t], hidden[t]
        torch.bmm(xh[t], weight_DKG, out=a_dot)
        forget_input_dot, f_dot, i_dot, g_dot, o_dot = _split(a_dot)
        _sigmoid_grad(forget_input_dot, forget_input, grad_input=forget_input_dot)
        _tanh_grad(g_dot, g, grad_input=g_dot)
        _sigmoid_grad(o_dot, o, grad_input=o_dot)
        torch.mul(i_dot, g, out=s_dot)
        s_dot.addcmul_(i, g_dot)
        if t > 0:
            s_dot.addcmul_(f_dot, saved.cells_TDBH[t - 1])
            s_dot.addcmul_(f, cells[t - 1])
        c = saved.tanh_cells_TDBH[t]
        _tanh_grad(s_dot, c, grad_input=c_dot)
        torch.mul(o_dot, c, out=h_dot)
        h_dot.addcmul_(o, c_dot)
        if t + 1 < T:
            xh[t + 1, :, :, I:] = h_dot
    return _Tangent(xh, gates, cells, tanh_cells, hidden)


def _tangent_backward(
    weight_DGK: Tensor, saved: _Pass, tangent: _Tangent, dh_all: Tensor, ds_all: Tensor, da_all: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the tangents of dx and of the gates' gradients, with dh held fixed.

    With q the gradient of a gate after its squashing, the gradient before it is squash'(a) q, whose
    tangent is squash'(a) q_dot + squash''(a) a_dot q. Since the gate's own tangent is
    squash'(a) a_dot, the second term is (1 - 2 gate) gate_dot q for a sigmoid and
    -2 gate gate_dot q for a tanh.
    """
    T, H = da_all.shape[0], weight_DGK.shape[1] // 4
    I = weight_DGK.shape[2] - H
    da_dot_all, dxh_all = torch.empty_like(da_all), torch.empty_like(saved.xh_TDBK)
    carry = torch.zeros_like(ds_all[0])
    ds_dot, scratch, q_dot = (torch.empty_like(carry) for _ in range(3))
    curve = torch.empty_like(da_all[0, ..., : 2 * H])
    for t in reversed(range(T)):
        forget_input, f, i, g, o = _split(saved.gates_TDBG[t])
        forget_input_dot, f_dot, i_dot, g_dot, o_dot = _split(tangent.gates_TDBG[t])
        c, c_dot, dh, ds = saved.tanh_cells_TDBH[t], tangent.tanh_cells_TDBH[t], dh_all[t], ds_all[t]
        da_dot = da_dot_all[t]
        forget_input_out, f_out, i_out, g_out, o_out = _split(da_dot)
        dh_dot = dxh_all[t + 1, :, :, I:] if t + 1 < T else None

        # Cell: ds = carry + dh o (1 - c c)
        torch.mul(dh, o_dot, out=scratch)
        if dh_dot is not None:
            scratch.addcmul_(dh_dot, o)
        _tanh_grad(scratch, c, grad_input=scratch)
        torch.mul(dh, o, out=ds_dot).mul_(c).mul_(c_dot)
        torch.add(scratch, ds_dot, alpha=-2, out=ds_dot)
        ds_dot.add_(carry)

        # Forget and input gates: q = ds s_(t-1) and ds g
        torch.mul(ds_dot, g, out=i_out)
        i_out.addcmul_(ds, g_dot)
        q_f, q_i = curve[..., :H], curve[..., H:]
        torch.mul(ds, g, out=q_i)
        if t > 0:
            torch.mul(ds_dot, saved.cells_TDBH[t - 1], out=f_out)
            f_out.addcmul_(ds, tangent.cells_TDBH[t - 1])
            torch.mul(ds, saved.cells_TDBH[t - 1], out=q_f)
        else:
            f_out.zero_()
            q_f.zero_()
        _sigmoid_grad(forget_input_out, forget_input, grad_input=forget_input_out)
        curve.mul_(forget_input_dot)
        forget_input_out.add_(curve)
        forget_input_out.addcmul_(curve, forget_input, value=-2)

        # Candidate: q = ds i
        torch.mul(ds_dot, i, out=g_out)
        g_out.addcmul_(ds, i_dot)
        _tanh_grad(g_out, g, grad_input=g_out)
        torch.mul(ds, i, out=scratch).mul_(g_dot)
        g_out.addcmul_(scratch, g, value=-2)

        # Output gate: q = dh c
        torch.mul(dh, c_dot, out=q_dot)
        if dh_dot is not None:
            q_dot.addcmul_(dh_dot, c)
        _sigmoid_grad(q_dot, o, grad_input=o_out)
        torch.mul(dh, c, out=scratch).mul_(o_dot)
        o_out.add_(scratch)
        o_out.addcmul_(scratch, o, value=-2)

        torch.mul(ds_dot, f, out=carry)
        carry.addcmul_(ds, f_dot)
        torch.bmm(da_dot, weight_DGK, out=dxh_all[t])
    return _merge_directions(dxh_all[..., :I]), da_dot_all
