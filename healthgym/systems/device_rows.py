"""The rows of uniform numbers of `healthgym.seeds`, computed on a device: the same bits as on the CPU.

Their generator, PCG64 DXSM, is a linear congruential one of 128 bits: word n of a stream is a function of
A^n s + c (1 + A + ... + A^(n - 1)), so that all words can be computed in parallel. The host computes the
state s of the first row and the constant c of each position; the powers and their sums are the same for all.

Source: O'Neill, *PCG: a family of simple fast space-efficient statistically good algorithms*, 2014; output
function and multiplier of DXSM as in numpy's documentation of `PCG64DXSM`.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from healthgym import seeds
from healthgym.systems.transfer import to_device

_MULTIPLIER = 0xDA942042E4DD58B5
_MASK_128, _MASK_64, _MASK_32 = 2**128 - 1, 2**64 - 1, 2**32 - 1
WORDS_AT_ONCE = 2**22  # of 64 bits, in each of a few temporary tensors


Wide = tuple[Tensor, Tensor]
"""Numbers of 128 bits: their upper and lower halves, int64 with these bits."""


def uniform_rows(
    row_shape: tuple[int, ...],
    num_rows: int,
    first_row: int,
    device: torch.device,
    seed: int,
    *position: str | int,
) -> Tensor:
    """Return the result of `seeds.uniform_rows`, computed on a device, (num_rows, *row_shape), float32."""
    return uniform_rows_of(row_shape, num_rows, first_row, device, seed, [position])[0]


def uniform_rows_of(
    row_shape: tuple[int, ...],
    num_rows: int,
    first_row: int,
    device: torch.device,
    seed: int,
    positions: Sequence[tuple[str | int, ...]],
) -> Tensor:
    """Return the rows of several positions, (positions, num_rows, *row_shape), float32.

    Nothing waits for the device. The rows are computed in parts of `WORDS_AT_ONCE` words or fewer.
    """
    width = math.prod(row_shape)
    words = -(-width // 2)  # of two numbers each
    skipped_factor, skipped_sum = _leap(words * first_row)
    starts, steps = [], []
    for position in positions:
        bits = np.random.PCG64DXSM(seeds.key(seed, *position))
        state, step = (int(bits.state["state"][name]) for name in ("state", "inc"))
        starts.append((skipped_factor * state + skipped_sum * step) & _MASK_128)
        steps.append(step)
    start_P11, step_P11 = (_column(numbers, device) for numbers in (starts, steps))
    row_powers, row_sums = _leaps(num_rows, words, device)
    word_powers, word_sums = _leaps(words, 1, device)
    state_PN1 = _plus(_times(_as_columns(row_powers), start_P11), _times(_as_columns(row_sums), step_P11))
    add_P1W = _times(word_sums, step_P11)
    rows = max(WORDS_AT_ONCE // max(words * len(positions), 1), 1)
    parts = [
        _numbers(_plus(_times(word_powers, state_Pn1), add_P1W))
        for state_Pn1 in zip(*(half.split(rows, 1) for half in state_PN1), strict=True)
    ]
    return torch.cat(parts, 1)[..., :width].reshape(len(positions), num_rows, *row_shape)


def _leap(count: int) -> tuple[int, int]:
    """Return A^n and its sum 1 + A + ... + A^(n - 1) modulo 2^128, by doubling.

    They lead from state s to the n-th after it: A^n s + c (1 + ... + A^(n - 1)).
    """
    total_power, total, power, so_far = 1, 0, _MULTIPLIER, 1  # power, so_far: of 2^i steps
    while count:
        if count & 1:
            total_power, total = total_power * power & _MASK_128, (total * power + so_far) & _MASK_128
        so_far = (so_far * power + so_far) & _MASK_128
        power = power * power & _MASK_128
        count >>= 1
    return total_power, total


@functools.lru_cache(maxsize=16)
def _leaps(count: int, stride: int, device: torch.device) -> tuple[Wide, Wide]:
    """Return `_leap` of 0, stride, 2 stride, ..., two lists of numbers."""
    (power, total), powers, sums = _leap(stride), [1], [0]
    for _ in range(count - 1):
        sums.append((sums[-1] * power + total) & _MASK_128)
        powers.append(powers[-1] * power & _MASK_128)
    return _halves(powers[:count], device), _halves(sums[:count], device)


def _halves(values: list[int], device: torch.device) -> Wide:
    upper = np.array([value >> 64 for value in values], np.uint64).view(np.int64)
    lower = np.array([value & _MASK_64 for value in values], np.uint64).view(np.int64)
    both = to_device(np.stack([upper, lower]), device)
    return both[0], both[1]


def _column(values: list[int], device: torch.device) -> Wide:
    """Return numbers of 128 bits of shape (P, 1, 1)."""
    high, low = _halves(values, device)
    return high[:, None, None], low[:, None, None]


def _as_columns(numbers: Wide) -> Wide:
    high, low = numbers
    return high[:, None], low[:, None]


def _times(x: Wide, y: Wide) -> Wide:
    """Return products modulo 2^128."""
    (x_high, x_low), (y_high, y_low) = x, y
    return _upper_product(x_low, y_low) + x_low * y_high + x_high * y_low, x_low * y_low


def _plus(x: Wide, y: Wide) -> Wide:
    """Return sums modulo 2^128."""
    smallest = torch.iinfo(torch.int64).min  # flips the order of signed numbers to that of unsigned ones
    low = x[1] + y[1]
    return x[0] + y[0] + ((low ^ smallest) < (y[1] ^ smallest)).long(), low


def _numbers(state: Wide) -> Tensor:
    """Return the two uniform numbers of each state, side by side along the last axis."""
    high, low = state
    high = (high ^ _shifted(high, 32)) * _signed(_MULTIPLIER)
    word = (high ^ _shifted(high, 48)) * (low | 1)
    pair = torch.stack((word & _MASK_32, _shifted(word, 32)), -1).flatten(-2)
    return (pair >> 8).float() * 2.0**-24


def _upper_product(x: Tensor, y: Tensor) -> Tensor:
    """Return the upper 64 bits of the product of two unsigned numbers of 64 bits, by halves."""
    x_low, x_high, y_low, y_high = x & _MASK_32, _shifted(x, 32), y & _MASK_32, _shifted(y, 32)
    first, second = x_low * y_high, x_high * y_low
    middle = _shifted(x_low * y_low, 32) + (first & _MASK_32) + (second & _MASK_32)
    return x_high * y_high + _shifted(first, 32) + _shifted(second, 32) + _shifted(middle, 32)


def _shifted(x: Tensor, count: int) -> Tensor:
    """Return x as an unsigned number, shifted right."""
    return (x >> count) & (_MASK_64 >> count)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
