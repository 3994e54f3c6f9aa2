"""Run one job in this process, on whatever machine, and say by the exit status how it ended."""

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
from healthgym.errors import FencedError, HealthgymError, RankError
from healthgym.faults import sentence
from healthgym.launch import records
from healthgym.programs import steady_output

VISIBLE_GPUS = "HEALTHGYM_VISIBLE_GPUS"
"""Which GPUs the submitting process saw ("all" if it had no CUDA_VISIBLE_DEVICES)."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: finished, or interrupted with its work saved; and a sentence for the user."""

    finished: bool
    message: str


class Job(Protocol):
    """What is submitted: plain values and a call. Only the values travel, by pickle."""

    @property
    def kind(self) -> str:
        """One word: prepare, train, synthesize or evaluate."""

    @property
    def target(self) -> Path:
        """The folder or file that the job makes; its submissions are kept there."""

    @property
    def reads(self) -> Sequence[Path]:
        """Files and folders that must be visible where the job runs."""

    @property
    def place(self) -> str:
        """Which part of a dealt job this is, as "3/16"; empty for the whole."""

    @property
    def saves(self) -> bool:
        """Whether it can be asked to stop and goes on later from what it saved."""

    @property
    def ranks(self) -> bool:
        """Whether several processes can do it together."""

    def check(self, awaited: bool = False) -> None:
        """Raise a HealthgymError for what can be known before anything is queued.

        Args:
            awaited: its inputs are still to be made by a job before it.
        """

    def rehearse(self) -> None:
        """Raise a HealthgymError for what data and settings together show; may take seconds.

        Called before anything is queued and in a dry run, once `check` has passed and the inputs are there.
        """

    def deal(self, num_tasks: int) -> "Sequence[Job]":
        """Return the tasks still to be done when dealt into `num_tasks`; [self] if it cannot be dealt."""

    def __call__(self) -> Outcome:
        """Do the work."""


def perform(job: Job, submission: Path | None, plain_errors: bool = False) -> int:
    """Run a job and return the exit status: 0 done, 85 saved and wants to go on, 86 fenced, 137 another
    process of the job was lost, 1 failed.

    Args:
        job: the work.
        submission: where its state is recorded; None for nowhere.
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
            said = str(error) if isinstance(error, HealthgymError) else sentence(error)
            if said is None:
                traceback.print_exc()
            elif said:
                print(f"error: {said}", file=sys.stderr, flush=True)
            return stopping.LOST if isinstance(error, RankError) and error.lost else 1
        record.leave(outcome)
        if rank == 0:
            print(outcome.message, flush=True)
    # A status other than 0 makes srun kill the other ranks: only rank 0, the last to have
    # anything to write, asks for the requeue.
    return 0 if outcome.finished or rank else stopping.INTERRUPTED


@dataclass(frozen=True)
class _Record:
    """The state file of this process, or none."""

    folder: Path | None

    def write(self, state: str, message: str = "") -> None:
        """Record a state where that is possible; the work itself may be."""
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
    """Undo submitit's local executor, which hides the GPUs; must come before torch is imported."""
    visible = os.environ.pop(VISIBLE_GPUS, None)
    if visible == "all":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    elif visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible


def export_ranks(environment: Mapping[str, str]) -> int:
    """Tell torch.distributed, by the environment, which rank this is; return the rank.

    Only under srun with several tasks; else the environment stays as it is. The first node's name is
    the meeting point; where names do not resolve, the address srun was started from, which is that node.
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
