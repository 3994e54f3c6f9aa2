"""All that is to be measured on a GPU, in order of value, in one command of a few minutes.

    python benchmarks/on_gpu.py [--json FOLDER] [--minutes 6]

What is measured: the rates of the card itself (large matrix products and copies); steps of the systems, of
the published one and of ours, one operation at a time and as a CUDA graph, with kernels, peak memory, floors
from operations and bytes; the stages of synthesis; what micro-batches save. It is written after each part.
Parts for which no time is left are named.

With `--device cpu` and small sizes it runs anywhere, which is how it is tested; times mean nothing then.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from synthesis import make_source
from training_step import LAYOUTS, make_side, operations_needed, patients, stepper

from healthgym.config import RunConfig
from healthgym.data.fitting.columns import in_memory
from healthgym.data.fitting.fit_cells import fit_cells
from healthgym.distributed.share import Share
from healthgym.storage.shard_file import encode_shard
from healthgym.strict import parse
from healthgym.synthesis.plan import SynthesisPlan
from healthgym.synthesis.shard import compute_shard, pack_shard
from healthgym.systems.base import Batch, PositionDraws, SampleDraws, System
from healthgym.systems.build import build_system
from healthgym.systems.patients import CohortFacts
from healthgym.training.graphs import CudaRecorder, GraphSteps

_FLOAT = 4  # bytes
_SAFETY = 1.5  # a part takes as long as the one before, or somewhat longer


def rates(options: argparse.Namespace) -> dict[str, float]:
    """Return FLOP/s of large square products at each precision, and bytes/s of a large copy."""
    device, size = torch.device(options.device), options.matrix
    clock = measure.Clock(device)
    found = {}
    for precision in ("highest", "high"):
        run = measure.at_precision(precision, lambda: measure.matmul_rate(size, size, size, clock, device))
        found[f"float32 {precision}"] = run()
    a = torch.rand(size, size, device=device).bfloat16()
    seconds = _seconds(lambda: a @ a, clock, 10)
    found["bfloat16"] = 2 * size**3 / seconds
    source = torch.empty(size * size * 4, device=device)
    target = torch.empty_like(source)
    found["bytes"] = 2 * _FLOAT * source.numel() / _seconds(lambda: target.copy_(source), clock, 10)
    return found


def _seconds(call: Callable[[], object], clock: measure.Clock, rounds: int) -> float:
    """Return the median seconds of a call, after one that is not counted."""
    return measure.median(measure.alternate({"call": call}, rounds, clock)["call"])


def step(
    system: str, length: int, precision: str, options: argparse.Namespace, card: dict[str, float]
) -> Any:
    """Return seconds of a step on all sides, kernels, peak memory and floors."""
    device, layout = torch.device(options.device), LAYOUTS["7"]
    clock, x_BTF = measure.Clock(device), patients(layout, options.batch, length, device)

    def of(side: str, recorded: bool = False) -> Callable[[], object]:
        made = make_side(side, system, "7", device)
        wanted = "highest" if side == "published" else precision
        return measure.at_precision(wanted, stepper(made, x_BTF, recorded))

    sides = {"published": of("published"), "ours": of("ours")}
    if device.type == "cuda":
        sides["graph"] = of("ours", recorded=True)
        for _ in range(5):
            sides["graph"]()  # the fourth step is recorded
    seconds = {name: measure.median(all_) for name, all_ in _alternate(sides, clock, options).items()}
    needed = operations_needed(system, layout, options.batch, length)
    rate = card["float32 highest" if precision == "highest" else "float32 high"]
    row = {"system": system, "length": length, "precision": precision, "seconds": seconds}
    row["times as fast as published"] = {
        name: round(seconds["published"] / own, 2) for name, own in seconds.items() if name != "published"
    }
    row["kernels"] = {name: measure.count_operations(sides[name], device) for name in ("published", "ours")}
    row["peak bytes"] = measure.peak_memory(lambda: of("ours"), device)
    row["floor of operations, s"] = needed / rate
    if system in ("v1", "v2"):
        row["floor of bytes, s"] = _bytes_of_passes(options.batch, length) / card["bytes"]
    return row


def _alternate(
    sides: measure.Sides, clock: measure.Clock, options: argparse.Namespace
) -> dict[str, list[float]]:
    return measure.alternate(sides, options.rounds, clock)


def _bytes_of_passes(batch: int, length: int, hidden: int = 128) -> float:
    """Return the bytes that the recurrent passes of a step read and write at least.

    Of one timestep, in arrays of one hidden width (batch x 2 x hidden), the pointwise kernels alone: forward
    reads 5 and writes 6; backward reads 8 and writes 5, and 2 more if it will be differentiated; the tangent
    pass reads 11 and writes 6; its backward reads 16 and writes 5.
    """
    array, forward, backward = _FLOAT * batch * 2 * hidden, 11, 13
    critic_update = forward + 2 * (forward + backward) + (forward + backward + 2 + 17 + 21)
    generator_update = 2 * (forward + backward)
    return float(array * length * (5 * critic_update + generator_update))


def micro_batches(options: argparse.Namespace) -> dict[str, Any]:
    """Return the peak memory and the seconds of a step of v2 in parts of several sizes."""
    device, found = torch.device(options.device), {}
    x_BTF = patients(LAYOUTS["7"], options.batch, options.lengths[-1], device)
    for parts in (1, 2, 4):
        size = -(-options.batch // parts)

        def make(size: int = size) -> Callable[[], object]:
            system = make_side("ours", "v2", "7", device)
            assert isinstance(system, System)
            system.share = Share(micro_batch_size=size)
            return stepper(system, x_BTF)

        peak = measure.peak_memory(make, device)
        found[str(size)] = {
            "peak bytes": peak,
            "seconds": _seconds(make(), measure.Clock(device), options.rounds),
        }
    return found


def synthesis(options: argparse.Namespace) -> dict[str, Any]:
    """Return patients a second of each stage of v2's synthesis, and which one limits how many cores."""
    device = torch.device(options.device)
    source, system = make_source(options.lengths[-1], options.device)
    size = options.shard
    plan = SynthesisPlan(
        checkpoint_sha256=source.sha256,
        num_patients=size,
        patients_per_shard=size,
        batch_size=size,
        timesteps=options.lengths[-1],
        device=device.type,
    )
    clock = measure.Clock(device)
    computed = compute_shard(source, system, plan, 0)
    assert computed is not None
    shard, _ = pack_shard(source, plan, 0, computed)
    calls: dict[str, Callable[[], object]] = {
        "compute and decode (the GPU's process)": lambda: compute_shard(source, system, plan, 0),
        "pack (a worker)": lambda: pack_shard(source, plan, 0, computed),
        "encode gzip (a worker)": lambda: encode_shard(shard, "hdf5", "gzip"),
        "encode zstd (a worker)": lambda: encode_shard(shard, "parquet", "zstd"),
    }
    return {name: round(size / _seconds(call, clock, options.rounds)) for name, call in calls.items()}


def autoregressive(options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and kernels of a step of ar, and patients a second of its sampling."""
    device, length, random = torch.device(options.device), options.lengths[-1], np.random.default_rng(0)
    layout, clock = LAYOUTS["13"], measure.Clock(torch.device(options.device))
    people, shape = 400, (options.batch, length)
    raw = random.lognormal(size=(layout.num_reals, people * length))
    cells = fit_cells([in_memory(column) for column in raw], np.full(people, length), 10)
    facts = CohortFacts(cells, 5_000, length, float(length))
    ar = parse(RunConfig, {"system": "ar"}, "on_gpu").system

    def build() -> System:
        return build_system(ar, layout, torch.eye(layout.num_features), device, 0, facts)

    own = random.lognormal(size=(options.batch * length, layout.num_reals))
    codes = cells.encode(own, np.full(options.batch, length)).reshape(*shape, -1)
    classes = np.stack([random.integers(0, width, shape) for width in layout.num_classes], -1)
    tensors = (
        torch.from_numpy(codes),
        torch.from_numpy(classes.astype(np.uint8)),
        torch.full(shape[:1], length),
    )
    batch = Batch(layout, *(each.to(device) for each in tensors))

    def taking(recorded: bool) -> Callable[[], object]:
        system, numbers = build(), iter(range(10**9))
        take = GraphSteps(system, CudaRecorder(device)) if recorded else system.train_step
        return lambda: take(batch, PositionDraws(0, next(numbers), device))

    sides = {"ours": taking(recorded=False)}
    if device.type == "cuda":
        sides["graph"] = taking(recorded=True)
        for _ in range(5):
            sides["graph"]()
    made = build()
    sample = _seconds(lambda: made.make(SampleDraws(0, 0, options.shard)), clock, 1)
    return {
        "seconds": {name: measure.median(all_) for name, all_ in _alternate(sides, clock, options).items()},
        "kernels": measure.count_operations(sides["ours"], device),
        "peak bytes": measure.peak_memory(lambda: taking(recorded=False), device),
        "patients a second": round(options.shard / sample),
    }


def parts(options: argparse.Namespace, card: dict[str, float]) -> dict[str, Callable[[], Any]]:
    """Return all that is to be measured, in order of value."""
    longest = options.lengths[-1]

    def later(system: str, length: int, precision: str = "highest") -> Callable[[], Any]:
        return lambda: step(system, length, precision, options, card)

    found: dict[str, Callable[[], Any]] = {
        f"v2 at {longest}": later("v2", longest),
        "synthesis": lambda: synthesis(options),
    }
    found |= {f"v2 at {length}": later("v2", length) for length in options.lengths[:-1]}
    found |= {
        f"v3 at {longest}, {word}": later("v3", longest, word) for word in ("highest", "high", "medium")
    }
    found["ar"] = lambda: autoregressive(options)
    found["micro-batches"] = lambda: micro_batches(options)
    return found | {f"{name} at {longest}": later(name, longest) for name in ("v2.5", "v1")}


def main() -> None:
    """Measure, print and write part by part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 60])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--shard", type=int, default=4096, help="patients of a shard, in synthesis")
    parser.add_argument("--matrix", type=int, default=8192, help="width of the matrices that tell the rates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="folder; results go to a folder of the device's name in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu and small sizes try the script itself")
    about = measure.machine(device)
    name = str(about["device"]).replace(" ", "-").replace("/", "-").lower()
    path = options.json / name / "on_gpu.json" if options.json else None
    end, longest = time.monotonic() + 60 * options.minutes, 0.0
    result: dict[str, Any] = {**about, "rates": rates(options), "parts": {}, "left out": []}
    print(about, result["rates"], sep="\n", flush=True)
    for part, call in parts(options, result["rates"]).items():
        begun = time.monotonic()
        if begun + _SAFETY * longest > end:
            result["left out"].append(part)
            continue
        result["parts"][part] = call()
        longest = max(longest, time.monotonic() - begun)
        print(part, result["parts"][part], flush=True)
        measure.write(path, result)
    measure.write(path, result)
    if result["left out"]:
        print("no time was left for:", ", ".join(result["left out"]))


if __name__ == "__main__":
    main()
