"""Diverging losses stop a run, by their size or their trend; ordinary losses never do."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healthgym.errors import DivergenceError
from healthgym.storage.checkpoint import list_checkpoints
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.training.monitoring.divergence import Watch, not_finite
from healthgym.training.run import train


def looked(values: np.ndarray[Any, Any], watch: Watch | None = None) -> Watch:
    watch = watch or Watch()
    watch.look(["loss"], range(len(values)), np.asarray(values, np.float64).reshape(-1, 1))
    return watch


@pytest.mark.parametrize("value", [1e30, -1e30, 3e38, np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 1, 7])
def test_a_loss_of_another_size_is_found_at_its_step(value: float, place: int) -> None:
    values = np.full(8, 0.5)
    values[place] = value
    with pytest.raises(DivergenceError, match=rf"loss is .* at step {place}") as found:
        looked(values)
    assert found.value.since == place


@pytest.mark.parametrize("steps_to_tenfold", [40, 200, 2000])
def test_growth_is_found_long_before_the_largest_number(steps_to_tenfold: int) -> None:
    calm = 100
    steps = np.arange(10 * steps_to_tenfold)
    values = np.concatenate([np.full(calm, -20.0), -20 * 10 ** (steps / steps_to_tenfold)])
    with pytest.raises(DivergenceError, match="it has grown since step") as found:
        looked(values)
    at = int(str(found.value).partition("at step ")[2].partition(":")[0])
    assert abs(values[at]) < 1e7
    assert found.value.since < calm + 2 * steps_to_tenfold + 100


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-2, 0), st.booleans())
def test_noise_drift_and_decay_are_no_divergence(seed: int, size: float, trend: float, signed: bool) -> None:
    """Losses of any usual size, noisy over two powers of ten, falling or level, crossing zero or not."""
    rng = np.random.default_rng(seed)
    exponents = size + trend * np.arange(1500) / 1500 + rng.normal(0, 0.4, 1500)
    values = 10**exponents * (rng.choice([-1, 1], 1500) if signed else 1)
    looked(values)


def test_a_large_penalty_at_the_start_that_falls_is_no_divergence() -> None:
    looked(np.concatenate([1e5 * 0.9 ** np.arange(120), np.full(300, 8.0)]))


def test_a_resumed_watch_finds_the_same() -> None:
    values = 10 ** (np.arange(3000) / 300)
    with pytest.raises(DivergenceError) as straight:
        looked(values)
    resumed = Watch()
    resumed.load_state(looked(values[:700]).state())
    with pytest.raises(DivergenceError) as found:
        looked(values, resumed)
    assert str(found.value) == str(straight.value)


def test_arrays_that_hold_no_numbers_are_named() -> None:
    state = {"G": {"w": np.ones(3), "n": np.array([1, 2])}, "D": {"w": np.array([1.0, np.nan])}, "x": "text"}
    assert not_finite(state) == "D.w"
    assert not_finite({"G": state["G"], "best": np.array(np.inf)}) == ""


# --- in a run ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.cohort(tmp_path)
    return tmp_path


def with_step(monkeypatch: pytest.MonkeyPatch, change: Callable[[WGANSystem, int, Any], Any]) -> None:
    original, taken = WGANSystem.train_step, [0]

    def step(self: WGANSystem, *args: Any) -> Any:
        taken[0] += 1
        return change(self, taken[0] - 1, original(self, *args))

    monkeypatch.setattr(WGANSystem, "train_step", step)


def test_a_huge_loss_ends_a_run_and_names_the_last_good_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = {"generator_loss": torch.tensor(1e30)}
    with_step(monkeypatch, lambda _, step, losses: losses | huge if step == 6 else losses)
    config = tiny.config(folder, checkpoint={"every_steps": 2})
    message = (
        r"generator_loss is 1e\+30 at step 6.* The last good checkpoint, of step 4, is .*step-000000004\.h5"
    )
    with pytest.raises(DivergenceError, match=message):
        train(folder / "run", config, io.StringIO())


def test_without_a_checkpoint_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = {"generator_loss": torch.tensor(-1e30)}
    with_step(monkeypatch, lambda _, step, losses: losses | huge if step == 1 else losses)
    with pytest.raises(DivergenceError, match=r"\. No checkpoint was written before that\. Start a new run"):
        train(folder / "run", tiny.config(folder), io.StringIO())
    assert not list_checkpoints(folder / "run/checkpoints")


def test_weights_that_are_no_numbers_are_not_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The update after the last finite loss can spoil the weights, whose checkpoint would pass for good."""

    def spoil(system: WGANSystem, step: int, losses: Any) -> Any:
        if step == 3:
            with torch.no_grad():
                next(system.generator.parameters()).fill_(torch.nan)
        return losses

    with_step(monkeypatch, spoil)
    config = tiny.config(folder, checkpoint={"every_steps": 2})
    with pytest.raises(DivergenceError, match=r"not finite after step 3 .*good checkpoint, of step 2, is"):
        train(folder / "run", config, io.StringIO())
    assert [path.name for path in list_checkpoints(folder / "run/checkpoints")] == ["step-000000002.h5"]
