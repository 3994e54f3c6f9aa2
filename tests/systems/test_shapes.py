"""The shape contract on request."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from healthgym.errors import ConfigError
from healthgym.training.run import train
from healthgym.training.shapes import shape_contract

ROOT = Path(__file__).parents[2]


def _settings(folder: Path, system: str) -> Path:
    path = folder / f"{system}.yaml"
    path.write_text(yaml.safe_dump({"data": str(folder / "prepared.h5"), "system": tiny.SYSTEMS[system]}))
    return path


def test_same_contract_from_run_and_settings(tmp_path: Path) -> None:
    tiny.cohort(tmp_path, num_timesteps=6)
    config = tiny.config(tmp_path, "v3", training={"epochs": 1})
    assert train(tmp_path / "run", config)
    from_run = shape_contract(tmp_path / "run")
    assert from_run == shape_contract(_settings(tmp_path, "v3"))
    assert f"(B, {tiny.SCHEMA.layout.num_features}, 6)" in from_run.splitlines()[1]
    assert "(B, 16, 3)" in from_run
    assert shape_contract(tmp_path / "run", length=7) != from_run


def test_settings_alone_need_schema_and_length(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prepared\.h5 does not exist.* give --schema and --length"):
        shape_contract(_settings(tmp_path, "v3"))


@pytest.mark.parametrize("length", [0, -5])
def test_a_length_is_at_least_one(tmp_path: Path, length: int) -> None:
    schema = ROOT / "configs" / "schemas" / "art_hiv.yaml"
    with pytest.raises(ConfigError, match=rf"--length {length}: a patient has at least 1 timestep"):
        shape_contract(_settings(tmp_path, "v3"), schema, length)


def test_a_system_without_stages_says_so(tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    with pytest.raises(ConfigError, match="kind 'wgan' has no shape contract"):
        shape_contract(_settings(tmp_path, "v2"))


@pytest.mark.slow
def test_program_prints_the_published_shapes(tmp_path: Path) -> None:
    settings = {"system": {"preset": "v3", "pad_to": 100}}
    path = tmp_path / "v3.yaml"
    path.write_text(yaml.safe_dump(settings))
    schema = ROOT / "configs" / "schemas" / "art_hiv.yaml"
    command = [sys.executable, ROOT / "jobs" / "inspect_checkpoint.py", path]
    done = subprocess.run(
        [*command, "--schema", schema, "--length", "60"], capture_output=True, text=True, check=True
    )
    assert "60 timesteps, right-padded to a canvas of 100" in done.stdout
    assert "(B, 256, 12)" in done.stdout
    assert "padded 24 -> 25" in done.stdout
