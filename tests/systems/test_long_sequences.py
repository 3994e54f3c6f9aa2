"""Hundreds of timesteps and features: every system trains on them, also with micro-batches."""

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from healthgym.config import RunConfig
from healthgym.data.fitting.columns import in_memory
from healthgym.data.fitting.fit_cells import fit_cells
from healthgym.distributed.share import Share
from healthgym.schema.layout import FeatureLayout
from healthgym.strict import merge, parse
from healthgym.systems.base import Batch, PositionDraws, SampleDraws, System
from healthgym.systems.build import build_system
from healthgym.systems.patients import CohortFacts

LENGTH, CPU = 500, torch.device("cpu")
LAYOUT = FeatureLayout(40, (4,) * 40, (4,) * 40)  # 200 features


def build(name: str, layout: FeatureLayout) -> System:
    settings: dict[str, Any] = tiny.SYSTEMS[name]
    if name != "v3":
        settings = merge(settings, {"critic": {"num_updates": 1}})
    if name == "v2.5":
        settings = merge(settings, {"generator": {"num_positions": LENGTH}})
    config = parse(RunConfig, {"system": settings}, name)
    return build_system(config.system, layout, torch.eye(layout.num_features), CPU, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in tiny.SYSTEMS if name != "ar"])
def test_a_step_of_500_timesteps_and_200_features(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    reals = torch.rand(4, LENGTH, LAYOUT.num_reals, generator=random)
    codes = torch.randint(4, (4, LENGTH, len(LAYOUT.num_classes)), generator=random)
    patients = Batch(LAYOUT, reals, codes, torch.full((4,), LENGTH))
    losses = []
    for micro_batch_size in (None, 2):
        system = build(name, LAYOUT)
        system.check_length(LENGTH)
        system.share = Share(micro_batch_size=micro_batch_size)
        losses.append(system.train_step(patients, PositionDraws(0, 0, CPU)))
        made_BTF = system.sample_features(LENGTH, seed=0, first_patient=0, num_patients=2)
        assert made_BTF.shape == (2, LENGTH, LAYOUT.num_features)
        assert made_BTF.isfinite().all()
    for loss, value in losses[0].items():
        assert value.isfinite(), loss
        torch.testing.assert_close(value, losses[1][loss], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "length", [pytest.param(120, marks=pytest.mark.slow), pytest.param(LENGTH, marks=pytest.mark.nightly)]
)
def test_a_step_of_ar_of_hundreds_of_timesteps_and_80_variables(length: int) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(4 * length, LAYOUT.num_reals))
    lengths = np.full(4, length)
    columns = [in_memory(column) for column in values.T]
    facts = CohortFacts(fit_cells(columns, lengths, 1), 4, length, length)
    assert facts.cells is not None
    codes = facts.cells.encode(values, lengths).reshape(4, length, -1)
    classes = random.integers(0, 4, (4, length, len(LAYOUT.num_classes))).astype(np.uint8)
    known = (torch.from_numpy(each) for each in (codes, classes, lengths))
    patients = Batch(LAYOUT, *known)
    config = parse(RunConfig, {"system": tiny.SYSTEMS["ar"] | {"dropout": 0.0}}, "ar")
    losses = []
    for micro_batch_size in (None, 2):
        system = build_system(config.system, LAYOUT, torch.eye(1), CPU, seed=0, facts=facts)
        system.share = Share(micro_batch_size=micro_batch_size)
        losses.append(system.train_step(patients, PositionDraws(0, 0, CPU))["nats"])
    assert losses[0].isfinite()
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    made = system.make(SampleDraws(0, 0, 2), length)
    assert made.reals_RTB.shape == (LAYOUT.num_reals, length, 2)
    assert np.isfinite(made.reals_RTB).all()
