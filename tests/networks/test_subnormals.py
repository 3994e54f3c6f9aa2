"""Subnormal numbers are treated as zero inside a training step and nowhere else."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from healthgym import stopping
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.training.run import train

IN_A_NEW_PROCESS = """
import torch
from healthgym.nn.subnormals import start_workers, subnormals_are_zero
torch.set_num_threads(2)
start_workers()
with subnormals_are_zero():
    print(int((torch.full((4_000_000,), 1e-30) * 1e-10).count_nonzero()))
"""
AFTER_TWO_AT_ONCE = """
from healthgym.nn.side_by_side import side_by_side
torch.set_num_threads(4)
start_workers()
with subnormals_are_zero():
    side_by_side(lambda _: torch.zeros(1 << 20).add_(1), [0, 1])
torch.zeros(1 << 20).add_(1)  # as the next batch is made, outside of a step
with subnormals_are_zero():
    print(int((torch.full((4_000_000,), 1e-30) * 1e-10).count_nonzero()))
"""


def tiny_product() -> float:
    return float(torch.tensor(1e-30) * 1e-10)


def test_a_step_takes_them_for_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.cohort(tmp_path)
    seen: list[float] = []
    original = WGANSystem.train_step

    def step(self: WGANSystem, *args: object) -> object:
        seen.append(tiny_product())
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(WGANSystem, "train_step", step)
    stopping.clear()
    assert train(tmp_path / "run", tiny.config(tmp_path, "v1", training={"epochs": 1}), io.StringIO())
    assert seen
    assert set(seen) == {0.0}
    assert tiny_product() > 0


@pytest.mark.slow
def test_so_do_the_worker_threads() -> None:
    """Also after two computations at once, each with half of them."""
    command = [sys.executable, "-c", IN_A_NEW_PROCESS + AFTER_TWO_AT_ONCE]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "0"]
