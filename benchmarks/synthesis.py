"""What synthesis costs per stage, beside the published generator's loop, alternating in one process.

    python benchmarks/synthesis.py [--batch-size 512] [--timesteps 60] [--precision highest] [--json FILE]

One thread, CPU seconds, so that other work on the machine disturbs little; medians. v2 with untrained
weights: the time does not depend on them. `published` is the generator of Kuo et al. 2023 written plainly,
fed with noise that is at hand, in batches of two sizes; it neither decodes nor writes. The ratios compare
it with whole shards of ours, made by turns, round by round.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from torch import Tensor

from healthgym.config import SYSTEM_PRESETS, RunConfig
from healthgym.data.fitting.transform import Transform
from healthgym.schema import load_schema
from healthgym.storage.shard_file import encode_shard
from healthgym.strict import parse
from healthgym.synthesis.plan import SynthesisPlan
from healthgym.synthesis.shard import make_shard
from healthgym.synthesis.source import Source
from healthgym.systems.adversarial.generators import LEAK, BiLSTMGenerator
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.systems.base import SampleDraws
from healthgym.systems.build import build_system
from healthgym.systems.decode import decode

# Where the published loop is fastest on the Xeon of our results, and what its authors' batches come to.
_PUBLISHED_BATCHES = (256, 1024)
SCHEMA_PATH = Path(__file__).resolve().parent.parent / "configs" / "schemas" / "art_hiv.yaml"


class PublishedGenerator:
    """Two LSTMs timestep by timestep, one affine map for the input and one for the state of each."""

    def __init__(self, generator: BiLSTMGenerator) -> None:
        self.generator, width = generator, generator.recurrent.input_dim
        core = generator.recurrent
        self.streams = [
            (weight[:, :width].contiguous(), weight[:, width:].contiguous(), input_bias, hidden_bias)
            for weight, input_bias, hidden_bias in zip(
                core.weight_DGK.detach(),
                core.input_bias_DG.detach(),
                core.hidden_bias_DG.detach(),
                strict=True,
            )
        ]

    @torch.no_grad()
    def __call__(self, z_BTZ: Tensor) -> Tensor:
        """Return x_BTF."""
        linear, leaky_relu = torch.nn.functional.linear, torch.nn.functional.leaky_relu
        outputs = []
        for (i2h, h2h, input_bias, hidden_bias), steps in zip(
            self.streams, (z_BTZ, z_BTZ.flip(1)), strict=True
        ):
            q = s = z_BTZ.new_zeros(len(z_BTZ), h2h.shape[1])
            states = []
            for t in range(steps.shape[1]):
                gates = linear(steps[:, t], i2h, input_bias) + linear(q, h2h, hidden_bias)
                f, i, a, o = gates.chunk(4, 1)
                s = torch.sigmoid(f) * s + torch.sigmoid(i) * torch.tanh(a)
                q = torch.sigmoid(o) * torch.tanh(s)
                states.append(q)
            outputs.append(torch.stack(states, 1))
        g, layout = self.generator, self.generator.layout
        h = leaky_relu(g.linear1(torch.cat(outputs, -1)), LEAK)
        logits = g.linear3(leaky_relu(g.linear2(h), LEAK))
        blocks = [logits[..., : layout.num_reals].sigmoid()]
        blocks += [logits[..., span].softmax(-1) for span in layout.spans]
        return torch.cat(blocks, -1)


def make_source(timesteps: int, device: str = "cpu") -> tuple[Source, WGANSystem]:
    """Return an untrained v2 for ART for HIV with a full latent memory."""
    schema = load_schema(SCHEMA_PATH)
    config = parse(RunConfig, {"system": SYSTEM_PRESETS["v2"]}, "v2")
    correlation_FF = torch.eye(schema.layout.num_features)
    system = build_system(config.system, schema.layout, correlation_FF, torch.device(device), 0)
    assert isinstance(system, WGANSystem)
    state = system.state()
    state["Mean_Container"] = torch.rand(10_000, 128, generator=torch.Generator().manual_seed(0)) / 10
    system.load_state(state)
    raw = np.exp(np.random.default_rng(0).normal(size=(1000, schema.layout.num_reals)))
    transform = Transform.fit(raw, schema)
    source = Source(
        "0" * 64, schema, transform, {timesteps: 1}, (timesteps,), lambda device, settings: system
    )
    return source, system


def measure_stages(source: Source, system: WGANSystem, plan: SynthesisPlan, rounds: int) -> dict[str, float]:
    """Return microseconds per patient of each stage of ours."""
    generator, (timesteps,), size = system.generator, source.stages, plan.batch_size
    z_BTZ = system.latent.draw_patients(timesteps, SampleDraws(0, 0, size))
    x_BTF = system.sample_features(timesteps, 0, 0, size)
    lengths_B = np.full(size, timesteps)
    made = make_shard(source, system, plan, 0)
    assert made is not None

    @torch.no_grad()
    def generate() -> None:
        generator(z_BTZ)

    sides: measure.Sides = {
        "generator": measure.at_precision(plan.matmul_precision, generate),
        "noise": lambda: system.latent.draw_patients(timesteps, SampleDraws(0, 0, size)),
        "decode": lambda: decode(x_BTF, lengths_B, source.schema.layout),
        "encode gzip": lambda: encode_shard(made[0], "hdf5", "gzip"),
        "encode zstd (Parquet)": lambda: encode_shard(made[0], "parquet", "zstd"),
    }
    patients = {name: plan.num_patients if "encode" in name else size for name in sides}
    seconds = measure.alternate(sides, rounds, measure.Clock(torch.device("cpu")))
    return {
        name: round(1e6 * statistics.median(taken) / patients[name], 1) for name, taken in seconds.items()
    }


def measure_whole(
    source: Source, system: WGANSystem, plan: SynthesisPlan, rounds: int
) -> dict[str, list[float]]:
    """Return microseconds per patient, of each round: of a shard of ours, and of the published loop alone."""
    generator, (timesteps,) = system.generator, source.stages
    assert isinstance(generator, BiLSTMGenerator)
    published = PublishedGenerator(generator)

    def shard() -> None:
        made = make_shard(source, system, plan, 0)
        assert made is not None
        encode_shard(made[0], plan.file_format, plan.compression)

    def loop(z_BTZ: Tensor) -> Callable[[], None]:
        def run() -> None:
            for first in range(0, plan.num_patients, len(z_BTZ)):
                published(z_BTZ[: plan.num_patients - first])

        return run

    sides: measure.Sides = {"all stages": measure.at_precision(plan.matmul_precision, shard)}
    for size in sorted({min(size, plan.num_patients) for size in _PUBLISHED_BATCHES}):
        sides[_published(size)] = loop(system.latent.draw_patients(timesteps, SampleDraws(0, 0, size)))
    seconds = measure.alternate(sides, rounds, measure.Clock(torch.device("cpu")))
    return {
        name: [round(1e6 * each / plan.num_patients, 1) for each in taken] for name, taken in seconds.items()
    }


def _published(batch_size: int) -> str:
    return f"published generator, batch {batch_size:,}"


def measure_synthesis(
    batch_size: int, timesteps: int, shard_size: int, rounds: int, precision: str = "highest"
) -> dict[str, Any]:
    """Return microseconds per patient of the stages and the whole, and the ratios of the whole."""
    source, system = make_source(timesteps)
    plan = SynthesisPlan(
        checkpoint_sha256=source.sha256,
        num_patients=shard_size,
        patients_per_shard=shard_size,
        batch_size=batch_size,
        timesteps=timesteps,
        matmul_precision=precision,
    )
    whole = measure_whole(source, system, plan, rounds)
    ours = whole.pop("all stages")
    ratios = {
        name: [round(theirs / mine, 2) for theirs, mine in zip(taken, ours, strict=True)]
        for name, taken in whole.items()
    }
    medians = {name: round(statistics.median(taken), 1) for name, taken in whole.items()}
    return {
        "microseconds_per_patient": {
            **measure_stages(source, system, plan, rounds),
            "all stages": round(statistics.median(ours), 1),
            **medians,
        },
        "ratios": {name: round(statistics.median(each), 2) for name, each in ratios.items()},
        "ratios_by_round": ratios,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--timesteps", type=int, default=60)
    parser.add_argument("--shard-size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", choices=["highest", "high", "medium"], default="highest")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure_synthesis(
        options.batch_size, options.timesteps, options.shard_size, options.rounds, options.precision
    )
    print(f"{'stage':36} {'us/patient':>11} {'patients/s':>11}")
    for name, microseconds in result["microseconds_per_patient"].items():
        print(f"{name:36} {microseconds:>11,.1f} {1e6 / microseconds:>11,.0f}")
    for name, ratio in result["ratios"].items():
        rounds = " ".join(f"{each:.2f}" for each in result["ratios_by_round"][name])
        print(f"one core, all stages, against the {name} alone: {ratio:.2f} times as fast ({rounds})")
    about = {name: str(value) for name, value in vars(options).items()}
    measure.write(options.json, {**measure.machine(torch.device("cpu")), "options": about, **result})


if __name__ == "__main__":
    main()
