"""Batches are the same bits however they come: from the file, ahead of time, or from the device's memory."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from healthgym.config import CurriculumConfig, RunConfig
from healthgym.data.sequences import PreparedCohort, Sequences
from healthgym.distributed.share import Share
from healthgym.errors import ConfigError
from healthgym.nn.heads import one_hot
from healthgym.storage.checkpoint import newest_checkpoint
from healthgym.strict import parse
from healthgym.training import batches
from healthgym.training.batches import BatchLoader, upcoming
from healthgym.training.curriculum import Curriculum
from healthgym.training.run import train

CPU = torch.device("cpu")
LAYOUT = tiny.SCHEMA.layout


@pytest.fixture(params=[False, True], ids=["one length", "ragged"])
def cohort(tmp_path: Path, request: pytest.FixtureRequest) -> PreparedCohort:
    return tiny.cohort(tmp_path, num_patients=60, ragged=request.param)


def order(cohort: PreparedCohort) -> Curriculum:
    return Curriculum(CurriculumConfig(lengths=(3, 6), batch_size=8), cohort.train, 0)


def steps(curriculum: Curriculum, first: int = 0, count: int = 12) -> Iterator[Any]:
    batches = upcoming(curriculum, Share(), first)
    return (next(batches) for _ in range(count))


def plain(cohort: PreparedCohort, chosen: Any, length: int) -> torch.Tensor:
    reals, codes = cohort.train.gather(chosen, length)
    return one_hot(torch.from_numpy(reals), torch.from_numpy(codes), LAYOUT)


@pytest.mark.parametrize("on_device", [True, False])
def test_the_same_bits_either_way(
    cohort: PreparedCohort, on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_BLOCK_ROWS", 50)
    curriculum = order(cohort)
    with BatchLoader(cohort.train, LAYOUT, CPU, steps(curriculum), on_device) as load:
        assert load.resident == on_device
        for chosen, length in steps(curriculum):
            assert torch.equal(load(chosen, length), plain(cohort, chosen, length))


def test_batches_that_nobody_announced_are_right_too(cohort: PreparedCohort) -> None:
    curriculum = order(cohort)
    with BatchLoader(cohort.train, LAYOUT, CPU, steps(curriculum, first=3, count=4)) as load:
        for chosen, length in steps(curriculum):  # before, among and after those that were
            assert torch.equal(load(chosen, length), plain(cohort, chosen, length))


def test_a_batch_is_read_before_it_is_asked_for(cohort: PreparedCohort) -> None:
    curriculum, read = order(cohort), threading.Semaphore(0)

    threads: list[str] = []

    class Watched(Sequences):
        def gather(self, indices_B: Any, length: int) -> Any:
            threads.append(threading.current_thread().name)
            read.release()
            return super().gather(indices_B, length)

    patients = Watched(cohort.train._arrays)
    announced = list(steps(curriculum))
    with BatchLoader(patients, LAYOUT, CPU, iter(announced)) as load:
        assert read.acquire(timeout=60), "the first"
        load(*announced[0])
        assert read.acquire(timeout=60), "the second"
        load(*announced[1])
        assert read.acquire(timeout=60), "the third"
    assert len(threads) == 3
    assert threading.main_thread().name not in threads
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_what_fails_ahead_of_time_is_raised(cohort: PreparedCohort) -> None:
    short = int(np.argmin(cohort.train.lengths_N)), int(cohort.train.lengths_N.min())
    batch = np.array([short[0]]), short[1] + 1
    with (
        BatchLoader(cohort.train, LAYOUT, CPU, iter([batch])) as load,
        pytest.raises(ValueError, match="a patient has fewer than"),
    ):
        load(*batch)


def test_processes_read_their_part_ahead(cohort: PreparedCohort) -> None:
    class Second(Share):
        def own(self, batch_size: int) -> slice:
            return slice(batch_size // 2, batch_size)

    curriculum = order(cohort)
    ahead = upcoming(curriculum, Second(), 1)
    for step in (1, 2, 3):
        chosen, length = next(ahead)
        assert chosen.tolist() == curriculum.batch(step)[4:].tolist()
        assert length == curriculum.stages[curriculum.place(step).stage].length


def test_auto_keeps_the_host_s_memory_free(cohort: PreparedCohort) -> None:
    with BatchLoader(cohort.train, LAYOUT, CPU) as load:
        assert not load.resident


def test_a_gpu_takes_a_cohort_that_fits(cohort: PreparedCohort, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(each.nbytes for each in cohort.train.encoded)
    for free, fits in ((4 * size, True), (4 * size - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        assert batches._fits(cohort.train, torch.device("cuda")) == fits
        assert not batches._fits(cohort.train, CPU)


def test_a_run_is_the_same_run(tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    found = []
    for on_device in (True, False):
        config = tiny.config(tmp_path, "v1", training={"epochs": 1, "data_on_device": on_device})
        assert train(tmp_path / str(on_device), config)
        found.append(newest_checkpoint(tmp_path / str(on_device) / "checkpoints"))
    assert found[0] is not None
    assert found[1] is not None
    tiny.assert_same_run(found[0], found[1])


def test_the_setting_is_yes_no_or_auto() -> None:
    for text in (True, False, "auto"):
        parse(RunConfig, {"training": {"data_on_device": text}}, "t")
    with pytest.raises(ConfigError, match="data_on_device"):
        parse(RunConfig, {"training": {"data_on_device": "maybe"}}, "t")
