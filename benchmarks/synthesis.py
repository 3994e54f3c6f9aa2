"""What synthesis costs per stage, beside the published generator's loop, alternating in one process.

    python benchmarks/synthesis.py [--batch-size 256] [--timesteps 60] [--precision highest] [--json FILE]

One thread, CPU seconds, so that other work on the machine disturbs little; medians. v2 with untrained
weights: the time does not depend on them. `published` is the generator of Kuo et al. 2023 written plainly,
fed with the same noise, in batches of two sizes; it neither decodes nor writes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
import torch
from torch import Tensor

from healthgym.config import SYSTEM_PRESETS, RunConfig
from healthgym.data.transform import Transform
from healthgym.schema import load_schema
from healthgym.storage.shard_file import encode_shard
from healthgym.strict import parse
from healthgym.synthesis.decode import decode
from healthgym.synthesis.plan import SynthesisPlan
from healthgym.synthesis.shard import make_shard
from healthgym.synthesis.source import Source
from healthgym.systems.build import build_system
from healthgym.systems.generators import LEAK, BiLSTMGenerator
from healthgym.systems.wgan import WGANSystem

_LARGE_BATCH = 1024
_LARGE = f"published generator, batch {_LARGE_BATCH:,}"
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


def make_source(timesteps: int) -> tuple[Source, WGANSystem]:
    """Return an untrained v2 for ART for HIV with a full latent memory."""
    schema = load_schema(SCHEMA_PATH)
    config = parse(RunConfig, {"system": SYSTEM_PRESETS["v2"]}, "v2")
    correlation_FF = torch.eye(schema.layout.num_features)
    system = build_system(config.system, schema.layout, correlation_FF, torch.device("cpu"), 0)
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


def seconds_of(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median CPU time of each; all are run once, then all again, and so on."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            start = time.thread_time()
            work()
            if number:  # the first round warms up
                taken[name].append(time.thread_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def measure_stages(
    batch_size: int, timesteps: int, shard_size: int, rounds: int, precision: str = "highest"
) -> dict[str, float]:
    """Return microseconds per patient of each stage; the precision is that of our products."""
    source, system = make_source(timesteps)
    plan = SynthesisPlan(
        checkpoint_sha256=source.sha256,
        num_patients=shard_size,
        patients_per_shard=shard_size,
        batch_size=batch_size,
        timesteps=timesteps,
    )
    generator = system.generator
    assert isinstance(generator, BiLSTMGenerator)
    published = PublishedGenerator(generator)
    z_BTZ = system.latent.draw_patients(timesteps, 0, 0, batch_size)
    many_BTZ = system.latent.draw_patients(timesteps, 0, 0, _LARGE_BATCH)
    x_BTF = system.sample(timesteps, 0, 0, batch_size)
    lengths_B = torch.full((batch_size,), timesteps)
    made = make_shard(source, system, plan, 0)
    assert made is not None
    shard = made[0]

    def ours() -> None:
        with torch.no_grad():
            generator(z_BTZ)

    by_batch = seconds_of(
        {
            "published generator": lambda: published(z_BTZ),
            "our generator": measure.at_precision(precision, ours),
            "noise": lambda: system.latent.draw_patients(timesteps, 0, 0, batch_size),
            "decode": lambda: decode(x_BTF, lengths_B, source.schema),
        },
        rounds,
    )
    large = seconds_of({_LARGE: lambda: published(many_BTZ)}, max(1, rounds // 2))
    by_shard = seconds_of(
        {
            "all but writing": measure.at_precision(precision, lambda: make_shard(source, system, plan, 0)),
            "encode gzip": lambda: encode_shard(shard, "hdf5", "gzip"),
            "encode zstd (Parquet)": lambda: encode_shard(shard, "parquet", "zstd"),
        },
        max(1, rounds // 3),
    )
    per_patient = {name: seconds / batch_size for name, seconds in by_batch.items()}
    per_patient[_LARGE] = large[_LARGE] / _LARGE_BATCH
    per_patient |= {name: seconds / shard_size for name, seconds in by_shard.items()}
    return {name: round(1e6 * seconds, 2) for name, seconds in per_patient.items()}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--timesteps", type=int, default=60)
    parser.add_argument("--shard-size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["highest", "high", "medium"], default="highest")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    stages = measure_stages(
        options.batch_size, options.timesteps, options.shard_size, options.rounds, options.precision
    )
    print(f"{'stage':24} {'us/patient':>11} {'patients/s':>11}")
    for name, microseconds in stages.items():
        print(f"{name:24} {microseconds:>11,.1f} {1e6 / microseconds:>11,.0f}")
    ours = stages["all but writing"] + stages["encode gzip"]
    ratios = {name: round(stages[name] / ours, 2) for name in ("published generator", _LARGE)}
    for name, ratio in ratios.items():
        print(f"one core, all stages, against the {name} alone: {ratio:.2f} times as fast")
    about = {name: str(value) for name, value in vars(options).items()}
    result = {"options": about, "microseconds_per_patient": stages, "ratios": ratios}
    measure.write(options.json, {**measure.machine(torch.device("cpu")), **result})


if __name__ == "__main__":
    main()
