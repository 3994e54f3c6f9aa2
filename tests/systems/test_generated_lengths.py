"""Cohorts of a system that makes lengths with its patients: aligned blocks, whatever the shards."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_system import SCHEMA, GrownSystem, open_fake, transform, write_fake

from healthgym.stopping import Stopped
from healthgym.storage.shards import open_cohort
from healthgym.synthesis.cohort import SynthesisRequest, make_plan, synthesize
from healthgym.synthesis.shard import make_shard
from healthgym.synthesis.source import Source
from healthgym.systems.base import Making, SampleDraws
from healthgym.systems.conditions import NO_CONDITIONS, Conditions


def open_grown(path: Path) -> Source:
    return replace(open_fake(path), build=lambda device, settings: GrownSystem(8))


@pytest.fixture
def request_(tmp_path: Path) -> SynthesisRequest:
    return SynthesisRequest(
        checkpoint=write_fake(tmp_path / "fake.json"),
        out=tmp_path / "cohort",
        patients=50,
        patients_per_shard=20,
        workers=1,
    )


def test_patients_do_not_depend_on_shards_batch_size_or_number(request_: SynthesisRequest) -> None:
    other = request_.model_copy(
        update={
            "out": request_.out.parent / "other",
            "patients_per_shard": 13,
            "batch_size": 4,
            "patients": 41,
        }
    )
    for each in (request_, other):
        assert synthesize(each, open_grown).state == "complete"
    ours, theirs = (open_cohort(each.out).read() for each in (request_, other))
    assert theirs.equals(ours[ours["PatientID"] < 41].reset_index(drop=True))


def test_a_shard_asks_for_whole_blocks_and_keeps_its_part(request_: SynthesisRequest) -> None:
    source = open_grown(request_.checkpoint or Path())
    plan, system = make_plan(request_, source.sha256, "cpu"), GrownSystem(8)
    told: list[int] = []
    made = make_shard(source, system, plan, 1, tell=told.append)
    assert made is not None
    assert system.calls == [range(16, 24), range(24, 32), range(32, 40)]
    assert told == [4, 8, 8]
    shard, disagreements = made
    assert disagreements == {}
    whole = GrownSystem().make(SampleDraws(0, 24, 8))
    lengths_N, rows = shard.lengths_N, np.cumsum(shard.lengths_N)
    np.testing.assert_array_equal(lengths_N[4:12], whole.lengths_B)
    patient = slice(rows[4], rows[5])  # number 25
    T = lengths_N[5]
    measured = shard.columns["Lactate (M)"][patient] == 1
    lactate = shard.columns["Lactate"][patient]
    np.testing.assert_array_equal(lactate[measured], whole.reals_RTB[2, :T, 1][measured])  # not scaled
    assert np.isnan(lactate[~measured]).all()
    np.testing.assert_array_equal(shard.columns["Load"][patient], whole.reals_RTB[0, :T, 1])


def test_without_a_size_of_its_own_a_block_is_a_batch(request_: SynthesisRequest) -> None:
    source = open_grown(request_.checkpoint or Path())
    plan, system = (
        make_plan(request_.model_copy(update={"batch_size": 7}), source.sha256, "cpu"),
        GrownSystem(),
    )
    assert make_shard(source, system, plan, 0) is not None
    assert system.calls == [range(0, 7), range(7, 14), range(14, 21)]


def test_a_length_may_be_given(request_: SynthesisRequest) -> None:
    synthesize(request_.model_copy(update={"timesteps": 3}), open_grown)
    assert set(open_cohort(request_.out).read().groupby("PatientID").size()) == {3}


def test_it_stops_between_blocks(request_: SynthesisRequest) -> None:
    source = open_grown(request_.checkpoint or Path())
    plan, system = make_plan(request_, source.sha256, "cpu"), GrownSystem(8)
    assert make_shard(source, system, plan, 0, stop=lambda: len(system.calls) == 2) is None
    assert len(system.calls) == 2


class _Endless(GrownSystem):
    """Never finds a patient."""

    def begin_make(
        self,
        draws: SampleDraws,
        timesteps: int | None = None,
        conditions: Conditions = NO_CONDITIONS,
        stop: Callable[[], object] = lambda: None,
    ) -> Making:
        for _ in range(1000):
            self.calls.append(draws.patients)
            if stop():
                raise Stopped
        raise AssertionError("it was not stopped")


def test_it_stops_within_a_block(request_: SynthesisRequest) -> None:
    source = open_grown(request_.checkpoint or Path())
    plan, system = make_plan(request_, source.sha256, "cpu"), _Endless(8)
    assert make_shard(source, system, plan, 0, stop=lambda: len(system.calls) == 5) is None
    assert len(system.calls) == 5


def test_draws_of_a_part_are_those_of_the_whole() -> None:
    whole = SampleDraws(3, 10, 7)
    assert whole.part(2, 3).patients == range(12, 15)
    assert whole.part(5, 9).patients == range(15, 17)
    u = whole.uniform_rows((2, 3), "slot", 4)
    np.testing.assert_array_equal(u[2:5], whole.part(2, 3).uniform_rows((2, 3), "slot", 4))
    assert not np.array_equal(u, whole.uniform_rows((2, 3), "slot", 5))
    assert whole.stream(11, 0).random() == whole.part(1, 1).stream(11, 0).random()


def test_reals_of_other_systems_are_unscaled(request_: SynthesisRequest) -> None:
    shard, _ = make_shard(open_fake(request_.checkpoint), open_fake(request_.checkpoint).build("cpu", ()),
                          make_plan(request_, "0" * 64, "cpu"), 0)  # type: ignore[misc,arg-type] # fmt: skip
    low, high = transform().inverse_reals(np.array([[0.0] * 3, [1.0] * 3]))[:, 0]
    assert low <= shard.columns["Load"].min() < shard.columns["Load"].max() <= high
    assert SCHEMA.layout.num_reals == 3
