"""What `matmul_precision` means for modules that can do more than round what a single product multiplies."""

import torch


def bfloat16_is_wanted(device: torch.device) -> bool:
    """Return whether products are to be of `medium` precision, and the device multiplies bfloat16 fast."""
    if torch.get_float32_matmul_precision() != "medium":
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
