"""Queries of Slurm's programs, which also work if one of them is missing."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from healthgym.errors import LaunchError

LIVE = frozenset(
    {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING"}
    | {"STAGE_OUT", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
"""States of a job that is not over."""


Phase = Literal["waiting", "running", "changing", "cancelled", "ended"]
"""A job's state independent of the scheduler; "changing" is a transition between two of the others."""


@dataclass(frozen=True)
class Queued:
    """A job in Slurm's queue: its state in Slurm's terms, and why it waits or where it runs."""

    state: str
    detail: str

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.state in LIVE

    @property
    def phase(self) -> Phase:
        """The state independent of the scheduler."""
        phases: dict[str, Phase] = {"RUNNING": "running", "CANCELLED": "cancelled"}
        phases |= {"PENDING": "waiting", "REQUEUED": "waiting"}
        return phases.get(self.state, "changing" if self.live else "ended")


def require_slurm() -> None:
    """Raise a LaunchError if sbatch or srun is missing."""
    missing = [name for name in ("sbatch", "srun", "scontrol") if not shutil.which(name)]
    if missing:
        raise LaunchError(
            f"This machine has no {' and no '.join(missing)}: it cannot submit to Slurm. Log in to the "
            "cluster's login node, or use --on local."
        )


def look_up(names: Iterable[str]) -> dict[tuple[str, str], Queued]:
    """Return {(job name, number): state} of the user's jobs with these names.

    squeue has jobs that wait, run or ended minutes ago; sacct, if the site has it, older ones. Numbers
    restart on a rebuilt cluster, so a job is identified also by the name of its submission. The result is
    empty without Slurm.
    """
    wanted = set(names)
    found: dict[tuple[str, str], Queued] = {}
    if not wanted:
        return found
    named = f"--name={','.join(sorted(wanted))}"
    past = ["sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-90days", named]
    for line in _lines([*past, "--format=JobName%60,JobID%40,State%30,NodeList%30"]):
        _add(found, wanted, line)
    now = ["squeue", "--me", "--noheader", "--array", "--states=all", named, "--format=%j|%i|%T|%R"]
    for line in _lines(now):
        _add(found, wanted, line)
    return found


def _add(found: dict[tuple[str, str], Queued], wanted: set[str], line: str) -> None:
    name, number, state, detail = [part.strip() for part in line.split("|", 3)]
    if name in wanted and state:
        found[name, number] = Queued(state.split()[0].rstrip("+"), detail)


def _lines(command: list[str]) -> list[str]:
    """Return the lines a program prints; none if it is absent, fails or takes a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for line in done.stdout.splitlines() if line.count("|") >= 3] if done.returncode == 0 else []


# Patterns in sbatch's message, and the setting to change; the first match counts.
_KEYS = {
    "account": "account",
    "partition": "partition",
    "array": "array.tasks",
    "qos": "qos",
    "time ?limit": "time",
    "node configuration": "constraint, memory_gb, cpus_per_task or gpus_per_node",
    "node count": "nodes",
    "gres": "gpus_per_node or gpu_type",
    "feature": "constraint",
    "memory": "memory_gb",
    "cpu count": "cpus_per_task",
    "reservation": "reservation",
    "node name": "nodelist or exclude",
}


def try_out(script: Path, settings_path: Path) -> None:
    """Ask the scheduler whether it would accept a batch script, without queueing it.

    Raises:
        LaunchError: it would not; the error has Slurm's message, the settings file and the key.
    """
    done = subprocess.run(
        ["sbatch", "--test-only", str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise refusal(done.stderr, settings_path)


def cancel(number: str) -> bool:
    """Cancel a job; return whether the scheduler accepted the request."""
    try:
        done = subprocess.run(["scancel", number], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def refusal(said: str, settings_path: Path) -> LaunchError:
    """Turn sbatch's message into an error that names the setting to change."""
    words = "; ".join(line.strip() for line in said.splitlines() if line.strip()) or "nothing"
    key = next((key for sign, key in _KEYS.items() if re.search(sign, words, re.IGNORECASE)), None)
    which = f"the key {key}" if key else "the settings"
    return LaunchError(f"Slurm refuses the job. It says: {words}\nLook at {which} in {settings_path}.")
