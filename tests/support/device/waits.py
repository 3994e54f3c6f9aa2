"""Find operations that wait for a device or that a CUDA graph cannot capture, without a GPU."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


class Reads(TorchDispatchMode):
    """Lists operations that would wait for the device, except those on `allowed` tensors."""

    def __init__(self, allowed: set[int]) -> None:
        super().__init__()
        self.allowed, self.found = allowed, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        by_mask = name.startswith("index") and any(_is_mask(index) for index in _sequence(args[1]))
        if (name.startswith(READS) or by_mask) and args[0].data_ptr() not in self.allowed:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _sequence(index: Any) -> Any:
    return index if isinstance(index, list | tuple) else ()


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


class Copies(TorchFunctionMode):
    """Lists calls that copy numbers from the host: new tensors of lists, and lists as indices."""

    def __init__(self) -> None:
        super().__init__()
        self.found = list[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        by_list = name in ("__getitem__", "__setitem__") and any(
            isinstance(index, list | range)
            for index in (args[1] if isinstance(args[1], tuple) else args[1:2])
        )
        if by_list or name in ("tensor", "new_tensor", "as_tensor", "from_numpy"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))
