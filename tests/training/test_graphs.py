"""CUDA-graph steps: their behaviour without a GPU, and on one if available."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from host_tensors import HostTensors
from steps import CPU, LAYOUT, T, batch, build, made_of
from torch import Tensor

from healthgym import config as settings
from healthgym.distributed.ranks import Ranks
from healthgym.distributed.share import Share
from healthgym.errors import ConfigError
from healthgym.strict import parse
from healthgym.systems.base import Batch, Draws, KeptDraws, PositionDraws, System
from healthgym.systems.build import build_system
from healthgym.training.graphs import CudaCapture, GraphSteps, Losses, choose_steps
from healthgym.training.trainer import to_arrays

LENGTHS = [3, 6] * 9  # the latent memory of 20 slots is filling, overflows in step 3, and is full


class Tape:
    """Repeats a call by making it again, always into the same memory, as a graph does."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def rehearse(self, call: Callable[[], Losses]) -> Losses:
        return call()

    def capture(self, call: Callable[[], Losses]) -> tuple[Callable[[], None], Losses]:
        self.captured += 1
        losses: Losses = {}

        def replay() -> None:
            self.replayed += 1
            losses.update(call())

        return replay, losses


def run(
    system: System, step: Callable[[Batch, Draws], Losses], lengths: list[int], device: torch.device
) -> list[Losses]:
    """Take steps of these lengths and return their losses."""
    losses = []
    for number, length in enumerate(lengths):
        found = step(on(device, batch(number, length, system.real_form)), PositionDraws(1, number, device))
        losses.append({name: loss.clone() for name, loss in found.items()})
    return losses


def on(device: torch.device, batch: Batch) -> Batch:
    return Batch(batch.layout, *(each.to(device) for each in batch.tensors().values()))


@pytest.fixture(params=tiny.SYSTEMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_cuda_graph_steps_equal_single_operations_bit_for_bit(name: str) -> None:
    usual, other, tape = build(name), build(name), Tape()
    expected, found = (
        run(usual, usual.train_step, LENGTHS, CPU),
        run(other, GraphSteps(other, tape), LENGTHS, CPU),
    )
    assert tape.replayed >= 8
    assert tape.captured == 2  # of each length; while the memory is filling too few steps are alike
    assert found == expected
    assert flat(other) == flat(usual)
    np.testing.assert_array_equal(made_of(other, 0, 0, 4).reals_RTB, made_of(usual, 0, 0, 4).reals_RTB)


def flat(system: System) -> dict[str, bytes]:
    def walk(tree: dict[str, Any], path: str) -> Iterator[tuple[str, bytes]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{path}{key}.")
            else:
                yield path + key, value.tobytes()

    return dict(walk(to_arrays(system.state()), ""))


def test_the_devices_part_of_a_step_leaves_python_alone(name: str) -> None:
    """A replayed step runs no Python code, so nothing may depend on such code."""
    system = build(name)
    for number in range(4):
        before = plain_numbers(system)
        system.compute_step(batch(number, form=system.real_form), PositionDraws(1, number, CPU))
        assert plain_numbers(system) == before
        system.count_step(batch(number, form=system.real_form))


def plain_numbers(system: System) -> dict[str, Any]:
    parts = {"system": system, "latent": getattr(system, "latent", None)}
    return {
        f"{part}.{key}": value
        for part, thing in parts.items()
        for key, value in vars(thing or object).items()
        if isinstance(value, int | float | str)
    }


class NoNumbers(Draws):
    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, device="meta")

    shared_uniform = uniform

    def from_row(self, first_row: int) -> Draws:
        return self


@contextmanager
def on_meta() -> Iterator[HostTensors]:
    # Adam keeps its counts on the CPU but on CUDA; autocast knows no meta device.
    with (
        mock.patch("torch.optim.Adam.step"),
        mock.patch("torch.autocast", return_value=nullcontext()),
        HostTensors() as host,
    ):
        yield host


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_a_step_takes_nothing_from_the_hosts_memory(name: str, micro_batch_size: int | None) -> None:
    """A graph cannot capture a copy from there. The meta device shows it without a GPU."""
    run_config = parse(settings.RunConfig, {"system": tiny.SYSTEMS[name]}, "test")
    meta = torch.device("meta")
    system = build_system(run_config.system, LAYOUT, torch.eye(LAYOUT.num_features), meta, 3, tiny.facts(T))
    system.share = Share(micro_batch_size=micro_batch_size)
    patients = on(meta, batch(form=system.real_form))
    with on_meta() as host:
        for _ in range(4):
            system.train_step(Batch(LAYOUT, *patients.tensors().values()), NoNumbers())
    assert host.found == []


def test_host_memory_is_noticed() -> None:
    with on_meta() as host:
        torch.empty(2, device="meta").copy_(torch.ones(2))
    assert host.found


def test_kept_draws_stay_where_they_are_and_change() -> None:
    draws, numbers = KeptDraws(), []
    for step in range(2):
        draws.renew(PositionDraws(0, step, CPU))
        numbers.append(draws.uniform("z", (3, 2)))
        assert torch.equal(numbers[-1], PositionDraws(0, step, CPU).uniform("z", (3, 2)))
    assert numbers[0] is numbers[1]


def test_micro_batches_are_captured_too(name: str) -> None:
    usual, other, tape = build(name), build(name), Tape()
    usual.share = other.share = Share(micro_batch_size=3)
    expected = run(usual, usual.train_step, [T] * 9, CPU)
    assert run(other, GraphSteps(other, tape), [T] * 9, CPU) == expected
    assert tape.captured == 1
    assert flat(other) == flat(usual)


def test_a_step_that_cannot_be_captured_says_what_to_do() -> None:
    class Broken(Tape):
        def capture(self, call: Callable[[], Losses]) -> tuple[Callable[[], None], Losses]:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")

    v1 = build("v1")
    with pytest.raises(ConfigError, match=r"not permitted when stream.*training\.cuda_graphs=false"):
        run(v1, GraphSteps(v1, Broken()), [T] * 6, CPU)
    usual, other, said = build("v1"), build("v1"), list[str]()
    expected = run(usual, usual.train_step, [T] * 6, CPU)
    assert run(other, GraphSteps(other, Broken(), said.append, give_up=True), [T] * 6, CPU) == expected
    assert [text.split(" (")[0] for text in said] == ["note: this step cannot be captured as a CUDA graph"]


def test_padded_batches_are_taken_as_usual_where_a_system_cannot_capture_them(name: str) -> None:
    system, tape, said = build(name), Tape(), list[str]()
    steps, padded = GraphSteps(system, tape, said.append), batch(0, T, system.real_form)
    padded = replace(padded, is_padded=True)
    for step in range(5):
        steps(padded, PositionDraws(1, step, CPU))
    captured = name in ("v3", "ar")
    assert tape.captured == captured
    assert len(said) == (not captured)


class TwoProcesses(Ranks):
    alone = False  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("device", "wanted", "ranks", "captured", "said"),
    [
        ("cuda", "auto", Ranks(), True, "steps as CUDA graphs"),
        ("cuda", True, TwoProcesses(), True, "steps as CUDA graphs"),
        (
            "cuda",
            "auto",
            TwoProcesses(),
            False,
            "with several processes, set training.cuda_graphs=true to use CUDA graphs",
        ),
        ("cuda", False, Ranks(), False, "one operation at a time (training.cuda_graphs=false)"),
        ("cpu", "auto", Ranks(), False, ""),
        ("cpu", True, Ranks(), False, "CUDA graphs need CUDA"),
    ],
)
def test_graphs_are_chosen_where_they_can_be(
    device: str, wanted: Any, ranks: Ranks, captured: bool, said: str
) -> None:
    system = build("v1")
    system.device, system.share = torch.device(device), Share(ranks)
    with mock.patch("healthgym.training.graphs.CudaCapture"):
        steps, words = choose_steps(system, wanted, print)
    assert isinstance(steps, GraphSteps) == captured
    assert words.endswith(said)
    assert bool(words) == bool(said)


def test_other_threads_may_pin_memory_while_a_graph_is_captured() -> None:
    """In torch's default mode an allocation in any thread, as by the reader of batches, spoils the graph."""
    with mock.patch("torch.cuda", autospec=True) as cuda:
        CudaCapture(torch.device("cuda")).capture(dict)
    assert cuda.graph.call_args.kwargs["capture_error_mode"] == "thread_local"


@pytest.mark.cuda
def test_graphs_give_what_single_operations_give_on_a_gpu(name: str) -> None:
    device, sides = torch.device("cuda"), []
    run_config = parse(settings.RunConfig, {"system": tiny.SYSTEMS[name]}, "test")
    for captured in (False, True):
        system = build_system(
            run_config.system, LAYOUT, torch.eye(LAYOUT.num_features), device, 3, tiny.facts(T)
        )
        step = GraphSteps(system, CudaCapture(device)) if captured else system.train_step
        sides.append(run(system, step, LENGTHS, device))
    for usual, repeated in zip(*sides, strict=True):
        torch.testing.assert_close(repeated, usual, rtol=1e-4, atol=1e-5)
