"""One training step of a system: ours against the published one, by turns in one process.

    python benchmarks/training_step.py [--system v2] [--lengths 10 30 60] [--device cpu] [--json FILE]

Ratios say how many times faster ours is; on CUDA also as one captured graph. The floor is the time that
the step's matrix products alone need at the rate measured here; nothing exact can be faster. Operations are
kernels on CUDA, calls below autograd on a CPU. `--precision` is ours alone: the published side keeps float32.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import measure
import torch
from plain.diffusion import PublishedDiffusion
from plain.step import PublishedSystem
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from healthgym.config import DiffusionConfig, TransformerGeneratorConfig, UniformLatentConfig, WGANConfig
from healthgym.nn import recurrent
from healthgym.nn.precision import set_precision
from healthgym.nn.unet import UNet1d
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.base import Batch, PositionDraws, System
from healthgym.systems.build import build_system
from healthgym.systems.denoising.diffusion import DiffusionSystem
from healthgym.training.graphs import CudaCapture, GraphSteps

LAYOUTS = {
    # ART for HIV: the notebooks' 7 variables, and all 13.
    "7": FeatureLayout(2, (2, 4, 6, 6, 2), (2, 4, 4, 4, 2)),
    "13": FeatureLayout(3, (2, 4, 6, 4, 4, 6, 2, 2, 2, 2), (2, 4, 4, 4, 4, 4, 2, 2, 2, 2)),
}
SYSTEMS: dict[str, WGANConfig | DiffusionConfig] = {
    "v1": WGANConfig(latent=UniformLatentConfig()),
    "v2": WGANConfig(),
    "v2.5": WGANConfig(generator=TransformerGeneratorConfig()),
    "v3": DiffusionConfig(amp=False),  # float32 on both sides, on CUDA too
}
Published = PublishedSystem | PublishedDiffusion
SIDES = ("published", "ours")


def patients(layout: FeatureLayout, batch: int, length: int, device: torch.device) -> Tensor:
    """Return made-up features x_BTF: uniform reals, one-hot blocks."""
    random = torch.Generator().manual_seed(0)
    blocks = [torch.rand(batch, length, layout.num_reals, generator=random)]
    for width in layout.num_classes:
        codes = torch.randint(width, (batch, length), generator=random)
        blocks.append(torch.nn.functional.one_hot(codes, width).float())
    return torch.cat(blocks, -1).to(device)


def make_side(side: str, system: str, layout: str, device: torch.device) -> System | Published:
    """Return a freshly initialised system; both sides start from the same weights."""
    shape = LAYOUTS[layout]
    ours = build_system(SYSTEMS[system], shape, torch.eye(shape.num_features), device, seed=0)
    if side == "ours":
        return ours
    return PublishedDiffusion(ours) if isinstance(ours, DiffusionSystem) else PublishedSystem(ours)  # type: ignore[arg-type]


def stepper(
    side: System | Published, x_BTF: Tensor, captured: bool = False
) -> Callable[[], dict[str, Tensor]]:
    """Return a call that takes the next step."""
    taken = iter(range(10**9))

    def draws() -> PositionDraws:
        return PositionDraws(0, next(taken), x_BTF.device)

    if not isinstance(side, System):
        return lambda: side.train_step(x_BTF, draws())
    batch = Batch.of_features(side.layout, x_BTF)
    take = GraphSteps(side, CudaCapture(x_BTF.device)) if captured else side.train_step
    return lambda: take(batch, draws())


def operations_needed(system: str, layout: FeatureLayout, batch: int, length: int) -> float:
    """Return the floating-point operations of a step's matrix products.

    A critic update costs three products per map for the real and the fake batch each (forward, input and
    weight gradient) and six for the penalty; its fakes cost one. The generator's step costs three
    products per map of the generator and two of the critic. The autoencoder is left out: under 1%. v3
    costs three per map of its U-Net.
    """
    config, features = SYSTEMS[system], layout.num_features
    if isinstance(config, DiffusionConfig):
        depth = config.denoiser.depth
        network, canvas = (
            UNet1d(features, config.denoiser.hidden_dim, depth, 2, 2),
            -(-length // 2**depth) * 2**depth,
        )
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, features, canvas), torch.zeros(1, dtype=torch.int64))
        return 3.0 * batch * counter.get_total_flops()
    hidden, updates = config.critic.hidden_dim, config.critic.num_updates
    recurrent = 2 * 4 * hidden * 2 * hidden
    critic = recurrent + features * hidden + hidden**2
    if config.generator.kind == "bilstm":
        generator = recurrent + 2 * hidden**2 + hidden**2 + hidden * features
    else:
        attention = 4 * hidden**2 + 2 * length * hidden
        generator = 3 * attention + hidden**2 + hidden * features
    per_timestep = updates * (12 * critic + generator) + 3 * generator + 2 * critic
    return 2.0 * batch * length * per_timestep


def peak(
    side: str, system: str, layout: str, batch: int, length: int, device: str, threads: int, precision: str
) -> int:
    """Return the bytes that two steps of a side take at their peak; to be run in a process of its own."""
    torch.set_num_threads(threads)
    set_precision(precision)
    x_BTF = patients(LAYOUTS[layout], batch, length, torch.device(device))
    stepper(make_side("ours", system, layout, x_BTF.device), x_BTF[:4, :2])()  # libraries come in

    def make() -> Callable[[], object]:
        step = stepper(make_side(side, system, layout, x_BTF.device), x_BTF)
        return lambda: (step(), step())

    return measure.peak_memory(make, x_BTF.device)


def measure_length(options: argparse.Namespace, length: int, clock: measure.Clock) -> dict[str, Any]:
    """Return the row of one length."""
    device, layout = torch.device(options.device), LAYOUTS[options.variables]
    x_BTF = patients(layout, options.batch, length, device)
    sides = {side: make_side(side, options.system, options.variables, device) for side in SIDES}
    rate = measure.matmul_rate(512, 256, options.batch, clock, device)
    precisions = dict(zip(SIDES, ("highest", options.precision), strict=True))

    def steps_of(name: str, x_BTF: Tensor) -> Callable[[], object]:
        return measure.at_precision(precisions[name], stepper(sides[name], x_BTF))

    steps: measure.Sides = {name: steps_of(name, x_BTF) for name in SIDES}
    if device.type == "cuda":
        again = make_side("ours", options.system, options.variables, device)
        steps["graph"] = measure.at_precision(options.precision, stepper(again, x_BTF, captured=True))
        for _ in range(5):
            steps["graph"]()  # the fourth step is captured
    seconds = measure.alternate(steps, options.rounds, clock)
    needed = operations_needed(options.system, layout, options.batch, length)
    row: dict[str, Any] = {"length": length}
    for name in SIDES:
        row[name] = {"seconds": measure.median(seconds[name]), "all_seconds": seconds[name]}
        # Ours goes through large batches in parts.
        counted_BTF = x_BTF if name == "ours" else x_BTF[:8]
        row[name]["operations"] = measure.count_operations(steps_of(name, counted_BTF), device)
        if not options.no_memory:
            arguments = (name, options.system, options.variables, options.batch, length)
            extra = (options.device, options.threads, precisions[name])
            row[name]["peak_megabytes"] = round(measure.in_new_process(peak, *arguments, *extra) / 1e6)
    with mock.patch.object(recurrent, "streams_of", return_value=(...,)):
        # What ours would launch on CUDA, where both directions of an LSTM run at once.
        together = measure.count_operations(steps_of("ours", x_BTF[:8]), device)
        row["ours"]["operations_together"] = together
    row["ratio"] = round(row["published"]["seconds"] / row["ours"]["seconds"], 2)
    if "graph" in steps:
        row["graph"] = {"seconds": measure.median(seconds["graph"]), "all_seconds": seconds["graph"]}
        row["graph_ratio"] = round(row["published"]["seconds"] / row["graph"]["seconds"], 2)
    row["gflop"], row["gflop_per_second"] = round(needed / 1e9), round(rate / 1e9, 1)
    row["floor_seconds"] = float(f"{needed / rate:.3g}")
    row["ours_over_floor"] = round(row["ours"]["seconds"] / row["floor_seconds"], 2)
    return row


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    published, ours = row["published"], row["ours"]
    graph = f"  graph {row['graph_ratio']} times" if "graph" in row else ""
    memory = f"{published.get('peak_megabytes', '-')} / {ours.get('peak_megabytes', '-')}"
    return (
        f"{row['length']:>6} {published['seconds']:>11.3f} {ours['seconds']:>8.3f} {row['ratio']:>6.2f} "
        f"{row['floor_seconds']:>8.3f} {row['ours_over_floor']:>11.2f} "
        f"{published['operations']:>9,} / {ours['operations']:<7,} {memory:>13}{graph}"
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--system", choices=SYSTEMS, default="v2")
    parser.add_argument("--variables", choices=LAYOUTS, default="7", help="of ART for HIV: 7 are 22 features")
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 30, 60])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["highest", "high", "medium"], default="highest")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the peaks, which take a process each"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    clock = measure.Clock(device)
    about = {"system": options.system, "variables": int(options.variables), "batch": options.batch}
    about |= {
        "precision": options.precision,
        "clock": clock.kind,
        "rounds": options.rounds,
        **measure.machine(device),
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print("length  published s   ours s  ratio  floor s  ours/floor     operations           MB at peak")
    rows = []
    for length in options.lengths:
        rows.append(measure_length(options, length, clock))
        print(line(rows[-1]), flush=True)
        measure.write(options.json, {**about, "rows": rows})


if __name__ == "__main__":
    main()
