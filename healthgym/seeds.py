"""Randomness as a function of position: (seed, purpose, step, row).

No generator state is saved. A resumed run draws the same numbers as an uninterrupted one, and the numbers of
a row of a batch do not depend on the process that computes it. On the CPU two of numpy's generators are used:
the counter-based Philox (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) for streams,
and PCG64 DXSM (O'Neill, *PCG*, 2014, with the output function that numpy documents) for rows, which are far
more numerous; it can also be advanced to any position and is 1.5 times as fast.

All purposes of random streams, after the seed:

weights                             initial weights of a system
validation                          which training patients are kept for validation
figures                             which patients v1 to v3 are compared with during training
order, EPOCH, STAGE                 assignment of patients to batches (the stage of whole patients is 0)
train, STEP, NAME                   noise of a training step (`systems.draws.PositionDraws`), NAME being
    critic/U/z, critic/U/slot, critic/U/alpha   update U of the critic: noise, slots, interpolation
    generator/z, generator/slot, generator/threshold   the generator's update
    autoencoder/slots                           which prototypes a full latent memory keeps
    level, noise, blend                         the denoiser's update
    dropout/PLACE                               ar: which entries are dropped
synthesis, length                   the plan: lengths of synthetic patients, one row per patient
synthesis, length given classes     v1-v3: their lengths, where these depend on static classes
synthesis, LENGTH, z | slot         v1-v2.5: noise of patients of one length, one row per patient
synthesis, PATIENT, ATTEMPT         v3: noise of one attempt at one patient
synthesis, static [, ATTEMPT]; timestep, T; value, T; shares
                                    ar: decisions and values, one row per patient
simulate, NAME                      the simulated cohort, one row per patient

of the report:

sample                              which patients of a large cohort are compared
noise, NUMBER; noise floor, 0       random splits of real patients, between which noise is measured
independent, KIND, COLUMN; which patients are independent
                                    the cohort of independent variables, with which others are compared
twins, NUMBER; neighbours, SIDE     which patients' distances to each other are computed
classifier                          which patients a classifier learns to distinguish
test; learned from, NUMBER; halves, NUMBER
                                    utility: test patients, bootstrap samples and halves of the others
next step                           which timesteps are predicted
states                              which timesteps define the states of a treatment policy
true-positive rate                  bootstrap samples of an attack's scores
nearer to training                  halves of training patients and holdout in an attack on membership

A new system takes its sampling noise from `systems.draws.SampleDraws`, under "synthesis".
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

_FLOATS_PER_WORD = 2  # of 64 bits
_ROUNDS = 8  # of the Feistel network, an even number
_FEW = 4096


def key(seed: int, *position: str | int) -> NDArray[np.uint64]:
    """Return the 128-bit key of a named position, shape (2,).

    Args:
        seed: the run's or the cohort's seed, any integer.
        position: purpose and indices, e.g. "train", 1200, "critic/3/z".
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

    Any part of the array can be computed alone: a rank draws its rows of the global batch, a shard its
        patients.
    """
    width = int(np.prod(row_shape))
    words = -(-width // _FLOATS_PER_WORD)
    bits = np.random.PCG64DXSM(key(seed, *position))
    bits.advance(words * first_row)
    drawn = np.random.Generator(bits).random((num_rows, words * _FLOATS_PER_WORD), dtype=np.float32)
    return drawn[:, :width].reshape(num_rows, *row_shape)


def permutation(count: int, seed: int, *position: str | int) -> NDArray[np.int64]:
    """Return a random order of 0..count-1."""
    return stream(seed, *position).permutation(count)


def shuffled(
    positions_B: NDArray[np.int64], count: int, seed: int, *position: str | int
) -> NDArray[np.int64]:
    """Return the elements at these positions of a random order of 0..count-1, in constant memory.

    Up to a count of 4,096 it is the order of `permutation`, since a cipher on few elements is biased; beyond,
    that of `enciphered`.
    """
    if count <= _FEW:
        return permutation(count, seed, *position)[positions_B]
    return enciphered(positions_B, count, seed, *position)


def enciphered(
    positions_B: NDArray[np.int64], count: int, seed: int, *position: str | int
) -> NDArray[np.int64]:
    """Return the elements at these positions of an order of 0..count-1 that a cipher defines.

    It is a Feistel network of keyed rounds on (x mod a, x div a), with ab just above `count`; a result
    outside the range is encrypted again until it is inside.

    Source: Black and Rogaway, *Ciphers with arbitrary finite domains*, CT-RSA 2002, section 5 (generalised
    Feistel) and section 4 (cycle walking).
    """
    a = math.isqrt(count - 1) + 1
    b = -(-count // a)
    keys = np.random.Philox(key=key(seed, *position)).random_raw(_ROUNDS)
    found_B = _encrypted(positions_B.astype(np.uint64), a, b, keys)
    while (outside_B := found_B >= count).any():
        found_B[outside_B] = _encrypted(found_B[outside_B], a, b, keys)
    return found_B.astype(np.int64)


def _encrypted(x: NDArray[np.uint64], a: int, b: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a permutation of 0..ab-1 at x."""
    right, left = np.divmod(x, np.uint64(a))
    for even, odd in keys.reshape(-1, 2):
        left = (left + _mixed(right + even)) % np.uint64(a)
        right = (right + _mixed(left + odd)) % np.uint64(b)
    mixed: NDArray[np.uint64] = right * np.uint64(a) + left
    return mixed


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 63-bit words whose every bit depends on every bit of z.

    Source: Steele, Lea and Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014, with the
    multipliers of Stafford's variant 13.
    """
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(1)
