"""Several processes that train one system: what they add up, and what happens when one is lost.

Each collective has a time limit. A process that waits in vain leaves a mark in the store where all met;
after a moment those without a mark are the lost ones, and the first of the others names them. A process
that fails by itself leaves word, tells its own error, and the others end in silence: one message per job.
Only where the first process fails, with the store in it, another may add that it was lost.

Tensors on a GPU travel by NCCL, on the CPU by gloo; what a tensor holds afterwards has the same bits in
every process.
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

from healthgym.errors import HealthgymError, RankError
from healthgym.parallel import Place, place_from

_STORE_SECONDS = 10.0  # to ask the store, which lives in the first process (or in torchrun)
_GRACE_SECONDS = 5.0  # for the others to notice that one is lost, and to leave their marks
_WORD_SECONDS = 5.0  # at most, for the others to read why the first process fails
_SPEAKER_SECONDS = 1.0  # for the speaker to leave before the others: a launcher may kill whoever is left

R = TypeVar("R")


class Ranks:
    """This process and the others that train with it; alone unless `joined` says otherwise.

    Attributes:
        place: of this process.
        step: the step it is at, for messages.
    """

    def __init__(self, place: Place | None = None, store: Any = None, seconds: float = 0.0) -> None:
        self.place, self.step = place or Place(), 0
        self._store, self._seconds = store, seconds
        self._agreed = False

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.place.num_processes == 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.place.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of all processes' values, without gradient."""
        if self.alone:
            return value.detach()
        total = value.detach().clone(memory_format=torch.contiguous_format)
        self._together(lambda: distributed.all_reduce(total))
        return total

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return every process's tensor, of the same shape each, in the order of ranks."""
        if self.alone:
            return [value]
        found = [torch.empty_like(value) for _ in range(self.place.num_processes)]
        self._together(lambda: distributed.all_gather(found, value.contiguous()))
        return found

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is raised in some process."""
        if self.alone:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)  # on the CPU: no GPU is waited for
        self._together(lambda: distributed.all_reduce(raised, op=distributed.ReduceOp.MAX))
        return [bool(flag) for flag in raised]

    def from_first(self, find: Callable[[], R]) -> R:
        """Return in every process what `find` returns in the first: plain values."""
        if self.alone:
            return find()
        box: list[Any] = [find() if self.first else None]
        self._together(lambda: distributed.broadcast_object_list(box, src=0, device=torch.device("cpu")))
        found: R = box[0]
        return found

    # --- when one is lost ------------------------------------------------------------------------

    def agreed(self, error: HealthgymError) -> HealthgymError:
        """Return what to raise for an error that every process has found: the first one tells it."""
        self._agreed = True
        return error if self.first else RankError("")

    def leave_word(self, error: BaseException) -> None:
        """Tell the others that this process fails by itself and will say why."""
        if self._agreed:
            return
        where = f"process {self.place.rank} of {self.place.num_processes}, at step {self.step}"
        error.add_note(where)
        if isinstance(error, HealthgymError) and str(error):
            error.args = (f"{error} (in {where})",)
        with contextlib.suppress(RuntimeError):
            self._store.set(f"failed/{self.place.rank}", str(self.step))
        distributed.destroy_process_group()  # closes connections, so that nobody waits in vain
        if self.first:  # the store may live in this process: stay until the others have read it
            others = range(1, self.place.num_processes)
            self._until(lambda: all(self._has(f"heard/{rank}") for rank in others), _WORD_SECONDS)

    def _together(self, collective: Callable[[], Any]) -> None:
        try:
            collective()
        except RuntimeError as error:  # what torch raises for a broken connection or the time limit
            raise self._lost(error) from error

    def _lost(self, cause: RuntimeError) -> RankError:
        """Find out who is missing; return what this process shall raise, silent but for one speaker."""
        everybody = range(self.place.num_processes)
        try:
            self._store.set(f"waiting/{self.place.rank}", str(self.step))
            distributed.destroy_process_group()  # closes connections, so that the others notice too
            self._until(
                lambda: (
                    any(self._has(f"failed/{rank}") for rank in everybody)
                    or all(self._has(f"waiting/{rank}") for rank in everybody)
                )
            )
            failed = any(self._has(f"failed/{rank}") for rank in everybody)
            missing = [rank for rank in everybody if not self._has(f"waiting/{rank}")]
        except RuntimeError:  # the store has gone with the process it lived in
            failed, missing = False, [0]
        with contextlib.suppress(RuntimeError):
            self._store.set(f"heard/{self.place.rank}", "")  # may be answered by nobody: the first leaves
        if not failed and min(set(everybody) - set(missing)) == self.place.rank:
            return RankError(self._obituary(missing, cause), lost=True)
        time.sleep(_SPEAKER_SECONDS)
        return RankError("", lost=not failed)

    def _obituary(self, missing: list[int], cause: RuntimeError) -> str:
        names = ", ".join(map(str, missing))
        who = (
            f"Process {names} of {self.place.num_processes} was lost or did not answer"
            if missing
            else f"The {self.place.num_processes} processes lost their connection"
        )
        return (
            f"{who} at step {self.step} (time limit {self._seconds:g} s, training.collective_seconds): "
            f"{str(cause).splitlines()[0]}. All processes end; the same command goes on from the last whole "
            f"checkpoint."
        )

    def _has(self, name: str) -> bool:
        return bool(self._store.check([name]))

    def _until(self, true: Callable[[], bool], seconds: float = _GRACE_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not true() and time.monotonic() < end:
            time.sleep(0.05)


@contextlib.contextmanager
def joined(device: torch.device, seconds: float) -> Iterator[Ranks]:
    """Meet the other processes of this job, if there are any, and part at the end of the block.

    Args:
        device: where this process computes.
        seconds: time limit of each collective.

    Raises:
        RankError: some never came.
    """
    place = place_from(os.environ)
    if place.num_processes == 1:
        yield Ranks()
        return
    ranks = _meet(place, device, seconds)
    try:
        yield ranks
    except RankError:
        raise
    except BaseException as error:
        ranks.leave_word(error)
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _meet(place: Place, device: torch.device, seconds: float) -> Ranks:
    limit = timedelta(seconds=seconds)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, _, _ = next(rendezvous("env://", timeout=limit))
        store.set_timeout(limit)
        distributed.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.num_processes, timeout=limit
        )
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"Process {place.rank} of {place.num_processes} did not meet the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} within {seconds:g} s "
            f"(training.collective_seconds): {str(error).splitlines()[0]}",
            lost=True,
        ) from error
    store.set_timeout(timedelta(seconds=_STORE_SECONDS))
    return Ranks(place, store, seconds)
