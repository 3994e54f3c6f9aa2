"""v3's denoiser as a CUDA graph would have it: one for all noise levels, nothing read back."""

import contextlib
from typing import Any

import pytest
import tiny
import torch
from again import Again
from torch import Tensor
from waits import Copies, Reads

from healthgym.config import RunConfig
from healthgym.errors import SamplingError
from healthgym.strict import parse
from healthgym.systems.build import build_system
from healthgym.systems.denoising.diffusion import DiffusionSystem
from healthgym.systems.denoising.guardrail import RejectGuardrail
from healthgym.systems.denoising.samplers import Denoise, DrawNoise
from healthgym.systems.noise import NoiseSchedule

LAYOUT = tiny.SCHEMA.layout
GUARDRAILS: dict[str, dict[str, Any]] = {
    "clamp": {"kind": "clamp"},
    "dynamic": {"kind": "dynamic"},
    "reject": {"kind": "reject", "max_attempts": 200},
}
SAMPLERS = {"ddpm": {}, "ddim": {"num_steps": 3, "eta": 0.5}, "dpmpp": {"num_steps": 3}}


def system(guardrail: str, sampler: str = "ddpm", device: str = "cpu") -> DiffusionSystem:
    values = tiny.SYSTEMS["v3"] | {
        "guardrail": GUARDRAILS[guardrail],
        "sampler": {"kind": sampler, **SAMPLERS[sampler]},
    }
    config = parse(RunConfig, {"system": values}, "test").system
    made = build_system(config, LAYOUT, torch.eye(LAYOUT.num_features), torch.device(device), seed=0)
    assert isinstance(made, DiffusionSystem)
    return made


def accept_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the guardrail reject about half of an untrained denoiser's patients."""
    monkeypatch.setattr(RejectGuardrail, "accepts", lambda self, x: x.flatten(1).sum(1) > 0)


@pytest.mark.parametrize("guardrail", GUARDRAILS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_captured_denoiser_makes_the_patients_of_the_other_path(
    guardrail: str, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_half(monkeypatch)
    usual, own, capture = system(guardrail, sampler), system(guardrail, sampler), Again()
    own.new_capture = lambda: capture
    for first in (0, 64):
        expected, found = (each.sample_features(6, 5, first, 64) for each in (usual, own))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert capture.captured == 1  # all levels, and candidates that are tried again
    assert capture.replayed >= 2 * 3
    own.sample_features(4, 5, 0, 64)  # another canvas
    own.sample_features(6, 5, 0, 80)
    assert capture.captured == 3


@pytest.mark.parametrize("guardrail", GUARDRAILS)
def test_a_level_waits_for_nothing_and_copies_nothing(guardrail: str) -> None:
    own, looked_at = system(guardrail), []

    def one_level(schedule: NoiseSchedule, denoise: Denoise, draw: DrawNoise, start_BFP: Tensor) -> Tensor:
        with Reads(set()) as reads, Copies() as copies:
            denoise(start_BFP, 3)
        looked_at.append((reads.found, copies.found))
        return start_BFP

    own.sampler = one_level
    with contextlib.suppress(SamplingError):  # the guardrail may reject noise
        own.sample_features(6, 5, 0, 4)
    assert looked_at
    for reads, copies in looked_at:
        assert not reads
        assert not copies


@pytest.mark.cuda
@pytest.mark.parametrize("guardrail", GUARDRAILS)
def test_patients_of_a_gpu_are_those_of_the_cpu_but_for_rounding(
    guardrail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_half(monkeypatch)
    cpu, cuda = system(guardrail), system(guardrail, device="cuda")
    expected, found = (each.sample_features(6, 5, 0, 50).cpu() for each in (cpu, cuda))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    again = cuda.sample_features(6, 5, 0, 50).cpu()
    assert torch.equal(again, found)
