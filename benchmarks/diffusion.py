"""What sampling from v3 costs: one evaluation of its U-Net against a plain one, 25 steps against 500.

    python benchmarks/diffusion.py [--width 256] [--timesteps 60] [--batch 128] [--json FILE]

The plain U-Net has the same weights and runs one-dimensional convolutions on (B, C, T) tensors; all
patients are at one level, as in sampling, which ours is told once and the plain one for each patient. One
thread, processor seconds, by turns in one process, medians; untrained weights, on which the time does not
depend.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import measure
import torch
from plain.diffusion import PlainUNet
from torch import Tensor

from healthgym.config import DiffusionConfig
from healthgym.nn.precision import bfloat16_is_wanted
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.build import build_system
from healthgym.systems.denoising.diffusion import DiffusionSystem

# ART for HIV, all 13 variables: 37 features.
LAYOUT = FeatureLayout(3, (2, 4, 6, 4, 4, 6, 2, 2, 2, 2), (2, 4, 4, 4, 4, 4, 2, 2, 2, 2))


def make_system(width: int, steps: int | None) -> DiffusionSystem:
    """Return an untrained v3; `steps` of the fast sampler, or all ancestral ones."""
    sampler = {"kind": "ddpm"} if steps is None else {"kind": "dpmpp", "num_steps": steps}
    config = DiffusionConfig.model_validate(
        {"denoiser": {"hidden_dim": width}, "sampler": sampler, "guardrail": {"kind": "clamp"}}
    )
    system = build_system(config, LAYOUT, torch.eye(LAYOUT.num_features), torch.device("cpu"), seed=0)
    assert isinstance(system, DiffusionSystem)
    return system


def evaluations(width: int, timesteps: int, batch: int, rounds: int) -> dict[str, float]:
    """Return milliseconds per patient of one evaluation of each network."""
    ours = make_system(width, None).denoiser
    x_BFT = torch.randn(batch, LAYOUT.num_features, timesteps, generator=torch.Generator().manual_seed(0))
    level_B, plain = torch.full((batch,), 250), PlainUNet(ours)

    def rounded() -> Tensor:
        wanted = bfloat16_is_wanted(x_BFT.device)
        with torch.autocast("cpu", torch.bfloat16, enabled=wanted):  # as sampling has it
            return ours(x_BFT, level_B[:1]).float()

    sides: measure.Sides = {
        "plain": lambda: plain(x_BFT, level_B),
        "ours": lambda: ours(x_BFT, level_B[:1]),
        "ours, medium precision": measure.at_precision("medium", rounded),
    }
    with torch.no_grad():
        taken = measure.alternate(sides, rounds, measure.Clock(torch.device("cpu")))
    return {name: round(1e3 * measure.median(seconds) / batch, 3) for name, seconds in taken.items()}


def samplings(width: int, timesteps: int, batch: int) -> dict[str, float]:
    """Return milliseconds per patient of making patients."""
    systems = {
        "500 ancestral steps": make_system(width, None),
        "25 steps of DPM-Solver++": make_system(width, 25),
    }
    sides: measure.Sides = {
        name: partial(system.sample_features, timesteps, 0, 0, batch) for name, system in systems.items()
    }
    taken = measure.alternate(sides, 1, measure.Clock(torch.device("cpu")))
    return {name: round(1e3 * measure.median(seconds) / batch, 2) for name, seconds in taken.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--timesteps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    by_evaluation = evaluations(options.width, options.timesteps, options.batch, options.rounds)
    result: dict[str, Any] = {
        **measure.machine(torch.device("cpu")),
        "options": {name: str(value) for name, value in vars(options).items()},
        "milliseconds_per_patient": by_evaluation,
    }
    for name, milliseconds in by_evaluation.items():
        ratio = by_evaluation["plain"] / milliseconds
        print(f"one evaluation, {name:24} {milliseconds:8.2f} ms a patient, {ratio:.2f} times as fast")
    # Narrow, so that the slow side takes seconds; both sides evaluate the same network.
    by_sampling = samplings(32, options.timesteps, 8)
    slow, fast = by_sampling.values()
    for name, milliseconds in by_sampling.items():
        print(f"{name:40} {milliseconds:8.2f} ms a patient")
    print(f"the fast sampler is {slow / fast:.1f} times as fast")
    result |= {"sampling_milliseconds_per_patient": by_sampling, "sampler_ratio": round(slow / fast, 1)}
    measure.write(options.json, result)


if __name__ == "__main__":
    main()
