"""A column of numbers read in blocks, from memory or from a file, and statistics of it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.data.fitting.scratch import ScratchFile

BLOCK = 1 << 18  # values in memory at a time

Array = NDArray[np.float64]
Blocks = Callable[[], Iterator[Array]]  # each call iterates over a column's blocks from the first


def in_memory(values_N: Array) -> Blocks:
    """Return an array's blocks."""
    return lambda: (values_N[start : start + BLOCK] for start in range(0, len(values_N), BLOCK))


class ColumnFile:
    """A column on disk; a call iterates over its blocks."""

    def __init__(self, path: Path) -> None:
        self._file = ScratchFile(path, np.float64)

    def append(self, values_N: Array) -> None:
        """Write the next values."""
        self._file.append(values_N)

    def __call__(self) -> Iterator[Array]:
        """Yield the values, block by block."""
        return self._file.blocks(BLOCK)


def extremes(blocks: Blocks) -> tuple[float, float]:
    """Return the lowest and the highest value; infinity and minus infinity if there are none."""
    low, high = np.inf, -np.inf
    for block in blocks():
        if len(block):
            low, high = min(low, float(block.min())), max(high, float(block.max()))
    return low, high


def by_patients(
    column: Blocks, lengths_N: NDArray[np.integer[Any]]
) -> Iterator[tuple[Array, NDArray[np.integer[Any]]]]:
    """Yield the values and the lengths of whole patients, a few at a time.

    Args:
        column: a value per row.
        lengths_N: rows of each of N patients.
    """
    ends_N, first, begin = np.cumsum(lengths_N, dtype=np.int64), 0, 0
    left = np.empty(0)
    for block in column():
        left = np.concatenate([left, block])
        last = int(np.searchsorted(ends_N, begin + len(left), side="right"))
        if last > first:
            count = int(ends_N[last - 1]) - begin
            yield left[:count], lengths_N[first:last]
            left, first, begin = left[count:], last, begin + count


def group_ends(
    column: Blocks, lengths_N: NDArray[np.integer[Any]], least_patients: int
) -> tuple[float, float, int]:
    """Return a low and a high end of a column that are not the value of one patient.

    Each is the mean of the lowest (highest) values of the patients who have the lowest (highest) ones, one
    value a patient. Where fewer than twice as many patients have a value, the ends are the extremes.

    Args:
        column: a value per row, NaN where missing; at least one is known.
        lengths_N: rows of each of N patients.
        least_patients: k, of whom an end is the mean.

    Returns:
        both ends, and of how many patients each is the mean.
    """
    lowest, highest, known = np.empty(0), np.empty(0), 0
    for values, lengths in by_patients(column, lengths_N):
        starts = (np.cumsum(lengths) - lengths)[lengths > 0]
        low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
        known += int((~np.isnan(low)).sum())
        lowest = np.sort(np.append(lowest, low[~np.isnan(low)]))[:least_patients]
        highest = np.sort(np.append(highest, high[~np.isnan(high)]))[-least_patients:]
    kept = least_patients if known >= 2 * least_patients else 1
    return float(lowest[:kept].mean()), float(highest[-kept:].mean()), kept


def count_of(blocks: Blocks) -> int:
    """Return the number of values."""
    return sum(len(block) for block in blocks())


def median(blocks: Blocks) -> float:
    """Return the median of at least one value."""
    count = count_of(blocks)
    return float(np.mean(order_statistics(blocks, [(count - 1) // 2, count // 2])))


def pooled_median(measured: Blocks, by_row: Blocks, lengths_N: NDArray[np.integer[Any]], least: int) -> float:
    """Return the median if enough patients have this value, or else a mean around it that is nobody's value.

    It is the mean of the values nearest to the median, one value a patient, of k patients or more; of all
    patients where fewer have a value.

    Args:
        measured: at least one value.
        by_row: the same with a value per row, repeated where one was not measured, NaN before the first.
        lengths_N: rows of each of N patients.
        least: k.
    """
    last, reach = count_of(measured) - 1, 0
    while True:
        ranks = [max(last // 2 - reach, 0), min((last + 1) // 2 + reach, last)]
        low, high = order_statistics(measured, ranks)
        patients, mean = _between(by_row, lengths_N, low, high)
        if patients >= least or ranks == [0, last]:
            return float(low) if low == high else mean
        reach = 2 * reach + 1


def _between(
    column: Blocks, lengths_N: NDArray[np.integer[Any]], low: float, high: float
) -> tuple[int, float]:
    """Return how many patients have values from `low` to `high`, and the mean of their means."""
    patients, total = 0, 0.0
    for values, lengths in by_patients(column, lengths_N):
        starts = (np.cumsum(lengths) - lengths)[lengths > 0]
        inside = (values >= low) & (values <= high)
        number = np.add.reduceat(inside, starts, dtype=np.int64)
        mean = np.add.reduceat(np.where(inside, values, 0.0), starts)[number > 0] / number[number > 0]
        patients, total = patients + len(mean), total + float(mean.sum())
    return patients, total / max(patients, 1)


def quantiles(blocks: Blocks, shares: Sequence[float]) -> Array:
    """Return quantiles of at least one value, interpolated linearly."""
    position = np.asarray(shares) * (count_of(blocks) - 1)
    low, high = np.floor(position).astype(int), np.ceil(position).astype(int)
    found = order_statistics(blocks, [*low, *high])
    below, above = found[: len(low)], found[len(low) :]
    return np.asarray(below + (above - below) * (position - low))


def order_statistics(blocks: Blocks, ranks: Sequence[int]) -> Array:
    """Return the values of these ranks (0: the lowest), exactly and in fixed memory.

    More values than a block are mapped to integers of the same order; each of six passes finds 11 more
    of the 64 bits by counting.
    """
    if count_of(blocks) <= BLOCK:
        return np.asarray(np.sort(np.concatenate(list(blocks())))[list(ranks)])
    left, found = [int(rank) for rank in ranks], [0 for _ in ranks]
    for shift in (55, 44, 33, 22, 11, 0):
        counts = {prefix: np.zeros(1 << 11, np.int64) for prefix in set(found)}
        for block in blocks():
            upper = _ordered(block) >> np.uint64(shift)
            prefix_N, digit_N = upper >> np.uint64(11), (upper & np.uint64(0x7FF)).astype(np.int64)
            for prefix, count in counts.items():
                count += np.bincount(digit_N[prefix_N == prefix], minlength=1 << 11)
        for i, prefix in enumerate(found):
            ends = counts[prefix].cumsum()
            digit = int(np.searchsorted(ends, left[i], side="right"))
            left[i] -= int(ends[digit - 1]) if digit else 0
            found[i] = prefix << 11 | digit
    return _numbers(np.array(found, np.uint64))


_SIGN = np.uint64(1 << 63)


def _ordered(values_N: Array) -> NDArray[np.uint64]:
    """Return integers in the order of the numbers: the sign bit is flipped, all bits if it is negative."""
    bits = (values_N + 0.0).view(np.uint64)  # -0 is 0
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _numbers(ordered_N: NDArray[np.uint64]) -> Array:
    return np.where(ordered_N & _SIGN, ordered_N & ~_SIGN, ~ordered_N).view(np.float64)
