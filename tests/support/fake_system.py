"""A small trained system for tests of synthesis: fast, noisy, and without training.

Its checkpoint is a JSON file. A worker process imports `open_fake` by its name.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from healthgym import seeds
from healthgym.data.fitting.transform import Transform
from healthgym.files import sha256_of
from healthgym.schema import Schema, Variable
from healthgym.synthesis.source import Source
from healthgym.systems.base import Made, Making, SampleDraws, State, System
from healthgym.systems.conditions import NO_CONDITIONS, Conditions

SCHEMA = Schema(
    name="fake",
    title="a fake cohort",
    timestep_unit="month",
    variables=(
        Variable(name="Gender", kind="binary", classes={1: "Male", 2: "Female"}, static=True),
        Variable(name="Load", kind="real", unit="copies/mL"),
        Variable(name="Age", kind="real", unit="years", static=True),
        Variable(name="Lactate", kind="real", unit="mmol/L", missing="model", measured_flag="Lactate (M)"),
        Variable(name="Drug/Dose", kind="categorical", classes={"a": "A", "b": "B + C", "c": "Other"}),
        Variable(name="Ethnic", kind="categorical", classes={1: "X", 2: "Y", 3: "Z", 4: "W"}, static=True),
        Variable(
            name="Stain",
            kind="categorical",
            classes={0: "none", 1: "some", 2: "much"},
            missing="model",
            measured_flag="Stain (M)",
        ),
        Variable(name="Stain (M)", kind="binary", classes={1: "yes", 0: "no"}),
    ),
)


class FakeSystem(System):
    """Noise through one matrix product."""

    def __init__(self, delay: float = 0.0) -> None:
        self.layout, self.device, self.delay = SCHEMA.layout, torch.device("cpu"), delay
        width = self.layout.num_features
        self.weights = torch.from_numpy(seeds.uniform_rows((width,), width, 0, 1, "weights"))

    def sample_features(self, length: int, seed: int, first_patient: int, num_patients: int) -> Tensor:
        time.sleep(self.delay)
        width = self.layout.num_features
        z = seeds.uniform_rows((length, width), num_patients, first_patient, seed, "synthesis", "z")
        return torch.sigmoid((torch.from_numpy(z) - 0.5) @ self.weights)

    def state(self) -> State:
        return {"weights": self.weights}

    def sampling_state(self) -> State:
        return self.state()

    def load_sampling_state(self, state: State) -> None:
        self.load_state(state)

    def load_state(self, state: State) -> None:
        self.weights = state["weights"]


class GrownSystem(FakeSystem):
    """Patients whose lengths are generated with them, and whose last bits depend on the whole block."""

    makes_lengths = True

    def __init__(self, block: int = 0, calls: list[range] | None = None) -> None:
        super().__init__()
        self.block, self.calls = block, [] if calls is None else calls

    def begin_make(
        self,
        draws: SampleDraws,
        timesteps: int | None = None,
        conditions: Conditions = NO_CONDITIONS,
        stop: Callable[[], object] = lambda: None,
    ) -> Making:
        self.calls.append(draws.patients)
        lengths_B = 1 + (draws.uniform_rows((), "length") * 9).astype(np.int64)
        lengths_B = lengths_B if timesteps is None else np.full(draws.num_patients, timesteps)
        x_BTF = self.sample_features(
            int(lengths_B.max()), draws.seed, draws.first_patient, draws.num_patients
        )
        layout, T = self.layout, x_BTF.shape[1]
        reals_RTB = 100 + 10 * x_BTF[..., : layout.num_reals].permute(2, 1, 0).numpy() + x_BTF.mean().numpy()
        u = [draws.uniform_rows((256,), "class", k)[:, :T].T for k in range(len(layout.num_classes))]
        codes = [(each * width).astype(np.uint8) for each, width in zip(u, layout.num_classes, strict=True)]
        made = Made(reals_RTB, np.stack(codes), lengths_B, scaled=False)
        return lambda: made


def transform() -> Transform:
    """Return a transform whose reals are of different sizes."""
    rng = np.random.default_rng(0)
    return Transform.fit(np.exp(rng.normal(size=(500, 3)) * [2.0, 0.2, 0.5] + [5.0, 3.5, 0.0]), SCHEMA)


def write_fake(path: Path, **settings: object) -> Path:
    """Write a checkpoint; settings are `lengths`, `stages`, `delay`, `decimals` and `fault`."""
    path.write_text(json.dumps(settings))
    return path


def open_fake(path: Path) -> Source:
    """Open the file of `write_fake`."""
    settings = json.loads(path.read_text())
    lengths = {int(length): count for length, count in settings.get("lengths", {"12": 1}).items()}

    def build(device: str, overrides: Sequence[str]) -> System:
        return FakeSystem(settings.get("delay", 0.0))

    return Source(
        sha256=sha256_of(path),
        schema=SCHEMA,
        transform=transform(),
        lengths=lengths,
        stages=tuple(settings.get("stages", [max(lengths)])),
        build=build,
        decimals=settings.get("decimals", {}),
    )
