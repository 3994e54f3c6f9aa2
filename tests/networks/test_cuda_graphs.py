"""A network captured once per shape as a CUDA graph gives the same results; tested without a GPU."""

import torch
from again import Again
from torch import nn

from healthgym.nn.cuda_graphs import CapturedMap


def test_batches_of_few_shapes_are_captured_and_equal_the_network() -> None:
    network, capture = nn.Linear(3, 2), Again()
    captured, kept = CapturedMap(lambda x, y: {"z": network(x) * y}, capture), []
    for count in (100, 128, 1, 64, 65, 100):
        x = torch.randn(count, 5, 3)
        y = torch.tensor(float(count))
        kept.append((captured(x, y)["z"], network(x).detach() * y))
    assert capture.captured == 2  # of 128 and of 64 patients
    assert capture.rehearsed == 4
    with torch.no_grad():
        network.bias.add_(1.0)
        x = torch.randn(7, 5, 3)
        kept.append((captured(x, torch.tensor(2.0))["z"], network(x) * 2))
    for found, expected in kept:  # results stay when other batches follow
        assert not found.requires_grad
        torch.testing.assert_close(found, expected)
