"""Two independent computations on a CPU in parallel, each with half of torch's threads.

Splitting every small operation over all cores costs more than it gains; splitting the work in two does
not. torch lets go of Python's lock while it computes, so that two Python threads are enough.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_helpers: list[ThreadPoolExecutor] = []
# A forked process has the list, not the threads.
os.register_at_fork(after_in_child=_helpers.clear)


def side_by_side(job: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `job(item)` for each item: two items in parallel if torch has two threads, else one by one.

    Args:
        job: called without gradients; must not write what the other call reads or writes, nor call this.
        items: what to call it with.
    """
    threads = torch.get_num_threads()
    if len(items) != 2 or threads < 2:
        return [job(item) for item in items]
    if not _helpers:
        _helpers.extend(ThreadPoolExecutor(1, "side") for _ in items)
    # Not in the caller's thread: torch would end worker threads there that it no longer needs, and new ones
    # would start with the default treatment of subnormal numbers.
    mode, shares = _subnormals_are_zero(), (threads // 2, threads - threads // 2)
    jobs = [
        helper.submit(_like, mode, share, job, item)
        for helper, share, item in zip(_helpers, shares, items, strict=True)
    ]
    try:
        wait(jobs)
    finally:
        torch.set_num_threads(threads)
    return [each.result() for each in jobs]


def _subnormals_are_zero() -> bool:
    """Return how this thread takes numbers below the normal floats; torch can set that, but not tell."""
    return not bool(torch.full((1,), 1e-30) * 1e-10)


def _like(subnormals_are_zero: bool, threads: int, job: Callable[[Item], Result], item: Item) -> Result:
    torch.set_flush_denormal(subnormals_are_zero)
    torch.set_num_threads(threads)  # of this thread, and of those that start from now on
    with torch.no_grad():
        return job(item)
