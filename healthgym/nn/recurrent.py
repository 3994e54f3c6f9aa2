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

The passes themselves are in `recurrent_passes`. On a CPU each direction runs by itself, since one
direction's weights and state fit a core's cache: one after the other, or at once if torch has two threads
or more. Elsewhere both run in one batched product per timestep: on CUDA as `recurrent_hoisted` has it, where
Triton is there.

Source: Hochreiter and Schmidhuber, *Long short-term memory*, 1997, in the form with a forget gate of
Gers et al. 2000. Gate order and the two biases follow the published Health Gym code.

Shapes: T timesteps, B batch, I inputs, H hidden, G = 4H gates (forget, input, candidate, output),
K = I + H, D = 2 directions (the second reads time reversed).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import EllipsisType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from healthgym.nn import recurrent_passes as passes
from healthgym.nn.recurrent_hoisted import Hoisted
from healthgym.nn.recurrent_passes import Tape
from healthgym.nn.side_by_side import side_by_side

# Patients times width from which two directions in parallel, in a thread each, are faster than one by one.
ENOUGH_FOR_TWO_THREADS = 4096


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
            x_TBI: the sequence, time first. It is read fastest where it lies as (I, T, B) in memory.
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
    """Weights with gradients for the second derivative, even if the first one needs none."""

    weight_DGK: Tensor
    bias_DG: Tensor


# Which directions a stream holds: one, or both at once.
_Stream = int | EllipsisType


def streams_of(x_TBI: Tensor) -> tuple[_Stream, ...]:
    """Return how the directions are run: one after the other on a CPU, together elsewhere."""
    return (0, 1) if x_TBI.device.type == "cpu" else (...,)


def _in_order(x_TBI: Tensor, stream: _Stream) -> Sequence[Tensor]:
    """Return x_t in the order in which a stream reads them."""
    if stream is ...:
        return torch.stack((x_TBI, x_TBI.flip(0)), 1).unbind()
    return x_TBI.unbind()[:: -1 if stream else 1]


def _apart(x_TBI: Tensor, hidden_dim: int) -> bool:
    """Return whether the directions run in parallel, each in its own thread."""
    enough = x_TBI.shape[1] * hidden_dim >= ENOUGH_FOR_TWO_THREADS
    return enough and len(streams_of(x_TBI)) == 2 and torch.get_num_threads() > 1


def _tapes(run: Callable[[_Stream], Tape], x_TBI: Tensor, apart: bool) -> dict[_Stream, Tape]:
    """Return the tape of a pass for each stream."""
    streams = streams_of(x_TBI)
    tapes = side_by_side(run, streams) if apart else [run(stream) for stream in streams]
    return dict(zip(streams, tapes, strict=True))


class _InputGradient:
    """Collects dx from the streams, in the memory order of a step: features, timesteps, patients.

    Args:
        x_TBI: the input.
        apart: whether streams may write at the same time.
    """

    def __init__(self, x_TBI: Tensor, apart: bool) -> None:
        (T, B, I), self._together = x_TBI.shape, len(streams_of(x_TBI)) == 1
        self._apart = apart
        self._dx_STBI = x_TBI.new_empty(2 if apart or self._together else 1, I, T, B).permute(0, 2, 3, 1)

    def of(self, stream: _Stream) -> tuple[Sequence[Tensor], bool]:
        """Return where a stream puts dx_t, in its order, and whether it adds to what is there."""
        if stream is ...:
            return self._dx_STBI.unbind(1), False
        dx_TBI = self._dx_STBI[stream if self._apart else 0]
        return dx_TBI.unbind()[:: -1 if stream else 1], stream == 1 and not self._apart

    def sum(self) -> Tensor:
        """Return dx_TBI."""
        if self._together:
            return self._dx_STBI[0] + self._dx_STBI[1].flip(0)
        if self._apart:
            self._dx_STBI[0].add_(self._dx_STBI[1])
        return self._dx_STBI[0]


class _Passes(Protocol):
    """The passes of both directions, and what each leaves for the next."""

    def forward(
        self, x_TBI: Tensor, weight_DGK: Tensor, bias_DG: Tensor, last_only: bool
    ) -> tuple[Tensor, Any]:
        """Return h (T, D, B, H), or that of the last timestep, and what derivatives need."""

    def adjoint(
        self, dh_LDBH: Tensor, tape: Any, weight_DGK: Tensor, wants_weights: bool, keep: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Any]:
        """Return dx, dW, db, and what the derivative of this needs."""

    def adjoint_tangent(
        self, v_TBI: Tensor, tape: Any, grads: Any, weight_DGK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the tangents along v of h (all timesteps or the last), dx, dW and db."""


class _Streams:
    """The passes by way of `recurrent_passes`, stream by stream."""

    def forward(
        self, x_TBI: Tensor, weight_DGK: Tensor, bias_DG: Tensor, last_only: bool
    ) -> tuple[Tensor, Any]:
        T, B, _ = x_TBI.shape
        hidden_TDBH = x_TBI.new_empty(1 if last_only else T, 2, B, weight_DGK.shape[1] // 4)

        def run(s: _Stream) -> Tape:
            return passes.forward(_in_order(x_TBI, s), weight_DGK[s], bias_DG[s], hidden_TDBH[:, s].unbind())

        tapes = _tapes(run, x_TBI, _apart(x_TBI, hidden_TDBH.shape[-1]))
        return hidden_TDBH[0] if last_only else hidden_TDBH, (x_TBI, tapes, last_only)

    def adjoint(
        self, dh_LDBH: Tensor, tape: Any, weight_DGK: Tensor, wants_weights: bool, keep: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Any]:
        x_TBI, tapes, _ = tape
        apart = _apart(x_TBI, dh_LDBH.shape[-1])
        dx = _InputGradient(x_TBI, apart)
        dweight = torch.zeros_like(weight_DGK) if wants_weights else None
        dbias = weight_DGK.new_zeros(weight_DGK.shape[:2]) if wants_weights else None

        def run(stream: _Stream) -> Tape:
            return passes.adjoint(
                tapes[stream],
                weight_DGK[stream],
                dh_LDBH[:, stream].unbind(),
                *dx.of(stream),
                dweight[stream] if dweight is not None else None,
                dbias[stream] if dbias is not None else None,
                keep,
            )

        grads = _tapes(run, x_TBI, apart)
        return dx.sum(), dweight, dbias, grads

    def adjoint_tangent(
        self, v_TBI: Tensor, tape: Any, grads: Any, weight_DGK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (T, B, _), (_, tapes, last_only) = v_TBI.shape, tape
        h_dot_TDBH = v_TBI.new_empty(1 if last_only else T, 2, B, weight_DGK.shape[1] // 4)
        apart = _apart(v_TBI, h_dot_TDBH.shape[-1])
        dx_dot = _InputGradient(v_TBI, apart)
        dweight, dbias = torch.zeros_like(weight_DGK), weight_DGK.new_zeros(weight_DGK.shape[:2])

        def run(stream: _Stream) -> Tape:
            own, grad, weight_GK = tapes[stream], grads[stream], weight_DGK[stream]
            v, h_dot, into = _in_order(v_TBI, stream), h_dot_TDBH[:, stream].unbind(), dweight[stream]
            dots = passes.tangent(own, grad, weight_GK, v, h_dot, into)
            passes.adjoint_tangent(own, grad, dots, weight_GK, *dx_dot.of(stream), into, dbias[stream])
            return dots

        _tapes(run, v_TBI, apart)
        return h_dot_TDBH, dx_dot.sum(), dweight, dbias


@cache
def _fused() -> Hoisted | None:
    """Return the passes with a kernel for the pointwise work of a timestep; None where Triton is missing."""
    if importlib.util.find_spec("triton") is None:
        return None
    from healthgym.nn.recurrent_triton import TritonPointwise

    return Hoisted(TritonPointwise())


def passes_for(x_TBI: Tensor) -> _Passes:
    """Return the implementation of the passes for a sequence's device."""
    return (_fused() if x_TBI.device.type == "cuda" else None) or _Streams()


class _Forward(torch.autograd.Function):
    """h = LSTM(x; W)."""

    @staticmethod
    def forward(
        ctx: Any, x_TBI: Tensor, weight_DGK: Tensor, bias_DG: Tensor, weights: _Weights, last_only: bool
    ) -> Tensor:
        passes = passes_for(x_TBI)
        hidden, tape = passes.forward(x_TBI, weight_DGK, bias_DG, last_only)
        ctx.passes, ctx.tape, ctx.weights, ctx.last_only = passes, tape, weights, last_only
        ctx.save_for_backward(x_TBI)
        return hidden

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> Any:
        (x_TBI,) = ctx.saved_tensors
        wants_weights = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        weights = ctx.weights
        left = (ctx.passes, ctx.tape, ctx.last_only)
        dx, dweight, dbias = _apply_backward(
            dh, x_TBI, weights.weight_DGK, weights.bias_DG, *left, wants_weights
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
        passes: _Passes,
        tape: Any,
        last_only: bool,
        wants_weights: bool,
    ) -> Any:
        dh_LDBH, keep = dh.unsqueeze(0) if last_only else dh, any(ctx.needs_input_grad)
        dx, dweight, dbias, grads = passes.adjoint(dh_LDBH, tape, weight_DGK, wants_weights, keep)
        if keep:
            ctx.save_for_backward(weight_DGK)
            ctx.passes, ctx.tape, ctx.grads, ctx.last_only = passes, tape, grads, last_only
            ctx.set_materialize_grads(False)
        return dx, dweight, dbias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_TBI: Tensor | None, dweight: Tensor | None, dbias: Tensor | None) -> Any:
        if dweight is not None or dbias is not None:
            raise RuntimeError("the LSTM's weight gradient is not differentiable; only its input gradient is")
        if v_TBI is None:
            return (None,) * 8
        (weight_DGK,) = ctx.saved_tensors
        passes: _Passes = ctx.passes
        h_dot, dx_dot, dweight, dbias = passes.adjoint_tangent(v_TBI, ctx.tape, ctx.grads, weight_DGK)
        return h_dot[-1] if ctx.last_only else h_dot, dx_dot, dweight, dbias, *(None,) * 4


# torch leaves `apply` untyped.
_apply_forward: Callable[..., Tensor] = _Forward.apply
_apply_backward: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]] = _Backward.apply
