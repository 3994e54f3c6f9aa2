"""A workload that counts: a chain of hashes, saved every few steps, behind the run folder's fence.

It is a training run without the arithmetic: what it ends with shows whether each step was done once,
in order, from what was saved, and by whom.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from healthgym import stopping
from healthgym.distributed import identity
from healthgym.files import write_json
from healthgym.launch.perform import Outcome
from healthgym.training.run_folder import RunFolder


@dataclass(frozen=True)
class CountJob:
    """Count to `steps` in the folder `target`."""

    target: Path
    steps: int = 60
    pause: float = 0.05
    save_every: int = 20
    task: str = ""
    kind: str = "count"
    saves: bool = True
    ranks: bool = True
    reads: tuple[Path, ...] = ()

    def check(self, awaited: bool = False) -> None:
        """Nothing can be wrong."""

    def rehearse(self, processes: int = 1, gigabytes: float | None = None) -> None:
        """Nothing need fit."""

    def split(self, num_tasks: int) -> Sequence["CountJob"]:
        """One chain per task, each in a folder of its own; those that are done are left out."""
        if num_tasks == 1:
            return [self]
        tasks = [replace(self, task=f"{index}/{num_tasks}") for index in range(num_tasks)]
        return [task for task in tasks if not task.done()]

    @property
    def folder(self) -> Path:
        """Where this chain is saved."""
        return self.target / self.task.replace("/", "-of-") if self.task else self.target

    def done(self) -> bool:
        """Whether the chain is complete."""
        path = self.folder / "saved.json"
        return path.exists() and json.loads(path.read_text())["step"] >= self.steps

    def __call__(self) -> Outcome:
        """Count on from the last save."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        group = _group(world)
        run = RunFolder(self.folder)
        if rank == 0:
            run.claim()
        if group:
            group.barrier()
        path = self.folder / "saved.json"
        saved = json.loads(path.read_text()) if path.exists() else {"step": 0, "chain": "", "lives": []}
        step, chain = saved["step"], saved["chain"]
        lives = [*saved["lives"], identity.mine().life]
        (self.folder / f"pid-{rank}").write_text(str(os.getpid()))
        while step < self.steps:
            time.sleep(self.pause)
            chain = hashlib.sha256(f"{chain}{step}".encode()).hexdigest()
            step += 1
            stop = _any(group, bool(stopping.requested()))
            if rank == 0 and (stop or step % self.save_every == 0 or step == self.steps):
                run.check()
                write_json(path, {"step": step, "chain": chain, "lives": lives})
                with (self.folder / "saves.log").open("a") as log:
                    log.write(f"{saved['step']} {step}\n")
            if group:
                group.barrier()
            if stop and step < self.steps:
                return Outcome(False, f"counted to {step} of {self.steps}")
        return Outcome(True, f"counted to {self.steps}")


def chain_of(steps: int) -> str:
    """Return the result of an undisturbed count."""
    chain = ""
    for step in range(steps):
        chain = hashlib.sha256(f"{chain}{step}".encode()).hexdigest()
    return chain


def _group(world: int):  # type: ignore[no-untyped-def]
    if world == 1:
        return None
    import torch.distributed as distributed

    distributed.init_process_group("gloo")
    return distributed


def _any(group, flag: bool) -> bool:  # type: ignore[no-untyped-def]
    if not group:
        return flag
    import torch

    both = torch.tensor([int(flag)])
    group.all_reduce(both, op=group.ReduceOp.MAX)
    return bool(both.item())
