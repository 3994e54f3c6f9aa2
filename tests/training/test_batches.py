"""Batches have the same bits from the file, read ahead, or from the device's memory."""

import threading
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
from healthgym.systems.base import Batch, State, System
from healthgym.training import batches
from healthgym.training.batches import Batches
from healthgym.training.curriculum import Curriculum
from healthgym.training.run import train

CPU = torch.device("cpu")
LAYOUT = tiny.SCHEMA.layout


class Still(System):
    """A system that does not learn."""

    def __init__(self, share: Share | None = None, real_form: str = "scaled") -> None:
        self.layout, self.device, self.share = LAYOUT, CPU, share or Share()
        self.real_form = real_form  # type: ignore[assignment,misc]

    def state(self) -> State:
        return {}

    sampling_state = state

    def load_state(self, state: State) -> None: ...

    load_sampling_state = load_state


@pytest.fixture(params=[False, True], ids=["one length", "ragged"])
def cohort(tmp_path: Path, request: pytest.FixtureRequest) -> PreparedCohort:
    return tiny.cohort(tmp_path, num_patients=60, ragged=request.param)


def order(cohort: PreparedCohort) -> Curriculum:
    return Curriculum(CurriculumConfig(lengths=(3, 6), batch_size=8), cohort.train, 0)


def plain(cohort: PreparedCohort, chosen: Any, length: int) -> torch.Tensor:
    reals, codes, _ = cohort.train.gather(chosen, length)
    return one_hot(torch.from_numpy(reals), torch.from_numpy(codes), LAYOUT)


@pytest.mark.parametrize("on_device", [True, False])
def test_the_same_bits_either_way(
    cohort: PreparedCohort, on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BLOCK_ROWS", 50)
    curriculum = order(cohort)
    with Batches(curriculum, cohort.train, Still(), 3, on_device) as steps:
        assert steps.resident == on_device
        for number, at in zip(range(3, 15), steps, strict=False):
            assert (at.step, at.length, at.batch_size) == (number, curriculum.length(number), 8)
            assert at.batch.mask_BT.all()
            assert torch.equal(at.batch.x_BTF, plain(cohort, curriculum.batch(number), at.length))


class Everybody(Curriculum):
    """All patients at once, at the length of the longest."""

    def batch(self, step: int) -> Any:
        return np.arange(step, 40 + step)

    def length(self, step: int) -> int:
        return 7


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("form", ["scaled", "cells"])
def test_shorter_patients_are_padded_with_zeros(cohort: PreparedCohort, on_device: bool, form: str) -> None:
    patients = cohort.train
    patients.cells = np.arange(2 * patients.num_rows, dtype=np.int16).reshape(-1, 2) + 1
    curriculum = Everybody(CurriculumConfig(lengths=(3,), batch_size=8), patients, 0)
    with Batches(curriculum, patients, Still(real_form=form), 1, on_device) as steps:
        batch = next(steps).batch
    lengths_N = patients.lengths_N[1:41]
    assert batch.lengths_B.tolist() == lengths_N.tolist()
    assert batch.mask_BT.sum(1).tolist() == lengths_N.tolist()
    assert batch.reals_BTR.shape == (40, 7, 2)
    assert batch.reals_BTR.dtype == (torch.int16 if form == "cells" else torch.float32)
    reals, codes = patients.encoded(form)  # type: ignore[arg-type]
    starts_N = np.cumsum(patients.lengths_N) - patients.lengths_N
    for row, (start, length) in enumerate(zip(starts_N[1:41], lengths_N, strict=True)):
        np.testing.assert_array_equal(batch.reals_BTR[row, :length], reals[start : start + length])
        np.testing.assert_array_equal(batch.codes_BTK[row, :length], codes[start : start + length])
    assert not batch.reals_BTR[~batch.mask_BT].any()
    assert not batch.codes_BTK[~batch.mask_BT].any()


def test_a_file_without_cells_says_so(cohort: PreparedCohort) -> None:
    cohort.train.cells = None  # as version 1 of the file has it
    with pytest.raises(ValueError, match="holds no cells"):
        cohort.train.gather(np.arange(2), 3, "cells")


def test_rows_of_a_batch_are_those_of_its_parts(cohort: PreparedCohort) -> None:
    with Batches(order(cohort), cohort.train, Still()) as steps:
        whole = next(steps).batch
    unasked = Batch(LAYOUT, *whole.tensors().values()).rows(slice(2, 5))
    assert torch.equal(whole.x_BTF[2:5], unasked.x_BTF)
    assert torch.equal(whole.rows(slice(2, 5)).x_BTF, unasked.x_BTF)
    assert len(unasked) == 3
    given = Batch.of_features(LAYOUT, whole.x_BTF)
    for name, tensor in whole.tensors().items():
        assert torch.equal(given.tensors()[name], tensor)


def test_a_batch_is_read_before_it_is_asked_for(
    cohort: PreparedCohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    curriculum, read, gather = order(cohort), threading.Semaphore(0), Sequences.gather
    threads: list[str] = []

    def watched(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        read.release()
        return gather(*args)

    monkeypatch.setattr(Sequences, "gather", watched)
    with Batches(curriculum, cohort.train, Still()) as steps:
        assert read.acquire(timeout=60), "the first"
        next(steps)
        assert read.acquire(timeout=60), "the second"
        next(steps)
        assert read.acquire(timeout=60), "the third"
    assert len(threads) == 3
    assert threading.main_thread().name not in threads
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_what_fails_ahead_of_time_is_raised(cohort: PreparedCohort) -> None:
    cohort.train.cells = None
    with (
        Batches(order(cohort), cohort.train, Still(real_form="cells")) as steps,
        pytest.raises(ValueError, match="holds no cells"),
    ):
        next(steps)


def test_processes_read_their_part(cohort: PreparedCohort) -> None:
    class Second(Share):
        def own(self, batch_size: int) -> slice:
            return slice(batch_size // 2, batch_size)

    curriculum = order(cohort)
    with Batches(curriculum, cohort.train, Still(Second()), 1) as steps:
        for step in (1, 2, 3):
            at = next(steps)
            assert at.batch_size == 8
            chosen, length = curriculum.batch(step)[4:], curriculum.length(step)
            assert torch.equal(at.batch.x_BTF, plain(cohort, chosen, length))


def test_auto_keeps_the_host_s_memory_free(cohort: PreparedCohort) -> None:
    with Batches(order(cohort), cohort.train, Still()) as steps:
        assert not steps.resident


def test_a_gpu_takes_a_cohort_that_fits(cohort: PreparedCohort, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(each.nbytes for each in cohort.train.encoded())
    for free, fits in ((4 * size, True), (4 * size - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        assert batches.fits(cohort.train, "scaled", torch.device("cuda")) == fits
        assert not batches.fits(cohort.train, "scaled", CPU)


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
