"""What `scaling.py` measures: each function is called in a process of its own and returns plain numbers.

Seconds are the processor's, of one thread. Bytes are those by which the process's peak exceeds what it held
before the system or the data were there, all libraries loaded.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import measure
import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from training_step import patients, stepper

from healthgym.config import SYSTEM_PRESETS, RunConfig
from healthgym.distributed.share import Share
from healthgym.nn.attention import SelfAttentionBlock
from healthgym.nn.subnormals import subnormals_are_zero
from healthgym.nn.unet import ResidualBlock
from healthgym.schema.layout import FeatureLayout
from healthgym.strict import merge, parse
from healthgym.systems.base import System
from healthgym.systems.build import build_system

CPU = torch.device("cpu")


def layout_of(num_features: int) -> FeatureLayout:
    """Return a layout like ART for HIV's: a variable of four classes for every five features, else reals."""
    blocks = num_features // 5
    return FeatureLayout(num_features - 4 * blocks, (4,) * blocks, (4,) * blocks)


def make_system(system: str, num_features: int, length: int) -> System:
    """Return a freshly initialised system of published size that takes sequences of this length."""
    settings = SYSTEM_PRESETS[system]
    if system == "v2.5":
        settings = merge(settings, {"generator": {"num_positions": max(100, length)}})
    config = parse(RunConfig, {"system": settings}, system)
    return build_system(config.system, layout_of(num_features), torch.eye(num_features), CPU, seed=0)


def reset_peak() -> int:
    """Let the process's peak begin anew; return the bytes it holds (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return measure.memory_bytes("VmRSS")


def training_step(
    system: str,
    length: int,
    features: int,
    batch: int,
    micro: int | None = None,
    checkpointed: bool = False,
    flushed: bool = True,
) -> dict[str, float]:
    """Return what a step takes, and its peak: the second step, or the first if that takes over 3 seconds."""
    torch.set_num_threads(1)
    with contextlib.ExitStack() as patched:
        if checkpointed:
            for block in (SelfAttentionBlock, ResidualBlock):
                patched.enter_context(mock.patch.object(block, "forward", _checkpointed(block.forward)))
        x_BTF = patients(layout_of(features), batch, length, CPU)
        stepper(make_system(system, features, 8), x_BTF[:4, :8])()  # libraries come in
        before = reset_peak()
        ours = make_system(system, features, length)
        ours.share = Share(micro_batch_size=micro)
        step = stepper(ours, x_BTF)
        with subnormals_are_zero() if flushed else contextlib.nullcontext():
            seconds = _seconds(step)
            if seconds < 3:
                seconds = _seconds(step)
        peak = measure.memory_bytes("VmHWM") - before
    return {"seconds": round(seconds, 4), "megabytes": round(peak / 1e6, 1)}


def attention(length: int, batch: int, rounds: int) -> dict[str, float]:
    """Return seconds of v2.5's block, forward and backward, and of its quadratic part alone; and the peak."""
    torch.set_num_threads(1)
    block = SelfAttentionBlock(128, 8)
    block(torch.rand(2, 8, 128, requires_grad=True)).sum().backward()
    before = reset_peak()
    x_BTH = torch.rand(batch, length, 128, requires_grad=True)
    heads = [torch.rand(batch, 8, length, 16, requires_grad=True) for _ in range(3)]
    sides = {
        "block": lambda: block(x_BTH).sum().backward(),
        "quadratic": lambda: scaled_dot_product_attention(*heads).sum().backward(),
    }
    seconds = measure.alternate(sides, rounds, measure.Clock(CPU))
    peak = measure.memory_bytes("VmHWM") - before
    return {name: measure.median(values) for name, values in seconds.items()} | {
        "megabytes": round(peak / 1e6, 1)
    }


def preparation(num_patients: int) -> dict[str, float]:
    """Return what it takes to prepare the simulated cohort, and the file's bytes."""
    from healthgym.data import command
    from healthgym.data.request import PrepareRequest

    schema = Path(__file__).resolve().parent.parent / "configs" / "schemas" / "art_hiv.yaml"
    with tempfile.TemporaryDirectory() as folder:
        dataset = "simulated_art_hiv"

        def run(out: Path, patients: int) -> None:
            command.run(PrepareRequest(schema_path=schema, dataset=dataset, out=out, max_patients=patients))

        run(Path(folder) / "few.h5", 20)
        before, out = reset_peak(), Path(folder) / "many.h5"
        seconds = _seconds(lambda: run(out, num_patients))
        peak = measure.memory_bytes("VmHWM") - before
        rows = 60 * num_patients
        return {
            "seconds": seconds,
            "megabytes": round(peak / 1e6, 1),
            "file_bytes_per_row": round(out.stat().st_size / rows, 1),
        }


def opening(num_patients: int, length: int = 5) -> dict[str, float]:
    """Return what training takes of a cohort before its first batch, and what a batch takes then."""
    from healthgym.config import CurriculumConfig
    from healthgym.data.prepare import prepare
    from healthgym.data.sequences import PreparedCohort
    from healthgym.training.curriculum import Curriculum

    with tempfile.TemporaryDirectory() as folder:
        small, many = Path(folder) / "small.h5", Path(folder) / "many.h5"
        schema, table = _two_columns(40)
        prepare(table, schema, small)
        _stretch(small, many, num_patients, length)
        Curriculum(CurriculumConfig(batch_size=8), PreparedCohort.open(small).train, 0).batch(0)
        before, start = reset_peak(), time.process_time()
        cohort = PreparedCohort.open(many, verify=False)
        curriculum = Curriculum(CurriculumConfig(lengths="full", batch_size=256), cohort.train, 0)
        curriculum.batch(0)
        begun = time.process_time() - start
        peak = measure.memory_bytes("VmHWM") - before
        held = measure.memory_bytes("VmRSS") - before
        batches = [_seconds(lambda s=s: cohort.train.gather(curriculum.batch(s), length)) for s in range(20)]
    return {
        "seconds": begun,
        "megabytes": round(peak / 1e6, 2),
        "held_bytes_per_patient": round(held / num_patients, 1),
        "batch_seconds": measure.median(batches),
    }


def synthesis(num_shards: int, patients_per_shard: int, timesteps: int = 60) -> dict[str, float]:
    """Return what it takes to make the shards of a v2 one after the other, in one process."""
    from synthesis import make_source

    from healthgym.storage.shard_file import encode_shard
    from healthgym.synthesis.plan import SynthesisPlan
    from healthgym.synthesis.shard import make_shard

    torch.set_num_threads(1)
    source, system = make_source(timesteps)

    def plan(shards: int, patients_each: int) -> SynthesisPlan:
        return SynthesisPlan(
            checkpoint_sha256=source.sha256,
            num_patients=shards * patients_each,
            patients_per_shard=patients_each,
            timesteps=timesteps,
        )

    def make(wanted: SynthesisPlan, shard: int) -> int:
        made = make_shard(source, system, wanted, shard)
        assert made is not None
        return len(encode_shard(made[0], "hdf5", "gzip"))

    make(plan(1, 8), 0)
    before, start = reset_peak(), time.process_time()
    wanted = plan(num_shards, patients_per_shard)
    written = sum(make(wanted, shard) for shard in range(num_shards))
    seconds = time.process_time() - start
    return {
        "seconds": seconds,
        "megabytes": round((measure.memory_bytes("VmHWM") - before) / 1e6, 1),
        "bytes_per_patient": round(written / num_shards / patients_per_shard),
    }


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a module's forward that keeps its inputs and computes the rest again in the backward."""

    def again(self: nn.Module, *inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(self, *inputs)
        return checkpoint(forward, self, *inputs, use_reentrant=False)

    return again


def _two_columns(num_patients: int) -> Any:
    """Return a schema and a table of a real and a yes/no variable."""
    import pandas as pd

    from healthgym.schema import Schema, Variable

    schema = Schema(
        name="two",
        variables=(
            Variable(name="x", kind="real"),
            Variable(name="y", kind="binary", classes={0: "no", 1: "yes"}),
        ),
    )
    random, rows = np.random.default_rng(0), 5 * num_patients
    patient, timestep = np.divmod(np.arange(rows), 5)
    x, y = random.lognormal(size=rows), random.integers(0, 2, rows)
    return schema, pd.DataFrame({"PatientID": patient, "Timestep": timestep, "x": x, "y": y})


def _stretch(small: Path, many: Path, num_patients: int, length: int) -> None:
    """Write a cohort of many patients under the head of a small one; its rows are zeros."""
    import json

    import h5py

    from healthgym.storage.prepared import prepared_writer

    ids, lengths, rows = (
        np.arange(num_patients),
        np.full(num_patients, length, np.int32),
        num_patients * length,
    )
    nobody = (ids[:0], lengths[:0])
    with h5py.File(small) as file:
        head, correlation_FF = json.loads(file["head"][()]), file["correlation"][()]
    with prepared_writer(many, {"train": (ids, lengths), "holdout": nobody}, 1, 1) as writer:
        for start in range(0, rows, 1_000_000):
            zeros = np.zeros((min(1_000_000, rows - start), 1))
            writer.splits["train"].append(zeros, zeros, zeros)
        writer.write_head(head, correlation_FF)
