"""Tiny systems built, fed with random patients, trained for some steps, and asked for patients."""

import numpy as np
import tiny
import torch
from torch import Tensor

from healthgym import config as settings
from healthgym.strict import parse
from healthgym.systems.base import Batch, Made, PositionDraws, SampleDraws, System
from healthgym.systems.build import build_system

CPU = torch.device("cpu")
LAYOUT = tiny.SCHEMA.layout
B, T = 8, 6


def build(name: str, seed: int = 3) -> System:
    run = parse(settings.RunConfig, {"system": tiny.SYSTEMS[name]}, "test")
    return build_system(run.system, LAYOUT, torch.eye(LAYOUT.num_features), CPU, seed, tiny.facts(T))


def batch(seed: int = 0, length: int = T, form: str = "scaled") -> Batch:
    if form == "cells":
        return tiny.cell_batch(B, length, seed)
    random = np.random.default_rng(seed)
    reals = torch.from_numpy(random.random((B, T, LAYOUT.num_reals), dtype=np.float32))
    codes = np.stack([random.integers(0, width, (B, T)) for width in LAYOUT.num_classes], -1)
    codes = torch.from_numpy(codes.astype(np.uint8))
    return Batch(LAYOUT, reals[:, :length], codes[:, :length], torch.full((B,), length))


def train(system: System, start: int, stop: int) -> dict[str, Tensor]:
    for step in range(start, stop):
        losses = system.train_step(batch(step, form=system.real_form), PositionDraws(1, step, CPU))
    return losses


def made_of(system: System, seed: int, first: int, count: int, length: int = T) -> Made:
    draws = SampleDraws(seed, first, count)
    if system.makes_lengths:
        return system.make(draws, length)
    return system.sample(np.full(count, length), draws, length)
