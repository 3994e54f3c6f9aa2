"""A run on a GPU: resumed, moved from a CPU and back, and its cohort compared with the CPU's.

On a CPU the same tests run at night, so that all but the device is tried without a GPU.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from healthgym.distributed.parallel import Process
from healthgym.distributed.ranks import Ranks
from healthgym.errors import ConfigError
from healthgym.storage.checkpoint import load_checkpoint
from healthgym.storage.shards import open_cohort
from healthgym.synthesis.cohort import SynthesisRequest, synthesize
from healthgym.training.gpu import refuse_shared_gpu
from healthgym.training.run import train

# cuBLAS reads it when the first product is computed.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Attention's gradient on a GPU adds in no fixed order.
EXACT = ["v1", "v2", "v3"]


@pytest.fixture(
    params=[pytest.param("cuda", marks=pytest.mark.cuda), pytest.param("cpu", marks=pytest.mark.nightly)]
)
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def _deterministic() -> Iterator[None]:
    """Let torch choose algorithms that add in a fixed order, where it has them."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def go(folder: Path, run: str, name: str, epochs: int, device: str, **training: Any) -> str:
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


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_a_resumed_run_ends_as_an_uninterrupted_one(name: str, device: str, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    said = go(tmp_path, "straight", name, 3, device)
    assert ("steps as CUDA graphs" in said.splitlines()[0]) == (device == "cuda")
    assert "cannot be captured" not in said
    go(tmp_path, "resumed", name, 1, device)
    assert "resuming from step" in go(tmp_path, "resumed", name, 3, device)
    assert_close(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("name", EXACT)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(name: str, device: str, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    go(tmp_path, "straight", name, 3, device, cuda_graphs=False)
    for epochs in (1, 3):
        go(tmp_path, "resumed", name, epochs, device, cuda_graphs=False)
    assert weights(tmp_path / "straight").tobytes() == weights(tmp_path / "resumed").tobytes()


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_a_run_moves_from_the_cpu_to_a_gpu_and_back(name: str, device: str, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    go(tmp_path, "run", name, 1, "cpu")
    go(tmp_path, "run", name, 2, device)
    assert load_checkpoint(tmp_path / "run").progress.device == device
    said = go(tmp_path, "run", name, 3, "cpu")
    assert ("so far it ran on cuda" in said) == (device == "cuda")
    assert np.isfinite(weights(tmp_path / "run")).all()


@pytest.mark.parametrize("name", tiny.SYSTEMS)
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_runs_with_cuda_graphs_end_as_others(
    name: str, micro_batch_size: int | None, device: str, tmp_path: Path
) -> None:
    tiny.cohort(tmp_path)
    for graphs in (True, False):
        go(tmp_path, f"{graphs}", name, 2, device, cuda_graphs=graphs, micro_batch_size=micro_batch_size)
    assert_close(tmp_path / "True", tmp_path / "False")


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_a_cohort_differs_from_the_cpus_by_rounding(name: str, device: str, tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    go(tmp_path, "run", name, 1, "cpu")
    tables = []
    for where, workers in (("cpu", 1), (device, 1), (device, 2)):
        folder = tmp_path / f"{where}-{workers}"
        request = SynthesisRequest(
            run_dir=tmp_path / "run",
            out=folder,
            patients=300,
            patients_per_shard=128,
            batch_size=64,
            device=where,
            workers=workers,
        )
        assert synthesize(request).state == "complete"
        tables.append(open_cohort(folder).read())
    theirs, ours, packed = tables
    assert ours.equals(packed)  # whoever packs, the bytes are the same
    for column in ("sex", "drug"):
        assert (ours[column] != theirs[column]).mean() < 0.01
    for column in ("x", "y"):
        assert np.quantile(np.abs(ours[column] / theirs[column] - 1), 0.9) < 1e-3


@pytest.mark.cuda
def test_two_processes_on_one_gpu_are_refused() -> None:
    class Two(Ranks):
        def gather(self, value: torch.Tensor) -> list[torch.Tensor]:
            return [value, value]

    with pytest.raises(ConfigError, match=r"Processes 0, 1 share GPUs: 2 processes .* 1 different GPU"):
        refuse_shared_gpu(torch.device("cuda"), Two(Process(0, 2, 0)))


@pytest.mark.cuda
def test_a_step_too_large_is_a_sentence(tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    held = torch.cuda.memory.get_per_process_memory_fraction()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        with pytest.raises(ConfigError, match=r"curriculum\.batch_size is 8, .*training\.micro_batch_size"):
            go(tmp_path, "run", "v2", 1, "cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(held)
