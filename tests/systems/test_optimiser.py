"""The optimiser block and the one update that all systems use."""

import math
from contextlib import nullcontext
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from host_tensors import HostTensors
from torch import Tensor, nn

from healthgym.config import AdamConfig, OptimiserConfig
from healthgym.distributed.share import Part, Share
from healthgym.errors import StorageError
from healthgym.systems.optimiser import Optimiser, load_module_state, module_state
from healthgym.systems.update import update
from healthgym.training.trainer import to_arrays

ALL = {
    "schedule": "cosine",
    "warmup_steps": 3,
    "gradient_clip": 0.5,
    "average_decay": 0.9,
    "weight_decay": 0.1,
}


def make(seed: int = 0, **settings: Any) -> Optimiser:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    return Optimiser(module, OptimiserConfig(learning_rate=0.02, **settings))


def learn(optimiser: Optimiser, start: int, stop: int, share: Share = Share()) -> list[dict[str, Tensor]]:  # noqa: B008
    losses = []
    for step in range(start, stop):
        x_BX = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))

        def backward(part: Part, x_BX: Tensor = x_BX) -> dict[str, Tensor]:
            loss = (optimiser.module(x_BX[part.rows]) - 1).square().mean()
            optimiser.backward(part.weight * loss)
            return {"loss": loss.detach()}

        losses.append(update(optimiser, share, 6, backward))
    return losses


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 10), (10, 10)])
def test_the_rate_is_a_function_of_step_and_plan(warmup: int, total: int) -> None:
    optimiser = make(schedule="cosine", warmup_steps=warmup)
    optimiser.plan(total)
    for step in range(total + 3):
        assert int(optimiser.num_updates) == step
        done = min(max(step - warmup, 0) / max(total - warmup, 1), 1)
        expected = 0.02 * min(1, (step + 1) / max(warmup, 1)) * (1 + math.cos(math.pi * done)) / 2
        assert float(optimiser.rate()) == pytest.approx(expected, abs=1e-12)
        learn(optimiser, step, step + 1)
        assert optimiser.adam.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-12)


def test_without_a_plan_the_rate_stays() -> None:
    optimiser = make(schedule="cosine")
    learn(optimiser, 0, 4)
    assert float(optimiser.rate()) == pytest.approx(0.02)


def test_a_plan_may_change_between_steps() -> None:
    optimiser = make(schedule="cosine")
    optimiser.plan(100)
    learn(optimiser, 0, 5)
    optimiser.plan(10)
    assert float(optimiser.rate()) == pytest.approx(0.02 * (1 + math.cos(math.pi / 2)) / 2)


def test_plain_adam_is_torch_s_own() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    ours, theirs = make(beta2=0.99), torch.optim.Adam(module.parameters(), lr=0.02, betas=(0.9, 0.99))
    for step in range(3):
        x_BX = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        theirs.zero_grad()
        (module(x_BX) - 1).square().mean().backward()
        theirs.step()
    learn(ours, 0, 3)
    assert ours.average is None
    tiny.assert_same_tree(to_arrays(module_state(ours.module)), to_arrays(module_state(module)))
    plain = Optimiser(module, AdamConfig(learning_rate=0.02))
    assert plain.step() is None, "no clip, no norm"


def test_only_matrices_decay() -> None:
    optimiser = make(weight_decay=0.5)
    before = to_arrays(module_state(optimiser.module))
    for parameter in optimiser.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, values in to_arrays(module_state(optimiser.module)).items():
        factor = 1 - 0.02 * 0.5 if name.endswith("weight") else 1
        np.testing.assert_allclose(values, factor * before[name], rtol=1e-6)


def test_resumed_equals_straight() -> None:
    straight, first, second = make(**ALL), make(**ALL), make(seed=1, **ALL)
    for each in (straight, first):
        each.plan(9)
    learn(straight, 0, 8)
    learn(first, 0, 5)
    second.module.load_state_dict(first.module.state_dict())
    second.load_state(to_arrays(first.state()))
    learn(second, 5, 8)
    for tree in (lambda o: o.state(), lambda o: module_state(o.module)):
        tiny.assert_same_tree(to_arrays(tree(straight)), to_arrays(tree(second)))
    assert {"moments", "num_updates", "total_steps", "average"} == set(straight.state())


def test_micro_batches_are_one_batch() -> None:
    whole, parts = make(**ALL), make(**ALL)
    expected, found = learn(whole, 0, 3), learn(parts, 0, 3, Share(micro_batch_size=4))
    for name in ("loss", "gradient_norm"):
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)
    for one, other in zip(whole.module.parameters(), parts.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_are_clipped() -> None:
    optimiser = make(gradient_clip=1e-3)
    (losses,) = learn(optimiser, 0, 1)
    norm = torch.stack([p.grad.norm() for p in optimiser.module.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert float(losses["gradient_norm"]) > 1e-3


def test_a_device_s_step_takes_nothing_from_the_host() -> None:
    """Schedule, plan, average and counts must live on the device for a CUDA graph to read them anew."""
    optimiser = Optimiser(nn.Linear(3, 2, device="meta"), OptimiserConfig(**ALL))
    x_BX = torch.empty(4, 3, device="meta")
    with (
        mock.patch("torch.optim.Adam.step"),
        mock.patch("torch.autocast", return_value=nullcontext()),
        HostTensors() as host,
    ):
        for _ in range(2):
            optimiser.zero_grad()
            with optimiser.autocast():
                loss = optimiser.module(x_BX).square().mean()
            optimiser.backward(loss)
            optimiser.step()
    assert host.found == []
    assert optimiser.adam.param_groups[0]["lr"].device.type == "meta"


def test_weights_of_another_network_are_refused_before_any_is_copied() -> None:
    module, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(StorageError, match="weights of bias are missing in this checkpoint"):
        load_module_state(module, {"weight": other.weight.detach()})
    with pytest.raises(StorageError, match="weights of bias are missing in this checkpoint or have another"):
        load_module_state(module, {"weight": other.weight.detach(), "bias": torch.zeros(4)})
    assert torch.equal(module.weight, before)
    load_module_state(module, module_state(other))
    assert torch.equal(module.weight, other.weight)
