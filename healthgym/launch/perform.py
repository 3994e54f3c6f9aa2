"""Running one job in this process, on any machine, with an exit status for its outcome."""

import os
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from healthgym import stopping
from healthgym.distributed.parallel import let_waiting_threads_sleep
from healthgym.environment import step_rank
from healthgym.errors import FencedError, HealthgymError, LaunchError, RankError
from healthgym.faults import sentence
from healthgym.launch import records
from healthgym.launch.programs import steady_output, stopped

VISIBLE_GPUS = "HEALTHGYM_VISIBLE_GPUS"
"""Which GPUs the submitting process saw ("all" if it had no CUDA_VISIBLE_DEVICES)."""


LEAST_GIGABYTES = 0.3
"""Memory that a process needs before it reads anything: the interpreter and its libraries, at least."""


def require_memory(gigabytes: float | None, least: float, what: str) -> None:
    """Refuse a limit of memory that a job must exceed.

    Args:
        gigabytes: memory of a process; None if it is not limited.
        least: that it needs at least, in gigabytes.
        what: the job.

    Raises:
        LaunchError: it has less.
    """
    if gigabytes is not None and gigabytes < least:
        raise LaunchError(
            f"A process would have {gigabytes:.2g} GB of memory (memory_gb of a node, divided by "
            f"tasks_per_node), and {what} needs more than {least:.2g} GB. Ask for several times that."
        )


@dataclass(frozen=True)
class Outcome:
    """How a job ended: finished, or interrupted with its work saved; and a sentence for the user."""

    finished: bool
    message: str


class Job(Protocol):
    """A job that can be submitted: plain values, which are pickled, and a call."""

    @property
    def kind(self) -> str:
        """One word: prepare, train, synthesize or evaluate."""

    @property
    def target(self) -> Path:
        """The folder or file that the job makes; its submissions are stored there."""

    @property
    def reads(self) -> Sequence[Path]:
        """Files and folders that must be visible on the node of the job."""

    @property
    def task(self) -> str:
        """The task of an array job, as "3/16"; empty for the whole job."""

    @property
    def saves(self) -> bool:
        """Whether it saves its state when asked to stop, and can be resumed."""

    @property
    def ranks(self) -> bool:
        """Whether it can run as several processes."""

    def check(self, awaited: bool = False) -> None:
        """Raise a HealthgymError for errors that can be found before anything is queued.

        Args:
            awaited: whether its inputs are still to be made by an earlier job.
        """

    def rehearse(self, processes: int = 1, gigabytes: float | None = None) -> None:
        """Raise a HealthgymError for problems that data, settings and resources show; may take seconds.

        Called before anything is queued and in a dry run, once `check` has passed and the inputs exist.

        Args:
            processes: number of processes that do the job together.
            gigabytes: memory of each of them; None if it is not limited.
        """

    def split(self, num_tasks: int) -> "Sequence[Job]":
        """Divide the job into `num_tasks` and return the unfinished tasks; [self] if it cannot be divided."""

    def __call__(self) -> Outcome:
        """Do the work."""


def perform(job: Job, submission: Path | None, plain_errors: bool = False) -> int:
    """Run a job and return the exit status: 0 done, 85 saved and to be resumed, 86 fenced, 137 another
    process of the job was lost, 130 ended by Ctrl-C, 1 failed.

    Args:
        job: the job.
        submission: the folder for its state; None for none.
        plain_errors: let every exception through, for a debugger.
    """
    with steady_output(), stopping.listening() if job.saves else stopping.without_saving():
        show_gpus()
        let_waiting_threads_sleep()
        rank = export_ranks(os.environ)
        record = _Record(submission if rank == 0 else None)
        record.write("running")
        try:
            outcome = job()
        except FencedError as error:
            record.write("fenced", str(error))
            print(f"error: {error}", file=sys.stderr)
            return stopping.FENCED
        except (Exception, KeyboardInterrupt) as error:
            record.write("failed", str(error) or type(error).__name__)
            if plain_errors:
                raise
            if isinstance(error, KeyboardInterrupt):
                return stopped()
            said = str(error) if isinstance(error, HealthgymError) else sentence(error)
            if said is None:
                traceback.print_exc()
            elif said:
                print(f"error: {said}", file=sys.stderr, flush=True)
            return stopping.LOST if isinstance(error, RankError) and error.lost else 1
        record.leave(outcome)
        if rank == 0:
            print(outcome.message, flush=True)
    # A status other than 0 makes srun kill the other ranks: only rank 0, which writes last, returns the
    # status for requeueing.
    return 0 if outcome.finished or rank else stopping.INTERRUPTED


@dataclass(frozen=True)
class _Record:
    """The state file of this process, or none."""

    folder: Path | None

    def write(self, state: str, message: str = "") -> None:
        """Record a state; a failure is only printed, since the work itself may be fine."""
        try:
            if self.folder:
                records.write_state(self.folder, state, message)
        except OSError as error:
            print(f"note: {sentence(error, self.folder, 'write') or error}", file=sys.stderr, flush=True)

    def leave(self, outcome: Outcome) -> None:
        self.write("finished" if outcome.finished else "interrupted", outcome.message)
        if self.folder:
            records.forgive_crashes(self.folder)


def show_gpus() -> None:
    """Make the GPUs visible again, which submitit's local executor hides; must precede importing torch."""
    visible = os.environ.pop(VISIBLE_GPUS, None)
    if visible == "all":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    elif visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible


def export_ranks(environment: Mapping[str, str]) -> int:
    """Set the environment variables of torch.distributed for this rank; return the rank.

    Only under srun with several tasks; otherwise the environment is not changed. The master address is the
    first node's name, or if names do not resolve, the address srun was started from, which is the same node.
    """
    mine = step_rank(environment)
    if mine is None:
        return int(environment.get("RANK", 0))
    host, first = mine.address, environment.get("HEALTHGYM_FIRST_NODE", "")
    try:
        if first:
            socket.getaddrinfo(first, None)
            host = first
    except OSError:
        pass
    os.environ.update(
        RANK=str(mine.rank),
        WORLD_SIZE=str(mine.num_processes),
        LOCAL_RANK=str(mine.local_rank),
        MASTER_ADDR=host,
        MASTER_PORT=str(mine.port),
    )
    return mine.rank
