"""All that is to be measured on a GPU, in order of value, in one command of a few minutes.

    python benchmarks/gpu/on_gpu.py [--json FOLDER] [--minutes 6]

What is measured: the rates of the card itself (large matrix products and copies); steps of the systems, of
the published one and of ours, one operation at a time and as a CUDA graph, with kernels, peak memory, floors
from operations and bytes; the stages of synthesis and which of them limits it; whole syntheses from v2 and
ar; v3 at three precisions; the time that ar takes to its best weights; what micro-batches save.

Each part has its own limit of time and is ended there. The results are written after each part, with what
failed, was ended or was left out for lack of time.

With `--device cpu` and small sizes it runs anywhere, which is how it is tested; times mean nothing then.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import measure
import numpy as np
import on_gpu_runs
import torch
from synthesis import make_source
from training_step import LAYOUTS, make_side, operations_needed, patients, stepper

from healthgym.config import RunConfig
from healthgym.data.fitting.columns import in_memory
from healthgym.data.fitting.fit_cells import fit_cells
from healthgym.distributed.share import Share
from healthgym.storage.checkpoint import list_checkpoints
from healthgym.storage.shard_file import encode_shard
from healthgym.strict import parse
from healthgym.synthesis.plan import SynthesisPlan
from healthgym.synthesis.shard import compute_shard, pack_shard
from healthgym.synthesis.source import Source, open_source
from healthgym.systems.base import Batch, PositionDraws, System
from healthgym.systems.build import build_system
from healthgym.systems.patients import CohortFacts
from healthgym.training.graphs import CudaCapture, GraphSteps

_FLOAT = 4  # bytes
_LEAST_SECONDS = 5.0  # no part is begun with less left


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

    def of(side: str, captured: bool = False) -> Callable[[], object]:
        made = make_side(side, system, "7", device)
        wanted = "highest" if side == "published" else precision
        return measure.at_precision(wanted, stepper(made, x_BTF, captured))

    sides = {"published": of("published"), "ours": of("ours")}
    if device.type == "cuda":
        sides["graph"] = of("ours", captured=True)
        for _ in range(5):
            sides["graph"]()  # the fourth step is captured
    seconds = {name: measure.median(all_) for name, all_ in _alternate(sides, clock, options).items()}
    needed = operations_needed(system, layout, options.batch, length)
    rate = card["float32 highest" if precision == "highest" else "float32 high"]
    row = {"system": system, "length": length, "precision": precision, "seconds": seconds}
    row["times as fast as published"] = {
        name: round(seconds["published"] / own, 2) for name, own in seconds.items() if name != "published"
    }
    # The profiler takes long for the 300,000 kernels of a long published step.
    counted = [name for name in sides if name != "published" or length == min(options.lengths)]
    row["kernels"] = {name: measure.count_operations(sides[name], device) for name in counted}
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


def synthesis(options: argparse.Namespace, source: Source, system: System) -> dict[str, Any]:
    """Return patients a second of each stage of a synthesis, and which of them limits it."""
    device, size = torch.device(options.device), options.shard
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
    rates = {name: round(size / _seconds(call, clock, options.rounds)) for name, call in calls.items()}
    computed_rate, packed, encoded, _ = rates.values()
    workers = max(len(os.sched_getaffinity(0)) - 1, 1)
    by_workers = round(workers / (1 / packed + 1 / encoded))
    limit = "the GPU's process" if computed_rate < by_workers else f"{workers} worker(s)"
    return rates | {
        "workers": workers,
        "pack and encode gzip, all workers": by_workers,
        "limited by": limit,
        "kernels": measure.count_operations(calls["compute and decode (the GPU's process)"], device),
    }


def synthesis_of_v2(options: argparse.Namespace) -> dict[str, Any]:
    """Return the stages of v2's synthesis at 60 months x 13 variables."""
    return synthesis(options, *make_source(options.lengths[-1], options.device))


def synthesis_of_ar(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the stages of the synthesis from a trained ar."""
    source = open_source(list_checkpoints(_run("ar", options, folder) / "checkpoints")[0])
    return synthesis(options, source, source.build(options.device, ()))


def whole_synthesis(system: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return patients a second of a synthesis from a checkpoint to files, start of the workers included."""
    return on_gpu_runs.end_to_end(_run(system, options, folder), options.patients, options.device)


def _run(system: str, options: argparse.Namespace, folder: Path) -> Path:
    """Return a trained run: of ar as it trains by itself within a minute, of others an epoch."""
    limits = {"minutes": options.ar_minutes} if system == "ar" else {"epochs": 1}
    return on_gpu_runs.trained(folder, system, options.people, options.device, **limits)


def sampling_of_v3(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Return patients a second of v3 by 25 steps of DPM-Solver++."""
    layout, device = LAYOUTS["13"], torch.device(options.device)
    sampler = {"kind": "dpmpp", "num_steps": options.levels}
    values = {"preset": "v3", "sampler": sampler, "guardrail": {"kind": "clamp"}}
    config = parse(RunConfig, {"system": values}, "on_gpu").system
    system = build_system(config, layout, torch.eye(layout.num_features), device, 0)
    call = measure.at_precision(
        precision, lambda: system.sample_features(options.lengths[-1], 0, 0, options.shard)
    )
    seconds = _seconds(call, measure.Clock(device), 1)
    return {"levels": options.levels, "patients a second": round(options.shard / seconds)}


def autoregressive(options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds, kernels and peak memory of a step of ar."""
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

    def taking(captured: bool) -> Callable[[], object]:
        system, numbers = build(), iter(range(10**9))
        take = GraphSteps(system, CudaCapture(device)) if captured else system.train_step
        return lambda: take(batch, PositionDraws(0, next(numbers), device))

    sides = {"ours": taking(captured=False)}
    if device.type == "cuda":
        sides["graph"] = taking(captured=True)
        for _ in range(5):
            sides["graph"]()
    return {
        "seconds": {name: measure.median(all_) for name, all_ in _alternate(sides, clock, options).items()},
        "kernels": {name: measure.count_operations(call, device) for name, call in sides.items()},
        "peak bytes": measure.peak_memory(lambda: taking(captured=False), device),
    }


Part = tuple[float, Callable[[], Any]]
"""Limit of a part in seconds, and the part."""


def parts(options: argparse.Namespace, card: dict[str, float], folder: Path) -> dict[str, Part]:
    """Return all that is to be measured, in order of value."""
    longest = options.lengths[-1]

    def a_step(system: str, length: int, seconds: float, precision: str = "highest") -> Part:
        return seconds, lambda: step(system, length, precision, options, card)

    found: dict[str, Part] = {
        f"v2 at {longest}": a_step("v2", longest, 60),
        "ar": (30, lambda: autoregressive(options)),
        "synthesis, stages of v2": (30, lambda: synthesis_of_v2(options)),
        "ar to its best weights": (90, lambda: on_gpu_runs.to_best_weights(_run("ar", options, folder))),
        "synthesis, stages of ar": (30, lambda: synthesis_of_ar(options, folder)),
        f"v3 at {longest}, high": a_step("v3", longest, 20, "high"),
        f"v3 at {longest}, medium": a_step("v3", longest, 20, "medium"),
        f"v3 at {longest}, highest": a_step("v3", longest, 20),
        "synthesis, whole, ar": (45, lambda: whole_synthesis("ar", options, folder)),
        "synthesis, whole, v2": (60, lambda: whole_synthesis("v2", options, folder)),
        "micro-batches": (30, lambda: micro_batches(options)),
        "synthesis, v3, medium": (20, lambda: sampling_of_v3(options, "medium")),
        "synthesis, v3, highest": (20, lambda: sampling_of_v3(options, "highest")),
    }
    found |= {f"v2 at {length}": a_step("v2", length, 30) for length in options.lengths[:-1]}
    return found | {f"{name} at {longest}": a_step(name, longest, 60) for name in ("v2.5", "v1")}


class _Late(Exception):
    """A part has taken its limit of time."""


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return what a call returns, or raise `_Late` when it takes longer than this."""

    def end(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_parts(wanted: dict[str, Part], end: float, result: dict[str, Any], path: Path | None) -> None:
    """Run parts one after the other until an instant, and write the results after each."""
    for name, (limit, call) in wanted.items():
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            result["left out"].append(name)
            continue
        begun = time.monotonic()
        try:
            result["parts"][name] = within(min(limit, left), call)
        except _Late:
            result["ended"][name] = f"after {min(limit, left):.0f} s"
        except Exception as error:  # the other parts are still worth their time
            result["failed"][name] = f"{type(error).__name__}: {error}"
        result["seconds"][name] = round(time.monotonic() - begun, 1)
        said = next(result[kind][name] for kind in ("parts", "ended", "failed") if name in result[kind])
        print(f"{name} [{result['seconds'][name]} s]", said, flush=True)
        measure.write(path, result)
    measure.write(path, result)


def options_of() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 60])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--shard", type=int, default=4096, help="patients of a shard, in synthesis")
    parser.add_argument("--patients", type=int, default=200_000, help="patients of a whole synthesis")
    parser.add_argument("--people", type=int, default=1200, help="simulated patients that runs learn from")
    parser.add_argument("--ar-minutes", type=float, default=1.0, help="most minutes of training ar")
    parser.add_argument("--levels", type=int, default=25, help="noise levels of v3's sampler")
    parser.add_argument("--matrix", type=int, default=8192, help="width of the matrices that tell the rates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], help="words; parts with one of them in their name")
    parser.add_argument("--json", type=Path, help="folder; results go to a folder of the device's name in it")
    return parser


def main() -> int:
    """Measure, print and write part by part; return 1 if a part failed."""
    parser = options_of()
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu and small sizes try the script itself")
    about = measure.machine(device)
    name = str(about["device"]).replace(" ", "-").replace("/", "-").lower()
    path = options.json / name / "on_gpu.json" if options.json else None
    result: dict[str, Any] = {**about, "commit": _commit(), "rates": rates(options)}
    result |= {"parts": {}, "seconds": {}, "ended": {}, "failed": {}, "left out": []}
    measure.write(path, result)
    print(about, result["rates"], sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        wanted = parts(options, result["rates"], Path(folder))
        if options.only:
            wanted = {part: each for part, each in wanted.items() if any(w in part for w in options.only)}
        run_parts(wanted, end, result, path)
    for kind in ("left out", "ended", "failed"):
        if result[kind]:
            print(f"{kind}: {', '.join(result[kind])}")
    return int(bool(result["failed"]))


def _commit() -> str:
    """Return the commit that is measured, or nothing outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
