"""Which patients are held out for evaluation."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def held_out(patient_ids: Iterable[Any], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return which patients are held out, shape (N,).

    A patient is held out if the hash of (seed, id) falls in the lowest `fraction` of all hashes: the
    answer depends on neither the order of rows nor the other patients, so that a patient added later
    moves nobody. The share held out is `fraction` on average.
    """
    limit = int(fraction * 2**64)
    ids = (f"{seed}\x1f{patient_id}".encode() for patient_id in patient_ids)
    hashes = (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") for text in ids)
    return np.fromiter((value < limit for value in hashes), dtype=np.bool_)
