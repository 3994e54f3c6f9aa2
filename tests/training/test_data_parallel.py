"""Several processes, or a batch in several parts, give the run that one process gives."""

import contextlib
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from drive_ranks import double_precision

from healthgym import stopping
from healthgym.distributed.parallel import Process, process_from, rows_of
from healthgym.distributed.ranks import Ranks
from healthgym.distributed.share import Share, correlation_of
from healthgym.errors import ConfigError, RankError
from healthgym.storage.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from healthgym.systems.adversarial.losses import correlation_matrix
from healthgym.training.run import rehearse, train

HERE = Path(__file__).parents[1] / "support"

# 7 patients make uneven shares. 8 steps: past the latent memory's capacity of 20 and over both stages.
SECTIONS: dict[str, dict[str, Any]] = {
    "curriculum": {"batch_size": 7},
    "training": {"epochs": 1, "log_every_steps": 3, "collective_seconds": 60},
}


def free_ports(count: int) -> int:
    """Return the first of `count` successive ports that nobody listens on.

    They lie below the range that the system hands out by itself: the processes' own connections, which
    come from there, must not take the port of the next meeting.
    """
    while True:
        first = random.randrange(10_000, 30_000)
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


def spawn(
    items: Sequence[Any], num_processes: int, hangs: int | None = None, script: str = "drive_ranks.py"
) -> list[subprocess.CompletedProcess[str]]:
    """Run a script of tests/support/ in several processes, as torchrun would start them."""
    shared = os.environ | {
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_ports(len(items))),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
    }
    command = [sys.executable, str(HERE / script), json.dumps(items)]
    started = [
        subprocess.Popen(
            command,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_processes)
    ]
    try:
        for rank, child in enumerate(started):
            if rank != hangs:
                child.wait(timeout=200)
        if hangs is not None:
            started[hangs].kill()
        ended = [(*child.communicate(timeout=200), child.returncode) for child in started]
    finally:
        for child in started:
            child.kill()
            child.wait()
    return [subprocess.CompletedProcess(command, status, out, err) for out, err, status in ended]


def item(
    folder: Path,
    run: str,
    system: str,
    fault: list[Any] | None = None,
    double: bool = True,
    **sections: Any,
) -> dict[str, Any]:
    merged = {name: SECTIONS.get(name, {}) | sections.get(name, {}) for name in SECTIONS.keys() | sections}
    return {
        "folder": str(folder),
        "run": run,
        "system": system,
        "sections": merged,
        "fault": fault,
        "double": double,
    }


def alone(folder: Path, run: str, system: str, double: bool = True, **sections: Any) -> Checkpoint:
    """Train in this process."""
    stopping.clear()
    config = tiny.config(folder, system, **item(folder, run, system, **sections)["sections"])
    with double_precision() if double else contextlib.nullcontext():
        train(folder / run, config, io.StringIO())
    return load_checkpoint(folder / run)


def assert_close_run(folder: Path, first: str, second: str, tolerance: float = 1e-8) -> None:
    """Two runs ended with the same weights, latent memory and losses, up to the order of sums."""
    one, two = load_checkpoint(folder / first), load_checkpoint(folder / second)
    assert one.progress.step == two.progress.step
    assert_close_tree(one.state, two.state, tolerance, "state")
    lines = (tiny.losses(folder / run / "metrics.jsonl") for run in (first, second))
    for left, right in zip(*lines, strict=True):
        # A class of a sampled patient that rounding decides moves a figure by more than rounding.
        distances = {
            name for name in left if name.startswith(("validation_", "best_")) and "nats" not in name
        }
        assert left.keys() == right.keys()
        left, right = ({k: v for k, v in line.items() if k not in distances} for line in (left, right))
        # The gradient's norm of float32 losses differs by more than the weights, which Adam scales.
        assert left == pytest.approx(right, rel=max(10 * tolerance, 1e-5), abs=1e-6)


def assert_close_tree(first: Any, second: Any, tolerance: float, place: str) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for name in first:
            assert_close_tree(first[name], second[name], tolerance, f"{place}.{name}")
    else:
        np.testing.assert_allclose(first, second, rtol=tolerance, atol=tolerance, err_msg=place)


def precision(system: str) -> dict[str, Any]:
    """v3 turns its losses to float32 itself."""
    return {"double": system != "v3"}


def tolerance(system: str) -> float:
    return 1e-5 if system == "v3" else 1e-8


@pytest.mark.parametrize(
    ("num_processes", "micro"), [(2, None), pytest.param(4, 1, marks=pytest.mark.nightly)]
)
def test_several_processes_equal_one(tmp_path: Path, num_processes: int, micro: int | None) -> None:
    tiny.cohort(tmp_path)
    training = {"training": SECTIONS["training"] | {"micro_batch_size": micro}}
    items = [item(tmp_path, f"many-{name}", name, **precision(name), **training) for name in tiny.SYSTEMS]
    ended = spawn(items, num_processes)
    assert [process.returncode for process in ended] == [0] * num_processes, ended
    for process in ended:
        assert saves(process) == saves(ended[0]), "the processes hold different weights"
    for system in tiny.SYSTEMS:
        alone(tmp_path, f"one-{system}", system, **precision(system))
        assert_close_run(tmp_path, f"one-{system}", f"many-{system}", tolerance(system))


@pytest.mark.slow
@pytest.mark.parametrize("system", ["v1", "ar"])
def test_a_resumed_run_of_several_processes_has_the_same_bits(tmp_path: Path, system: str) -> None:
    tiny.cohort(tmp_path)
    as_usual = {"double": False, "training": SECTIONS["training"] | {"micro_batch_size": 2}}
    for number, items in enumerate(
        (
            [item(tmp_path, "straight", system, **as_usual)],
            [item(tmp_path, "stopped", system, [1, 1, "stop"], **as_usual)],
            [item(tmp_path, "stopped", system, **as_usual)],
        )
    ):
        ended = spawn(items, 2)
        assert [process.returncode for process in ended] == [stopping.INTERRUPTED * (number == 1), 0], ended
    tiny.assert_same_run(load_checkpoint(tmp_path / "straight"), load_checkpoint(tmp_path / "stopped"))
    lines = [tiny.losses(tmp_path / run / "metrics.jsonl") for run in ("straight", "stopped")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_micro_batches_equal_the_batch(tmp_path: Path, system: str) -> None:
    tiny.cohort(tmp_path)
    alone(tmp_path, "whole", system, **precision(system))
    alone(tmp_path, "micro", system, **precision(system), training={"micro_batch_size": 3})
    assert_close_run(tmp_path, "whole", "micro", tolerance(system))


def last_words(ended: Sequence[subprocess.CompletedProcess[str]]) -> list[str]:
    """Return the errors that all processes reported."""
    return [line for process in ended for line in process.stderr.splitlines() if line.startswith("error: ")]


def saves(process: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Return the hash of a process's state at each save, and of the state that all have afterwards."""
    return [found.split() for found in re.findall(r"saved at [0-9]+: (.*)", process.stdout)]


def by_day_and_night(one: str, other: str) -> list[Any]:
    """Each fault once in CI, in one of two processes; in the other process at night."""
    slow, nightly = pytest.mark.slow, pytest.mark.nightly
    return [
        *(pytest.param(what, rank, marks=slow) for what, rank in ((one, 0), (other, 1))),
        *(pytest.param(what, rank, marks=nightly) for what, rank in ((one, 1), (other, 0))),
    ]


def saved_steps(run: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in list_checkpoints(run / "checkpoints"))


def test_a_signal_to_one_stops_all_and_another_number_goes_on(tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    ended = spawn([item(tmp_path, "run", "v2", [1, 3, "stop"])], 2)
    assert [process.returncode for process in ended] == [stopping.INTERRUPTED, 0], ended
    assert "stopped by a signal to another process at step 4 and saved" in ended[0].stdout
    assert saves(ended[0]) == saves(ended[1])
    half = load_checkpoint(tmp_path / "run")
    assert (half.progress.step, half.progress.num_processes) == (4, 2)
    stream = io.StringIO()
    config = tiny.config(tmp_path, "v2", **item(tmp_path, "run", "v2")["sections"])
    with double_precision():
        assert train(tmp_path / "run", config, stream)
    assert "note: so far it ran on cpu with 2 processes of 1 thread; the last bits of" in stream.getvalue()
    alone(tmp_path, "undisturbed", "v2")
    assert_close_run(tmp_path, "undisturbed", "run")


@pytest.mark.parametrize(("what", "lost"), by_day_and_night("die", "hang"))
def test_a_lost_process_ends_all_with_one_message(tmp_path: Path, lost: int, what: str) -> None:
    tiny.cohort(tmp_path)
    sections = {
        "checkpoint": {"every_steps": 2},
        "training": SECTIONS["training"] | {"collective_seconds": 15},
    }
    doomed = item(tmp_path, "run", "v2", [lost, 5, what], double=False, **sections)
    ended = spawn([doomed], 3, lost if what == "hang" else None)
    others = [process for rank, process in enumerate(ended) if rank != lost]
    assert [process.returncode for process in others] == [stopping.LOST] * 2, ended
    [words] = last_words(ended)
    assert f"Process {lost} of 3 was lost or did not answer at step 5 (timeout 15 s" in words
    assert saved_steps(tmp_path / "run") == [2, 4]
    again = spawn([item(tmp_path, "run", "v2", double=False, **sections)], 2)
    assert [process.returncode for process in again] == [0, 0], again
    assert "resuming from step 4" in again[0].stderr + again[0].stdout


@pytest.mark.parametrize(("what", "failing"), by_day_and_night("raise", "nan"))
def test_a_process_that_fails_tells_why_and_the_others_are_silent(
    tmp_path: Path, failing: int, what: str
) -> None:
    tiny.cohort(tmp_path)
    sections = {"checkpoint": {"every_steps": 2}}
    ended = spawn([item(tmp_path, "run", "v2", [failing, 5, what], double=False, **sections)], 3)
    [words] = last_words(ended)
    assert {process.returncode for process in ended} == {1}, ended
    if what == "raise":
        assert words == f"error: The disk is full. (in process {failing} of 3, at step 5)"
    else:
        assert re.search(rf"diverged: \w+ is nan at step 5 in process {failing} of 3 .* step 4, is", words)
    assert saved_steps(tmp_path / "run") == [2, 4]


@pytest.mark.slow
def test_weights_that_drifted_apart_are_the_first_ones_again_at_each_save(tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    sections = {"checkpoint": {"every_steps": 1, "keep": 9}}
    drifted = item(tmp_path, "drifted", "v2", [1, 3, "drift"], double=False, **sections)
    ended = spawn([item(tmp_path, "run", "v2", double=False, **sections), drifted], 2)
    assert [process.returncode for process in ended] == [0, 0], ended
    first, second = map(saves, ended)
    same = [mine == other for (mine, _), (other, _) in zip(first, second, strict=True)]
    half = len(same) // 2
    assert same == [True] * half + [step != 3 for step in range(half)]
    assert [ours for _, ours in first] == [ours for _, ours in second]


def test_more_processes_than_patients_in_a_batch(tmp_path: Path) -> None:
    said = r"has 2 patients and 3 processes share.* at most 2 processes"
    with pytest.raises(ConfigError, match=said):
        Share(Ranks(Process(0, 3)), 2)
    with pytest.raises(RankError):
        Share(Ranks(Process(1, 3)), 2)
    tiny.cohort(tmp_path)
    config = tiny.config(tmp_path, "v1", curriculum={"batch_size": 2})
    assert rehearse(tmp_path / "run", config, processes=2) > 0
    with pytest.raises(ConfigError, match=said):
        rehearse(tmp_path / "run", config, processes=3)


def test_rows_are_split_in_order_and_evenly() -> None:
    for num_rows, count in ((7, 2), (256, 3), (8, 8)):
        rows = [range(num_rows)[rows_of(Process(rank, count), num_rows)] for rank in range(count)]
        assert [row for own in rows for row in own] == list(range(num_rows))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_rank_among_processes() -> None:
    assert process_from({}) == process_from({"WORLD_SIZE": "1", "RANK": "0"}) == Process()
    assert process_from({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}) == Process(3, 4, 1)


def test_correlation_and_its_gradient_by_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    rows_NF = torch.rand(30, 5, generator=generator, dtype=torch.float64)
    rows_NF[:, 4] = 0.25  # a constant column
    weight_FF = torch.rand(5, 5, generator=generator, dtype=torch.float64)
    whole = rows_NF.clone().requires_grad_()
    expected_FF = correlation_matrix(whole)
    (expected_FF * weight_FF).sum().backward()
    moments = Share().co_moments(rows_NF)
    for rows in (slice(0, 12), slice(12, 30)):
        part = rows_NF[rows].clone().requires_grad_()
        found_FF = correlation_of(part, moments)
        torch.testing.assert_close(found_FF, expected_FF, rtol=1e-12, atol=1e-12)
        (found_FF * weight_FF).sum().backward()
        assert part.grad is not None
        assert whole.grad is not None
        torch.testing.assert_close(part.grad[:, :4], whole.grad[rows, :4], rtol=1e-10, atol=1e-12)
