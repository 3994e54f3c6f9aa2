"""What `matmul_precision` means: `highest`, `high` or `medium`.

`highest` is float32. `high` is TF32 on CUDA, and float32 elsewhere. `medium` is `high` where a device does
not multiply bfloat16, else bfloat16: in v3's network on either kind of device; on a CPU in all products, and
between the products of the recurrent generator where no gradient is wanted. On a CPU, ar multiplies in
float32: the number of rows changes from one decision to the next, and torch's library prepares bfloat16
products anew for each number of rows, so that sampling took 1.7 times as long.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_precision(precision: str) -> None:
    """Set the precision of this process."""
    torch.set_float32_matmul_precision(precision)
    # torch's setting does not include convolutions, which are TF32 by default.
    torch.backends.cudnn.allow_tf32 = precision != "highest"


def get_precision() -> str:
    """Return the precision of this process."""
    return torch.get_float32_matmul_precision()


def bfloat16_is_wanted(device: torch.device) -> bool:
    """Return whether the precision is `medium`, and the device multiplies bfloat16 fast."""
    if get_precision() != "medium":
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


@contextmanager
def float32_on_cpu(device: torch.device) -> Iterator[None]:
    """Compute products in float32 inside, if they are computed on a CPU."""
    precision = get_precision()
    if device.type == "cpu":
        set_precision("highest")
    try:
        yield
    finally:
        set_precision(precision)
