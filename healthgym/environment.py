"""Environment variables that a scheduler sets for a process: job, restarts, rank, task, cores.

Other code asks here; only `healthgym.launch.slurm` and the batch scripts name Slurm's variables too. Each
docstring says what is returned outside a scheduler.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from healthgym.errors import ConfigError

Environment = Mapping[str, str]


def job_number(environment: Environment) -> str:
    """Return the number of the job, "12", or of the array task, "12_3"; empty outside a scheduler."""
    number = environment.get("SLURM_JOB_ID", "")
    if number and "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment.get('SLURM_ARRAY_TASK_ID', '0')}"
    return number


def job(environment: Environment) -> str:
    """Return an id unique across clusters, "slurm:prod:12_3"; empty outside a scheduler."""
    number = job_number(environment)
    return f"slurm:{environment.get('SLURM_CLUSTER_NAME', '')}:{number}" if number else ""


def job_name(environment: Environment) -> str:
    """Return the job's name; empty if it has none."""
    return environment.get("SLURM_JOB_NAME", "")


def life(environment: Environment) -> int:
    """Return how often the job was restarted; 0 outside a scheduler."""
    return int(environment.get("SLURM_RESTART_COUNT") or 0) if job_number(environment) else 0


def rank(environment: Environment) -> int:
    """Return the number of this process among those that the scheduler started together, from 0."""
    return int(environment.get("SLURM_PROCID", 0))


@dataclass(frozen=True)
class StepRank:
    """One of several processes that the scheduler started together.

    Args:
        rank: its number, from 0.
        num_processes: on all nodes.
        local_rank: its number on its node.
        address: of the node that launched the processes.
        port: the same for all processes of a job, and rarely the same for two jobs.
    """

    rank: int
    num_processes: int
    local_rank: int
    address: str
    port: int


def step_rank(environment: Environment) -> StepRank | None:
    """Return this process's rank among several; None if it is the only one."""
    num_processes = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if num_processes == 1:
        return None
    return StepRank(
        rank(environment),
        num_processes,
        int(environment["SLURM_LOCALID"]),
        environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
        20_000 + int(environment["SLURM_JOB_ID"]) % 20_000,
    )


def task(environment: Environment) -> str:
    """Return "i/n", the i-th of an array's n tasks; "0/1" outside an array.

    A task that is submitted again alone belongs to an array of one.

    Raises:
        ConfigError: the array's numbers are a list with gaps, for which Slurm sets a step of 1, so that a
            task's place in it is unknown.
    """
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return "0/1"
    first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
    step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
    count = int(environment.get("SLURM_ARRAY_TASK_COUNT", "1"))
    last = int(environment.get("SLURM_ARRAY_TASK_MAX", first + step * (count - 1)))
    if last != first + step * (count - 1):
        raise ConfigError(
            f"This array has {count} tasks with numbers from {first} to {last}, so that the share of each is "
            f"unknown. Submit it with --array=0-{count - 1} (finished shards are skipped), or give the "
            "number of each task and of all tasks: --task 3/32."
        )
    return f"{(int(environment['SLURM_ARRAY_TASK_ID']) - first) // step}/{count}"


def cores(environment: Environment) -> int | None:
    """Return how many cores each process was granted; None if unknown."""
    granted = environment.get("SLURM_CPUS_PER_TASK", "")
    return int(granted) if granted.isdigit() and int(granted) > 0 else None


def threads_asked(environment: Environment) -> int | None:
    """Return how many threads a user asks for with OMP_NUM_THREADS; None if it is not set."""
    asked = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(asked) if asked.isdigit() and int(asked) > 0 else None


def usable_cores() -> int:
    """Return how many cores the scheduler (or the machine) grants this process."""
    usable = len(os.sched_getaffinity(0))
    return min(cores(os.environ) or usable, usable)
