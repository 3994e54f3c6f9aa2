"""Making shards, in this process or in several, each with one computing and one writing thread.

On a GPU one process computes and the others, which do not use the GPU, pack and write.

A worker is a new process that requests one shard after the other from its parent over a pipe. It computes
with a single thread, so that the number of workers does not affect the bits. When the parent dies, the pipe
closes and the worker exits.
"""

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeAlias

import torch

from healthgym import stopping
from healthgym.errors import CohortError, HealthgymError
from healthgym.nn.precision import get_precision, set_precision
from healthgym.storage.shard import Shard
from healthgym.storage.shards import Disagreement, Receipt, finished_shard, save_shard
from healthgym.synthesis.plan import SynthesisPlan, require_own
from healthgym.synthesis.shard import Computed, compute_shards, make_shard, pack_shard
from healthgym.synthesis.source import Opener, Source
from healthgym.systems.base import System

Pipe: TypeAlias = "connection.Connection[Any, Any]"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_LOOK_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class Task:
    """Data shared by all workers of one task."""

    folder: Path
    plan: SynthesisPlan
    checkpoint: Path
    opener: Opener

    def open(self) -> Source:
        """Read the checkpoint in a worker process.

        Raises:
            CohortError: the checkpoint was replaced.
        """
        source = self.opener(self.checkpoint)
        if source.sha256 != self.plan.checkpoint_sha256:
            raise CohortError(
                f"{self.checkpoint} was replaced while the cohort was being made. Give the same command "
                f"again."
            )
        return source


@dataclass(frozen=True)
class Made:
    """Message: a batch of patients was computed."""

    patients: int


@dataclass(frozen=True)
class Finished:
    """Message: a shard and its receipt are on disk, made now or found there."""

    receipt: Receipt
    made: bool


Listener: TypeAlias = Callable[[Made | Finished], None]


def _make_shards(
    task: Task, source: Source, shards: Iterable[int], stop: Callable[[], object], tell: Listener
) -> None:
    """Make the unfinished shards; one is written while the next is computed.

    At most one computed shard waits for the disk, so memory use does not grow with the cohort.
    """
    plan = task.plan
    torch.set_num_threads(1)
    set_precision(plan.matmul_precision)
    system = source.build(plan.device, plan.settings)
    with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
        writing: Future[None] | None = None
        for index in shards:
            if stop():
                break
            receipt = finished_shard(task.folder, index, plan.name(index), len(plan.patients(index)))
            if receipt:
                tell(Finished(receipt, made=False))
                continue
            made = make_shard(source, system, plan, index, stop, lambda patients: tell(Made(patients)))
            if writing:
                writing.result()
            if made is None:
                break
            writing = writer.submit(_write, task, index, *made, tell)
        if writing:
            writing.result()


def _write(
    task: Task, index: int, shard: Shard, disagreements: dict[str, Disagreement], tell: Listener
) -> None:
    plan = task.plan
    require_own(task.folder, plan)
    receipt = save_shard(
        task.folder, index, shard, plan.name(index), plan.file_format, plan.compression, disagreements
    )
    tell(Finished(receipt, made=True))


# --- in this process -----------------------------------------------------------------------------


def work_here(task: Task, source: Source, shards: Iterable[int], tell: Listener) -> None:
    """Make shards in this process until done or until a signal asks to stop."""
    threads, precision = torch.get_num_threads(), get_precision()
    try:
        _make_shards(task, source, shards, stopping.requested, tell)
    finally:
        torch.set_num_threads(threads)
        set_precision(precision)


# --- in several processes ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failed:
    message: str
    expected: bool


class _Idle:
    """Message: a worker requests a shard."""


def work_in_processes(task: Task, shards: Iterable[int], num_workers: int, tell: Listener) -> None:
    """Make shards in worker processes until done or until a signal asks to stop.

    Raises:
        CohortError: a worker failed or died; the others finish the shard they are writing.
    """
    _with_workers(_work, task, num_workers, iter(shards), tell)


def work_with_packers(
    task: Task, source: Source, shards: Iterable[int], num_packers: int, tell: Listener
) -> None:
    """Compute shards in this process, and pack and write them in others, until done or stopped.

    The others never build the system, so that none of them opens a context on the GPU. The next shard is
    computed when one of them is idle, but for its first batch, which is begun before. Memory therefore holds
    at most one shard per process, and one batch.

    Raises:
        CohortError: as for `work_in_processes`.
    """
    precision = get_precision()
    set_precision(task.plan.matmul_precision)
    try:
        system = source.build(task.plan.device, task.plan.settings)
        computed = _computed_shards(task, source, system, shards, tell)
        _with_workers(_pack, task, num_packers, computed, tell)
    finally:
        set_precision(precision)


def _computed_shards(
    task: Task, source: Source, system: System, shards: Iterable[int], tell: Listener
) -> Iterator[tuple[int, Computed]]:
    """Yield the unfinished shards as they are computed; end when a signal requests to stop."""
    plan = task.plan

    def unfinished() -> Iterator[int]:
        for index in shards:
            receipt = finished_shard(task.folder, index, plan.name(index), len(plan.patients(index)))
            if receipt:
                tell(Finished(receipt, made=False))
            else:
                yield index

    return compute_shards(
        source, system, plan, unfinished(), stopping.requested, lambda patients: tell(Made(patients))
    )


def _with_workers(
    target: Callable[[Task, Pipe], None],
    task: Task,
    num_workers: int,
    waiting: Iterator[object],
    tell: Listener,
) -> None:
    workers = _start_workers(target, task, num_workers)
    try:
        _serve(workers, waiting, tell)
    finally:
        for pipe, worker in workers.items():
            pipe.close()
            worker.join()


def _start_workers(
    target: Callable[[Task, Pipe], None], task: Task, num_workers: int
) -> dict[Pipe, SpawnProcess]:
    """Start processes of one thread each, which ignore the signals from the beginning.

    A scheduler signals every process, and a process that is still importing would die. The signals are
    therefore blocked while processes start: this process receives a blocked signal afterwards, and the new
    processes inherit the blocking.
    """
    context, workers = get_context("spawn"), dict[Pipe, SpawnProcess]()
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    held = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
    os.environ.update(_ONE_THREAD)
    try:
        for number in range(num_workers):
            here, there = context.Pipe()
            worker = context.Process(target=target, args=(task, there), name=f"worker-{number}", daemon=True)
            worker.start()
            there.close()
            workers[here] = worker
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return workers


def _serve(workers: dict[Pipe, SpawnProcess], waiting: Iterator[object], tell: Listener) -> None:
    """Assign shards to workers and pass on their reports until all workers have ended."""
    open_pipes, dismissed = set(workers), set[Pipe]()
    failure: Exception | None = None

    def dismiss(pipe: Pipe) -> None:
        if pipe not in dismissed:
            dismissed.add(pipe)
            _send(pipe, None)

    while open_pipes:
        for ready in connection.wait(open_pipes, _LOOK_EVERY_SECONDS):
            pipe: Pipe = ready  # type: ignore[assignment]
            try:
                message = pipe.recv()
            except (EOFError, ConnectionResetError):
                open_pipes.discard(pipe)
                failure = failure or (None if stopping.requested() else _death(workers[pipe]))
                continue
            if isinstance(message, _Failed):
                failure = failure or (CohortError if message.expected else RuntimeError)(message.message)
            elif not isinstance(message, _Idle):
                tell(message)
            elif pipe not in dismissed:
                order = None if stopping.requested() or failure else next(waiting, None)
                dismiss(pipe) if order is None else _send(pipe, order)
        if stopping.requested() or failure:
            for pipe in open_pipes:
                dismiss(pipe)
    if failure:
        raise failure


def _death(worker: SpawnProcess) -> CohortError | None:
    """Return the error for a worker that ended abnormally."""
    worker.join()
    status = worker.exitcode or 0
    if status == 0:
        return None
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return CohortError(
        f"{worker.name} died with {how}; lack of memory is the usual cause. Lower --workers or ask for more "
        f"memory. Finished shards are kept, and the same command makes the others."
    )


def _send(pipe: Pipe, message: object) -> None:
    # Sending to a dead worker fails; the end of its pipe is handled elsewhere.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(message)


def _work(task: Task, pipe: Pipe) -> None:
    """Run as a worker process that makes shards."""
    _as_worker(pipe, lambda orders, tell: _make_shards(task, task.open(), orders, pipe.poll, tell))


def _pack(task: Task, pipe: Pipe) -> None:
    """Run as a worker process that packs and writes computed shards."""

    def pack(orders: Iterator[Any], tell: Callable[[object], None]) -> None:
        source = task.open()
        for index, computed in orders:
            _write(task, index, *pack_shard(source, task.plan, index, computed), tell)

    _as_worker(pipe, pack)


def _as_worker(pipe: Pipe, job: Callable[[Iterator[Any], Callable[[object], None]], None]) -> None:
    """Run a job in a worker process, with orders from a pipe."""
    stopping.ignore_in_worker()
    lock = threading.Lock()

    def tell(message: object) -> None:
        with lock:
            pipe.send(message)

    def orders() -> Iterator[Any]:
        while True:
            tell(_Idle())
            order = pipe.recv()
            if order is None:
                return
            yield order

    try:
        try:
            job(orders(), tell)
        except HealthgymError as error:
            tell(_Failed(str(error), expected=True))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception:
            tell(_Failed(traceback.format_exc(), expected=False))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has died; a new start resumes from the finished shards
