"""A capture without a GPU: it replays a call by making it again, into the same memory."""

from collections.abc import Callable

import torch

from healthgym.nn.cuda_graphs import Results


class Again:
    """Makes a call again; as with a CUDA graph, nothing is computed during capture.

    Args:
        pure: whether the call changes nothing, so that it may be made to see its results' shapes.
    """

    def __init__(self, pure: bool = True) -> None:
        self.rehearsed = self.captured = self.replayed = 0
        self._pure = pure

    def rehearse(self, call: Callable[[], Results]) -> Results:
        self.rehearsed += 1
        return call()

    def capture(self, call: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        self.captured += 1
        results = {name: torch.empty_like(x) for name, x in call().items()} if self._pure else {}

        def replay() -> None:
            self.replayed += 1
            for name, x in call().items():
                results[name].copy_(x)

        return replay, results
