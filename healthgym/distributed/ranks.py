"""Several processes that train one system: collectives, and errors when a process is lost.

Each collective has a timeout. A process whose collective timed out leaves a mark in the store of the process
group; after a grace period the processes without a mark are the lost ones. One process per job reports the
error: a process that fails, or finds another one lost, asks the store for the right to report, which is given
once. The others end without a message, and after the reporting one. The store may live in the first process,
which therefore exits last.

Tensors on a GPU are reduced by NCCL, on the CPU by gloo; the results have the same bits in every process.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from healthgym.distributed.parallel import Process, process_from
from healthgym.errors import HealthgymError, RankError

_STORE_SECONDS = 10.0  # timeout of the store, which lives in the first process (or in torchrun)
_GRACE_SECONDS = 5.0  # for the others to notice that a process is lost, and to leave their marks
_LOOK_SECONDS = 0.05  # between two polls of the store
_SPEAKER_SECONDS = 1.0  # for the reporting process to exit first: a launcher may kill the others then

R = TypeVar("R")


class Ranks:
    """This process and the others that train with it; alone unless `joined` says otherwise.

    Attributes:
        process: this process.
        step: the step it is at, for messages.
    """

    def __init__(self, process: Process | None = None, store: Any = None, seconds: float = 0.0) -> None:
        self.process, self.step = process or Process(), 0
        self._store, self._seconds = store, seconds
        self._agreed, self._missing = False, set[int]()
        self._last_met, self._apart = 0.0, 0.0  # when a collective last ended; seconds between two, of late

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.process.num_processes == 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.process.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of the values of all processes, without gradient."""
        if self.alone:
            return value.detach()
        total = value.detach().clone(memory_format=torch.contiguous_format)
        self._together(lambda: distributed.all_reduce(total))
        return total

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return every process's tensor, of the same shape each, in the order of ranks."""
        if self.alone:
            return [value]
        found = [torch.empty_like(value) for _ in range(self.process.num_processes)]
        self._together(lambda: distributed.all_gather(found, value.contiguous()))
        return found

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        if self.alone:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)  # on the CPU, without waiting for a GPU
        self._together(lambda: distributed.all_reduce(raised, op=distributed.ReduceOp.MAX))
        return [bool(flag) for flag in raised]

    def from_first(self, find: Callable[[], R]) -> R:
        """Call `find` in the first process and return its result, of plain values, in every process."""
        if self.alone:
            return find()
        box: list[Any] = [find() if self.first else None]
        self._together(lambda: distributed.broadcast_object_list(box, src=0, device=torch.device("cpu")))
        found: R = box[0]
        return found

    # --- lost processes --------------------------------------------------------------------------

    def agreed(self, error: HealthgymError) -> HealthgymError:
        """Return what to raise for an error that every process has found: only the first one reports it."""
        self._agreed = True
        return error if self.first else RankError("")

    def tell(self, error: BaseException) -> BaseException:
        """Return what to raise for an error: one without message if another process reports."""
        if self._agreed or isinstance(error, RankError):
            return error
        with contextlib.suppress(RuntimeError):  # if the store is gone, no other process reports
            if self._claim_report("failed") != f"failed/{self.process.rank}":
                return RankError("")
        where = f"process {self.process.rank} of {self.process.num_processes}, at step {self.step}"
        error.add_note(where)
        if isinstance(error, HealthgymError) and str(error):
            error.args = (f"{error} (in {where})",)
        return error

    def part(self, error: BaseException | None = None) -> None:
        """Close all connections, so that no process waits for this one; the reporting process exits first.

        Args:
            error: the one that ends this process, if any.
        """
        silent = isinstance(error, RankError) and not str(error)
        # A process that still computes reaches its next collective within the timeout, and finds it broken.
        limit = self._seconds if isinstance(error, Exception) else _GRACE_SECONDS
        if distributed.is_initialized():
            distributed.destroy_process_group()
        with contextlib.suppress(RuntimeError):  # the store may have gone with the first process
            self._store.set(f"done/{self.process.rank}", "")
            if self.first or silent:
                others = set(range(self.process.num_processes)) - self._missing
                self._until(lambda: all(self._has(f"done/{rank}") for rank in others), limit)
                time.sleep(4 * _LOOK_SECONDS)  # for the others to see it too before the store goes
        if silent:
            time.sleep(_SPEAKER_SECONDS)

    def _together(self, collective: Callable[[], Any]) -> None:
        begun = time.monotonic()
        if self._last_met:
            self._apart = max(begun - self._last_met, 0.9 * self._apart)
        try:
            collective()
        except RuntimeError as error:  # torch raises it for a broken connection and for the timeout
            raise self._lost(error) from error
        self._last_met = time.monotonic()

    def _lost(self, cause: RuntimeError) -> RankError:
        """Find the missing processes; return what to raise, with a message in one process only."""
        everybody = range(self.process.num_processes)
        # Another may still compute: about as long as this one did between its last two collectives.
        patience = min(self._seconds, _GRACE_SECONDS + 2 * self._apart)
        try:
            self._store.set(f"waiting/{self.process.rank}", str(self.step))
            distributed.destroy_process_group()  # closes connections, so that the others notice too
            self._until(
                lambda: self._has("word") or all(self._has(f"waiting/{rank}") for rank in everybody), patience
            )
            missing = [rank for rank in everybody if not self._has(f"waiting/{rank}")]
            word = self._claim_report("lost")
        except RuntimeError:  # the store was lost with its process: the next process reports
            missing, word = [0], "lost/1"
        lost = word.startswith("lost")
        self._missing = set(missing) if lost else set()
        return RankError(self._obituary(missing, cause) if word == f"lost/{self.process.rank}" else "", lost)

    def _claim_report(self, why: str) -> str:
        """Return the process that reports the error, as "why/rank": the first to claim it."""
        word = self._store.compare_set("word", "", f"{why}/{self.process.rank}")
        return str(word.decode() if isinstance(word, bytes) else word)

    def _obituary(self, missing: list[int], cause: RuntimeError) -> str:
        names = ", ".join(map(str, missing))
        who = (
            f"Process {names} of {self.process.num_processes} was lost or did not answer"
            if missing
            else f"The {self.process.num_processes} processes lost their connection"
        )
        return (
            f"{who} at step {self.step} (timeout {self._seconds:g} s, training.collective_seconds): "
            f"{str(cause).splitlines()[0]}. All processes end; the same command resumes from the last "
            "complete checkpoint."
        )

    def _has(self, name: str) -> bool:
        return bool(self._store.check([name]))

    def _until(self, true: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not true() and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def joined(device: torch.device, seconds: float) -> Iterator[Ranks]:
    """Join the process group of this job, if there are several processes, and leave it after the block.

    Args:
        device: of this process.
        seconds: timeout of each collective.

    Raises:
        RankError: some processes did not join.
    """
    process = process_from(os.environ)
    if process.num_processes == 1:
        yield Ranks()
        return
    ranks = _meet(process, device, seconds)
    end: BaseException | None = None
    try:
        yield ranks
    except BaseException as error:
        end = ranks.tell(error)
        if end is error:
            raise
        raise end from error
    finally:
        ranks.part(end)


def _meet(process: Process, device: torch.device, seconds: float) -> Ranks:
    limit = timedelta(seconds=seconds)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, _, _ = next(rendezvous("env://", timeout=limit))
        store.set_timeout(limit)
        distributed.init_process_group(
            backend, store=store, rank=process.rank, world_size=process.num_processes, timeout=limit
        )
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"Process {process.rank} of {process.num_processes} did not connect to the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} within {seconds:g} s "
            f"(training.collective_seconds): {str(error).splitlines()[0]}",
            lost=True,
        ) from error
    store.set_timeout(timedelta(seconds=_STORE_SECONDS))
    return Ranks(process, store, seconds)
