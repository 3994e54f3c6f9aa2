"""The three passes of an LSTM with its derivatives, as loops over buffers.

    forward            h = LSTM(x; W)
    adjoint            dx and dW from dh
    tangent, and the   d/de of forward and adjoint at x + e v, dh held fixed
    adjoint's tangent

What a timestep computes, its gradients and its tangents have the same parts, so that one class holds
each: a `Step`. Features come before patients in it, so that each gate is one contiguous block, and x_t
lies on h_(t-1), so that a timestep costs one product forward and one back. Step t leaves its state in
step t + 1; there is one step more than timesteps.

Buffers of used-up passes are kept for the next one: fresh memory costs as much as the arithmetic on it.

Shapes: T timesteps, B batch, I inputs, H hidden, K = I + H, G = 4H gates (forget, input, candidate,
output), D = 2 directions. A stream is either one direction, of shapes (K, B), or both, of shapes
(2, K, B).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes, as torch allocates its own tensors

_sigmoid_grad = torch.ops.aten.sigmoid_backward.grad_input
_tanh_grad = torch.ops.aten.tanh_backward.grad_input


class Step:
    """One timestep's parts, as views of one row of memory.

    Attributes:
        xh, x, h: x_t over h_(t-1), and each of them.
        gates: all four, after their sigmoid or tanh.
        forget_input, forget, input, candidate, output: parts of it.
        cell, tanh_cell: s_t and tanh(s_t).
    """

    def __init__(self, memory: Tensor, lead: tuple[int, ...], I: int, H: int, B: int) -> None:
        rows = memory.view(*lead, I + 7 * H, B)
        self.xh, self.gates, self.cell, self.tanh_cell = rows.split([I + H, 4 * H, H, H], -2)
        self.x, self.h = self.xh.split([I, H], -2)
        self.forget, self.input, self.candidate, self.output = self.gates.split(H, -2)
        self.forget_input = self.gates[..., : 2 * H, :]


class Tape:
    """Steps 0..T in a row, or two steps by turns where no more are needed at once.

    Args:
        num_steps: how many steps to hold; step t is the (t mod num_steps)th.
        like: a stream's input (..., B, I); tells batch, device and precision.
        hidden_dim: H.
    """

    _shelf: ClassVar[defaultdict[Any, list[Step]]] = defaultdict(list)
    _shelving: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, num_steps: int, like: Tensor, hidden_dim: int) -> None:
        *lead, B, I = like.shape
        shape = (tuple(lead), I, hidden_dim, B)
        with self._shelving:
            self._free = self._shelf[(*shape, like.dtype, like.device)]
            lacking = num_steps - len(self._free)
            if lacking > 0:
                numel = math.prod(lead) * (I + 7 * hidden_dim) * B
                self._free += [Step(row, *shape) for row in _new_memory(lacking, numel, like)]
            self._steps = [self._free.pop() for _ in range(num_steps)]

    def __getitem__(self, t: int) -> Step:
        return self._steps[t % len(self._steps)]

    def __del__(self) -> None:
        self._free.extend(self._steps)


def _new_memory(num_rows: int, numel: int, like: Tensor) -> Tensor:
    """Return uninitialised rows; on a Linux CPU in huge pages, since a pass walks through all of them.

    Rows begin at multiples of 64 bytes. The last bits of a product depend on how its operands are aligned,
    and which of the rows a timestep gets depends on the passes before.
    """
    stride = -(-numel * like.element_size() // _ALIGNMENT) * _ALIGNMENT // like.element_size()
    if like.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_empty(num_rows, stride)[:, :numel]
    pages = mmap.mmap(-1, num_rows * stride * like.element_size())
    with contextlib.suppress(OSError):  # a kernel built without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=like.dtype).view(num_rows, stride)[:, :numel]


def forward(inputs: Sequence[Tensor], weight_GK: Tensor, bias_G: Tensor, outputs: Sequence[Tensor]) -> Tape:
    """Run a stream.

    Args:
        inputs: x_t of shape (..., B, I) in the stream's order.
        weight_GK, bias_G: of the stream.
        outputs: filled with h_t of shape (..., B, H): of all timesteps, or of the last one.

    Returns:
        What the derivatives need.
    """
    T, I, H = len(inputs), inputs[0].shape[-1], weight_GK.shape[-2] // 4
    tape, weight_GI, bias_G1 = Tape(T + 1, inputs[0], H), weight_GK[..., :I], bias_G.unsqueeze(-1)
    for t in range(T):
        now, after = tape[t], tape[t + 1]
        now.x.copy_(inputs[t].mT)
        if t == 0:
            _affine(bias_G1, weight_GI, now.x, out=now.gates)
        else:
            _affine(bias_G1, weight_GK, now.xh, out=now.gates)
        now.forget_input.sigmoid_()
        now.candidate.tanh_()
        now.output.sigmoid_()
        torch.mul(now.input, now.candidate, out=now.cell)
        if t > 0:
            now.cell.addcmul_(now.forget, tape[t - 1].cell)
        torch.tanh(now.cell, out=now.tanh_cell)
        torch.mul(now.output, now.tanh_cell, out=after.h)
        if len(outputs) == T or t == T - 1:
            outputs[t - T].copy_(after.h.mT)
    return tape


def adjoint(
    tape: Tape,
    weight_GK: Tensor,
    dh: Sequence[Tensor],
    dx: Sequence[Tensor],
    add: bool,
    dweight_GK: Tensor | None,
    dbias_G: Tensor | None,
    keep: bool,
) -> Tape:
    """Run a stream backward in time.

    Args:
        tape: of the forward pass.
        weight_GK: of the stream.
        dh: gradients with respect to h_t, of all timesteps or of the last one.
        dx: filled with the gradients with respect to x_t, or these are added to it.
        add: whether to add to dx.
        dweight_GK, dbias_G: the weights' gradients are added to them, if given.
        keep: whether a derivative of this pass will follow.

    Returns:
        What that derivative needs: dh in `h` of the step after, dh o in `tanh_cell`.
    """
    T, I, H = len(dx), dx[0].shape[-1], weight_GK.shape[-2] // 4
    grads, weight_KG = Tape(T + 1 if keep else 2, dx[0], H), weight_GK.mT
    for t in reversed(range(T)):
        now, grad, grad_after = tape[t], grads[t], grads[t + 1]
        if t == T - 1:
            grad_after.h.copy_(dh[-1].mT)
        elif len(dh) == T:
            grad_after.h.add_(dh[t].mT)
        torch.mul(grad_after.h, now.output, out=grad.tanh_cell)
        _tanh_grad(grad.tanh_cell, now.tanh_cell, grad_input=grad.cell)
        if t < T - 1:
            grad.cell.addcmul_(grad_after.cell, tape[t + 1].forget)
        if t > 0:
            torch.mul(grad.cell, tape[t - 1].cell, out=grad.forget)
        else:
            grad.forget.zero_()
        torch.mul(grad.cell, now.candidate, out=grad.input)
        _sigmoid_grad(grad.forget_input, now.forget_input, grad_input=grad.forget_input)
        torch.mul(grad.cell, now.input, out=grad.candidate)
        _tanh_grad(grad.candidate, now.candidate, grad_input=grad.candidate)
        torch.mul(grad_after.h, now.tanh_cell, out=grad.output)
        _sigmoid_grad(grad.output, now.output, grad_input=grad.output)
        _back_through_affine(t, grad, weight_KG, I)
        _write(dx[t], grad.x.mT, add)
        if dweight_GK is not None and dbias_G is not None:
            _add_product(dweight_GK, grad.gates, now, t, I)
            dbias_G.add_(grad.gates.sum(-1))
    return grads


def tangent(
    tape: Tape,
    grads: Tape,
    weight_GK: Tensor,
    v: Sequence[Tensor],
    h_dot: Sequence[Tensor],
    dweight_GK: Tensor,
) -> Tape:
    """Return d/de of a stream's forward pass at x + e v.

    Args:
        tape, grads: of the forward and adjoint passes.
        weight_GK: of the stream.
        v: the directions of x_t.
        h_dot: filled with the tangents of h_t, of all timesteps or of the last one.
        dweight_GK: that part of the tangent of the weights' gradient is added to it which comes from
            the tangent of [x_t | h_(t-1)], while that is at hand.
    """
    T, I, H = len(v), v[0].shape[-1], weight_GK.shape[-2] // 4
    dots, weight_GI = Tape(T + 1, v[0], H), weight_GK[..., :I]
    for t in range(T):
        now, dot, dot_after = tape[t], dots[t], dots[t + 1]
        dot.x.copy_(v[t].mT)
        if t == 0:
            _product(weight_GI, dot.x, out=dot.gates)
        else:
            _product(weight_GK, dot.xh, out=dot.gates)
        _add_product(dweight_GK, grads[t].gates, dot, t, I)
        _sigmoid_grad(dot.forget_input, now.forget_input, grad_input=dot.forget_input)
        _tanh_grad(dot.candidate, now.candidate, grad_input=dot.candidate)
        _sigmoid_grad(dot.output, now.output, grad_input=dot.output)
        torch.mul(dot.input, now.candidate, out=dot.cell)
        dot.cell.addcmul_(now.input, dot.candidate)
        if t > 0:
            dot.cell.addcmul_(dot.forget, tape[t - 1].cell)
            dot.cell.addcmul_(now.forget, dots[t - 1].cell)
        _tanh_grad(dot.cell, now.tanh_cell, grad_input=dot.tanh_cell)
        torch.mul(dot.output, now.tanh_cell, out=dot_after.h)
        dot_after.h.addcmul_(now.output, dot.tanh_cell)
        if len(h_dot) == T or t == T - 1:
            h_dot[t - T].copy_(dot_after.h.mT)
    return dots


def adjoint_tangent(
    tape: Tape,
    grads: Tape,
    dots: Tape,
    weight_GK: Tensor,
    dx_dot: Sequence[Tensor],
    add: bool,
    dweight_GK: Tensor,
    dbias_G: Tensor,
) -> None:
    """Compute d/de of a stream's adjoint pass at x + e v, with dh held fixed.

    Args:
        tape, grads, dots: of the forward, adjoint and tangent passes.
        weight_GK: of the stream.
        dx_dot, add: filled with the tangents of dx_t, or these are added to it.
        dweight_GK, dbias_G: the tangents of the weights' gradients, but for the part that `tangent`
            adds, are added to them.
    """
    T, I, H = len(dx_dot), dx_dot[0].shape[-1], weight_GK.shape[-2] // 4
    outs, bends, weight_KG = Tape(2, dx_dot[0], H), Tape(1, dx_dot[0], H), weight_GK.mT
    outs[T].h.zero_()
    for t in reversed(range(T)):
        now, grad, dot, out, out_after, bend = tape[t], grads[t], dots[t], outs[t], outs[t + 1], bends[0]
        dh, dh_dot = grads[t + 1].h, out_after.h

        # Cell: ds = dh o (1 - c c) + ds_(t+1) f_(t+1)
        torch.mul(dh, dot.output, out=bend.cell)
        bend.cell.addcmul_(dh_dot, now.output)
        _tanh_grad(bend.cell, now.tanh_cell, grad_input=out.cell)
        torch.mul(now.tanh_cell, dot.tanh_cell, out=bend.cell)
        out.cell.addcmul_(grad.tanh_cell, bend.cell, value=-2)
        if t < T - 1:
            out.cell.addcmul_(out_after.cell, tape[t + 1].forget)
            out.cell.addcmul_(grads[t + 1].cell, dots[t + 1].forget)

        before = (tape[t - 1].cell, dots[t - 1].cell) if t > 0 else None
        _gates_of_adjoint_tangent(now, dot, out, bend, (dh, dh_dot), (grad.cell, out.cell), before)
        _back_through_affine(t, out, weight_KG, I)
        _write(dx_dot[t], out.x.mT, add)
        _add_product(dweight_GK, out.gates, now, t, I)
        dbias_G.add_(out.gates.sum(-1))


def _gates_of_adjoint_tangent(
    now: Step,
    dot: Step,
    out: Step,
    bend: Step,
    output_gradient: tuple[Tensor, Tensor],
    cell_gradient: tuple[Tensor, Tensor],
    cell_before: tuple[Tensor, Tensor] | None,
) -> None:
    """Compute the tangents of the gates' gradients, into `out`.

    With q the gradient of a gate after its squashing, the gradient before it is squash'(a) q, whose
    tangent is squash'(a) q_dot + squash''(a) a_dot q. Since the gate's own tangent is squash'(a) a_dot,
    the second term is (1 - 2 gate) gate_dot q for a sigmoid and -2 gate gate_dot q for a tanh.

    Args:
        now, dot: the step of the forward and tangent passes.
        out, bend: the step to fill, and one to work in.
        output_gradient, cell_gradient: dh and ds, each with its tangent.
        cell_before: s_(t-1) and its tangent; None at the first step.
    """
    (dh, dh_dot), (ds, ds_dot) = output_gradient, cell_gradient
    # q is ds s_(t-1), ds g, ds i, dh c. First squash'(a) q_dot in `out`, q in `bend`
    if cell_before:
        torch.mul(ds_dot, cell_before[0], out=out.forget).addcmul_(ds, cell_before[1])
        torch.mul(ds, cell_before[0], out=bend.forget)
    else:
        out.forget.zero_()
        bend.forget.zero_()
    torch.mul(ds_dot, now.candidate, out=out.input).addcmul_(ds, dot.candidate)
    torch.mul(ds, now.candidate, out=bend.input)
    _sigmoid_grad(out.forget_input, now.forget_input, grad_input=out.forget_input)
    torch.mul(ds_dot, now.input, out=out.candidate).addcmul_(ds, dot.input)
    torch.mul(ds, now.input, out=bend.candidate)
    _tanh_grad(out.candidate, now.candidate, grad_input=out.candidate)
    torch.mul(dh_dot, now.tanh_cell, out=out.output).addcmul_(dh, dot.tanh_cell)
    torch.mul(dh, now.tanh_cell, out=bend.output)
    _sigmoid_grad(out.output, now.output, grad_input=out.output)
    # then the second term: gate_dot q, less twice its product with the gate
    bend.gates.mul_(dot.gates)
    out.gates.addcmul_(bend.gates, now.gates, value=-2)
    out.forget_input.add_(bend.forget_input)
    out.output.add_(bend.output)


def _write(target: Tensor, value: Tensor, add: bool) -> None:
    """Set or increase a tensor."""
    (target.add_ if add else target.copy_)(value)


def _affine(bias_G1: Tensor, weight: Tensor, x: Tensor, out: Tensor) -> None:
    """out = bias + weight x."""
    (torch.addmm if x.dim() == 2 else torch.baddbmm)(bias_G1, weight, x, out=out)


def _product(weight: Tensor, x: Tensor, out: Tensor) -> None:
    """out = weight x."""
    (torch.mm if x.dim() == 2 else torch.bmm)(weight, x, out=out)


def _back_through_affine(t: int, grad: Step, weight_KG: Tensor, I: int) -> None:
    """Turn gradients of the gates into those of x_t and h_(t-1); the first h is no variable."""
    if t == 0:
        _product(weight_KG[..., :I, :], grad.gates, out=grad.x)
    else:
        _product(weight_KG, grad.gates, out=grad.xh)


def _add_product(dweight_GK: Tensor, dgates: Tensor, step: Step, t: int, I: int) -> None:
    """Add dgates [x_t | h_(t-1)]' to the weights' gradient; the first h is zero."""
    into, other = (dweight_GK[..., :I], step.x) if t == 0 else (dweight_GK, step.xh)
    (into.addmm_ if into.dim() == 2 else into.baddbmm_)(dgates, other.mT)
