"""A run on a GPU: resumed, carried over from a CPU and back, and its cohort beside the CPU's."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from healthgym.errors import ConfigError
from healthgym.storage.checkpoint import load_checkpoint
from healthgym.storage.shards import open_cohort
from healthgym.synthesis.cohort import SynthesisRequest, synthesize
from healthgym.training.run import train

pytestmark = pytest.mark.cuda
FEATURE_SYSTEMS = ["v1", "v2", "v2.5"]


def go(folder: Path, run: str, name: str, epochs: int, device: str = "cuda", **training: Any) -> str:
    said = io.StringIO()
    values = {"device": device, "epochs": epochs, **training}
    assert train(folder / run, tiny.config(folder, name, training=values), said)
    return said.getvalue()


def weights(run: Path) -> np.ndarray[Any, Any]:
    def flat(tree: Any) -> list[Any]:
        if isinstance(tree, dict):
            return [leaf for key, value in tree.items() if key != "optimisers" for leaf in flat(value)]
        return [np.asarray(tree, dtype=np.float64).ravel()]

    return np.concatenate(flat(load_checkpoint(run).state))


def assert_close(first: Path, second: Path) -> None:
    """Nearly all weights agree: of a gradient that is rounding alone, Adam makes whole steps."""
    ours, theirs = weights(first), weights(second)
    assert np.isfinite(ours).all()
    assert np.quantile(np.abs(ours - theirs), 0.9) < 1e-3


@pytest.mark.parametrize("name", [*FEATURE_SYSTEMS, "v3"])
def test_a_resumed_run_ends_as_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    said = go(tmp_path, "straight", name, 3)
    assert "steps as CUDA graphs" in said.splitlines()[0]
    go(tmp_path, "resumed", name, 1)
    assert "going on from step" in go(tmp_path, "resumed", name, 3)
    assert_close(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_a_run_moves_from_the_cpu_to_a_gpu_and_back(name: str, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    go(tmp_path, "run", name, 1, "cpu")
    go(tmp_path, "run", name, 2)
    assert load_checkpoint(tmp_path / "run").progress.device == "cuda"
    said = go(tmp_path, "run", name, 3, "cpu")
    assert "so far it ran on cuda" in said
    assert np.isfinite(weights(tmp_path / "run")).all()


@pytest.mark.parametrize("name", FEATURE_SYSTEMS)
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_recorded_runs_end_as_others(name: str, micro_batch_size: int | None, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    for graphs in (True, False):
        go(tmp_path, f"{graphs}", name, 2, cuda_graphs=graphs, micro_batch_size=micro_batch_size)
    assert_close(tmp_path / "True", tmp_path / "False")


@pytest.mark.parametrize("name", FEATURE_SYSTEMS)
def test_a_cohort_differs_from_the_cpus_by_rounding(name: str, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    go(tmp_path, "run", name, 1, "cpu")
    tables = []
    for device in ("cpu", "cuda"):
        request = SynthesisRequest(
            run_dir=tmp_path / "run", out=tmp_path / device, patients=300, batch_size=64, device=device
        )
        assert synthesize(request).state == "complete"
        tables.append(open_cohort(tmp_path / device).read())
    ours, theirs = tables
    for column in ("sex", "drug"):
        assert (ours[column] != theirs[column]).mean() < 0.01
    for column in ("x", "y"):
        assert np.quantile(np.abs(ours[column] / theirs[column] - 1), 0.9) < 1e-3


def test_a_step_too_large_is_a_sentence(tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    held = torch.cuda.memory.get_per_process_memory_fraction()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        with pytest.raises(ConfigError, match=r"curriculum\.batch_size is 8, .*training\.micro_batch_size"):
            go(tmp_path, "run", "v2", 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(held)
