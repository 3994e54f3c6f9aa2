"""How many kernels a training step launches on a GPU, counted without one."""

import pytest
import tiny
import torch
from host_tensors import HostTensors
from launches import META, NoNumbers, as_on_a_gpu

from healthgym import config as settings
from healthgym.schema.layout import FeatureLayout
from healthgym.strict import parse
from healthgym.systems.base import Batch, System
from healthgym.systems.build import build_system

LAYOUT = FeatureLayout(2, (2, 4, 6, 6, 2), (2, 4, 4, 4, 2))  # 22 features


def full_size(name: str) -> System:
    config = parse(settings.RunConfig, {"system": name}, "test").system
    layout = tiny.SCHEMA.layout if name == "ar" else LAYOUT
    return build_system(config, layout, torch.eye(layout.num_features), META, 3, tiny.facts(60))


def launches(system: System, num_timesteps: int) -> int:
    """Return the number of a step's launches; nothing of it may be in the host's memory."""
    layout, cells = system.layout, system.real_form == "cells"
    shape = (256, num_timesteps)
    reals = torch.empty(*shape, layout.num_reals, dtype=torch.int16 if cells else torch.float32, device=META)
    codes = torch.empty(*shape, len(layout.num_classes), dtype=torch.uint8, device=META)
    batch = Batch(layout, reals, codes, torch.empty(256, dtype=torch.int64, device=META))
    with HostTensors() as host, as_on_a_gpu() as launches:
        system.compute_step(batch, NoNumbers())
    assert host.found == []
    return launches.count


# Counted, with room for small changes. The recurrent systems took 41,000 operations without their kernels.
@pytest.mark.parametrize(("name", "most"), [("v2", 7_300), ("v2.5", 6_800), ("v3", 700), ("ar", 4_500)])
def test_a_step_at_sixty_timesteps_launches_few_kernels(name: str, most: int) -> None:
    system = full_size(name)
    short, longer = launches(system, 3), launches(system, 5)
    assert 0.75 * most < longer + (longer - short) / 2 * 55 <= most
