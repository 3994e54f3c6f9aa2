"""Noise computed on a device has the same bits as on the CPU; tested on a CPU by the device's code."""

import numpy as np
import pytest
import torch

from healthgym import seeds
from healthgym.systems import device_rows

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("row_shape", "num_rows", "first_row"),
    [
        ((), 5, 0),
        ((7,), 3, 0),
        ((6, 5), 40, 0),
        ((4, 3), 9, 1234),
        ((2,), 3, 10**12),
        ((1,), 1, 3),
        ((0,), 2, 1),
    ],
)
@pytest.mark.parametrize("at_once", [2**22, 64])
def test_rows_have_the_bits_of_the_cpus(
    row_shape: tuple[int, ...], num_rows: int, first_row: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_rows, "WORDS_AT_ONCE", at_once)
    for seed in (0, 7):
        position = ("synthesis", 60, "z")
        found = device_rows.uniform_rows(row_shape, num_rows, first_row, CPU, seed, *position)
        expected = seeds.uniform_rows(row_shape, num_rows, first_row, seed, *position)
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found.numpy(), expected)
