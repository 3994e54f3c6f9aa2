"""What training, preparing and synthesising cost on machines that were not here: a model of cost.

    python benchmarks/cost_model.py --json benchmarks/results/two-shared-cores/scaling.json

Counted from the layers' sizes: multiply-adds, collectives and their bytes; tests compare them with what the
systems really do. Measured: `Calibration`, by `scaling.py`. Assumed: `Machine`, each number with its source.

    step       on a CPU    T (a + b rows) + collectives
               on a GPU    max(launches x seconds of one, 2 x operations / rate) + collectives
    all-reduce             2 log2(n) latency + 2 (n-1)/n bytes / bandwidth
    speed-up               one process's step / n processes' step; Amdahl's serial part is what does not
                           shrink with the rows of a process: a T, the launches, and the collectives

Shapes: B patients of the global batch, n processes, T timesteps, F features, Z width of the noise, H hidden.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scaling_measures import layout_of, make_system
from training_step import operations_needed

STAGES = (10, 20, 30, 40, 50, 60)  # of 60 months, as `curriculum.lengths: auto` has them
TRAIN_SHARE = 0.8
LATENT = 128
CRITIC_UPDATES = 5


@dataclass(frozen=True)
class Machine:
    """Assumed, not measured.

    Args:
        flops: float32 per second of a GPU: H100 SXM data sheet, 67e12 without tensor cores.
        reached: share of it that products of our size reach.
        launch_seconds: between two kernels that Python queues one by one.
        latency: of one hop of an all-reduce, several nodes.
        bandwidth: bytes per second and GPU: half of a 400 Gb/s InfiniBand link.
        disk: bytes per second and node of a parallel file system.
        gpus_per_node: GPUs that share a node's disk bandwidth.
    """

    flops: float = 67e12
    reached: float = 0.25
    launch_seconds: float = 6e-6
    latency: float = 10e-6
    bandwidth: float = 25e9
    disk: float = 2e9
    gpus_per_node: int = 4


@dataclass(frozen=True)
class Calibration:
    """Measured here.

    Args:
        timestep_seconds: a, of a step of v2, whatever the rows.
        row_seconds: b, of a step of v2, per row (patient) and timestep.
        row_bytes: peak memory per row and timestep of a step of v2.
        message: (seconds, seconds per byte) of an all-reduce between two processes here.
        prepare_seconds, host_bytes: per patient, of preparation and of a training process's memory.
        file_bytes: per patient-timestep of a prepared cohort.
        synthesis_seconds, shard_bytes: per patient of 60 timesteps, one core.
    """

    timestep_seconds: float
    row_seconds: float
    row_bytes: float
    message: tuple[float, float]
    prepare_seconds: float
    host_bytes: float
    file_bytes: float
    synthesis_seconds: float
    shard_bytes: float


def calibrate(found: dict[str, Any]) -> Calibration:
    """Fit the constants to what `scaling.py` has measured, processes left out: those are predicted."""
    batches = [row for row in found["batch"] if row["system"] == "v2"]
    rows, T = [row["batch"] for row in batches], batches[0]["length"]
    # Weighted, so that small batches count as much as large ones.
    slope, start = np.polyfit(
        rows, [r["seconds"] / T for r in batches], 1, w=[1 / r["seconds"] for r in batches]
    )
    memory = np.polyfit([r * T for r in rows], [1e6 * row["megabytes"] for row in batches], 1)
    messages = found["ranks"]["messages"]
    per_byte, latency = np.polyfit(
        [m["bytes"] for m in messages], [m["processor_seconds"] for m in messages], 1
    )
    prepared, opened = found["patients"]["prepare"][-1], found["patients"]["open"][-1]
    shard = found["shards"][-1]
    made = shard["shards"] * shard["patients_per_shard"]
    return Calibration(
        timestep_seconds=float(start),
        row_seconds=float(slope),
        row_bytes=float(memory[0]),
        message=(max(float(latency), 0.0), float(per_byte)),
        prepare_seconds=prepared["seconds"] / prepared["patients"],
        host_bytes=opened["held_bytes_per_patient"],
        file_bytes=prepared["file_bytes_per_row"],
        synthesis_seconds=shard["seconds"] / made,
        shard_bytes=shard["bytes_per_patient"],
    )


# --- counted --------------------------------------------------------------------------------------


def gradient_bytes(system: str, features: int) -> dict[str, int]:
    """Return the bytes of each network's gradients, which travel as one message."""
    made: Any = make_system(system, features, 60)
    networks = {"denoiser": made.denoiser} if system == "v3" else {"D": made.critic, "G": made.generator}
    if system in ("v2", "v2.5"):
        networks["A"] = made.latent.autoencoder
    return {name: 4 * sum(p.numel() for p in network.parameters()) for name, network in networks.items()}


def collectives(system: str, features: int, batch: int) -> list[int]:
    """Return the bytes of each all-reduce of a step, in order; the trainer adds one of 8 bytes."""
    of = gradient_bytes(system, features)
    if system == "v3":
        return [of["denoiser"], 24 * features]  # and the patients' time means: 3 F float64
    moments = [4 * LATENT] * 2  # of the latents
    autoencoder = [*moments, of["A"], 4 * batch * LATENT] if "A" in of else []  # and the prototypes
    correlation = [4 * features, 4 * features**2]  # moments of the generated rows
    return [*autoencoder, *[of["D"]] * CRITIC_UPDATES, *correlation, of["G"]]


def step_flops(system: str, features: int, batch: int, length: int) -> float:
    """Return the floating-point operations of the products of a training step."""
    if system == "v3":
        return 3 * 2.0 * batch * unet_products(features, -(-length // 8) * 8)  # forward, and twice backward
    return operations_needed(system, layout_of(features), batch, length)


def unet_products(features: int, length: int, channels: int = 256, depth: int = 3) -> int:
    """Return the multiply-adds of v3's U-Net for one patient; the levels' embeddings are left out."""
    conv, total = channels**2, 0
    total += length * (2 * features * channels + 2 * conv + 3 * conv)  # in, out, and the last convolution
    for _ in range(depth):
        total += 2 * (2 * 3 * conv * length)  # a block of two convolutions on the way down and one up
        length //= 2
        total += 4 * conv * length + 4 * conv * length  # halving, and doubling, which reads the short side
    return total + 2 * (2 * 3 * conv * length)


def launches(system: str, length: int) -> float:
    """Return the kernels of a step on a GPU: counted at 10, 30 and 60 timesteps for v2, at any for v3."""
    return 900.0 if system == "v3" else 1_672 + 687 * length


# --- predicted ------------------------------------------------------------------------------------


def cpu_step(found: Calibration, length: int, batch: int, processes: int = 1, features: int = 22) -> float:
    """Return the processor seconds of a step of v2 in each of some processes of one core."""
    alone = length * (found.timestep_seconds + found.row_seconds * batch / processes)
    if processes == 1:
        return alone
    latency, per_byte = found.message
    return alone + sum(latency + per_byte * size for size in collectives("v2", features, batch))


def all_reduce(machine: Machine, size: int, processes: int) -> float:
    """Return the seconds of one all-reduce between GPUs."""
    if processes == 1:
        return 0.0
    return 2 * math.log2(processes) * machine.latency + (2 - 2 / processes) * size / machine.bandwidth


def gpu_step(
    machine: Machine, system: str, length: int, batch: int, processes: int, features: int = 22
) -> dict[str, float]:
    """Return the seconds of a step on GPUs: all of it, and its parts."""
    rate = machine.flops * machine.reached
    # Element-wise work takes as long again as the products: measured on a CPU, assumed of a GPU.
    compute = 2 * step_flops(system, features, math.ceil(batch / processes), length) / rate
    launch = launches(system, length) * machine.launch_seconds
    exchange = sum(
        all_reduce(machine, size, processes) for size in (*collectives(system, features, batch), 8)
    )
    if processes == 1:
        exchange = 0.0
    return {
        "all": max(compute, launch) + exchange,
        "compute": compute,
        "launch": launch,
        "exchange": exchange,
    }


def epoch_seconds(machine: Machine, system: str, patients: float, batch: int, processes: int) -> float:
    """Return what one walk over all stages takes, reading included where the disk is slower."""
    train = TRAIN_SHARE * patients
    lengths: Sequence[int] = (60,) if system == "v3" else STAGES
    steps = sum(train / batch * gpu_step(machine, system, T, batch, processes)["all"] for T in lengths)
    nodes = math.ceil(processes / machine.gpus_per_node)
    return max(steps, read_bytes(train, lengths) / (machine.disk * nodes))


def read_bytes(patients: float, lengths: Sequence[int]) -> float:
    """Return the bytes of codes and reals (13 variables, 22 bytes a row) that an epoch reads."""
    return 22.0 * patients * sum(lengths)


def process_bytes(
    found: Calibration, patients: float, rows: int, length: int, system: str = "v2"
) -> dict[str, float]:
    """Return a training process's memory by what it grows with: patients, rows, or nothing."""
    weights = 4 * sum(gradient_bytes(system, 22).values())  # weights, gradients, Adam's two moments
    slots = 4 * 10_000 * LATENT
    return {
        "patients": TRAIN_SHARE * patients * found.host_bytes,
        "rows": rows * length * found.row_bytes,
        "fixed": float(weights + slots),
    }


# --- tables ---------------------------------------------------------------------------------------


def against_measured(found: dict[str, Any]) -> list[str]:
    """Return a table of the measured and the predicted step in one and two processes, and the errors."""
    constants, lines = calibrate(found), ["| timesteps | processes | measured s | model s | error |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in found["ranks"]["rows"]:
        for processes, side in ((1, "alone"), (2, "shared")):
            measured = row[side]["processor_seconds"]
            model = cpu_step(constants, row["length"], found["ranks"]["batch"], processes)
            error = model / measured - 1
            lines.append(f"| {row['length']} | {processes} | {measured:.2f} | {model:.2f} | {error:+.0%} |")
    return lines


def predictions(machine: Machine) -> list[str]:
    """Return a table of steps and epochs on 1 to 512 GPUs."""
    lines = [
        "| system | GPUs | batch | step of 60 | of which messages | speed-up | epoch of 5 M | 50 M | 500 M |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for system, per_gpu in (("v2", 256), ("v3", 128)):
        fixed = [(n, per_gpu) for n in (1, 8, 64)]
        growing = [(n, n * per_gpu) for n in (8, 64, 512)]
        for n, batch in fixed + growing:
            step = gpu_step(machine, system, 60, batch, n)
            one = gpu_step(machine, system, 60, per_gpu, 1)["all"] * batch / per_gpu
            epochs = [duration(epoch_seconds(machine, system, p, batch, n)) for p in (5e6, 5e7, 5e8)]
            cells = [
                system,
                n,
                f"{batch:,}",
                f"{1e3 * step['all']:.0f} ms",
                f"{1e3 * step['exchange']:.1f} ms",
            ]
            lines.append(_cells(*cells, f"{one / step['all']:.1f}", *epochs))
    return lines


def cohorts(found: Calibration, machine: Machine) -> list[str]:
    """Return a table of what grows with patients."""
    lines = ["| patients | prepare, one process | its file | host memory | synthesis, 512 cores | shards |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for patients in (5e6, 5e7, 5e8):
        file = 60 * patients * found.file_bytes
        prepare = duration(max(patients * found.prepare_seconds, file / machine.disk))
        held = sum(process_bytes(found, patients, 256, 60).values())
        make = duration(patients * found.synthesis_seconds / 512)
        shards = amount(patients * found.shard_bytes)
        lines.append(
            _cells(f"{patients / 1e6:.0f} million", prepare, amount(file), amount(held), make, shards)
        )
    return lines


def _cells(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def duration(seconds: float) -> str:
    """Return "3 min", "2.1 h" or "12 days"."""
    for unit, size, limit in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 72)):
        if seconds < limit * size:
            return f"{seconds / size:.2g} {unit}" if seconds / size < 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def amount(num_bytes: float) -> str:
    """Return "3.4 GB" or "1.4 TB"."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes < 1e12 else f"{num_bytes / 1e12:.1f} TB"


def main() -> None:
    """Print the tables of the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="what scaling.py has measured")
    found = json.loads(parser.parse_args().json.read_text())
    constants, machine = calibrate(found), Machine()
    print(constants, machine, sep="\n")
    for table in (against_measured(found), predictions(machine), cohorts(constants, machine)):
        print("", *table, sep="\n")


if __name__ == "__main__":
    main()
