"""The cores of this process, and its rank among the processes of one job."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from healthgym import environment


@dataclass(frozen=True)
class Process:
    """The rank of a process among those of one job.

    Args:
        rank: its number, from 0.
        num_processes: of the job, on all nodes.
        local_rank: its number on its node.
    """

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0


def process_from(variables: Mapping[str, str]) -> Process:
    """Return the rank that torchrun, or a compatible launcher, has written into the environment."""
    num_processes = int(variables.get("WORLD_SIZE") or 1)
    if num_processes == 1:
        return Process()
    return Process(int(variables["RANK"]), num_processes, int(variables.get("LOCAL_RANK") or 0))


def rows_of(process: Process, num_rows: int) -> slice:
    """Return this process's rows of a batch: divided in the order of ranks, as evenly as possible."""
    return slice(
        process.rank * num_rows // process.num_processes,
        (process.rank + 1) * num_rows // process.num_processes,
    )


def granted_cores() -> int:
    """Return how many cores the scheduler (or the machine) grants this process.

    More threads than cores are slower by an order of magnitude.
    """
    return environment.usable_cores()


def let_waiting_threads_sleep() -> None:
    """Keep idle OpenMP threads from spinning; must be called before torch is imported.

    On a shared machine, spinning threads slow down the working ones: a training step of 0.35 s took from 2 to
        30 s
    (2 cores, 2 threads, torch 2.13, one other busy process). A user's own OMP_WAIT_POLICY is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
