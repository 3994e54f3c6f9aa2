"""Randomness as a function of position: (seed, purpose, step, row) and nothing else.

No random state is ever saved. A resumed run draws what an undisturbed one draws, and a row of a batch
draws the same whichever process computes it. On the CPU the bits come from the counter-based Philox
generator (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) as numpy has it.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_FLOATS_PER_COUNTER = 8  # Philox 4x64: one count yields four 64-bit words, each two float32


def key(seed: int, *position: str | int) -> NDArray[np.uint64]:
    """Return the 128-bit Philox key of a named position, shape (2,).

    Args:
        seed: the run's or the cohort's seed, any integer.
        position: what the numbers are for, e.g. "train", 1200, "critic/3/z".
    """
    text = "\x1f".join([str(seed), *(str(part) for part in position)])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def stream(seed: int, *position: str | int) -> np.random.Generator:
    """Return numpy's generator at a named position."""
    return np.random.Generator(np.random.Philox(key=key(seed, *position)))


def uniform_rows(
    row_shape: tuple[int, ...], num_rows: int, first_row: int, seed: int, *position: str | int
) -> NDArray[np.float32]:
    """Return rows `first_row ...` of an endless array of U(0,1) rows, shape (num_rows, *row_shape).

    Any part of the array can be had without the rest: a rank draws its rows of the global batch, a
    shard its patients.
    """
    width = int(np.prod(row_shape))
    counts = -(-width // _FLOATS_PER_COUNTER)
    bits = np.random.Philox(key=key(seed, *position))
    bits.advance(counts * first_row)
    drawn = np.random.Generator(bits).random((num_rows, counts * _FLOATS_PER_COUNTER), dtype=np.float32)
    return drawn[:, :width].reshape(num_rows, *row_shape)


def permutation(count: int, seed: int, *position: str | int) -> NDArray[np.int64]:
    """Return a random order of 0..count-1."""
    return stream(seed, *position).permutation(count)
