"""Count the kernels that a GPU would launch, on the meta device: torch's operations and our own kernels."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from healthgym.nn import recurrent
from healthgym.nn.recurrent_hoisted import Hoisted
from healthgym.systems.base import Draws

META = torch.device("meta")


class NoNumbers(Draws):
    """Numbers that are not there, on a device that computes nothing."""

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, device=META)

    shared_uniform = uniform


class Launches(TorchDispatchMode):
    """Counts operations except views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = (
            func.name().removeprefix("aten::").startswith(("empty", "_unsafe_view", "detach", "lift_fresh"))
        )
        self.count += not (func.is_view or made)
        return func(*args, **(kwargs or {}))


class _Kernels:
    """The pointwise work of the recurrent passes, each call one kernel that only is counted."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches

    def __getattr__(self, name: str) -> Any:
        def launch(*_: Any) -> None:
            self._launches.count += 1

        return launch


@contextmanager
def as_on_a_gpu() -> Iterator[Launches]:
    """Count launches as on CUDA with Triton, but not those of Adam, which knows no meta device."""
    launches = Launches()
    hoisted = Hoisted(_Kernels(launches))  # type: ignore[arg-type]
    with (
        mock.patch("torch.optim.Adam.step"),
        mock.patch("torch.autocast", return_value=nullcontext()),
        mock.patch.object(recurrent, "passes_for", return_value=hoisted),
        launches,
    ):
        yield launches
