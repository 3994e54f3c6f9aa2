"""Metrics of v1 to v3 in training: their values, the checkpoint they select, and no effect on training."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from healthgym import stopping
from healthgym.config import RunConfig
from healthgym.errors import ConfigError
from healthgym.schema.layout import FeatureLayout
from healthgym.storage.checkpoint import (
    best_first,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    step_of,
    write_best,
)
from healthgym.strict import parse
from healthgym.synthesis.cohort import SynthesisRequest, find_checkpoint
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.training.monitoring.metrics import read_metrics
from healthgym.training.monitoring.sampled import SampledValidation, spaced
from healthgym.training.monitoring.similarity import Patients, compare
from healthgym.training.run import train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stopping.clear()
    tiny.cohort(tmp_path)
    return tmp_path


def config(folder: Path, system: str = "v1", **training: Any) -> RunConfig:
    training = {"validate_every_steps": 4, **training}
    return tiny.config(folder, system, training=training, checkpoint={"keep": 2, "every_steps": 5})


# --- the metrics ---------------------------------------------------------------------------------

LAYOUT = FeatureLayout(1, (2, 2), (2, 2), flag_of_reals=(1,), flags=(1,), measured_classes=(1,))


def patients(real: list[list[float]], code: list[list[int]], flag: list[list[int]]) -> Patients:
    """Return patients of equal length, given one by one."""
    reals, codes = np.array([real], np.float32), np.array([code, flag], np.uint8)
    return Patients(reals.transpose(0, 2, 1), codes.transpose(0, 2, 1), np.full(len(real), len(real[0])))


def test_metrics_of_known_patients() -> None:
    seen = [[1, 1, 1, 1]] * 2
    steps = patients([[0, 0.2, 0.4, 0.6]] * 2, [[0, 1, 0, 1]] * 2, seen)
    assert compare(LAYOUT, steps, steps) == {"ks": 0, "classes": 0, "changes": 0, "correlations": 0}
    apart = patients([[0.7, 0.9, 0.7, 0.9]] * 2, [[0, 0, 0, 0]] * 2, seen)
    found = compare(LAYOUT, steps, apart)
    assert found["ks"] == 1
    assert found["classes"] == pytest.approx((0.5 + 0) / 2), "the code's classes and the flag's"
    # No change of the real is near 0.2 in float32; the code changes always or never; the flag never.
    assert found["changes"] == pytest.approx((1 / 3 + 1 + 0) / 3, abs=0.34)
    shuffled = patients([[0.4, 0, 0.6, 0.2]] * 2, [[0, 1, 0, 1]] * 2, seen)
    found = compare(LAYOUT, steps, shuffled)
    assert (found["ks"], found["classes"]) == (0, 0)
    assert found["changes"] > 0.3
    assert found["correlations"] > 0.1


def test_what_is_not_measured_or_padded_does_not_count() -> None:
    code = [[0, 1, 0]] * 2
    first = patients([[0.1, 0.2, 0.3]] * 2, code, [[1, 1, 0]] * 2)
    second = patients([[0.1, 0.2, 0.9]] * 2, code, [[1, 1, 0]] * 2)
    assert compare(LAYOUT, first, second)["ks"] == 0
    longer = patients([[0.1, 0.2, 0.3, 0.9]] * 2, [[0, 1, 0, 0]] * 2, [[1, 1, 0, 1]] * 2)
    cut = Patients(longer.reals_RTB, longer.codes_KTB, np.array([3, 3]))
    assert set(compare(LAYOUT, first, cut).values()) == {0}


def test_measuring_is_spaced_by_what_it_costs() -> None:
    assert spaced(30, 0.2) == 120, "whole epochs of 100 steps or more"
    assert spaced(30, 10) == 210, "twenty times what it costs"
    assert spaced(5_000, 0.2) == 1_000


# --- a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["v2", "v2.5", "v3"])
def test_measuring_changes_no_bit_of_training(folder: Path, system: str) -> None:
    assert train(folder / "with", config(folder, system), io.StringIO())
    assert train(folder / "without", config(folder, system, validation=0), io.StringIO())
    one, other = load_checkpoint(folder / "with"), load_checkpoint(folder / "without")
    assert one.trainer
    assert not other.trainer
    tiny.assert_same_tree(one.state, other.state)


def test_resumed_equals_straight(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(folder / "straight", config(folder, "v2"), io.StringIO())
    tiny.stop_at_steps(monkeypatch, WGANSystem, 3, 8, 12)
    while not train(folder / "run", config(folder, "v2"), io.StringIO()):
        stopping.clear()
    tiny.assert_same_run(load_checkpoint(folder / "straight"), load_checkpoint(folder / "run"))
    assert tiny.losses(folder / "straight/metrics.jsonl") == tiny.losses(folder / "run/metrics.jsonl")
    best = [step_of(best_first(folder / name / "checkpoints")[0]) for name in ("straight", "run")]
    assert best[0] == best[1]


@pytest.fixture
def early(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A run whose second measurement was the best, and its messages."""
    values = iter([0.5, 0.2, *[0.4] * 100])
    monkeypatch.setattr(SampledValidation, "metrics", lambda self: {"ks": next(values)})
    stream = io.StringIO()
    assert train(folder / "run", config(folder, epochs=8), stream)
    return folder / "run", stream.getvalue()


def test_the_best_checkpoint_is_kept_and_makes_patients(early: tuple[Path, str]) -> None:
    run, said = early
    last, *others = [step_of(path) for path in list_checkpoints(run / "checkpoints")]
    assert last > 30
    assert 8 in others
    assert len(others) == 2, "two that are kept, and the best"

    def taken(**given: Any) -> int:
        request = parse(SynthesisRequest, {"out": run / "cohort", "patients": 9, **given}, "a test")
        return step_of(find_checkpoint(request, None))

    assert taken(run_dir=run) == 8
    assert taken(run_dir=run, checkpoint="newest") == last
    with pytest.raises(ConfigError, match="--run-dir FOLDER or --checkpoint FILE"):
        taken(checkpoint="newest")
    assert "synthesis uses the checkpoint of step 8, the nearest to training patients: distance 0.2" in said
    assert (run / "losses.png").stat().st_size > 0


def test_a_kill_after_the_last_save_leaves_the_best_checkpoint_known(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.5 / number for number in range(1, 100)])
    monkeypatch.setattr(SampledValidation, "metrics", lambda self: {"ks": next(values)})
    assert train(folder / "run", config(folder), io.StringIO())
    checkpoints = folder / "run/checkpoints"
    last, *_, before = map(step_of, list_checkpoints(checkpoints))
    write_best(checkpoints, before)  # as it is between the renaming of the checkpoint and of this record
    copied = checkpoints / "step-000000001.h5"
    copied.write_bytes(checkpoint_path(checkpoints, before).read_bytes())
    assert train(folder / "run", config(folder), io.StringIO())
    assert step_of(best_first(checkpoints)[0]) == last
    assert not copied.exists()


def test_a_run_that_does_not_improve_says_so_once_and_continues(early: tuple[Path, str]) -> None:
    run, said = early
    assert said.count("note: no improvement since step 8, in 5 measurements") == 1
    assert "it has not improved since, in" in said
    records = [r for r in read_metrics(run / "metrics.jsonl") if "validation_ks" in r]
    assert [r["validation_distance"] for r in records[:3]] == [0.5, 0.2, 0.4]
    assert {r["best_step"] for r in records[1:]} == {8}


def test_patience_ends_a_run_if_it_is_a_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SampledValidation, "metrics", lambda self: {"ks": 0.5})
    stream = io.StringIO()
    assert train(folder / "run", config(folder, epochs=50, patience=2), stream)
    assert load_checkpoint(folder / "run").progress.step == 12
    assert "ended early, after 2 validations without improvement" in stream.getvalue()


def test_patients_are_held_out_if_that_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    original = SampledValidation.metrics

    def metrics(self: SampledValidation) -> dict[str, float]:
        chosen.append(self.patients)
        return original(self)

    monkeypatch.setattr(SampledValidation, "metrics", metrics)
    stream = io.StringIO()
    assert train(folder / "run", config(folder, validate_on="held_out", validation=0.25), stream)
    assert chosen[0].num_patients == 10
    assert "3 (24), 6 (24)" in stream.getvalue(), "of 34 training patients"
    assert "compared with 10 held-out patients every 4 steps" in stream.getvalue()


def test_a_system_validated_by_likelihood_holds_patients_out(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match="validate_on is training, and this system is validated by how well"
    ):
        train(folder / "run", config(folder, "ar", validate_on="training"), io.StringIO())
