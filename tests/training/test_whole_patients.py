"""Systems of whole patients: their batches, validation, stopping, and time limits."""

import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_curriculum import Lengths
from validating_system import MeanSystem

from healthgym import stopping
from healthgym.config import CurriculumConfig, RunConfig
from healthgym.data.prepare import SplitSettings, prepare
from healthgym.data.sequences import PreparedCohort
from healthgym.distributed.parallel import Process
from healthgym.distributed.ranks import Ranks
from healthgym.distributed.share import Share
from healthgym.errors import ConfigError, DivergenceError
from healthgym.storage.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, read_checkpoint
from healthgym.synthesis.source import trained_system
from healthgym.systems.base import SampleDraws
from healthgym.training import run as run_module
from healthgym.training.curriculum import Curriculum
from healthgym.training.monitoring.metrics import read_metrics
from healthgym.training.monitoring.validation import Validation, split
from healthgym.training.pace import Pace
from healthgym.training.run import train
from healthgym.training.whole import WholeCurriculum, default_epochs

# --- batches -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=120),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_each_patient_is_met_at_most_once_an_epoch(lengths: list[int], batch_size: int, seed: int) -> None:
    curriculum = WholeCurriculum(CurriculumConfig(batch_size=batch_size), Lengths(lengths), seed)
    size, longest = min(batch_size, max(len(lengths) // 22, 8), len(lengths)), max(lengths)
    assert curriculum.steps_per_epoch == len(lengths) // size
    for epoch in range(2):
        steps = range(epoch * curriculum.steps_per_epoch, (epoch + 1) * curriculum.steps_per_epoch)
        batches = [curriculum.batch(step) for step in steps]
        assert {len(batch) for batch in batches} == {size}
        seen = np.concatenate(batches)
        assert len(set(seen)) == len(seen)
        assert len(lengths) - len(seen) < size
        for step, batch in zip(steps, batches, strict=True):
            own = np.array(lengths)[batch]
            assert own.max() <= curriculum.length(step) <= longest
            assert curriculum.length(step) < own.max() + 8 or min(lengths) >= 0.9 * longest
            assert curriculum.position(step).epoch == epoch


def test_long_and_short_patients_meet_in_every_batch() -> None:
    lengths = np.repeat([1, 100], 320)
    curriculum = WholeCurriculum(CurriculumConfig(batch_size=16), Lengths(list(lengths)), 0)
    batches = [curriculum.batch(step) for step in range(80)]
    assert np.ptp([lengths[batch].mean() for batch in batches]) < 100  # gradients are clipped batch by batch
    assert all(len(set(lengths[batch])) == 2 for batch in batches)
    assert {tuple(batch) for batch in batches[:40]}.isdisjoint(tuple(batch) for batch in batches[40:])


@pytest.mark.parametrize(("patients", "size"), [(3000, 64), (353, 16), (100, 8), (5, 5)])
def test_few_patients_make_small_batches(patients: int, size: int) -> None:
    curriculum = WholeCurriculum(CurriculumConfig(batch_size=64), Lengths([4] * patients), 0)
    assert curriculum.batch_size == size


@pytest.mark.parametrize(("lengths", "fixed"), [([48, 45] * 10, False), ([48, 3] * 10, True)])
def test_batches_of_one_shape(lengths: list[int], fixed: bool) -> None:
    curriculum = WholeCurriculum(CurriculumConfig(batch_size=4), Lengths(lengths), 0, fixed_length=fixed)
    assert {curriculum.length(step) for step in range(10)} == {48}


def test_whole_is_for_systems_that_can() -> None:
    with pytest.raises(ConfigError, match=r"lengths is whole, but this system learns .*lengths: auto"):
        Curriculum(CurriculumConfig(lengths="whole"), Lengths([5] * 300), 0)
    with pytest.raises(ConfigError, match="No training patient"):
        WholeCurriculum(CurriculumConfig(), Lengths([]), 0)


def test_fewer_patients_are_seen_more_often() -> None:
    assert [default_epochs(count) for count in (10, 300, 3_500, 60_000, 10**7)] == [60, 60, 20, 6, 3]


# --- validation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [(3_500, 0.1, 350), (60, 0.1, 10), (16, 0.1, 8), (100_000, 0.1, 2_000), (50, 0.0, 0), (1, 0.1, 0)],
)
def test_validation_patients_are_few_and_apart(count: int, share: float, held: int) -> None:
    learned_N, held_N = split(count, share, 3)
    assert len(held_N) == held
    assert sorted([*learned_N, *held_N]) == list(range(count))
    again = split(count, share, 3)[1]
    np.testing.assert_array_equal(held_N, again)


def test_the_loss_is_that_of_every_timestep_whatever_the_batches_and_processes(tmp_path: Path) -> None:
    patients = tiny.cohort(tmp_path, ragged=True).train
    held = patients.only(np.arange(1, 20, 2))
    system = MeanSystem(tiny.SCHEMA.layout)
    reals, _, lengths = patients.gather(np.arange(1, 20, 2), 6)
    mask = np.arange(6) < lengths[:, None]
    expected = float((np.square(reals.astype(np.float64) - 3).sum(-1) * mask).sum() / lengths.sum())
    found = []
    for batch_size, fixed in ((3, None), (100, None), (4, 6)):
        validation = Validation(held, system, batch_size, 5, fixed_length=fixed)
        found.append(validation.run(1)["validation_nats"])
    assert found == pytest.approx([expected] * 3, rel=1e-6)

    class Half(Ranks):
        def sum(self, value: torch.Tensor) -> torch.Tensor:
            sums.append(value)
            return value

    sums: list[torch.Tensor] = []
    for rank in range(2):
        system.share = Share(Half(Process(rank, 2)), 8)
        Validation(held, system, 3, 5).run(1)
    nats, timesteps = (sums[0] + sums[1]).tolist()
    assert timesteps == lengths.sum()
    assert nats / timesteps == pytest.approx(expected, rel=1e-6)


def test_the_best_is_kept_and_patience_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validation = Validation(tiny.cohort(tmp_path).train, MeanSystem(tiny.SCHEMA.layout), 8, 10)
    values = iter([3.0, 2.0, 2.0, 2.5, 1.0, math.nan])
    monkeypatch.setattr(validation, "measure", lambda: next(values))
    said = [validation.run(10 * number) for number in range(1, 6)]
    assert [line["best_step"] for line in said] == [10, 20, 20, 20, 50]
    assert [line["best_nats"] for line in said] == [3, 2, 2, 2, 1]
    other = Validation(validation.patients, MeanSystem(tiny.SCHEMA.layout), 8, 10)
    other.load_state(validation.state())
    assert (other.best, other.best_step, other.since, other.newest) == (1.0, 50, 0, 1.0)
    with pytest.raises(DivergenceError, match="validation_nats is nan at step 59"):
        validation.run(60)


def test_when_to_validate_and_how_long_to_wait(tmp_path: Path) -> None:
    patients, system = tiny.cohort(tmp_path).train, MeanSystem(tiny.SCHEMA.layout)
    small, large = (Validation(patients, system, 8, steps) for steps in (7, 12_345))
    assert [step for step in range(1, 18) if small.is_due(step, 17)] == [7, 14, 17]
    assert large.every_steps == 1_000
    assert small.patience(7 * 100) == 15
    assert small.patience(7 * 10) == 5
    assert Validation(patients, system, 8, 7, patience=None).patience(700) == math.inf
    assert Validation(patients, system, 8, 7, patience=2).patience(700) == 2


# --- time limits ---------------------------------------------------------------------------------


# 10 steps an epoch, 4 timesteps on average
TWO_STAGES = Curriculum(CurriculumConfig(lengths=(2, 6), batch_size=4), Lengths([6] * 20), 0)


def paced(minutes: float | None, **kwargs: Any) -> Pace:
    return Pace(TWO_STAGES, epochs=100, minutes=minutes, **kwargs)


def run_steps(pace: Pace, seconds_per_timestep: float, first: int = 0, before: float = 0.0) -> list[int]:
    """Return the step after which the plan was made."""
    made, seconds = [], before
    for step in range(first, first + 40):
        seconds += seconds_per_timestep * TWO_STAGES.length(step) + (10 if step < first + 5 else 0)
        if pace.step_taken(step + 1, seconds, Ranks()):
            made.append(step + 1)
    return made


def test_the_plan_is_made_once_from_steps_6_to_25() -> None:
    pace = paced(minutes=10)
    assert pace.total == 1000
    assert run_steps(pace, 0.5) == [25]
    # 98 timesteps were taken in 49 s and 5 x 10 s; 501 s remain for 1,002 of them: 250 steps and one of 2.
    assert TWO_STAGES.timesteps_between(0, 25) == 90
    assert TWO_STAGES.timesteps_between(25, pace.total) * 0.5 <= 600 - 95
    assert TWO_STAGES.timesteps_between(25, pace.total + 1) * 0.5 > 600 - 95
    other = paced(minutes=10)
    other.load_state(pace.state())
    assert other.total == pace.total
    assert run_steps(other, 0.1, first=300) == []


def test_a_limit_that_is_never_met_and_one_that_has_passed() -> None:
    pace = paced(minutes=1000)
    run_steps(pace, 0.001)
    assert pace.total == 1000
    pace = paced(minutes=10)
    assert run_steps(pace, 0.5, before=10_000.0) == [25]
    assert pace.total == 25


def test_another_limit_is_planned_again_and_none_asks_for_no_plan() -> None:
    pace, other, free = paced(minutes=10), paced(minutes=20), paced(minutes=None)
    run_steps(pace, 0.5)
    for each in (other, free):
        each.load_state(pace.state())
        assert each.total == 1000
    assert run_steps(free, 0.5) == []
    assert free.state() == {}
    assert not free.is_late(10**9)
    assert not pace.is_late(749)
    assert pace.is_late(750)


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stopping.clear()
    tiny.cohort(tmp_path, num_patients=90, ragged=True)
    monkeypatch.setattr(
        run_module,
        "build_system",
        lambda config, layout, *others: MeanSystem(layout),
    )
    return tmp_path


def config(folder: Path, epochs: int | str = 6, **training: Any) -> RunConfig:
    return tiny.config(
        folder,
        "v1",
        curriculum={"lengths": "auto"},
        training={"epochs": epochs, "validation": 0.2, **training},
    )


def cohort_size(folder: Path) -> int:
    return PreparedCohort.open(folder / "prepared.h5").train.num_patients


def saved(run: Path) -> Checkpoint:
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None
    return found


def test_a_run_validates_each_epoch_and_says_so(folder: Path) -> None:
    stream = io.StringIO()
    assert train(folder / "run", config(folder), stream)
    records = read_metrics(folder / "run/metrics.jsonl")
    validated = [record for record in records if "validation_nats" in record]
    assert len(validated) == 6
    steps = [record["step"] for record in validated]
    assert steps == [steps[0] * number for number in range(1, 7)]
    assert validated[-1]["best_nats"] == min(record["validation_nats"] for record in validated)
    checkpoint = saved(folder / "run")
    assert checkpoint.trainer["best_step"] == validated[-1]["best_step"]
    assert checkpoint.state["best_value"] == checkpoint.trainer["best_nats"] == validated[-1]["best_nats"]
    said = stream.getvalue()
    assert f"validated on {len(split(cohort_size(folder), 0.2, 5)[1])} more patients every 7 steps" in said
    assert f"validation {validated[-1]['validation_nats']:.5g}  best {validated[-1]['best_nats']:.5g}" in said
    assert f"synthesis uses the weights of step {validated[-1]['best_step']}" in said
    assert (folder / "run/losses.png").stat().st_size > 10_000


def test_whole_patients_are_learned_from_and_validation_ones_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems: list[MeanSystem] = []

    def build(config: object, layout: Any, *others: object) -> MeanSystem:
        systems.append(MeanSystem(layout))
        return systems[0]

    monkeypatch.setattr(run_module, "build_system", build)
    assert train(folder / "run", config(folder, epochs=1), io.StringIO())
    lengths = np.concatenate([batch.lengths_B for batch in systems[0].seen])
    assert set(lengths) == {2, 3, 4, 5, 6}
    cohort = tiny.cohort(folder, num_patients=90, ragged=True).train
    _, held_N = split(cohort.num_patients, 0.2, 5)
    learned = np.concatenate([batch.reals_BTR[:, 0, 0] for batch in systems[0].seen])
    first_N = cohort.gather(np.arange(cohort.num_patients), 1)[0][:, 0, 0]
    assert np.isin(learned, first_N).all()
    assert not np.isin(learned, first_N[held_N]).any()


def test_resumed_equals_straight(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Validation.measure

    def worse_after_two_epochs(self: Validation) -> float:
        late = self.system.optimiser.num_updates > 14  # type: ignore[attr-defined]
        return measure(self) + 20 * float(late)

    monkeypatch.setattr(Validation, "measure", worse_after_two_epochs)
    assert train(folder / "straight", config(folder), io.StringIO())
    tiny.stop_at_steps(monkeypatch, MeanSystem, 5, 16, 30)
    finished = []
    while not finished or not finished[-1]:
        stopping.clear()
        finished.append(train(folder / "run", config(folder), io.StringIO()))
    assert finished == [False] * 3 + [True]
    straight, resumed = saved(folder / "straight"), saved(folder / "run")
    assert (straight.trainer["best_step"], straight.trainer["validations_since"]) == (14, 4)
    tiny.assert_same_run(straight, resumed)
    tiny.assert_same_tree(straight.trainer, resumed.trainer)
    assert tiny.losses(folder / "straight/metrics.jsonl") == tiny.losses(folder / "run/metrics.jsonl")
    again = io.StringIO()
    assert train(folder / "run", config(folder), again)
    assert saved(folder / "run").sha256 == resumed.sha256


def test_a_run_that_does_not_improve_ends_and_stays_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([5.0, 4.0, *([6.0] * 100)])
    monkeypatch.setattr(Validation, "measure", lambda self: next(values))
    stream = io.StringIO()
    assert train(folder / "run", config(folder, epochs=50, patience=3), stream)
    records = [r for r in read_metrics(folder / "run/metrics.jsonl") if "validation_nats" in r]
    assert [record["validation_nats"] for record in records] == [5, 4, 6, 6, 6]
    assert "ended early, after 3 validations without improvement; synthesis uses the weights of step 14" in (
        stream.getvalue()
    )
    step = saved(folder / "run").progress.step
    assert train(folder / "run", config(folder, epochs=50, patience=3), io.StringIO())
    assert saved(folder / "run").progress.step == step
    assert train(folder / "run", config(folder, epochs=50, patience=4), io.StringIO())
    assert saved(folder / "run").progress.step > step, "more patience goes on"


@pytest.mark.parametrize("system", ["whole", "v1"])
def test_a_time_limit_decides_the_steps_and_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    if system == "v1":
        monkeypatch.undo()
    monkeypatch.setattr(Pace, "fitting", lambda self, step, timesteps: step + 9)
    minutes = config(folder, epochs=50, minutes=60.0)
    assert train(folder / "run", minutes, io.StringIO())
    checkpoint = saved(folder / "run")
    assert checkpoint.progress.step == checkpoint.trainer["planned_steps"] == 34
    planned = [r for r in read_metrics(folder / "run/metrics.jsonl") if "planned_steps" in r]
    assert [(record["step"], record["planned_steps"]) for record in planned] == [(25, 34)]
    assert train(folder / "run", minutes, io.StringIO())
    assert saved(folder / "run").progress.step == 34


def test_the_schedule_follows_the_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "fitting", lambda self, step, timesteps: step + 9)
    assert train(folder / "run", config(folder, epochs=50, minutes=60.0), io.StringIO())
    state = saved(folder / "run").state["optimisers"]["network"]
    assert int(state["total_steps"]) == int(state["num_updates"]) == 34


def test_far_too_slow_a_run_ends_at_once_with_the_best_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = itertools.count()  # it is asked before the first step, and after each
    monkeypatch.setattr(Pace, "is_late", lambda self, seconds: next(steps) >= 9)
    stream = io.StringIO()
    assert train(folder / "run", config(folder, epochs=50, minutes=60.0), stream)
    checkpoint = saved(folder / "run")
    assert checkpoint.progress.step == 10
    assert (
        checkpoint.trainer["validation_nats"]
        == read_metrics(folder / "run/metrics.jsonl")[-1]["validation_nats"]
    )
    assert train(folder / "run", config(folder, epochs=50, minutes=60.0), io.StringIO())
    assert saved(folder / "run").progress.step == 10


def test_without_validation_everybody_is_learned_from(folder: Path) -> None:
    stream = io.StringIO()
    assert train(folder / "run", config(folder, epochs=1, validation=0.0), stream)
    assert "validated" not in stream.getvalue()
    assert saved(folder / "run").trainer == {}


def test_epochs_are_chosen_by_the_number_of_patients(folder: Path) -> None:
    stream = io.StringIO()
    assert train(
        folder / "run", config(folder, epochs="auto", patience=1, validate_every_steps=10**6), stream
    )
    steps = saved(folder / "run").progress.step
    assert steps == 60 * 7, stream.getvalue()


def test_a_checkpoint_without_the_trainer_s_state_is_read(folder: Path, tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "data" / "released" / "0.1.0.dev0"
    old = [each for each in path.rglob("*.h5") if "checkpoint" in each.name]
    for each in old:
        assert read_checkpoint(each).trainer == {}


def test_classes_that_no_training_patient_has_are_never_sampled(tmp_path: Path) -> None:
    """Static and varying ones, also by a network that has hardly learned; a run that resumes keeps this."""
    frame = tiny.table(60)
    frame["sex"], frame["drug"] = 2, frame["drug"].replace({1: 0})
    prepare(frame, tiny.SCHEMA, tmp_path / "prepared.h5", SplitSettings(holdout=0.0))
    config = tiny.config(tmp_path, "ar", training={"epochs": 1})
    assert train(tmp_path / "run", config)
    system = trained_system(load_checkpoint(tmp_path / "run"), "cpu")
    made = system.make(SampleDraws(0, 0, 2000))
    assert set(np.unique(made.codes_KTB[0])) == {1}
    assert set(np.unique(made.codes_KTB[1])) == {0, 2}
