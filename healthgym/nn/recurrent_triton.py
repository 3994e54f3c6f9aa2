"""The pointwise work of an LSTM's timestep as one Triton kernel per pass, for `recurrent_hoisted`.

Triton comes with torch's builds for CUDA; nothing imports this module where it is not there. Its interpreter
(`TRITON_INTERPRET=1`) runs the same kernels without a GPU, which is how they are tested.

The equations are those of `recurrent_hoisted.PlainPointwise`. Each kernel takes whole buffers and the number
of a timestep: a view of one timestep would cost the host as much as the launch. Programs are numbered (block
of units, direction); a unit is one hidden unit of one patient.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from healthgym.nn.recurrent_hoisted import Gradients, Incoming, Tangents, Tape

_BLOCK = 256


@triton.jit
def _tanh(x):
    # Below 1/2 as a continued fraction, cut after its seventh term: exact to float64's last bits.
    y = x * x
    top = x * (135135 + y * (17325 + y * (378 + y)))
    small = top / (135135 + y * (62370 + y * (3150 + y * 28)))
    e = tl.exp(-2 * tl.abs(x))
    large = (1 - e) / (1 + e)
    return tl.where(tl.abs(x) < 0.5, small, tl.where(x < 0, -large, large))


@triton.jit
def _units(t, T, num_units, H, BLOCK: tl.constexpr):
    """Return a program's units: which exist, and their places in (B, H), (D, T, B, H) and (D, T, B, 4H)."""
    unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = (tl.program_id(1) * T + t).to(tl.int64) * num_units
    return unit < num_units, unit, row + unit, 4 * row + unit // H * 4 * H + unit % H


@triton.jit
def _load_gates(gates, gate, H, there):
    f = tl.load(gates + gate, mask=there, other=0.0)
    i = tl.load(gates + gate + H, mask=there, other=0.0)
    g = tl.load(gates + gate + 2 * H, mask=there, other=0.0)
    o = tl.load(gates + gate + 3 * H, mask=there, other=0.0)
    return f, i, g, o


@triton.jit
def _store_gates(gates, gate, H, there, f, i, g, o):
    tl.store(gates + gate, f, mask=there)
    tl.store(gates + gate + H, i, mask=there)
    tl.store(gates + gate + 2 * H, g, mask=there)
    tl.store(gates + gate + 3 * H, o, mask=there)


@triton.jit(do_not_specialize=["t"])
def _forward(gates, cell, hidden, t, T, num_units, H, BLOCK: tl.constexpr):
    there, unit, state, gate = _units(t, T, num_units, H, BLOCK)
    f, i, g, o = _load_gates(gates, gate, H, there)
    f, i, g, o = tl.sigmoid(f), tl.sigmoid(i), _tanh(g), tl.sigmoid(o)
    _store_gates(gates, gate, H, there, f, i, g, o)
    s = i * g + f * tl.load(cell + state - num_units, mask=unit < num_units * (t > 0), other=0.0)
    tl.store(cell + state, s, mask=there)
    tl.store(hidden + state, o * _tanh(s), mask=there)


@triton.jit(do_not_specialize=["t", "dh_row"])
def _adjoint(
    gates,
    cell,
    dh_out,
    into_hidden,
    into_cell,
    out,
    kept_hidden,
    kept_cell,
    t,
    dh_row,
    T,
    num_units,
    H,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    there, unit, state, gate = _units(t, T, num_units, H, BLOCK)
    d = tl.program_id(1)
    f, i, g, o = _load_gates(gates, gate, H, there)
    c = _tanh(tl.load(cell + state, mask=there, other=0.0))
    # of shape (timesteps, 2, units); a negative row is one that nobody gave
    row = (dh_row * 2 + d).to(tl.int64) * num_units
    dh = tl.load(dh_out + row + unit, mask=unit < num_units * (dh_row >= 0), other=0.0)
    followed = unit < num_units * (t < T - 1)
    dh += tl.load(into_hidden + d * num_units + unit, mask=followed, other=0.0)
    ds = dh * o * (1 - c * c)
    ds += tl.load(into_cell + d * num_units + unit, mask=followed, other=0.0)
    before = tl.load(cell + state - num_units, mask=unit < num_units * (t > 0), other=0.0)
    tl.store(into_cell + d * num_units + unit, ds * f, mask=there)
    if KEEP:
        tl.store(kept_hidden + state, dh, mask=there)
        tl.store(kept_cell + state, ds, mask=there)
    _store_gates(
        out,
        gate,
        H,
        there,
        ds * before * f * (1 - f),
        ds * g * i * (1 - i),
        ds * i * (1 - g * g),
        dh * c * o * (1 - o),
    )


@triton.jit(do_not_specialize=["t"])
def _tangent(gates, cell, dots, cell_dot, hidden_dot, t, T, num_units, H, BLOCK: tl.constexpr):
    there, unit, state, gate = _units(t, T, num_units, H, BLOCK)
    f, i, g, o = _load_gates(gates, gate, H, there)
    c = _tanh(tl.load(cell + state, mask=there, other=0.0))
    f_dot, i_dot, g_dot, o_dot = _load_gates(dots, gate, H, there)
    f_dot *= f * (1 - f)
    i_dot *= i * (1 - i)
    g_dot *= 1 - g * g
    o_dot *= o * (1 - o)
    _store_gates(dots, gate, H, there, f_dot, i_dot, g_dot, o_dot)
    preceded = unit < num_units * (t > 0)
    s_dot = i_dot * g + i * g_dot
    s_dot += f_dot * tl.load(cell + state - num_units, mask=preceded, other=0.0)
    s_dot += f * tl.load(cell_dot + state - num_units, mask=preceded, other=0.0)
    tl.store(cell_dot + state, s_dot, mask=there)
    tl.store(hidden_dot + state, o_dot * c + o * (1 - c * c) * s_dot, mask=there)


@triton.jit(do_not_specialize=["t"])
def _adjoint_tangent(
    gates,
    cell,
    kept_hidden,
    kept_cell,
    dots,
    cell_dot,
    into_hidden,
    into_cell,
    out,
    t,
    T,
    num_units,
    H,
    BLOCK: tl.constexpr,
):
    there, unit, state, gate = _units(t, T, num_units, H, BLOCK)
    d = tl.program_id(1)
    f, i, g, o = _load_gates(gates, gate, H, there)
    c = _tanh(tl.load(cell + state, mask=there, other=0.0))
    f_dot, i_dot, g_dot, o_dot = _load_gates(dots, gate, H, there)
    c_dot = (1 - c * c) * tl.load(cell_dot + state, mask=there, other=0.0)
    dh = tl.load(kept_hidden + state, mask=there, other=0.0)
    ds = tl.load(kept_cell + state, mask=there, other=0.0)
    preceded, followed = unit < num_units * (t > 0), unit < num_units * (t < T - 1)
    dh_dot = tl.load(into_hidden + d * num_units + unit, mask=followed, other=0.0)
    ds_dot = (dh_dot * o + dh * o_dot) * (1 - c * c) - 2 * dh * o * c * c_dot
    ds_dot += tl.load(into_cell + d * num_units + unit, mask=followed, other=0.0)
    before = tl.load(cell + state - num_units, mask=preceded, other=0.0)
    before_dot = tl.load(cell_dot + state - num_units, mask=preceded, other=0.0)
    tl.store(into_cell + d * num_units + unit, ds_dot * f + ds * f_dot, mask=there)
    _store_gates(
        out,
        gate,
        H,
        there,
        f * (1 - f) * (ds_dot * before + ds * before_dot) + (1 - 2 * f) * f_dot * ds * before,
        i * (1 - i) * (ds_dot * g + ds * g_dot) + (1 - 2 * i) * i_dot * ds * g,
        (1 - g * g) * (ds_dot * i + ds * i_dot) - 2 * g * g_dot * ds * i,
        o * (1 - o) * (dh_dot * c + dh * c_dot) + (1 - 2 * o) * o_dot * dh * c,
    )


class TritonPointwise:
    """One kernel for each of the four."""

    def forward(self, tape: Tape, t: int) -> None:
        grid, shape = _sizes(tape)
        _forward[grid](tape.gates_DTBG, tape.cell_DTBH, tape.hidden_DTBH, t, *shape, BLOCK=_BLOCK)

    def adjoint(
        self, tape: Tape, dh_LDBH: Tensor, incoming: Incoming, grads: Gradients, keep: bool, t: int
    ) -> None:
        grid, shape = _sizes(tape)
        _adjoint[grid](
            tape.gates_DTBG,
            tape.cell_DTBH,
            dh_LDBH,
            incoming.hidden_DBH,
            incoming.cell_DBH,
            grads.gates_DTBG,
            grads.hidden_DTBH,
            grads.cell_DTBH,
            t,
            t - shape[0] + len(dh_LDBH),
            *shape,
            KEEP=keep,
            BLOCK=_BLOCK,
        )

    def tangent(self, tape: Tape, dots: Tangents, t: int) -> None:
        grid, shape = _sizes(tape)
        _tangent[grid](
            tape.gates_DTBG,
            tape.cell_DTBH,
            dots.gates_DTBG,
            dots.cell_DTBH,
            dots.hidden_DTBH,
            t,
            *shape,
            BLOCK=_BLOCK,
        )

    def adjoint_tangent(
        self, tape: Tape, grads: Gradients, dots: Tangents, incoming: Incoming, out_DTBG: Tensor, t: int
    ) -> None:
        grid, shape = _sizes(tape)
        _adjoint_tangent[grid](
            tape.gates_DTBG,
            tape.cell_DTBH,
            grads.hidden_DTBH,
            grads.cell_DTBH,
            dots.gates_DTBG,
            dots.cell_DTBH,
            incoming.hidden_DBH,
            incoming.cell_DBH,
            out_DTBG,
            t,
            *shape,
            BLOCK=_BLOCK,
        )


def _sizes(tape: Tape) -> tuple[Any, tuple[int, int, int]]:
    """Return the grid of programs, and timesteps, units of a direction and hidden units."""
    _, T, B, H = tape.cell_DTBH.shape
    return (triton.cdiv(B * H, _BLOCK), 2), (T, B * H, H)
