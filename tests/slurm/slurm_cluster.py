"""Hands on the test cluster: submit, wait, preempt, break."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from healthgym.launch import submission
from healthgym.launch.perform import Job
from healthgym.launch.slurm.queue import LIVE


class Cluster:
    """A two-node Slurm of cluster.sh.

    Args:
        script: cluster.sh.
        number: of the cluster.
    """

    def __init__(self, script: Path, number: int) -> None:
        self.script, self.number = script, number

    def control(self, *words: str) -> None:
        """Call cluster.sh."""
        subprocess.run([self.script, str(self.number), *words], check=True)

    def run(self, *command: str) -> str:
        """Run one of Slurm's programs and return its output."""
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def settings(self, folder: Path, partition: str = "grace", **more: object) -> Path:
        """Write settings for this cluster."""
        path = folder / f"{partition}.yaml"
        lines = {"partition": partition, "time": '"30"', "warning_seconds": 60, "node_local": "[]", **more}
        path.write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
        return path

    def submit(self, job: Job, settings: Path) -> str:
        """Submit and return the job's number."""
        return submission.submit(job, settings)

    def show(self, number: str) -> dict[str, str]:
        """Return a job's fields as scontrol shows them."""
        found = dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", number)))
        return {str(name): str(value) for name, value in found.items()}

    def state(self, number: str) -> str:
        """Return a job's state."""
        return self.show(number)["JobState"]

    def restarts(self, number: str) -> int:
        """Return how often a job was started again."""
        return int(self.show(number)["Restarts"])

    def until(self, what: str, true: Callable[[], object], seconds: float = 300) -> None:
        """Wait until a condition is true, or fail with a sentence; the bound is for busy machines."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if true():
                return
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds} s in vain for {what}\n{self.run('squeue', '--long')}")

    def until_over(self, number: str, seconds: float = 300) -> str:
        """Wait until a job is over and return its last state."""
        seen: list[str] = []

        def is_over() -> bool:
            seen.append(self.state(number))
            return seen[-1] not in LIVE

        self.until(f"the end of job {number}", is_over, seconds)
        return seen[-1]

    def preempt(self, *numbers: str) -> None:
        """Let urgent work take both nodes until each of these running jobs has been put back."""
        before = {number: self.restarts(number) for number in numbers}
        where = ["--partition=high", "--nodes=2", "--exclusive", "--time=5"]
        urgent = self.run("sbatch", "--parsable", "--output=/dev/null", *where, "--wrap=sleep 600").strip()
        try:
            self.until("the urgent job", lambda: self.state(urgent) == "RUNNING")
            for number, lives in before.items():
                self.until(
                    f"job {number} back in the queue",
                    lambda number=number, lives=lives: (
                        self.restarts(number) > lives and self.state(number) == "PENDING"
                    ),
                )
        finally:
            self.run("scancel", urgent)

    def clear(self) -> None:
        """Cancel everything and wait for an empty queue."""
        self.run("scancel", "--user=root")
        self.until("an empty queue", lambda: not self.run("squeue", "--noheader"))
