"""Training runs: a resumed run equals an uninterrupted one."""

import contextlib
import errno
import io
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from healthgym import stopping
from healthgym.config import RunConfig
from healthgym.distributed.identity import Identity
from healthgym.errors import ConfigError, DivergenceError, FencedError, StorageError
from healthgym.storage.checkpoint import (
    Checkpoint,
    checkpoint_path,
    describe,
    list_checkpoints,
    load_checkpoint,
    read_checkpoint,
)
from healthgym.systems.adversarial.critic import Critic
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.training import run as run_module
from healthgym.training.monitoring.metrics import MetricsFile, read_metrics
from healthgym.training.run import train
from healthgym.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.cohort(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_flag_left() -> None:
    stopping.clear()


def go(folder: Path, config: RunConfig, name: str = "run") -> Checkpoint:
    """Train and return the newest checkpoint."""
    train(folder / name, config, io.StringIO())
    return load_checkpoint(folder / name)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Send this process SIGTERM in the middle of the given step."""
    taken = 0
    original = WGANSystem.train_step

    def step(self: WGANSystem, *args: object) -> object:
        nonlocal taken
        taken += 1
        if taken == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(WGANSystem, "train_step", step)


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_a_signal_stops_between_steps_and_the_same_call_resumes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    config = tiny.config(folder)
    undisturbed = go(folder, config, "undisturbed")
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        assert not train(folder / "run", config, io.StringIO())
    assert load_checkpoint(folder / "run").progress.step == stop
    stopping.clear()
    assert train(folder / "run", config, io.StringIO())
    tiny.assert_same_run(undisturbed, load_checkpoint(folder / "run"))
    assert tiny.losses(folder / "run/metrics.jsonl") == tiny.losses(folder / "undisturbed/metrics.jsonl")
    assert (folder / "run/losses.png").stat().st_size > 10_000


@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_n_and_n_steps_equal_2n(folder: Path, system: str) -> None:
    # Every two epochs end with a validation, as a run does: else its end would be one more.
    often = {} if system == "ar" else {"validate_every_steps": 4}
    straight = go(folder, tiny.config(folder, system, training={"epochs": 4, **often}), "straight")
    go(folder, tiny.config(folder, system, training={"epochs": 2, **often}))
    tiny.assert_same_run(straight, go(folder, tiny.config(folder, system, training={"epochs": 4, **often})))


def test_a_finished_run_is_left_as_it_is(folder: Path) -> None:
    config = tiny.config(folder)
    before = go(folder, config)
    files = {path.name: path.read_bytes() for path in (folder / "run/checkpoints").iterdir()}
    assert go(folder, config).sha256 == before.sha256
    assert {path.name: path.read_bytes() for path in (folder / "run/checkpoints").iterdir()} == files


def test_checkpoints_are_periodic_and_pruned(folder: Path) -> None:
    config = tiny.config(folder, checkpoint={"every_steps": 4, "keep": 2})
    last = go(folder, config)
    total = last.progress.step
    names = [path.name for path in list_checkpoints(folder / "run/checkpoints")]
    assert names == [f"step-{step:09d}.h5" for step in (total, total - total % 4 if total % 4 else total - 4)]


def test_minutes_count_too(folder: Path) -> None:
    go(folder, tiny.config(folder, checkpoint={"every_minutes": 1e-9, "keep": 99}))
    assert len(list_checkpoints(folder / "run/checkpoints")) == load_checkpoint(folder / "run").progress.step


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(folder: Path) -> None:
    config = tiny.config(folder, checkpoint={"every_steps": 4})
    undisturbed = go(folder, config)
    newest = list_checkpoints(folder / "run/checkpoints")[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    with pytest.warns(
        UserWarning, match=rf"Skipping a checkpoint: .*{newest.name} does not match its checksum"
    ):
        assert train(folder / "run", config, io.StringIO())
    tiny.assert_same_run(undisturbed, load_checkpoint(folder / "run"))


def test_all_checkpoints_damaged(folder: Path) -> None:
    go(folder, tiny.config(folder))
    for path in list_checkpoints(folder / "run/checkpoints"):
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="Skipping"),
        pytest.raises(StorageError, match="contains no complete checkpoint"),
    ):
        load_checkpoint(folder / "run")


def test_other_settings_are_refused_with_the_difference(folder: Path) -> None:
    go(folder, tiny.config(folder))
    with pytest.raises(ConfigError, match=r"other settings:\n  - training.seed: 5 -> 6\n"):
        go(folder, tiny.config(folder, training={"seed": 6}))
    with pytest.raises(ConfigError, match=r"system\.critic\.num_updates: 2 -> \(absent\)|system"):
        go(folder, tiny.config(folder, system="v1"))


@pytest.mark.parametrize(
    ("system", "setting"),
    [
        ("v2.5", {"generator": {"kind": "transformer", "num_heads": 2, "num_positions": 5}}),
        ("v3", {"pad_to": 4}),
    ],
)
def test_stages_that_do_not_fit_are_refused_before_the_first_step(
    tmp_path: Path, system: str, setting: dict[str, Any]
) -> None:
    tiny.cohort(tmp_path, num_timesteps=6)
    values = tiny.config(tmp_path, system).model_dump()
    values["system"] |= setting
    with pytest.raises(ConfigError, match=r"6 timesteps .*(num_positions to 6|pad_to of 6)"):
        train(tmp_path / "run", RunConfig.model_validate(values))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_other_data_are_refused(folder: Path, tmp_path: Path) -> None:
    config = tiny.config(folder)
    go(folder, config)
    (tmp_path / "other").mkdir()
    tiny.cohort(tmp_path / "other", seed=1)
    shutil.move(tmp_path / "other/prepared.h5", config.data)
    with pytest.raises(ConfigError, match="is not the cohort that this run was started with"):
        go(folder, config)


def test_a_moved_cohort_is_the_same_cohort(folder: Path) -> None:
    go(folder, tiny.config(folder))
    shutil.move(folder / "prepared.h5", folder / "moved.h5")
    config = tiny.config(folder).model_copy(update={"data": folder / "moved.h5"})
    assert train(folder / "run", config, io.StringIO())


def test_ragged_patients_sit_out_stages_they_are_too_short_for(tmp_path: Path) -> None:
    cohort = tiny.cohort(tmp_path, ragged=True, num_patients=60)
    stream = io.StringIO()
    train(tmp_path / "run", tiny.config(tmp_path, training={"epochs": 1}), stream)
    counts = [int((cohort.train.lengths_N >= length).sum()) for length in (3, 6)]
    assert counts[0] > counts[1]
    assert f"3 ({counts[0]}), 6 ({counts[1]})" in stream.getvalue()
    lengths, patients = load_checkpoint(tmp_path / "run").statistics.lengths_2U
    assert dict(zip(lengths, patients, strict=True)) == dict(
        zip(*np.unique(cohort.train.lengths_N, return_counts=True), strict=True)
    )


def test_divergence_stops_before_anything_is_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(folder, checkpoint={"every_steps": 4})
    original = WGANSystem.train_step
    taken = 0

    def step(self: WGANSystem, *args: object) -> object:
        nonlocal taken
        taken += 1
        losses = original(self, *args)  # type: ignore[arg-type]
        return losses | {"generator_loss": torch.tensor(torch.nan)} if taken == 7 else losses

    monkeypatch.setattr(WGANSystem, "train_step", step)
    with pytest.raises(DivergenceError, match=r"generator_loss is nan at step 6 .*checkpoint, of step 4, is"):
        train(folder / "run", config, io.StringIO())
    assert [path.name for path in list_checkpoints(folder / "run/checkpoints")] == ["step-000000004.h5"]


def before_third_step(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    """Let something happen before the third step is taken."""
    original = WGANSystem.train_step
    taken = 0

    def step(self: WGANSystem, *args: object) -> object:
        nonlocal taken
        taken += 1
        if taken == 3:
            call()
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(WGANSystem, "train_step", step)


def test_an_older_writer_is_fenced_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(folder, checkpoint={"every_steps": 2})

    def take_over() -> None:
        deadline = time.monotonic() + 60
        while not list_checkpoints(folder / "run/checkpoints"):  # it is written beside the training
            assert time.monotonic() < deadline
        RunFolder(folder / "run", Identity("", 0, "newer", "elsewhere", 1)).claim()

    before_third_step(monkeypatch, take_over)
    with pytest.raises(FencedError, match="now belongs to process 1 on elsewhere"):
        train(folder / "run", config, io.StringIO())
    assert [path.name for path in list_checkpoints(folder / "run/checkpoints")] == ["step-000000002.h5"]


def test_a_folder_that_is_moved_ends_its_run_and_the_new_name_resumes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.config(folder, checkpoint={"every_steps": 1}, training={"log_every_steps": 100})
    before_third_step(monkeypatch, lambda: (folder / "run").rename(folder / "moved"))
    with pytest.raises(FencedError, match=r"owner.json is missing or damaged: .* the folder's new name"):
        train(folder / "run", config, io.StringIO())
    monkeypatch.undo()
    assert train(folder / "moved", config, io.StringIO())


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"[]", b'{"token"'], ids=["empty", "zeros", "list", "torn"]
)
def test_a_damaged_owner_file_is_no_owner(tmp_path: Path, content: bytes) -> None:
    run = RunFolder(tmp_path, Identity("slurm::7", 1, "a", "b", 2))
    run.claim()
    (tmp_path / "owner.json").write_bytes(content)
    with pytest.raises(FencedError, match="missing or damaged"):
        run.check()
    run.claim()
    run.check()


def test_an_earlier_life_of_the_same_job_never_takes_over(tmp_path: Path) -> None:
    RunFolder(tmp_path, Identity("slurm::7", 1, "second life", "b", 2)).claim()
    with pytest.raises(FencedError, match="now belongs to process 2 on b"):
        RunFolder(tmp_path, Identity("slurm::7", 0, "first life", "a", 1)).claim()


def test_a_fenced_writer_leaves_the_metrics_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(folder, training={"log_every_steps": 1})
    newer = RunFolder(folder / "run", Identity("", 0, "newer", "elsewhere", 1))
    before_third_step(monkeypatch, newer.claim)
    with pytest.raises(FencedError):
        train(folder / "run", config, io.StringIO())
    assert [record["step"] for record in read_metrics(folder / "run/metrics.jsonl")] == [1, 2]


def test_claims_at_the_same_moment_leave_one_owner(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path, Identity("", 0, str(n), "here", n)) for n in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(30):
            list(threads.map(RunFolder.claim, folders))
            owners = 0
            for folder in folders:
                with contextlib.suppress(FencedError):
                    folder.check()
                    owners += 1
            assert owners == 1


def test_a_run_folder_that_cannot_be_made(folder: Path) -> None:
    (folder / "file").touch()
    for place in ("file", "/proc/nowhere"):
        with pytest.raises(StorageError, match=r"Cannot write to .*can have another --run-dir"):
            go(folder, tiny.config(folder), place)


def test_a_save_that_fails_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_module, "write_checkpoint", full)
    with pytest.raises(StorageError, match=r"no space is left there.*the same command resumes"):
        go(folder, tiny.config(folder))


def test_a_damaged_checkpoint_does_not_count_as_kept(folder: Path) -> None:
    config = tiny.config(folder, training={"epochs": 1}, checkpoint={"every_steps": 2, "keep": 2})
    go(folder, config)
    newest = list_checkpoints(folder / "run/checkpoints")[0]
    newest.write_bytes(b"")
    with pytest.warns(UserWarning, match="Skipping"):
        go(folder, tiny.config(folder, training={"epochs": 2}, checkpoint={"every_steps": 2, "keep": 2}))
    for path in list_checkpoints(folder / "run/checkpoints"):
        read_checkpoint(path)
    assert len(list_checkpoints(folder / "run/checkpoints")) == 2
    assert newest.with_name(f"{newest.name}.damaged").exists()


def test_a_torn_save_is_cleared_away(folder: Path) -> None:
    config = tiny.config(folder)
    torn = folder / "run/checkpoints/.step-000000003.h5.0123456789ab.tmp"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"half")
    go(folder, config)
    assert not torn.exists()


def test_metrics_lines_after_the_checkpoint_are_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3, "a": 1.0}\n{"step": 6, "a": 2.0}\n{"step": 9, "a"')
    metrics = MetricsFile(path, after_step=3)
    metrics.append({"step": 6, "a": float("inf")})
    assert read_metrics(path) == [{"step": 3, "a": 1.0}, {"step": 6, "a": None}]


def test_damaged_metrics_stop_no_run(folder: Path) -> None:
    config = tiny.config(folder)
    go(folder, config)
    path = folder / "run/metrics.jsonl"
    whole = read_metrics(path)
    path.write_text(f'{{"torn": \n[]\n{path.read_text()}{{"step": 1}}\n')
    with pytest.warns(UserWarning, match=r"Skipping line \d+ of .*metrics.jsonl"):
        go(folder, config)
    assert read_metrics(path) == whole


def test_the_critic_update_builds_no_generator_graph(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    seen = []
    original = Critic.forward

    def forward(self: Critic, x: torch.Tensor, **options: bool) -> torch.Tensor:
        if all(parameter.requires_grad for parameter in self.parameters()) and not options.get("penalised"):
            seen.append(x.requires_grad)
        return original(self, x, **options)

    monkeypatch.setattr(Critic, "forward", forward)
    go(folder, tiny.config(folder, "v1", training={"epochs": 1}))
    assert seen
    assert not any(seen)


def test_a_device_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no CUDA device here"):
        go(folder, tiny.config(folder, training={"device": "cuda"}))


def test_a_log_has_plain_lines(folder: Path) -> None:
    stream = io.StringIO()
    train(folder / "run", tiny.config(folder), stream)
    text = stream.getvalue()
    assert "\r" not in text
    assert "step 3/" in text
    assert "seq/s" in text
    assert "finished at step" in text


def test_describe_names_progress_settings_and_arrays(folder: Path) -> None:
    go(folder, tiny.config(folder))
    text = describe(folder / "run")
    for expected in (
        "step ",
        "training.seed: 5",
        "G.recurrent.weight_DGK: float32",
        "Mean_Container",
        "tiny",
    ):
        assert expected in text


def test_a_checkpoint_path_sorts_by_step(tmp_path: Path) -> None:
    steps = [5, 999_999_999, 1_000_000_000, 20]
    for step in steps:
        checkpoint_path(tmp_path, step).touch()
    (tmp_path / "step-000000030.h5.old").touch()
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in sorted(steps)[::-1]]
