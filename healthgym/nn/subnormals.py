"""Flushing subnormal floats (below 1e-38) to zero during training steps.

Over hundreds of timesteps the gradient of an LSTM shrinks until it is subnormal, and a CPU takes a hundred
times as long for such numbers: steps of 200 timesteps and more took over ten times as long. The error is
below 1e-38
    per
number. Outside of a step, arithmetic follows IEEE 754, since other libraries rely on it. GPUs have no such
penalty.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def subnormals_are_zero() -> Iterator[None]:
    """Flush subnormal numbers to zero inside the block, in this thread and in workers that it starts."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def start_workers() -> None:
    """Start torch's worker threads, which keep the mode of their start; must precede other computations."""
    with subnormals_are_zero():
        torch.zeros(1 << 20).add_(1)  # large enough to run in all threads
