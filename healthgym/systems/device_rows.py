"""The rows of uniform numbers of `healthgym.seeds`, computed on a device: the same bits as on the CPU.

Their generator, PCG64 DXSM, is a linear congruential one of 128 bits: word n of a stream is a function of
A^n s + C_n, so that all words can be computed in parallel. The host computes the first state of each row of a
batch, and word w of a row is an affine map of that state, the same for all rows.

Source: O'Neill, *PCG: a family of simple fast space-efficient statistically good algorithms*, 2014; output
function and multiplier of DXSM as in numpy's documentation of `PCG64DXSM`.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from healthgym import seeds

_MULTIPLIER = 0xDA942042E4DD58B5
_MASK_128, _MASK_64, _MASK_32 = 2**128 - 1, 2**64 - 1, 2**32 - 1
WORDS_AT_ONCE = 2**22  # of 64 bits, in each of a few temporary tensors


def uniform_rows(
    row_shape: tuple[int, ...],
    num_rows: int,
    first_row: int,
    device: torch.device,
    seed: int,
    *position: str | int,
) -> Tensor:
    """Return the result of `seeds.uniform_rows`, computed on a device, (num_rows, *row_shape), float32."""
    width = math.prod(row_shape)
    words = -(-width // 2)  # of two numbers each
    bits = np.random.PCG64DXSM(seeds.key(seed, *position))
    start, step = (int(bits.state["state"][name]) for name in ("state", "inc"))
    factor, addend = _leap(words, step)
    states = [(pow(factor, first_row, 1 << 128) * start + _sum(factor, addend, first_row)) & _MASK_128]
    for _ in range(num_rows - 1):
        states.append((factor * states[-1] + addend) & _MASK_128)
    high_N1, low_N1 = (half.unsqueeze(1) for half in _halves(states, device))
    maps = _maps(words, step, device)
    rows = max(WORDS_AT_ONCE // max(words, 1), 1)
    parts = [
        _numbers(high_n1, low_n1, *maps)
        for high_n1, low_n1 in zip(high_N1.split(rows), low_N1.split(rows), strict=True)
    ]
    return torch.cat(parts)[:, :width].reshape(num_rows, *row_shape)


def _leap(num_words: int, step: int) -> tuple[int, int]:
    """Return the factor and the addend that advance the generator by this number of words."""
    return pow(_MULTIPLIER, num_words, 1 << 128), _sum(_MULTIPLIER, step, num_words)


def _sum(factor: int, addend: int, count: int) -> int:
    """Return addend (1 + factor + ... + factor^(count - 1)) modulo 2^128, by doubling."""
    total, power, so_far = 0, factor, addend  # so_far: of 2^i terms; power: factor^(2^i)
    while count:
        if count & 1:
            total = (total * power + so_far) & _MASK_128
        so_far = (so_far * power + so_far) & _MASK_128
        power = power * power & _MASK_128
        count >>= 1
    return total


@functools.lru_cache(maxsize=8)
def _maps(num_words: int, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the affine maps from a row's first state to its words' states, as halves of 128-bit numbers."""
    factors, addends = [1], [0]
    for _ in range(num_words - 1):
        factors.append(factors[-1] * _MULTIPLIER & _MASK_128)
        addends.append((addends[-1] * _MULTIPLIER + step) & _MASK_128)
    return (*_halves(factors[:num_words], device), *_halves(addends[:num_words], device))


def _halves(values: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the upper and the lower 64 bits of numbers of 128 bits, as int64 with these bits."""
    upper = np.array([value >> 64 for value in values], np.uint64).view(np.int64)
    lower = np.array([value & _MASK_64 for value in values], np.uint64).view(np.int64)
    return torch.from_numpy(upper).to(device), torch.from_numpy(lower).to(device)


def _numbers(
    high_N1: Tensor,
    low_N1: Tensor,
    factor_high: Tensor,
    factor_low: Tensor,
    add_high: Tensor,
    add_low: Tensor,
) -> Tensor:
    """Return the uniform numbers of all words of some rows (N, 2 words); arithmetic wraps at 64 bits."""
    low = factor_low * low_N1
    high = _upper_product(factor_low, low_N1) + factor_low * high_N1 + factor_high * low_N1
    low = low + add_low
    smallest = torch.iinfo(torch.int64).min  # flips the order of signed numbers to that of unsigned ones
    high = high + add_high + ((low ^ smallest) < (add_low ^ smallest)).long()
    high = (high ^ _shifted(high, 32)) * _signed(_MULTIPLIER)
    word = (high ^ _shifted(high, 48)) * (low | 1)
    pair = torch.stack((word & _MASK_32, _shifted(word, 32)), -1).flatten(1)
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
