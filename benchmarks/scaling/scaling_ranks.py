"""What a training step of v2 takes in one process and in two that share its batch, and what they exchange."""

import contextlib
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from typing import Any
from unittest import mock

import measure
import torch
from scaling_measures import CPU, layout_of, make_system
from torch import distributed
from training_step import patients

from healthgym.distributed.ranks import Ranks, joined
from healthgym.distributed.share import Share
from healthgym.nn.subnormals import subnormals_are_zero
from healthgym.systems.base import Batch, PositionDraws, System

MESSAGES = (8, 65_536, 1_048_576, 4_194_304)  # bytes
PROCESSES = 2


def one_and_two_processes(lengths: list[int], batch: int, features: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of a step, by turns in one process and in two, and the collectives."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = get_context("spawn")
    found = context.Queue()
    arguments = (port, lengths, batch, features, rounds, found)
    children = [context.Process(target=_child, args=(rank, *arguments)) for rank in range(PROCESSES)]
    for child in children:
        child.start()
    results = dict(found.get() for _ in children)
    for child in children:
        child.join()
    rows = [_row(length, [results[rank][length] for rank in range(PROCESSES)]) for length in lengths]
    return {"rows": rows, "messages": results[0]["messages"]}


def _child(
    rank: int, port: int, lengths: list[int], batch: int, features: int, rounds: int, found: Any
) -> None:
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{PROCESSES}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.set_num_threads(1)
    result: dict[Any, Any] = {}
    with joined(CPU, 600) as ranks, subnormals_are_zero():
        for length in lengths:
            result[length] = _by_turns(ranks, length, batch, features, rounds)
        result["messages"] = [_message(ranks, size) for size in MESSAGES]
    found.put((rank, result))


def _by_turns(ranks: Ranks, length: int, batch: int, features: int, rounds: int) -> dict[str, Any]:
    """Take steps A B A B: all of the batch in process 0 while the other waits, then shared."""
    x_BTF = patients(layout_of(features), batch, length, CPU)
    alone, shared = (make_system("v2", features, length) for _ in range(2))
    shared.share = Share(ranks, batch)
    whole = Batch.of_features(alone.layout, x_BTF)
    own = whole.rows(shared.share.own(batch))
    taken: dict[str, list[tuple[float, float]]] = {"alone": [], "shared": []}
    for number in range(rounds + 1):
        if ranks.first:
            taken["alone"].append(_step(alone, whole, batch, number))
        ranks.any(False)
        with _collectives() as seen:
            taken["shared"].append(_step(shared, own, batch, number))
    return {"taken": {name: values[1:] for name, values in taken.items()}, "collectives": seen}


def _step(system: System, patients: Batch, batch: int, number: int) -> tuple[float, float]:
    """Return the step's processor and wall seconds."""
    draws = PositionDraws(0, number, CPU, system.share.first_row, batch)
    processor, wall = time.process_time(), time.perf_counter()
    system.train_step(patients, draws)
    return time.process_time() - processor, time.perf_counter() - wall


def _message(ranks: Ranks, size: int) -> dict[str, float]:
    """Return what adding up a message takes, when all come at once."""
    value, processor, wall = torch.ones(size // 4), [], []
    for _ in range(30):
        ranks.any(False)
        start, begun = time.process_time(), time.perf_counter()
        ranks.sum(value)
        processor.append(time.process_time() - start)
        wall.append(time.perf_counter() - begun)
    seconds = {"processor_seconds": measure.median(processor), "wall_seconds": measure.median(wall)}
    return {"bytes": size, **seconds, "best_wall_seconds": min(wall)}


def _row(length: int, of_ranks: list[dict[str, Any]]) -> dict[str, Any]:
    alone = of_ranks[0]["taken"]["alone"]
    shared = [of_rank["taken"]["shared"] for of_rank in of_ranks]
    seen = of_ranks[0]["collectives"]
    sizes = [size for _, size, _ in seen]
    return {
        "length": length,
        "alone": _medians(alone),
        "shared": _medians([steps[i] for steps in shared for i in range(len(alone))]),
        "collectives": len(sizes),
        "collective_bytes": sum(sizes),
        "bytes_of_each": sizes,
        "collective_wall_seconds": measure.median([sum(seconds for *_, seconds in seen)]),
    }


def _medians(steps: list[tuple[float, float]]) -> dict[str, Any]:
    processor, wall = zip(*steps, strict=True)
    return {
        "processor_seconds": measure.median(list(processor)),
        "wall_seconds": measure.median(list(wall)),
        "all_processor_seconds": [round(value, 4) for value in processor],
        "spread": round(statistics.pstdev(processor) / statistics.mean(processor), 3),
    }


@contextlib.contextmanager
def _collectives() -> Iterator[list[tuple[str, int, float]]]:
    """Yield a list that fills with (kind, bytes, wall seconds) of each collective made in the block."""
    seen: list[tuple[str, int, float]] = []

    def logged(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            tensor = arguments[-1]
            start = time.perf_counter()
            done = original(*arguments, **options)
            seen.append((kind, tensor.numel() * tensor.element_size(), time.perf_counter() - start))
            return done

        return call

    with contextlib.ExitStack() as patched:
        for kind in ("all_reduce", "all_gather"):
            call = logged(kind, getattr(distributed, kind))
            patched.enter_context(mock.patch.object(distributed, kind, call))
        yield seen
