"""ar's timestep as a CUDA graph would have it: fixed shapes, nothing read back, the CPU's patients."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from again import Again
from host_tensors import HostTensors
from launches import META, as_on_a_gpu
from waits import Copies, Reads

from healthgym.config import RunConfig
from healthgym.data.fitting.columns import in_memory
from healthgym.data.fitting.fit_cells import fit_cells
from healthgym.nn.causal import FixedCache
from healthgym.schema.cells import Cells
from healthgym.schema.layout import FeatureLayout
from healthgym.strict import parse
from healthgym.systems.autoregressive import sampling
from healthgym.systems.autoregressive.decoding import Decoding
from healthgym.systems.autoregressive.sampling import CapturedCourse
from healthgym.systems.autoregressive.system import AutoregressiveSystem
from healthgym.systems.base import Made, SampleDraws
from healthgym.systems.build import build_system
from healthgym.systems.patients import CohortFacts

CPU = torch.device("cpu")
# A static class, a flag, a class that may be absent; a real that may be absent, a static one, one that holds.
LAYOUT = FeatureLayout(
    3,
    (2, 2, 3),
    (2, 2, 4),
    static_reals=(False, True, False),
    static_classes=(True, False, False),
    flag_of_reals=(1, None, None),
    flag_of_classes=(None, None, 1),
    flags=(1,),
    measured_classes=(1,),
)


@cache
def cells() -> Cells:
    """Return cells with single values, grids, tails, and values that repeat."""
    random, lengths = np.random.default_rng(0), np.tile([3, 7, 12], 40)
    rows = int(lengths.sum())
    spiked = np.where(random.random(rows) < 0.4, 0.0, random.lognormal(0, 2, rows).round(2))
    spiked[random.random(rows) < 0.5] = np.nan
    static = np.repeat(random.normal(50, 20, len(lengths)).round(), lengths)
    held = np.repeat(random.standard_t(2, len(lengths)), lengths)
    held = np.where(random.random(rows) < 0.1, random.standard_t(2, rows), held)
    return fit_cells([in_memory(each) for each in (spiked, static, held)], lengths, 5)


def system(device: torch.device = CPU, layout: FeatureLayout = LAYOUT) -> AutoregressiveSystem:
    config = parse(RunConfig, {"system": {"preset": "ar", "width": 16, "num_heads": 2}}, "test").system
    facts, torch_facts = cells(), torch.eye(layout.num_features)
    facts = replace(facts, variables=facts.variables[: layout.num_reals])
    made = build_system(config, layout, torch_facts, device, 0, CohortFacts(facts, 120, 12, 7.0))
    assert isinstance(made, AutoregressiveSystem)
    return made


def kept(made: Made) -> Iterator[bytes]:
    """Yield the bytes of each patient's own timesteps."""
    for i, length in enumerate(made.lengths_B):
        yield made.reals_RTB[:, :length, i].tobytes() + made.codes_KTB[:, :length, i].tobytes()


def as_captured(own: AutoregressiveSystem, num_patients: int) -> CapturedCourse:
    return CapturedCourse(own._sampled, num_patients, Again(pure=False))


@pytest.mark.parametrize("layout", [LAYOUT, FeatureLayout(0, (3,), (3,)), FeatureLayout(1, (), ())])
@pytest.mark.parametrize("at_once", [5, 64])
def test_a_captured_timestep_makes_the_patients_of_the_other_path(
    layout: FeatureLayout, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "NOISE_AT_ONCE", at_once)
    usual, own = system(layout=layout), system(layout=layout)
    captures = iter([Again(pure=False)])  # a second one would be an error
    own.new_capture = lambda: next(captures)
    for first in (0, 200):  # the second block must see nothing of the first
        draws = SampleDraws(3, first, 200)
        expected, found = usual.make(draws), own.make(draws)
        assert len(set(found.lengths_B)) > 2
        assert list(kept(found)) == list(kept(expected))


def test_a_timestep_waits_for_nothing_and_copies_nothing() -> None:
    course = as_captured(system(), 8)
    with torch.no_grad(), Reads(set()) as reads, Copies() as copies:
        for _ in range(3):
            course.timestep()
    assert not reads.found
    assert not copies.found


def test_a_training_step_waits_for_nothing_and_copies_nothing() -> None:
    own = system()
    codes_BTR, codes_BTK = torch.zeros(8, 5, 3, dtype=torch.int16), torch.zeros(8, 5, 3, dtype=torch.uint8)
    with Reads(set()) as reads, Copies() as copies:
        course = own.network.course(codes_BTR, codes_BTK, torch.full((8,), 4))
        own.network.nats(course, dense=True)
    assert not reads.found
    assert not copies.found


def test_a_timestep_launches_few_kernels_and_reads_nothing_of_the_host() -> None:
    own = system(META)
    course = as_captured(own, 8)
    with torch.no_grad(), HostTensors() as host, as_on_a_gpu() as launches:
        course.timestep()
    assert host.found == []
    assert 570 < launches.count < 630


def test_values_drawn_on_a_device_have_the_bits_of_the_cells() -> None:
    random, variables = np.random.default_rng(1), [each for each in cells().variables if each.num_pieces > 1]
    variables += [replace(each, holds=not each.holds) for each in variables]
    pieces = np.stack([random.integers(0, each.num_pieces, 5000) for each in variables], 1)
    u = random.random(pieces.shape, dtype=np.float32)
    before = np.stack(
        [each.decode(pieces[:, r], random.random(5000)) for r, each in enumerate(variables)], 1
    ).astype(np.float32)
    before[::7] = 1e30
    for first in (True, False):
        tensors = (torch.from_numpy(each) for each in (pieces, u, before))
        found = Decoding(variables)(*tensors, torch.full(pieces.shape, first)).numpy()
        for r, each in enumerate(variables):
            excluded = np.full(5000, np.nan) if first else before[:, r].astype(np.float64)
            expected = each.decode(pieces[:, r], u[:, r].astype(np.float64), excluded if each.holds else None)
            assert found[:, r].tobytes() == expected.tobytes()


def test_a_cache_of_fixed_size_gives_the_outputs_of_a_growing_one() -> None:
    trunk = system().network.trunk
    growing, fixed = trunk.cache(4, 6, CPU), trunk.fixed_cache(4, 9, torch.zeros(1, dtype=torch.int64))
    assert isinstance(fixed, FixedCache)
    fixed.keys[0].fill_(1e6)  # of an earlier block
    with torch.no_grad():
        for x_BD in torch.randn(6, 4, 16):
            torch.testing.assert_close(trunk.step(x_BD, fixed), trunk.step(x_BD, growing))


@pytest.mark.cuda
def test_patients_of_a_gpu_are_those_of_the_cpu_but_for_rounding() -> None:
    cpu, cuda = system(), system(torch.device("cuda"))
    cuda.network.load_state_dict(cpu.network.state_dict())
    for first in (0, 200):
        draws = SampleDraws(3, first, 200)
        expected, found = list(kept(cpu.make(draws))), list(kept(cuda.make(draws)))
        assert np.mean([a == b for a, b in zip(expected, found, strict=True)]) > 0.95
    again = list(kept(cuda.make(SampleDraws(3, 200, 200))))
    assert again == found  # the same block twice: the same bytes


@pytest.mark.cuda
def test_nothing_waits_for_the_timesteps_of_a_block_that_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    own = system(torch.device("cuda"))
    expected, draw = list(kept(own.make(SampleDraws(3, 0, 200)))), CapturedCourse.__call__

    def drawn(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        course = draw(*arguments)
        torch.cuda.set_sync_debug_mode("error")
        return course

    monkeypatch.setattr(CapturedCourse, "__call__", drawn)
    try:
        making = own.begin_make(SampleDraws(3, 0, 200))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert list(kept(making())) == expected
