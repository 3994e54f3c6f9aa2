"""Patients as numbers: equal patients have the same, and groups by how many values are recorded of them.

N patients, T timesteps, V variables: R reals and K others.
"""

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.panel import Panel

NUM_GROUPS = 64


def hash_patients(panel: Panel) -> NDArray[np.uint64]:
    """Return one 64-bit number per patient, equal where all values are equal as float32.

    Shards hold float32; a table of text with enough digits gives the same.
    """
    lengths = mix(panel.lengths_N.astype(np.uint64))
    return np.asarray(lengths + hash_courses(panel).sum(axis=1, dtype=np.uint64))


def hash_courses(panel: Panel) -> NDArray[np.uint64]:
    """Return one 64-bit number per patient and variable, equal where its values are, shape (N, V)."""
    bits = (panel.reals_NTR.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)
    bits[np.isnan(panel.reals_NTR)] = np.uint64(0xFFFFFFFF)
    codes = (panel.codes_NTK.astype(np.int64) + 1).astype(np.uint64)
    total = np.zeros((panel.num_patients, bits.shape[2] + codes.shape[2]), np.uint64)
    for step in range(panel.num_timesteps):
        here = np.concatenate([bits[:, step], codes[:, step]], axis=1)
        salt = mix(np.arange(here.shape[1], dtype=np.uint64) + np.uint64(step << 16))
        total += np.where(panel.present_NT[:, [step]], mix(here ^ salt[None, :]), np.uint64(0))
    return total


def groups_of(panel: Panel) -> NDArray[np.int8]:
    """Return each patient's group: the binary digits of the number of values recorded, shape (N,).

    A value that repeats the one before is not counted: carried forward, it says nothing new.
    """
    count = np.zeros(panel.num_patients, np.int64)
    for values_NTV, known_NTV in (
        (panel.reals_NTR, np.isfinite(panel.reals_NTR)),
        (panel.codes_NTK, panel.codes_NTK >= 0),
    ):
        count += known_NTV[:, 0].sum(axis=1)
        for step in range(1, panel.num_timesteps):
            new_NV = known_NTV[:, step] & (values_NTV[:, step] != values_NTV[:, step - 1])
            count += new_NV.sum(axis=1)
    return np.frexp(count)[1].astype(np.int8)


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit numbers (the finaliser of SplitMix64, Steele et al., OOPSLA 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
