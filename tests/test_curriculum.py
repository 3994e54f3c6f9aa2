"""The order of batches: complete, random, and a function of (seed, step)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from healthgym.config import CurriculumConfig
from healthgym.errors import ConfigError
from healthgym.training.curriculum import Curriculum


class Lengths:
    """Patients of given lengths."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths_N = np.array(lengths, np.int32)

    def at_least(self, length: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.lengths_N >= length)


def test_published_lengths() -> None:
    curriculum = Curriculum(CurriculumConfig(), Lengths([60] * 600), 0)
    assert [stage.length for stage in curriculum.stages] == [10, 20, 30, 40, 50, 60]
    assert curriculum.steps_per_epoch == 6 * 2
    assert [(p.epoch, p.stage, p.batch) for p in map(curriculum.place, (0, 1, 2, 11, 12))] == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 5, 1), (1, 0, 0),
    ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=6, max_size=60),
    batch_size=st.integers(2, 6),
    every=st.integers(1, 12),
    seed=st.integers(0, 3),
)
def test_each_stage_holds_each_long_enough_patient_at_most_once(
    lengths: list[int], batch_size: int, every: int, seed: int
) -> None:
    config = CurriculumConfig(batch_size=batch_size, every=every)
    curriculum = Curriculum(config, Lengths(lengths), seed)
    orders = []
    for epoch in range(2):
        for index, stage in enumerate(curriculum.stages):
            steps = [
                step
                for step in range(
                    epoch * curriculum.steps_per_epoch, (epoch + 1) * curriculum.steps_per_epoch
                )
                if curriculum.place(step).stage == index
            ]
            seen = np.concatenate([curriculum.batch(step) for step in steps])
            assert len(set(seen)) == len(seen) == stage.num_batches * batch_size
            eligible = np.array(lengths) >= stage.length
            assert eligible[seen].all()
            assert eligible.sum() - len(seen) < batch_size, "only an incomplete batch may be left out"
            orders.append(tuple(seen))
    again = Curriculum(config, Lengths(lengths), seed)
    last = 2 * curriculum.steps_per_epoch - 1
    assert np.array_equal(curriculum.batch(last), again.batch(last)), "a step's batch needs no step before it"


def test_epochs_and_seeds_differ() -> None:
    patients, config = Lengths([5] * 64), CurriculumConfig(lengths="full", batch_size=64)
    first, other = Curriculum(config, patients, 0), Curriculum(config, patients, 1)
    assert not np.array_equal(first.batch(0), first.batch(1))
    assert not np.array_equal(first.batch(0), other.batch(0))


def test_auto_stops_at_the_longest_length_that_fills_a_batch() -> None:
    patients = Lengths([60] * 3 + [25] * 10)
    curriculum = Curriculum(CurriculumConfig(batch_size=8), patients, 0)
    assert [stage.length for stage in curriculum.stages] == [10, 20, 25]
    assert curriculum.num_cut == 3
    curriculum = Curriculum(CurriculumConfig(batch_size=8, lengths="full"), patients, 0)
    assert [stage.length for stage in curriculum.stages] == [25]


def test_one_value_is_no_batch() -> None:
    with pytest.raises(ConfigError, match="one patient with one timestep has no variance"):
        Curriculum(CurriculumConfig(lengths=(1, 3), batch_size=1), Lengths([3] * 4), 0)
    Curriculum(CurriculumConfig(lengths=(1, 3), batch_size=2), Lengths([3] * 4), 0)
    Curriculum(CurriculumConfig(lengths=(2, 3), batch_size=1), Lengths([3] * 4), 0)


def test_work_is_counted_in_timesteps() -> None:
    curriculum = Curriculum(CurriculumConfig(lengths=(2, 5), batch_size=4), Lengths([5] * 9), 0)
    per_step = [curriculum.stages[curriculum.place(step).stage].length for step in range(11)]
    for start, stop in [(0, 11), (3, 7), (4, 4)]:
        assert curriculum.timesteps_between(start, stop) == sum(per_step[start:stop])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CurriculumConfig(lengths=(4, 9), batch_size=2), r"asks for 9 timesteps .* longest .* has 6"),
        (CurriculumConfig(lengths=(4, 6), batch_size=3), r"length 6 is empty: 2 .* needs 3"),
        (CurriculumConfig(batch_size=50), r"not one whole batch\. Choose a batch size of at most 5"),
    ],
)
def test_empty_stages_are_refused(config: CurriculumConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Curriculum(config, Lengths([6, 6, 4, 4, 4]), 0)
