"""Rows of a file, read by position, and the errors if the file system fails."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from healthgym import faults
from healthgym.errors import StorageError, UnreadableError
from healthgym.storage.rows import RowsOnDisk

NUM_ROWS, WIDTH, OFFSET = 9000, 3, 100


@pytest.fixture
def expected(tmp_path: Path) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(NUM_ROWS, WIDTH)).astype("<f4")
    (tmp_path / "rows").write_bytes(bytes(OFFSET) + values.tobytes())
    return values


@pytest.fixture
def rows(tmp_path: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> RowsOnDisk:
    monkeypatch.setattr(faults, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.001)
    return RowsOnDisk(tmp_path / "rows", "<f4", (NUM_ROWS, WIDTH), OFFSET)


def failing(monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> None:
    """Let the next reads by position fail."""
    read, left = os.pread, iter(range(times))

    def pread(*arguments: Any) -> bytes:
        if next(left, None) is not None:
            raise OSError(number, os.strerror(number))
        return read(*arguments)

    monkeypatch.setattr(os, "pread", pread)


def test_rows_are_those_of_an_array(rows: RowsOnDisk, expected: np.ndarray) -> None:
    random = np.random.default_rng(1)
    first = random.integers(0, NUM_ROWS - 60, 50)
    for positions in (
        first[:, None] + np.minimum(np.arange(60), random.integers(0, 60, 50)[:, None]),  # padded patients
        random.permutation(NUM_ROWS),
        np.arange(NUM_ROWS),
        np.arange(NUM_ROWS)[::-1],
        np.array([7, 7, 9, 8, NUM_ROWS - 1, 0]),
        np.empty((0, 4), int),
    ):
        found = rows.take(positions)
        np.testing.assert_array_equal(found, expected[positions])
        assert found.dtype == expected.dtype
    for part in (slice(5, 9), slice(0, None), slice(8990, 9999), slice(4, 4)):
        np.testing.assert_array_equal(rows[part], expected[part])
    assert (len(rows), rows.shape, rows.nbytes) == (NUM_ROWS, expected.shape, expected.nbytes)


def test_rows_without_numbers(tmp_path: Path) -> None:
    (tmp_path / "rows").touch()
    rows = RowsOnDisk(tmp_path / "rows", "<f4", (5, 0))
    assert rows.take(np.array([[1, 2]])).shape == (1, 2, 0)
    assert rows[1:3].shape == (2, 0)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_an_error_that_passes_is_no_error(
    rows: RowsOnDisk,
    expected: np.ndarray,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(faults, "PATIENCE_SECONDS", 60.0)  # a busy machine must not make it fail
    failing(monkeypatch, number, 3)
    np.testing.assert_array_equal(rows.take(np.array([3, 4])), expected[3:5])
    assert "it works again" in capsys.readouterr().err


def test_an_error_that_stays_is_a_sentence(rows: RowsOnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errno.EIO, 10**6)
    with pytest.raises(UnreadableError, match=r"Cannot read .*rows: .*input/output error\. Check the disk"):
        rows.take(np.array([3]))


def test_a_file_that_is_cut_short_is_a_sentence(rows: RowsOnDisk, tmp_path: Path) -> None:
    os.truncate(tmp_path / "rows", 2000)
    assert rows[:100].shape == (100, WIDTH)
    with pytest.raises(StorageError, match=re.escape("ends at byte 2,000 while it was read")):
        rows[100:]


def test_a_file_that_was_replaced_is_not_mixed_with_the_old_one(
    rows: RowsOnDisk, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").write_bytes(bytes(OFFSET + 10**6))
    (tmp_path / "new").replace(tmp_path / "rows")
    np.testing.assert_array_equal(rows[:10], expected[:10])
    failing(monkeypatch, errno.ESTALE, 2)
    with pytest.raises(StorageError, match="was replaced by another file while it was read"):
        rows[:10]


def test_a_prepared_cohort_on_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "PATIENCE_SECONDS", 0.01)
    cohort = tiny.cohort(tmp_path)
    failing(monkeypatch, errno.EIO, 10**6)
    with pytest.raises(UnreadableError, match=r"Cannot read .*prepared\.h5: .*input/output error"):
        cohort.train.gather(np.array([1, 2]), 3)
