"""Systems, cohorts and runs small enough to be trained in a test. A new system is tested by a line here."""

import io
import os
import signal
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from healthgym.config import RunConfig
from healthgym.data.fitting.columns import in_memory
from healthgym.data.fitting.fit_cells import fit_cells
from healthgym.data.prepare import prepare
from healthgym.data.sequences import PreparedCohort
from healthgym.schema import Schema, Variable
from healthgym.storage.checkpoint import Checkpoint
from healthgym.strict import parse
from healthgym.systems.base import Batch, System
from healthgym.systems.patients import CohortFacts
from healthgym.training.monitoring.metrics import read_metrics
from healthgym.training.run import train

NUM_SLOTS = 80

_CRITIC = {"hidden_dim": 5, "num_updates": 2}
_WGAN = {"generator": {"hidden_dim": 6}, "critic": _CRITIC}

SYSTEMS: dict[str, dict[str, Any]] = {
    "v1": {"preset": "v1", "latent": {"latent_dim": 4}, **_WGAN},
    "v2": {"preset": "v2", "latent": {"latent_dim": 4, "hidden_dim": 5, "num_slots": 20}, **_WGAN},
    "v2.5": {
        "preset": "v2.5",
        "generator": {"num_heads": 2, "num_positions": 6},
        "latent": {"latent_dim": 4, "hidden_dim": 5, "num_slots": 20},
        "critic": _CRITIC,
    },
    "v3": {
        "preset": "v3",
        "denoiser": {"hidden_dim": 16, "depth": 1, "level_embedding_dim": 4},
        "schedule": {"num_levels": 6, "last_beta": 0.3},
        "sampler": {"kind": "ddpm"},
        "guardrail": {"kind": "dynamic"},
        "ema_decay": 0.9,
    },
    "ar": {
        "preset": "ar",
        **{"width": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 6, "embedding_dim": 3},
    },
}

SCHEMA = Schema(
    name="tiny",
    variables=(
        Variable(name="x", kind="real", unit="mg"),
        Variable(name="sex", kind="binary", classes={1: "Male", 2: "Female"}, static=True),
        Variable(name="y", kind="real"),
        Variable(name="drug", kind="categorical", classes={0: "A", 1: "B", 2: "C"}),
    ),
)


def table(
    num_patients: int = 40, num_timesteps: int = 6, ragged: bool = False, seed: int = 0
) -> pd.DataFrame:
    """Return a table of the tiny schema; ragged patients have from 2 timesteps on."""
    random = np.random.default_rng(seed)
    lengths = np.full(num_patients, num_timesteps)
    if ragged:
        lengths = random.integers(2, num_timesteps + 1, num_patients)
        lengths[: num_patients // 3] = num_timesteps
    patients = np.repeat(np.arange(num_patients), lengths)
    return pd.DataFrame(
        {
            "PatientID": patients,
            "Timestep": np.concatenate([np.arange(length) for length in lengths]),
            "x": random.lognormal(1, 1, len(patients)),
            "sex": np.repeat(random.integers(1, 3, num_patients), lengths),
            "y": random.gamma(2, 3, len(patients)),
            "drug": random.integers(0, 3, len(patients)),
        }
    )


@cache
def facts(num_timesteps: int = 6) -> CohortFacts:
    """Return the facts about the patients of `table` that a system may use."""
    frame = table(num_timesteps=num_timesteps)
    lengths = np.full(40, num_timesteps)
    columns = [in_memory(frame[name].to_numpy()) for name in ("x", "y")]
    return CohortFacts(fit_cells(columns, lengths, 10), 40, num_timesteps, float(num_timesteps))


def cell_batch(num_patients: int, num_timesteps: int, seed: int = 0) -> Batch:
    """Return a batch of cells and classes of new patients of the same kind."""
    frame, cells = table(num_patients, num_timesteps, seed=seed), facts().cells
    assert cells is not None
    lengths = np.full(num_patients, num_timesteps)
    shape = (num_patients, num_timesteps, -1)
    codes = cells.encode(frame[["x", "y"]].to_numpy(), lengths).reshape(shape)
    classes = (frame[["sex", "drug"]].to_numpy() - [1, 0]).astype(np.uint8).reshape(shape)
    return Batch(SCHEMA.layout, *map(torch.from_numpy, (codes, classes, lengths)))


def cohort(folder: Path, **kwargs: Any) -> PreparedCohort:
    """Return a prepared cohort in `folder`/prepared.h5."""
    return prepare(table(**kwargs), SCHEMA, folder / "prepared.h5")


def opened(folder: Path) -> PreparedCohort:
    """Open the prepared cohort of `cohort` again."""
    return PreparedCohort.open(folder / "prepared.h5")


def config(folder: Path, system: str = "v2", **sections: Mapping[str, Any]) -> RunConfig:
    """Return settings of a short run on that cohort: 3 epochs of stages 3 and 6."""
    values: dict[str, Any] = {
        "data": str(folder / "prepared.h5"),
        "system": SYSTEMS[system],
        "curriculum": {"lengths": [3, 6], "batch_size": 8, "accept_left_out": 1},
        "training": {"epochs": 3, "seed": 5, "log_every_steps": 3, "threads": 1, "device": "cpu"},
        "checkpoint": {"every_steps": 1000, "every_minutes": 1000, "keep": 3},
    }
    if system == "ar":  # learns from whole patients
        values["curriculum"]["lengths"] = "auto"
        sections = {**sections, "curriculum": {**sections.get("curriculum", {}), "lengths": "auto"}}
    return parse(RunConfig, {name: {**value, **sections.get(name, {})} if isinstance(value, dict) else value
                             for name, value in values.items()}, "tiny")  # fmt: skip


def train_each(folder: Path) -> None:
    """Prepare a cohort of ragged patients in `folder` and train each system there for an epoch."""
    cohort(folder, num_patients=160, ragged=True)
    for system in SYSTEMS:
        assert train(folder / system, epoch_of(folder, system), io.StringIO())


def epoch_of(folder: Path, system: str) -> RunConfig:
    """Return the settings of those runs; a latent memory has room for more than one epoch's patients."""
    values = config(folder, system, training={"epochs": 1}, curriculum={"batch_size": 16}).model_dump(
        mode="json"
    )
    if values["system"].get("latent", {}).get("kind") == "buffered":
        values["system"]["latent"]["num_slots"] = NUM_SLOTS
    return RunConfig.model_validate(values)


def stop_at_steps(monkeypatch: pytest.MonkeyPatch, system: type[System], *steps: int) -> None:
    """Let a signal that asks for a stop arrive before these training steps, counted over all starts."""
    taken, original = 0, system.train_step

    def step(self: System, *args: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(system, "train_step", step)


def assert_same_run(first: Checkpoint, second: Checkpoint) -> None:
    """Two checkpoints have the same bits, except for the training time."""
    assert first.progress.step == second.progress.step
    assert_same_tree(first.state, second.state)
    assert_same_tree(first.meter, second.meter)
    assert_same_tree(first.trainer, second.trainer)


def assert_same_tree(first: Any, second: Any, place: str = "state") -> None:
    """Two trees have the same names and the same bits."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for name in first:
            assert_same_tree(first[name], second[name], f"{place}.{name}")
    else:
        first, second = np.asarray(first), np.asarray(second)
        assert first.dtype == second.dtype, place
        assert first.tobytes() == second.tobytes(), place


def losses(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file without the values that depend on the clock."""
    clock = {"seconds", "sequences_per_second"}
    return [{k: v for k, v in record.items() if k not in clock} for record in read_metrics(path)]
