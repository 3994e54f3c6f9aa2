"""The order of batches: complete, random, and a function of (seed, step)."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from healthgym import seeds
from healthgym.config import CurriculumConfig
from healthgym.errors import ConfigError
from healthgym.training.curriculum import Curriculum


class Lengths:
    """Patients of given lengths."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths_N = np.array(lengths, np.int32)


def test_published_lengths() -> None:
    curriculum = Curriculum(CurriculumConfig(), Lengths([60] * 600), 0)
    assert [stage.length for stage in curriculum.stages] == [10, 20, 30, 40, 50, 60]
    assert curriculum.steps_per_epoch == 6 * 2
    assert [(p.epoch, p.stage, p.batch) for p in map(curriculum.position, (0, 1, 2, 11, 12))] == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 5, 1), (1, 0, 0),
    ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=6, max_size=60),
    batch_size=st.integers(2, 6),
    every=st.integers(1, 12),
    seed=st.integers(0, 3),
    listed=st.booleans(),
)
def test_each_stage_holds_each_of_its_patients_at_most_once(
    lengths: list[int], batch_size: int, every: int, seed: int, listed: bool
) -> None:
    config = CurriculumConfig(batch_size=batch_size, every=every)
    if listed:
        filled = int(np.sort(lengths)[-batch_size])
        config = config.model_copy(update={"lengths": tuple(sorted({max(1, filled // 2), filled}))})
    curriculum = Curriculum(config, Lengths(lengths), seed)
    divided = curriculum.stage_patients.divided
    assert divided == (not listed and len(set(lengths)) > 1)
    orders = []
    for epoch in range(2):
        shorter = 0
        for index, stage in enumerate(curriculum.stages):
            steps = [
                step
                for step in range(
                    epoch * curriculum.steps_per_epoch, (epoch + 1) * curriculum.steps_per_epoch
                )
                if curriculum.position(step).stage == index
            ]
            seen = np.concatenate([curriculum.batch(step) for step in steps])
            assert len(set(seen)) == len(seen) == stage.num_batches * batch_size
            eligible = np.array(lengths) >= stage.length
            if divided:
                last = stage is curriculum.stages[-1]
                eligible = (np.array(lengths) > shorter) & (last | (np.array(lengths) <= stage.length))
                shorter = stage.length
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


def test_everybody_is_in_a_stage() -> None:
    lengths = [1] * 40 + [2] * 3 + [3] * 30 + [9] * 20 + [17] * 2
    curriculum = Curriculum(CurriculumConfig(batch_size=8), Lengths(lengths), 0)
    assert [(stage.length, stage.num_patients) for stage in curriculum.stages] == [(1, 40), (3, 33), (17, 22)]
    curriculum = Curriculum(CurriculumConfig(batch_size=8, lengths="full"), Lengths(lengths), 0)
    assert [(stage.length, stage.num_patients) for stage in curriculum.stages] == [(17, 95)]
    curriculum = Curriculum(CurriculumConfig(batch_size=90), Lengths(lengths), 0)
    assert [(stage.length, stage.num_patients) for stage in curriculum.stages] == [(17, 95)]


def test_one_patient_far_longer_than_the_others_is_cut() -> None:
    curriculum = Curriculum(CurriculumConfig(batch_size=8), Lengths([3] * 30 + [5] * 170 + [5000]), 0)
    assert curriculum.stage_patients.lengths == (3, 5)
    assert curriculum.stages[-1].num_patients == 171
    assert curriculum.stage_patients.group_of(np.array([3, 5, 5000])).tolist() == [0, 0, 1]


def test_one_value_is_no_batch() -> None:
    with pytest.raises(ConfigError, match="one patient with one timestep has no variance"):
        Curriculum(CurriculumConfig(lengths=(1, 3), batch_size=1), Lengths([3] * 4), 0)
    Curriculum(CurriculumConfig(lengths=(1, 3), batch_size=2), Lengths([3] * 4), 0)
    Curriculum(CurriculumConfig(lengths=(2, 3), batch_size=1), Lengths([3] * 4), 0)


def test_work_is_counted_in_timesteps() -> None:
    curriculum = Curriculum(CurriculumConfig(lengths=(2, 5), batch_size=4), Lengths([5] * 9), 0)
    per_step = [curriculum.stages[curriculum.position(step).stage].length for step in range(11)]
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


# --- the random order -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 300), seed=st.integers(0, 9))
def test_the_cipher_is_a_permutation(count: int, seed: int) -> None:
    order = seeds.enciphered(np.arange(count), count, seed, "order", 0, 0)
    again = seeds.enciphered(np.arange(count)[::-1], count, seed, "order", 0, 0)
    assert sorted(order) == list(range(count))
    assert again[::-1].tolist() == order.tolist(), "an element does not depend on which others are asked for"


@pytest.mark.parametrize("count", [4096, 4097, 10_007, 65_536])
def test_an_order_of_many_is_a_permutation(count: int) -> None:
    order = seeds.shuffled(np.arange(count), count, 0, "order", 0, 0)
    assert np.array_equal(np.sort(order), np.arange(count))


def test_orders_are_unbiased() -> None:
    """Under uniform orders each statistic is within 5 standard errors but once in 1.7 million times."""
    count, epochs = 5000, 40
    places = np.arange(count)
    orders = np.stack([seeds.shuffled(places, count, 3, "order", e, 0) for e in range(epochs)]).astype(float)
    moved = np.abs(orders - places).mean()
    assert moved == pytest.approx((count**2 - 1) / (3 * count), abs=5 * count / np.sqrt(18 * count * epochs))
    scaled = (orders - orders.mean()) / orders.std()
    error = 1 / np.sqrt(count * epochs)
    neighbours = (scaled[:, 1:] * scaled[:, :-1]).mean()
    assert neighbours == pytest.approx(0, abs=5 * error)
    assert (scaled[1:] * scaled[:-1]).mean() == pytest.approx(0, abs=5 * error), "one epoch and the next"
    assert (scaled * (places - places.mean()) / places.std()).mean() == pytest.approx(0, abs=5 * error)
    steps = np.bincount((np.diff(orders) % count).astype(int).ravel() * 100 // count, minlength=100)
    expected = steps.sum() / 100
    assert ((steps - expected) ** 2 / expected).sum() < stats.chi2.isf(1e-6, 99)


def test_a_batch_of_a_registry_needs_no_list_of_its_patients() -> None:
    class Registry:
        lengths_N = np.broadcast_to(np.int32(60), 10_000_000)

    curriculum = Curriculum(CurriculumConfig(lengths=(60,)), Registry(), 0)
    tracemalloc.start()
    batches = [curriculum.batch(step) for step in (0, 1)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(np.concatenate(batches))) == 2 * 256
    assert peak < 200_000
