"""On a GPU a training step must not wait for the device: nothing in it may read a number back.

No GPU is needed to see that: reading a number, or a shape that depends on numbers, is an operation of its
own, and it is the same one on every device.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from healthgym.config import BufferedLatentConfig, CriticConfig, UniformLatentConfig, WGANConfig
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.systems.base import Batch, PositionDraws
from healthgym.systems.build import build_system

CPU = torch.device("cpu")
LAYOUT = FeatureLayout(2, (2, 3), (2, 4))
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


class Reads(TorchDispatchMode):
    """Lists operations that would wait for the device, but for those on `allowed` tensors."""

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


def test_reading_back_is_noticed() -> None:
    x = torch.ones(3)
    with Reads(set()) as reads:
        float(x.sum())
        x.nonzero()
        x[x > 0]
    assert reads.found == ["_local_scalar_dense", "nonzero", "index"]
