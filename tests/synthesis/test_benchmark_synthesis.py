"""The two sides of the synthesis benchmark compute the same numbers."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.generators import BiLSTMGenerator

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make benchmarks importable, as they are to each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_published_generator_equals_ours() -> None:
    torch.manual_seed(0)
    layout = FeatureLayout(num_reals=2, num_classes=(2, 5), embedding_dims=(2, 4))
    generator = BiLSTMGenerator(layout, latent_dim=6, hidden_dim=8).double()
    z_BTZ = torch.rand(4, 7, 6, dtype=torch.float64)
    published = load("synthesis").PublishedGenerator(generator)(z_BTZ)
    with torch.no_grad():
        ours = generator(z_BTZ)
    torch.testing.assert_close(published, ours, rtol=1e-12, atol=1e-14)


def test_the_plain_unet_equals_ours() -> None:
    benchmark = load("diffusion")
    network = benchmark.make_system(16, None).denoiser.double()
    x_BFT = torch.randn(3, benchmark.LAYOUT.num_features, 13, dtype=torch.float64)
    level_B = torch.tensor([0, 250, 499])
    with torch.no_grad():
        plain, ours = benchmark.PlainUNet(network)(x_BFT, level_B), network(x_BFT, level_B)
    torch.testing.assert_close(plain, ours, rtol=1e-10, atol=1e-12)


def test_every_stage_is_measured() -> None:
    found = load("synthesis").measure_synthesis(batch_size=4, timesteps=3, shard_size=8, rounds=1)
    stages = {"generator", "noise", "decode", "encode gzip", "all stages"}
    assert stages <= set(found["microseconds_per_patient"])
    assert all(len(rounds) == 1 for rounds in found["ratios_by_round"].values())
    rows = load("shards").measure(repeats=1, sizes=(16,))
    assert {row["format"] for row in rows} == {"csv", "hdf5", "parquet"}


@pytest.mark.parametrize("name", ["synthesis", "shards", "diffusion"])
def test_the_programs_explain_themselves(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        load(name).main()
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out
