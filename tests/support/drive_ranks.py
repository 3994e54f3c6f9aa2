"""One process of several that train tiny systems together; its instructions come as JSON.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python tests/support/drive_ranks.py \
    '[{"folder": ..., "run": "run", "system": "v2", "sections": {...}, "fault": null}]'

Each item is a run; a fault is [rank, step, kind] of a new run: die, hang, raise, nan, stop or drift.
"""

import contextlib
import io
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny
import torch
from does import Does

from healthgym import stopping
from healthgym.config import RunConfig
from healthgym.errors import StorageError
from healthgym.launch.perform import Outcome, perform
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.systems.base import Batch, Draws, PositionDraws, State, System
from healthgym.training import run as run_module
from healthgym.training import trainer as trainer_module
from healthgym.training.graphs import choose_steps
from healthgym.training.run import train
from healthgym.training.trainer import Trainer, digest

Steps = Callable[[Batch, Draws], dict[str, torch.Tensor]]


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Train in float64, where the order of sums does not hide a mistake."""
    originals = run_module.build_system, trainer_module.PositionDraws

    def build(*args: Any) -> System:
        system = originals[0](*args)
        if isinstance(system, WGANSystem):
            system.correlation_FF = system.correlation_FF.double()
        step = system.train_step
        system.train_step = lambda batch, draws: step(  # type: ignore[method-assign]
            replace(batch, reals_BTR=batch.reals_BTR.double()), draws
        )
        return system

    torch.set_default_dtype(torch.float64)
    run_module.build_system, trainer_module.PositionDraws = build, DoubleDraws  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        run_module.build_system, trainer_module.PositionDraws = originals  # type: ignore[misc]


class DoubleDraws(PositionDraws):
    """The same numbers, in float64."""

    def uniform(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return super().uniform(name, shape).double()

    def shared_uniform(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return super().shared_uniform(name, shape).double()


def break_down(system: System, what: str) -> None:
    """Cause a fault in the middle of a step."""
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        time.sleep(3600)
    elif what == "raise":
        raise StorageError("The disk is full.")
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "drift":
        system.generator.linear1.bias.data += 1e-6  # type: ignore[attr-defined]


def faulty_steps(fault: list[Any] | None) -> Callable[..., tuple[Steps, str]]:
    """Return a `choose_steps` whose steps break down at one step of one process."""
    rank = int(os.environ["RANK"])

    def choose(system: System, *args: Any) -> tuple[Steps, str]:
        take_step, how = choose_steps(system, *args)
        steps = itertools.count()

        def step(batch: Batch, draws: Draws) -> dict[str, torch.Tensor]:
            here = fault is not None and fault[:2] == [rank, next(steps)]
            if here:
                break_down(system, fault[2])  # type: ignore[index]
            losses = take_step(batch, draws)
            is_nan = here and fault[2] == "nan"  # type: ignore[index]
            return {name: loss * torch.nan for name, loss in losses.items()} if is_nan else losses

        return step, how

    return choose


class TellingTrainer(Trainer):
    """Prints a hash of a process's state at each save, before and after all processes have agreed."""

    def agreed(self, state: State) -> State:
        agreed = super().agreed(state)
        mine, ours = (bytes(digest(either).tolist()).hex()[:16] for either in (state, agreed))
        print(f"saved at {self.step}: {mine} {ours}", flush=True)
        return agreed


def work(item: dict[str, Any], port: int) -> Outcome:
    """Train one run."""
    os.environ["MASTER_PORT"] = str(port)
    folder = Path(item["folder"])
    config: RunConfig = tiny.config(folder, item["system"], **item["sections"])
    stopping.clear()
    run_module.Trainer = TellingTrainer  # type: ignore[misc]
    run_module.choose_steps = faulty_steps(item.get("fault"))
    stream = io.StringIO()
    with double_precision() if item["double"] else contextlib.nullcontext():
        finished = train(folder / item["run"], config, stream)
    return Outcome(finished, stream.getvalue())


def main() -> int:
    port = int(os.environ["MASTER_PORT"])
    status = 0
    for number, item in enumerate(json.loads(sys.argv[1])):
        status = perform(Does(lambda item=item, number=number: work(item, port + number)), None)
        if status:
            break
    return status


if __name__ == "__main__":
    sys.exit(main())
