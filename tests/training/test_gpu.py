"""Errors of GPUs are one-sentence messages; tested without a GPU."""

import io
from pathlib import Path
from unittest import mock

import pytest
import tiny
import torch
from torch import Tensor

from healthgym.distributed.parallel import Process
from healthgym.distributed.ranks import Ranks
from healthgym.errors import ConfigError, RankError
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.training import gpu
from healthgym.training.run import train

CUDA = torch.device("cuda")


class Ranked(Ranks):
    """One of three processes, the other two of which have the GPUs of these names."""

    def __init__(self, rank: int, others: list[str]) -> None:
        super().__init__(Process(rank, 3, rank))
        self._others = others

    def gather(self, value: Tensor) -> list[Tensor]:
        found = [value]
        for name in self._others:
            found += _digest_of(name)
        return found


def _digest_of(name: str) -> list[Tensor]:
    kept: list[Tensor] = []

    class Keeps(Ranks):
        def gather(self, value: Tensor) -> list[Tensor]:
            kept.append(value)
            return kept

    gpu.refuse_shared_gpu(CUDA, Keeps(Process(0, 2)), lambda device: name)
    return kept


def test_processes_that_share_a_gpu_are_refused() -> None:
    def look(rank: int, others: list[str], device: torch.device = CUDA) -> None:
        gpu.refuse_shared_gpu(device, Ranked(rank, others), lambda device: "a")

    look(0, ["b", "c"])
    look(0, ["a", "a"], torch.device("cpu"))
    with pytest.raises(
        ConfigError, match=r"Processes 0, 2 share GPUs: 3 .* 2 different .* as there are GPUs"
    ):
        look(0, ["b", "a"])
    with pytest.raises(RankError):
        look(1, ["b", "a"])


@pytest.mark.parametrize(
    ("micro", "said"),
    [
        (None, r"batch_size is 8, training\.micro_batch_size is not set.*micro_batch_size=4, which"),
        (3, r"training\.micro_batch_size is 3, so that 3 patients.*micro_batch_size=1, which"),
        (1, r"Not even one patient at a time fits"),
    ],
)
def test_too_little_memory_is_a_sentence(tmp_path: Path, micro: int | None, said: str) -> None:
    tiny.cohort(tmp_path)
    config = tiny.config(tmp_path, "v1", training={"micro_batch_size": micro})
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    with (
        mock.patch.object(WGANSystem, "compute_step", side_effect=full),
        pytest.raises(ConfigError, match=said) as caught,
    ):
        train(tmp_path / "run", config, io.StringIO())
    assert "(CUDA out of memory)" in str(caught.value)
