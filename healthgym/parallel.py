"""What this process may use: cores and a device."""

import os


def granted_cores() -> int:
    """Return how many cores the scheduler (or the machine) grants this process.

    More threads than that are slower by an order of magnitude, not faster.
    """
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdigit() and int(slurm) > 0:
        return min(int(slurm), len(os.sched_getaffinity(0)))
    return len(os.sched_getaffinity(0))
