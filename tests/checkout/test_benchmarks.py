"""The benchmarks run, and both sides of a comparison compute the same numbers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from healthgym.config import (
    AdamConfig,
    BufferedLatentConfig,
    CriticConfig,
    DiffusionConfig,
    UniformLatentConfig,
    WGANConfig,
)
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.systems.base import Batch, PositionDraws
from healthgym.systems.build import build_system
from healthgym.systems.denoising.diffusion import DiffusionSystem

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
LAYOUT = FeatureLayout(2, (2, 3), (2, 4))


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make benchmarks importable, as they are to each other."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def float64() -> Iterator[None]:
    """Make new weights float64: in float32, Adam turns the rounding of a vanishing gradient into steps."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Float64Draws(PositionDraws):
    """The usual numbers in float64."""

    def from_row(self, first_row: int) -> "Float64Draws":
        assert first_row == 0
        return self

    def uniform(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return super().uniform(name, shape).double()

    def normal(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return super().normal(name, shape).double()

    def shared_uniform(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return super().shared_uniform(name, shape).double()


LSTM = {"kind": "bilstm", "hidden_dim": 8}
TRANSFORMER = {"kind": "transformer", "num_heads": 2, "num_positions": 9}


def tiny(latent: UniformLatentConfig | BufferedLatentConfig, generator: Any) -> WGANConfig:
    return WGANConfig(
        latent=latent,
        critic=CriticConfig(hidden_dim=8, num_updates=2),
        optimiser=AdamConfig(learning_rate=1e-3),
        generator=generator,
    )


@pytest.mark.usefixtures("benchmarks", "float64")
@pytest.mark.parametrize(
    ("latent", "generator"),
    [
        (UniformLatentConfig(latent_dim=6), LSTM),
        # 20 slots and 8 patients: the third step draws from a full memory.
        (BufferedLatentConfig(latent_dim=6, hidden_dim=8, num_slots=20), LSTM),
        (BufferedLatentConfig(latent_dim=6, hidden_dim=8, num_slots=20), TRANSFORMER),
    ],
    ids=["v1", "v2", "v2.5"],
)
def test_published_and_ours_compute_the_same(latent: Any, generator: Any) -> None:
    from plain.step import PublishedSystem
    from training_step import patients

    x_BTF = patients(LAYOUT, 8, 5, CPU).double()
    ours = build_system(tiny(latent, generator), LAYOUT, torch.eye(LAYOUT.num_features), CPU, seed=0)
    assert isinstance(ours, WGANSystem)
    ours.correlation_FF = ours.correlation_FF.double()
    published = PublishedSystem(ours)
    for step in range(3):
        found = ours.train_step(Batch.of_features(LAYOUT, x_BTF), Float64Draws(0, step, CPU))
        expected = published.train_step(x_BTF, Float64Draws(0, step, CPU))
        assert expected.keys() <= found.keys()
        for name, loss in expected.items():
            assert float(found[name]) == pytest.approx(float(loss), rel=1e-6), f"step {step}, {name}"
    now = PublishedSystem(ours)
    for network in ("generator", "critic"):
        weights = getattr(published, network).state_dict()
        for name, weight in getattr(now, network).state_dict().items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("benchmarks", "float64")
def test_plain_diffusion_and_ours_compute_the_same() -> None:
    from plain.diffusion import PublishedDiffusion
    from training_step import patients

    config = {"denoiser": {"hidden_dim": 16, "depth": 2}, "optimiser": {"learning_rate": 1e-3}}
    system = DiffusionConfig.model_validate(config)
    x_BTF = patients(LAYOUT, 8, 5, CPU).double()
    ours = build_system(system, LAYOUT, torch.eye(LAYOUT.num_features), CPU, seed=0)
    assert isinstance(ours, DiffusionSystem)
    ours.denoiser.double()  # its table of levels is float32 otherwise
    published = PublishedDiffusion(ours)
    for step in range(3):
        found = ours.train_step(Batch.of_features(LAYOUT, x_BTF), Float64Draws(0, step, CPU))
        for name, loss in published.train_step(x_BTF, Float64Draws(0, step, CPU)).items():
            assert float(found[name]) == pytest.approx(float(loss), rel=1e-6), f"step {step}, {name}"
    weights = published.weights.state_dict()
    for name, weight in ours.denoiser.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-6, atol=1e-6)  # they moved by 3e-3


@pytest.mark.usefixtures("benchmarks")
def test_alternating_calls_take_turns() -> None:
    import measure

    calls: list[str] = []
    sides = {name: (lambda name=name: calls.append(name)) for name in "AB"}
    seconds = measure.alternate(sides, rounds=2, clock=measure.Clock(CPU))
    assert calls == ["A", "B"] * 3  # the first of each is not counted
    assert {name: len(values) for name, values in seconds.items()} == {"A": 2, "B": 2}


@pytest.mark.usefixtures("benchmarks")
def test_operations_that_compute_are_counted() -> None:
    import measure

    x = torch.ones(3, 3)
    assert measure.count_operations(lambda: (x.t() @ x).view(9).add_(1), CPU) == 2


@pytest.mark.usefixtures("benchmarks")
def test_products_of_a_call_are_those_it_computes() -> None:
    from autoregressive import products_of

    layer, x = torch.nn.Linear(3, 5), torch.rand(7, 3, requires_grad=True)
    _, flop = products_of(lambda: layer(x))
    assert flop == 2 * 7 * 3 * 5
    compute, flop = products_of(lambda: layer(x).square().sum().backward())
    assert flop == 3 * 2 * 7 * 3 * 5  # of the input's and the weight's gradient, too
    compute()


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("system", ["v1", "v2.5", "v3"])
def test_training_step_benchmark_runs(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    import training_step

    out = tmp_path / "step.json"
    small = ["--lengths", "2", "3", "--batch", "4", "--rounds", "1", "--no-memory", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["training_step.py", "--device", "cpu", "--system", system, *small])
    training_step.main()
    result = json.loads(out.read_text())
    assert [row["length"] for row in result["rows"]] == [2, 3]
    if system != "v3":
        assert all(row["ours"]["operations"] < row["published"]["operations"] for row in result["rows"])
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.nightly
def test_what_is_measured_on_a_gpu_runs_anywhere(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--lengths", "2", "3", "--batch", "4", "--shard", "8", "--matrix", "16"]
    words += ["--patients", "40", "--people", "60", "--ar-minutes", "0.05", "--levels", "2", "--rounds", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "on_gpu.py"), *words]
    done = subprocess.run(
        [*command, "--minutes", "60", "--json", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*/on_gpu.json")
    result = json.loads(path.read_text())
    assert (result["left out"], result["ended"], result["failed"]) == ([], {}, {})
    assert {"v2 at 3", "v2 at 2", "v3 at 3, medium", "ar", "micro-batches"} <= set(result["parts"])
    assert result["parts"]["ar to its best weights"]["steps"] > 0
    for name in ("ar", "v2"):
        assert "limited by" in result["parts"][f"synthesis, stages of {name}"]
        assert result["parts"][f"synthesis, whole, {name}"]["patients a second"] > 0
    assert result["parts"]["v2 at 3"]["kernels"]["ours"] > 0
