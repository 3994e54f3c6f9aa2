"""Numbers below the normal floats (1e-38) count as zero while a training step runs.

Through hundreds of timesteps an LSTM's gradient halves and halves again until it is subnormal, and a CPU
takes a hundred times as long for such a number: steps of 200 timesteps and more took over ten times as long.
What is lost is less than 1e-38 of each. Outside of a step numbers stay as IEEE 754 has them, since other
libraries rely on it. A GPU knows no such penalty.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def subnormals_are_zero() -> Iterator[None]:
    """Let this thread, and workers that it starts, take subnormal numbers for zero inside the block."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def start_workers() -> None:
    """Start torch's worker threads, which keep the mode of their start. To be called before others do."""
    with subnormals_are_zero():
        torch.zeros(1 << 20).add_(1)  # large enough to be shared out
