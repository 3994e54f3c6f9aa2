"""v3's mixed precision, with bfloat16 and float16 on the CPU."""

import pytest
import torch
from steps import CPU, batch, build
from torch import Tensor

from healthgym.systems import optimiser
from healthgym.systems.base import PositionDraws
from healthgym.systems.denoising.diffusion import DiffusionSystem
from healthgym.training.trainer import to_arrays

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def make(half: torch.dtype | None) -> DiffusionSystem:
    system = build("v3")
    assert isinstance(system, DiffusionSystem)
    system.optimiser.compute_in(half)
    return system


def train(system: DiffusionSystem, start: int, stop: int) -> list[dict[str, Tensor]]:
    return [system.train_step(batch(step), PositionDraws(1, step, CPU)) for step in range(start, stop)]


@pytest.mark.parametrize("half", HALVES)
def test_losses_are_those_of_float32_to_the_precision_of_a_half(half: str) -> None:
    exact = train(make(None), 0, 4)
    found = train(make(HALVES[half]), 0, 4)
    for ours, theirs in zip(found, exact, strict=True):
        assert ours["loss"] != theirs["loss"]  # it was at work
        torch.testing.assert_close(ours["loss"], theirs["loss"], rtol=0.02, atol=0)


def test_medium_precision_is_bfloat16_without_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bfloat16 = train(make(torch.bfloat16), 0, 2)
    monkeypatch.setattr(optimiser, "bfloat16_is_wanted", lambda device: True)
    medium = train(make(None), 0, 2)
    assert [float(losses["loss"]) for losses in medium] == [float(losses["loss"]) for losses in bfloat16]


@pytest.mark.parametrize("half", HALVES)
def test_weights_and_losses_stay_float32(half: str) -> None:
    system = make(HALVES[half])
    losses = train(system, 0, 2)[-1]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert {weight.dtype for weight in system.denoiser.parameters()} == {torch.float32}


@pytest.mark.parametrize("half", HALVES)
def test_a_resumed_run_resumes_bit_for_bit(half: str) -> None:
    whole = make(HALVES[half])
    train(whole, 0, 3)
    resumed = make(HALVES[half])
    resumed.load_state(to_arrays(whole.state()))
    after, again = train(whole, 3, 6)[-1], train(resumed, 3, 6)[-1]
    assert {name: float(loss) for name, loss in after.items()} == {
        name: float(loss) for name, loss in again.items()
    }


def test_a_step_too_large_for_float16_is_left_out_and_scaled_down() -> None:
    system = make(torch.float16)
    train(system, 0, 1)
    before = to_arrays(system.state())["denoiser"]
    scaler = system.optimiser.scaler
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**127})  # every gradient overflows
    losses = train(system, 1, 2)[-1]
    after = to_arrays(system.state())["denoiser"]
    assert all((before[name] == after[name]).all() for name in before)
    assert scaler.get_scale() == 2.0**126
    assert torch.isfinite(losses["loss"])
    assert losses["gradient_norm"] == 0
