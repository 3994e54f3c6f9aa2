"""Clocks, floors and counts that the benchmarks share."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from healthgym.nn.precision import set_precision

Sides = dict[str, Callable[[], object]]


class Clock:
    """Seconds, as the device and the number of threads allow them to be measured.

    With one CPU thread it is the processor's time, which other people's jobs do not lengthen by making us
    wait (they still take cache and memory bandwidth); otherwise the wall's, after the device is idle.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.kind = "processor" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"

    def __call__(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.process_time() if self.kind == "processor" else time.perf_counter()


def at_precision(precision: str, call: Callable[[], object]) -> Callable[[], object]:
    """Return a call that multiplies at a precision of its own."""

    def run() -> object:
        set_precision(precision)
        try:
            return call()
        finally:
            set_precision("highest")

    return run


def alternate(sides: Sides, rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Return the seconds of each side's calls, made by turns A B A B after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        call()
    for _ in range(rounds):
        for name, call in sides.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def median(values: list[float]) -> float:
    """Return the median, to four significant figures."""
    return float(f"{statistics.median(values):.4g}")


def matmul_rate(rows: int, inner: int, columns: int, clock: Clock, device: torch.device) -> float:
    """Return the best FLOP/s of products (rows, inner) x (inner, columns) on this machine just now."""
    a, b = torch.rand(rows, inner, device=device), torch.rand(inner, columns, device=device)
    out, repeats, best = torch.empty(rows, columns, device=device), 50, float("inf")
    for _ in range(8):
        start = clock()
        for _ in range(repeats):
            torch.mm(a, b, out=out)
        best = min(best, clock() - start)
    return 2 * rows * inner * columns * repeats / best


class _Counter(TorchDispatchMode):
    """Counts operations that compute; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operations(call: Callable[[], object], device: torch.device) -> int:
    """Return how many kernels a call launches on CUDA; on a CPU how many operations it runs instead."""
    if device.type != "cuda":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the counter does not see what other threads run
        try:
            with _Counter() as counter:
                call()
        finally:
            torch.set_num_threads(threads)
        return counter.count
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize(device)
    return sum(event.count for event in profiler.key_averages())


def peak_memory(make_call: Callable[[], Callable[[], object]], device: torch.device) -> int:
    """Return the bytes by which a call's peak exceeds what the process held before anything was made."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        make_call()()
        return torch.cuda.max_memory_allocated(device) - before
    before = memory_bytes("VmRSS")
    make_call()()
    return memory_bytes("VmHWM") - before


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a Python process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the numbers depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as JSON, if a path is given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def memory_bytes(field: str) -> int:
    """Return a field of this process's memory in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
