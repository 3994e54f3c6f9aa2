"""A network that is recorded once per shape gives what it gives otherwise; seen without a GPU."""

from collections.abc import Callable

import torch
from torch import nn

from healthgym.nn.recording import RecordedNetwork, Results


class Again:
    """Repeats a call by making it again, into the same memory."""

    def __init__(self) -> None:
        self.rehearsed = self.recorded = 0

    def rehearse(self, call: Callable[[], Results]) -> Results:
        self.rehearsed += 1
        return call()

    def record(self, call: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        self.recorded += 1
        results = {"output": torch.empty_like(call()["output"])}

        def repeat() -> None:
            results["output"].copy_(call()["output"])

        return repeat, results


def test_batches_of_few_shapes_are_recorded_and_equal_the_network() -> None:
    network, recorder = nn.Linear(3, 2), Again()
    recorded, kept = RecordedNetwork(network, recorder), []
    for count in (100, 128, 1, 64, 65, 100):
        x = torch.randn(count, 5, 3)
        kept.append((recorded(x), network(x).detach()))
    assert recorder.recorded == 2  # of 128 and of 64 patients
    assert recorder.rehearsed == 4
    with torch.no_grad():
        network.bias.add_(1.0)
        x = torch.randn(7, 5, 3)
        kept.append((recorded(x), network(x)))
    for found, expected in kept:  # results stay when other batches follow
        assert not found.requires_grad
        torch.testing.assert_close(found, expected)
