"""What training and sampling of ar cost beside their matrix products alone, by turns in one process.

    python benchmarks/autoregressive.py [--patients 1200] [--run-dir RUN --data PREPARED] [--json FILE]

Without a run, simulated ART patients are prepared and ar is trained on them for two epochs first: sampling
depends on how often values are held. The products are those that a step or a block really computes, with the
same shapes, on random numbers; attention's own kernel is not among them. Nothing exact can be faster.
"""

import argparse
import io
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from healthgym import shipped
from healthgym.config import RunConfig
from healthgym.data.prepare import prepare
from healthgym.data.sequences import PreparedCohort
from healthgym.data.simulation.simulate import simulate_art_hiv
from healthgym.nn.precision import set_precision
from healthgym.schema import load_schema
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint
from healthgym.strict import parse
from healthgym.synthesis.source import trained_system
from healthgym.systems.base import Batch, PositionDraws, SampleDraws
from healthgym.training.course import set_course
from healthgym.training.run import train

_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}
Shapes = tuple[tuple[int, ...], ...]


class _Products(TorchDispatchMode):
    """Counts matrix products by the shapes of their two factors."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Shapes] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            self.counts[tuple(tuple(each.shape) for each in args[-2:])] += 1
        return func(*args, **(kwargs or {}))


def products_of(call: Callable[[], object]) -> tuple[Callable[[], None], float]:
    """Return a call that computes only the matrix products of another, and how many operations they take."""
    with _Products() as products:
        call()
    factors = {shapes: [torch.rand(shape) for shape in shapes] for shapes in products.counts}

    def compute() -> None:
        for shapes, count in products.counts.items():
            for _ in range(count):
                torch.matmul(*factors[shapes])

    flop = sum(2.0 * np.prod(a) * b[-1] * count for (a, b), count in products.counts.items())
    return compute, float(flop)


def beside_products(call: Callable[[], object], rounds: int, clock: measure.Clock) -> dict[str, Any]:
    """Return the seconds of a call and of its products, which alternate."""
    compute, flop = products_of(call)
    found = measure.alternate({"all": call, "products": compute}, rounds, clock)
    seconds = {name: measure.median(values) for name, values in found.items()}
    ratio = round(seconds["all"] / seconds["products"], 2)
    return {"seconds": seconds["all"], "products": seconds["products"], "ratio": ratio, "gflop": flop / 1e9}


def simulated(folder: Path, patients: int) -> tuple[Path, Path]:
    """Train ar on simulated patients; return the run and the prepared cohort."""
    data = folder / "prepared.h5"
    prepare(simulate_art_hiv(patients, seed=0), load_schema(shipped.schema(Path("art_hiv"))), data)
    settings = {"system": "ar", "data": str(data), "training": {"epochs": 2, "threads": 1}}
    train(folder / "run", parse(RunConfig, settings, "the benchmark"), io.StringIO())
    return folder / "run", data


def measured(run: Path, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a training step and the sampling of a block cost."""
    checkpoint = load_checkpoint(list_checkpoints(run / "checkpoints")[0])
    system, cohort = trained_system(checkpoint, "cpu"), PreparedCohort.open(data, verify=False)
    course = set_course(cohort.train, system, checkpoint.config)
    curriculum, clock = course.curriculum, measure.Clock(torch.device("cpu"))
    gathered = course.patients.gather(curriculum.batch(0), curriculum.max_length, system.real_form)
    batch, steps = Batch(system.layout, *map(torch.from_numpy, gathered)), iter(range(10**9))
    draws = SampleDraws(0, 0, options.block)

    def sample() -> object:
        set_precision(options.precision)
        return system.make(draws)

    sampling = beside_products(sample, options.rounds, clock)
    set_precision(options.precision)
    step = beside_products(
        lambda: system.train_step(batch, PositionDraws(0, next(steps), batch.lengths_B.device)),
        options.rounds,
        clock,
    )
    return {
        "patients": cohort.train.num_patients,
        "timesteps": curriculum.max_length,
        "variables": len(cohort.schema.variables),
        "parameters": system.num_parameters(),
        "step": step | {"batch": len(batch), "an epoch": step["seconds"] * curriculum.steps_per_epoch},
        "sampling": sampling | {"1,000 patients": sampling["seconds"] / options.block * 1000},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--patients", type=int, default=1200, help="simulated, a fifth of them held out (1200)"
    )
    parser.add_argument("--run-dir", type=Path, help="a trained run of ar, instead")
    parser.add_argument("--data", type=Path, help="its prepared cohort")
    parser.add_argument("--block", type=int, default=1024, help="patients that are sampled together (1024)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["highest", "medium"], default="highest")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        given = options.run_dir and options.data
        where = (options.run_dir, options.data) if given else simulated(Path(folder), options.patients)
        found = measured(*where, options)
    for name, of in (("step", "an epoch"), ("sampling", "1,000 patients")):
        row = found[name]
        print(
            f"{name:>8}: {row['seconds']:.2f} s, its products {row['products']:.2f} s, {row['ratio']} times; "
            f"{of} {row[of]:.1f} s"
        )
    settings = {"block": options.block, "precision": options.precision}
    measure.write(options.json, {"machine": measure.machine(torch.device("cpu"))} | settings | found)


if __name__ == "__main__":
    main()
