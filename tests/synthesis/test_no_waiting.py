"""On a GPU a training step must not wait for the device: nothing in it may read a number back.

No GPU is needed to see that: reading a number, or a shape that depends on numbers, is an operation of its
own, and it is the same one on every device.
"""

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import tiny
import torch
from waits import Copies, Reads

from healthgym.config import BufferedLatentConfig, CriticConfig, RunConfig, UniformLatentConfig, WGANConfig
from healthgym.schema.layout import FeatureLayout
from healthgym.strict import parse
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.systems.base import Batch, KeptDraws, PositionDraws
from healthgym.systems.build import build_system

CPU = torch.device("cpu")
LAYOUT = FeatureLayout(2, (2, 3), (2, 4))


@pytest.mark.parametrize(
    "latent",
    [
        UniformLatentConfig(latent_dim=6),
        BufferedLatentConfig(latent_dim=6, hidden_dim=8, num_slots=20),  # full from the third step on
    ],
    ids=["v1", "v2"],
)
def test_a_step_reads_nothing_back(latent: Any) -> None:
    config = WGANConfig(
        latent=latent, critic=CriticConfig(hidden_dim=8), generator={"kind": "bilstm", "hidden_dim": 8}
    )
    system = build_system(config, LAYOUT, torch.eye(LAYOUT.num_features), CPU, seed=0)
    assert isinstance(system, WGANSystem)
    optimisers = [
        system.optimiser_G,
        system.optimiser_D,
        getattr(system.latent, "optimiser", system.optimiser_G),
    ]
    # Adam's counts of steps live on the CPU, whatever the device.
    counts = {state["step"].data_ptr() for optimiser in optimisers for state in optimiser.adam.state.values()}
    codes_BTK = torch.stack([torch.randint(0, width, (8, 5)) for width in LAYOUT.num_classes], -1)
    patients = torch.rand(8, 5, LAYOUT.num_reals), codes_BTK.to(torch.uint8), torch.full((8,), 5)
    with Reads(counts) as reads:
        for step in range(4):
            system.train_step(Batch(LAYOUT, *patients), PositionDraws(0, step, CPU))
    assert not reads.found


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_a_step_copies_nothing_from_the_host(name: str) -> None:
    config = parse(RunConfig, {"system": tiny.SYSTEMS[name]}, "test").system
    layout = tiny.SCHEMA.layout
    system = build_system(config, layout, torch.eye(layout.num_features), CPU, 0, tiny.facts())
    batch, draws = tiny.cell_batch(8, 6), KeptDraws()
    if system.real_form == "scaled":
        batch = replace(batch, reals_BTR=torch.rand(8, 6, layout.num_reals))
    draws.renew(PositionDraws(0, 0, CPU))
    with mock.patch("torch.optim.Adam.step"):  # Adam's first step makes its counts
        system.compute_step(batch, draws)  # as before a capture: the draws are in memory
        with Copies() as copies:
            system.compute_step(batch, draws)
    assert not copies.found


def test_reading_back_is_noticed() -> None:
    x = torch.ones(3)
    with Reads(set()) as reads:
        float(x.sum())
        x.nonzero()
        x[x > 0]
    assert reads.found == ["_local_scalar_dense", "nonzero", "index"]


def test_copying_from_the_host_is_noticed() -> None:
    x = torch.ones(3, 3)
    with Copies() as copies:
        x[:, [0, 2]]
        x[0], x[..., 1], x[:, x[0].long()]
        torch.tensor([1.0])
        x.new_tensor([1.0])
    assert copies.found == ["__getitem__", "tensor", "new_tensor"]
