"""The plan, which determines a cohort's bytes, and the partition of shards over tasks."""

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healthgym.environment import task
from healthgym.errors import CohortError, ConfigError
from healthgym.launch.jobs import SynthesizeJob
from healthgym.storage.shards import receipt_path
from healthgym.strict import parse
from healthgym.synthesis.plan import (
    SynthesisPlan,
    agree,
    parse_task,
    read_plan,
    require_own,
    settle,
    shards_of_task,
)

PLAN = SynthesisPlan(checkpoint_sha256="a" * 64, num_patients=10_000, patients_per_shard=1000)


@given(num_patients=st.integers(1, 5000), per_shard=st.integers(1, 700), num_tasks=st.integers(1, 40))
def test_tasks_and_shards_cover_every_patient_once(num_patients: int, per_shard: int, num_tasks: int) -> None:
    plan = PLAN.model_copy(update={"num_patients": num_patients, "patients_per_shard": per_shard})
    parts = [shards_of_task(plan.num_shards, task, num_tasks) for task in range(num_tasks)]
    assert sorted(shard for shards in parts for shard in shards) == list(range(plan.num_shards))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    patients = [patient for shard in range(plan.num_shards) for patient in plan.patients(shard)]
    assert patients == list(range(num_patients))


@pytest.mark.parametrize("field", sorted(set(SynthesisPlan.model_fields) - {"form", "num_patients"}))
def test_every_field_changes_the_hash(field: str) -> None:
    other = {
        "earlier": (7,),
        "checkpoint_sha256": "b" * 64,
        "file_format": "parquet",
        "compression": "lzf",
        "timesteps": 7,
        "where": ("Gender=Female",),
        "shares": "Gender=Female:1",
        "settings": ("system.sampler.kind=ddpm",),
        "device": "cuda",
        "matmul_precision": "medium",
    }.get(field, 7)
    changed = {field: other} | ({"compression": "zstd"} if field == "file_format" else {})
    assert SynthesisPlan.model_validate(PLAN.model_dump() | changed).sha256 != PLAN.sha256


def test_plan_survives_the_disk_and_names_itself_by_content(tmp_path: Path) -> None:
    agree(tmp_path / "c", PLAN)
    agree(tmp_path / "c", PLAN)
    assert read_plan(tmp_path / "c") == PLAN
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["_plan.json"]


def test_another_plan_in_the_folder_is_an_error_with_the_difference(tmp_path: Path) -> None:
    agree(tmp_path, PLAN)
    finish(tmp_path, 0)
    with pytest.raises(CohortError, match="begun with other settings:\n  - seed: 0 -> 4\n") as error:
        agree(tmp_path, PLAN.model_copy(update={"seed": 4}))
    assert "choose another folder with --out" in str(error.value)
    assert read_plan(tmp_path) == PLAN


def finish(folder: Path, shard: int) -> None:
    """Leave a receipt."""
    receipt_path(folder, shard).parent.mkdir(exist_ok=True)
    receipt_path(folder, shard).write_text("{}")


def test_a_cohort_without_a_finished_shard_is_begun_again_with_other_settings(tmp_path: Path) -> None:
    agree(tmp_path, PLAN)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "shard-00000.h5").write_text("nobody finished it")
    other = PLAN.model_copy(update={"seed": 4})
    assert settle(tmp_path, other) == other
    assert read_plan(tmp_path) == PLAN  # to look is not to write
    assert agree(tmp_path, other) == read_plan(tmp_path) == other
    assert not list((tmp_path / "shards").iterdir())


def test_only_a_complete_cohort_is_enlarged_and_none_gets_smaller(tmp_path: Path) -> None:
    agree(tmp_path, PLAN)
    finish(tmp_path, 0)
    more = PLAN.model_copy(update={"num_patients": 12_500})
    with pytest.raises(
        CohortError, match="Finish it with the number it was begun with, then give the larger"
    ):
        agree(tmp_path, more)
    (tmp_path / "_manifest.json").write_text('{"num_patients": 10000}')
    with pytest.raises(
        CohortError, match=r"num_patients: 10000 -> 9\nIt has 10,000 patients; choose another"
    ):
        agree(tmp_path, PLAN.model_copy(update={"num_patients": 9}))
    assert agree(tmp_path, more) == more == read_plan(tmp_path)  # all shards were full
    assert agree(tmp_path, more) == more
    (tmp_path / "_manifest.json").write_text('{"num_patients": 12500}')
    assert agree(tmp_path, PLAN.model_copy(update={"num_patients": 20_000})).earlier == (12_500,)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=4), per_shard=st.integers(1, 90))
def test_an_enlarged_cohort_keeps_its_shards_and_covers_every_patient_once(
    sizes: list[int], per_shard: int
) -> None:
    plan = PLAN.model_copy(update={"num_patients": sizes[0], "patients_per_shard": per_shard})
    for added in sizes[1:]:
        before = [(plan.patients(shard), plan.name(shard)) for shard in range(plan.num_shards)]
        plan = plan.enlarged(plan.num_patients + added)
        after = [(plan.patients(shard), plan.name(shard)) for shard in range(plan.num_shards)]
        assert after[: len(before)] == before
    covered = [patient for shard in range(plan.num_shards) for patient in plan.patients(shard)]
    assert covered == list(range(sum(sizes)))


def test_shards_without_a_plan_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with pytest.raises(CohortError, match=r"holds shards or a manifest, but no _plan\.json"):
        agree(tmp_path, PLAN)


def test_a_task_that_comes_when_another_has_made_shards_joins_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.mkdir

    def mkdir(self: Path, *args: Any, **kwargs: Any) -> None:
        monkeypatch.undo()
        original(self, *args, **kwargs)
        agree(tmp_path, PLAN)  # by the other task, after this one found no plan
        (tmp_path / "shards").mkdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert agree(tmp_path, PLAN) == PLAN


def test_a_plan_is_durable_before_any_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable, fsync = set[Path](), os.fsync

    def watched(handle: int) -> None:
        fsync(handle)
        durable.add(Path(f"/proc/self/fd/{handle}").readlink())

    monkeypatch.setattr(os, "fsync", watched)
    agree(tmp_path, PLAN)
    assert tmp_path in durable


def test_unreadable_plan_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "_plan.json").write_text("{")
    with pytest.raises(CohortError, match=r"Cannot read .*_plan\.json"):
        agree(tmp_path, PLAN)
    (tmp_path / "_plan.json").write_text(json.dumps(PLAN.model_dump() | {"form": 1}))
    with pytest.raises(CohortError, match=r"_plan\.json has format 1, .* finish it with the version"):
        agree(tmp_path, PLAN)
    (tmp_path / "_plan.json").write_text(json.dumps({"sed": 1}))
    with pytest.raises(CohortError, match=r"sed: unknown key \(did you mean 'seed'\?\)"):
        agree(tmp_path, PLAN)


def test_of_racing_tasks_with_different_plans_exactly_one_plan_wins(tmp_path: Path) -> None:
    outcomes: list[int] = []

    def begin(seed: int) -> None:
        plan = PLAN.model_copy(update={"seed": seed})
        barrier.wait()
        agree(tmp_path, plan)
        barrier.wait()
        with contextlib.suppress(CohortError):
            require_own(tmp_path, plan)
            outcomes.append(seed)

    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=begin, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plan = read_plan(tmp_path)
    assert plan is not None
    assert outcomes == [plan.seed]


def test_a_file_system_without_links_gets_its_plan_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    agree(tmp_path, PLAN)
    assert read_plan(tmp_path) == PLAN
    assert [path.name for path in tmp_path.iterdir()] == ["_plan.json"]


def test_compression_must_suit_the_format() -> None:
    with pytest.raises(ConfigError, match="compression 'lzf' is not for parquet; choose zstd, snappy"):
        parse(SynthesisPlan, PLAN.model_dump() | {"file_format": "parquet", "compression": "lzf"}, "plan")


def test_lengths_follow_the_training_distribution_wherever_the_shard_starts() -> None:
    histogram = {5: 100, 12: 600, 60: 300}
    lengths = np.concatenate([PLAN.lengths(shard, histogram) for shard in range(PLAN.num_shards)])
    shares = [float(np.mean(lengths == length)) for length in histogram]
    assert shares == pytest.approx([0.1, 0.6, 0.3], abs=0.015)
    coarser = PLAN.model_copy(update={"patients_per_shard": 4096})
    np.testing.assert_array_equal(coarser.lengths(1, histogram), lengths[4096:8192])
    other_seed = PLAN.model_copy(update={"seed": 1}).lengths(0, histogram)
    assert (other_seed != lengths[:1000]).any()


def test_a_fixed_number_of_timesteps_overrules_the_distribution() -> None:
    fixed = PLAN.model_copy(update={"timesteps": 24})
    assert set(fixed.lengths(0, {5: 1, 60: 1}).tolist()) == {24}


@pytest.mark.parametrize("text", ["", "3", "3/3", "-1/3", "a/b", "1/", "1/0", "1.0/2"])
def test_bad_task_is_a_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected i/n with i from 0 to n - 1"):
        parse_task(text)


def test_task_from_an_array() -> None:
    assert task({}) == "0/1"
    array = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"}
    found = [task(array | {"SLURM_ARRAY_TASK_ID": str(number)}) for number in (1, 3, 5, 7)]
    assert found == ["0/4", "1/4", "2/4", "3/4"]
    alone = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "1"}
    assert task(alone) == "0/1"
    assert parse_task("2/8") == (2, 8)


def test_a_list_of_array_tasks_with_gaps_is_refused_unless_the_task_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, number in {"ID": 4, "MIN": 3, "MAX": 12, "COUNT": 3, "STEP": 1}.items():  # --array=3,4,12
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(number))
    asked = {"out": tmp_path / "cohort", "patients": 9, "run_dir": tmp_path}
    with pytest.raises(ConfigError, match=r"3 tasks with numbers from 3 to 12, .* --array=0-2"):
        SynthesizeJob.of(**asked)
    assert SynthesizeJob.of(**asked, task="4/32").task == "4/32"
