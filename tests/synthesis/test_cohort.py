"""Synthesis as a whole: the bytes do not depend on processes, order, interruptions or failures."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_system import SCHEMA, FakeSystem, open_fake, transform, write_fake

from healthgym import stopping
from healthgym.errors import CohortError, ConfigError, SamplingError, StorageError
from healthgym.files import sha256_of
from healthgym.storage import shards as shards_module
from healthgym.storage.shard_file import Shard, encode_shard
from healthgym.storage.shards import Disagreement, open_cohort
from healthgym.synthesis import cohort
from healthgym.synthesis.cohort import SynthesisRequest, find_checkpoint, find_device, make_plan, synthesize
from healthgym.synthesis.shard import compute_shard, compute_shards, make_shard, pack_shard
from healthgym.synthesis.source import Source
from healthgym.synthesis.work import Finished, Listener, Made, Task, work_with_packers
from healthgym.systems.base import Making

DRIVER = Path(__file__).parents[1] / "support" / "drive_synthesis.py"


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    yield
    stopping.clear()


@pytest.fixture
def request_(tmp_path: Path) -> SynthesisRequest:
    checkpoint = write_fake(tmp_path / "fake.json", lengths={"4": 2, "9": 3, "14": 1}, stages=[10, 14])
    return SynthesisRequest(
        checkpoint=checkpoint,
        out=tmp_path / "cohort",
        patients=330,
        patients_per_shard=50,
        batch_size=16,
        workers=1,
    )


def elsewhere(request: SynthesisRequest, name: str, **changes: Any) -> SynthesisRequest:
    return request.model_copy(update={"out": request.out.parent / name, **changes})


def content(folder: Path) -> dict[str, str]:
    """Return {file: SHA-256} of everything in a cohort folder."""
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def drive(request: SynthesisRequest, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, str(DRIVER), request.model_dump_json()]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


# --- the same bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "workers"),
    [("hdf5", 2), ("parquet", 1), pytest.param("parquet", 3, marks=pytest.mark.slow)],
)
def test_bytes_do_not_depend_on_processes_order_or_tasks(
    request_: SynthesisRequest, file_format: str, workers: int
) -> None:
    one = request_.model_copy(update={"file_format": file_format})
    assert synthesize(one, open_fake).state == "complete"
    several = elsewhere(one, "several", workers=workers)
    assert synthesize(several, open_fake).state == "complete"
    tasks = elsewhere(one, "tasks")
    states = []
    for number in reversed(range(9)):  # nine tasks for seven shards
        assert not (tasks.out / "_manifest.json").exists()
        states.append(synthesize(tasks.model_copy(update={"task": f"{number}/9"}), open_fake).state)
    assert states == ["waiting"] * 8 + ["complete"]
    assert content(one.out) == content(several.out) == content(tasks.out)
    assert len(content(one.out)) == 7 + 7 + 3


def test_bytes_do_not_depend_on_who_packs(
    request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU one process computes and others pack; a CPU can do so too."""
    synthesize(request_, open_fake)
    told: list[object] = []

    def with_packers(task: Task, source: Source, shards: range, tell: Listener) -> None:
        work_with_packers(task, source, shards, 2, lambda news: (told.append(news), tell(news))[1])

    monkeypatch.setattr(cohort, "work_here", with_packers)
    packed = elsewhere(request_, "packed")
    assert synthesize(packed, open_fake).state == "complete"
    assert content(packed.out) == content(request_.out)
    assert sum(news.patients for news in told if isinstance(news, Made)) == 330
    again = len(told)
    (packed.out / "_manifest.json").unlink(missing_ok=True)
    assert synthesize(packed, open_fake).state == "complete"
    assert all(isinstance(news, Finished) and not news.made for news in told[again:])


def test_packers_never_build_the_system(request_: SynthesisRequest) -> None:
    source = open_fake(request_.checkpoint or Path())
    plan = make_plan(request_, source.sha256, "cpu")
    computed = compute_shard(source, source.build("cpu", ()), plan, 2)
    assert computed is not None
    bare = replace(source, build=lambda device, settings: pytest.fail("a packer built the system"))
    assert encoded(pack_shard(bare, plan, 2, computed)) == encoded(
        make_shard(source, source.build("cpu", ()), plan, 2)
    )


def encoded(made: "tuple[Shard, dict[str, Disagreement]] | None") -> bytes:
    assert made is not None
    return encode_shard(made[0], "hdf5", "gzip")


def test_a_patient_of_equal_length_does_not_depend_on_the_shards(request_: SynthesisRequest) -> None:
    fixed = request_.model_copy(update={"timesteps": 9})
    synthesize(fixed, open_fake)
    other = elsewhere(fixed, "other", patients_per_shard=128, patients=200)
    synthesize(other, open_fake)
    ours, theirs = open_cohort(fixed.out).read(200), open_cohort(other.out).read()
    assert ours.select_dtypes("category").equals(theirs.select_dtypes("category"))
    np.testing.assert_allclose(ours["Load"], theirs["Load"], rtol=1e-4)


def test_another_seed_or_checkpoint_makes_other_patients(request_: SynthesisRequest) -> None:
    synthesize(request_, open_fake)
    other = elsewhere(request_, "other", seed=5)
    synthesize(other, open_fake)
    ours, theirs = open_cohort(request_.out), open_cohort(other.out)
    assert not {s.sha256 for s in ours.manifest.shards} & {s.sha256 for s in theirs.manifest.shards}
    with pytest.raises(CohortError, match=r"begun with other settings:\n  - seed: 0 -> 5"):
        synthesize(request_.model_copy(update={"seed": 5}), open_fake)
    assert request_.checkpoint is not None
    write_fake(request_.checkpoint, lengths={"4": 1})
    with pytest.raises(CohortError, match=r"checkpoint_sha256: [0-9a-f]{64} -> [0-9a-f]{64}"):
        synthesize(request_, open_fake)


def test_patients_are_what_the_system_sampled(request_: SynthesisRequest) -> None:
    source = open_fake(request_.checkpoint or Path())
    plan = make_plan(request_, source.sha256, "cpu")
    system = FakeSystem()
    made = make_shard(source, system, plan, 2)
    assert made is not None
    shard, _ = made
    lengths_N = plan.lengths(2, source.lengths)
    np.testing.assert_array_equal(shard.lengths_N, lengths_N)
    stage_N = np.where(lengths_N <= 10, 10, 14)
    order = np.argsort(stage_N, kind="stable")  # the noise runs through the stages
    starts = np.cumsum(lengths_N) - lengths_N
    for place in (0, 7, 25, 49):
        patient = order[place]
        x_TF = system.sample_features(int(stage_N[patient]), plan.seed, 100 + place, 1)[
            0, : lengths_N[patient]
        ].numpy()
        rows = slice(starts[patient], starts[patient] + lengths_N[patient])
        raw_TR = transform().inverse_reals(x_TF[:, :3])
        np.testing.assert_allclose(shard.columns["Load"][rows], raw_TR[:, 0], rtol=1e-4)
        drug = x_TF[:, SCHEMA.layout.spans[[v.name for v in SCHEMA.categoricals].index("Drug/Dose")]]
        np.testing.assert_array_equal(shard.columns["Drug/Dose"][rows], drug.argmax(1))


def test_static_values_are_constant_and_blanks_are_where_the_flag_says(request_: SynthesisRequest) -> None:
    synthesize(request_, open_fake)
    reader = open_cohort(request_.out)
    frame = reader.read()
    by_patient = frame.groupby("PatientID")
    for name in ("Gender", "Ethnic", "Age"):
        assert (by_patient[name].nunique() == 1).all()
        rates = reader.manifest.static_disagreement[name]
        assert 0 < rates["timestep_rate"] < rates["patient_rate"] <= 1
    assert set(reader.manifest.static_disagreement) == {"Gender", "Ethnic", "Age"}
    assert frame["Stain"].isna().equals(frame["Stain (M)"] == "no")
    assert frame["Lactate"].isna().equals(frame["Lactate (M)"] == "False")
    assert 0.1 < frame["Lactate"].isna().mean() < 0.9
    assert not frame.drop(columns=["Stain", "Lactate"]).isna().any().any()


def test_manifest_says_what_the_cohort_is(request_: SynthesisRequest) -> None:
    synthesize(request_, open_fake)
    manifest = open_cohort(request_.out).manifest
    assert manifest.description.startswith("330 synthetic patients (")
    assert "Whether one is a copy of a real patient was not looked for" in manifest.description
    assert manifest.plan["num_patients"] == 330
    assert manifest.checkpoint_sha256 == open_fake(request_.checkpoint or Path()).sha256
    assert {"healthgym", "torch", "numpy", "python"} <= set(manifest.software)
    assert [record.patients for record in manifest.shards] == [50] * 6 + [30]


# --- going on ------------------------------------------------------------------------------------


def test_finished_shards_are_skipped_and_altered_ones_made_again(
    request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize(request_, open_fake)
    before = content(request_.out)
    assert synthesize(request_, open_fake).patients_made == 0
    altered = request_.out / "shards" / "shard-00004.h5"
    damaged = bytearray(altered.read_bytes())
    damaged[2000] ^= 16
    altered.write_bytes(damaged)
    (request_.out / "shards" / "shard-00006.h5").unlink()
    (request_.out / "_receipts" / "shard-00001.json").unlink()
    again = synthesize(request_, open_fake)
    assert (again.state, again.patients_made) == ("complete", 50 + 30 + 50)
    assert content(request_.out) == before


def test_a_stop_between_batches_is_carried_on(
    request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize(elsewhere(request_, "undisturbed"), open_fake)
    begin, calls = FakeSystem.begin_sample, 0

    def begin_and_stop(self: FakeSystem, *arguments: Any) -> Making:
        nonlocal calls
        calls += 1
        if calls == 10:
            stopping.request("SIGUSR2")
        return begin(self, *arguments)

    monkeypatch.setattr(FakeSystem, "begin_sample", begin_and_stop)
    outcome = synthesize(request_, open_fake)
    assert (outcome.state, outcome.exit_status) == ("interrupted", 85)
    assert calls == 10
    assert 0 < outcome.shards_finished < 7
    assert "Stopped on a signal; " in str(outcome)
    assert not (request_.out / "_manifest.json").exists()
    stopping.clear()
    assert synthesize(request_, open_fake).exit_status == 0
    assert content(request_.out) == content(elsewhere(request_, "undisturbed").out)


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGUSR1, 1),
        *(pytest.param(n, 2, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGINT)),
    ],
)
def test_a_signal_to_all_processes_stops_and_the_same_command_resumes(
    request_: SynthesisRequest, number: signal.Signals, workers: int
) -> None:
    assert request_.checkpoint is not None
    write_fake(request_.checkpoint, delay=0.05)
    slow = request_.model_copy(update={"workers": workers})
    process = drive(slow, start_new_session=True)
    wait_for(slow.out / "_receipts" / "shard-00000.json")
    os.killpg(process.pid, number)  # as a scheduler does
    said, complained = process.communicate(timeout=60)
    assert process.returncode == stopping.INTERRUPTED, complained
    assert "Give the same command to resume" in said
    alone = slow.model_copy(update={"workers": 1})
    synthesize(alone, open_fake)
    synthesize(elsewhere(alone, "undisturbed"), open_fake)
    assert content(slow.out) == content(elsewhere(slow, "undisturbed").out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2])
def test_a_signal_while_workers_start_is_honoured(request_: SynthesisRequest, number: signal.Signals) -> None:
    process = drive(request_.model_copy(update={"workers": 3}), start_new_session=True)
    deadline = time.monotonic() + 60
    while not any("spawn_main" in name for name in children(process.pid).values()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, complained = process.communicate(timeout=60)
    assert process.returncode == stopping.INTERRUPTED, complained


def children(pid: int) -> dict[int, str]:
    """Return {number: command line} of a process's children."""
    try:
        numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {int(number): Path(f"/proc/{number}/cmdline").read_text() for number in numbers}
    except OSError:  # one has ended in the meantime
        return {}


def kill_at_random(request: SynthesisRequest, times: int, longest: float) -> int:
    """SIGKILL the parent process at random moments; return how often it was alive to be killed."""
    draw, killed = random.Random(1), 0
    for _ in range(times):
        process = drive(request, start_new_session=True)
        time.sleep(draw.uniform(0.2, longest))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    return killed


def test_killed_at_random_moments_it_ends_with_the_same_bytes(request_: SynthesisRequest) -> None:
    assert request_.checkpoint is not None
    write_fake(request_.checkpoint, delay=0.01)
    assert kill_at_random(request_, 3, 3.0) >= 1
    synthesize(request_, open_fake)
    synthesize(elsewhere(request_, "undisturbed"), open_fake)
    assert content(request_.out) == content(elsewhere(request_, "undisturbed").out)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_many_times_it_ends_with_the_same_bytes(request_: SynthesisRequest, kills: int) -> None:
    assert request_.checkpoint is not None
    write_fake(request_.checkpoint, delay=0.02)
    long = request_.model_copy(update={"patients": 400 * kills, "workers": 2})
    synthesize(elsewhere(long, "undisturbed"), open_fake)
    undisturbed = content(elsewhere(long, "undisturbed").out)
    draw, killed, finished, current = random.Random(1), 0, 0, long
    while killed < kills:
        process = drive(current, start_new_session=True)
        time.sleep(draw.uniform(0.2, 6.0))
        killed += process.poll() is None
        process.kill()
        process.communicate()
        if process.returncode == 0:  # it was done before the kill: on to another cohort
            assert content(current.out) == undisturbed
            finished += 1
            current = elsewhere(long, f"another-{finished}")
    synthesize(current, open_fake)
    assert content(current.out) == undisturbed


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(request_: SynthesisRequest) -> None:
    assert request_.checkpoint is not None
    write_fake(request_.checkpoint, delay=0.2)
    process = drive(request_.model_copy(update={"workers": 2}))
    wait_for(request_.out / "_receipts" / "shard-00000.json")
    born = children(process.pid)
    assert len(born) >= 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in born):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_dead_worker_is_an_error_and_finished_shards_stay(request_: SynthesisRequest) -> None:
    assert request_.checkpoint is not None
    write_fake(request_.checkpoint, delay=0.1)
    two = request_.model_copy(update={"workers": 2})
    process = drive(two)
    wait_for(two.out / "_receipts" / "shard-00000.json")
    worker = next(child for child, name in children(process.pid).items() if "spawn_main" in name)
    os.kill(worker, signal.SIGKILL)
    _, complained = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "died with signal 9; lack of memory is the usual cause" in complained
    synthesize(two.model_copy(update={"workers": 1}), open_fake)
    assert open_cohort(two.out).num_patients == 330


def test_racing_manifest_writers_do_no_harm(
    request_: SynthesisRequest,
) -> None:
    synthesize(request_, open_fake)
    (request_.out / "_manifest.json").unlink()
    barrier, states = threading.Barrier(6), []

    def finish(number: int) -> None:
        barrier.wait()
        states.append(synthesize(request_.model_copy(update={"task": f"{number}/6"}), open_fake).state)

    threads = [threading.Thread(target=finish, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == ["complete"] * 6
    open_cohort(request_.out).verify()
    assert not list(request_.out.glob(".*"))


@pytest.mark.slow
def test_two_processes_making_the_same_shards_do_no_harm(request_: SynthesisRequest) -> None:
    processes = [drive(request_) for _ in range(2)]
    for process in processes:
        said, complained = process.communicate(timeout=60)
        assert process.returncode == 0, complained
        assert "Cohort complete" in said
    open_cohort(request_.out).verify()


def test_a_file_swept_away_while_it_is_written_is_written_again(
    request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls, failing = shards_module.write_bytes, 0, {1, 4, 5}

    def swept(path: Path, written: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls in failing:
            raise FileNotFoundError(2, "No such file or directory")
        write(path, written)

    monkeypatch.setattr(shards_module, "write_bytes", swept)
    assert synthesize(request_, open_fake).state == "complete"
    assert calls == 7 + 3
    failing = set(range(calls + 1, calls + 100))  # each try of the first shard
    with pytest.raises(CohortError, match=r"Cannot write .*shard-00000\.h5: there is no such file"):
        synthesize(elsewhere(request_, "other"), open_fake)


# --- errors --------------------------------------------------------------------------------------


def test_a_full_disk_is_a_sentence(request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("healthgym.storage.shards.write_bytes", full)
    with pytest.raises(
        CohortError, match=r"Cannot write .*shard-00000\.h5: no space is left there\. Free some"
    ):
        synthesize(request_, open_fake)


def test_a_write_that_the_system_cuts_short_leaves_nothing_and_is_made_good(
    request_: SynthesisRequest,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(
            CohortError,
            match=r"Cannot write .*shard-00000\.h5: the file would be larger than the limit.*Raise",
        ):
            synthesize(request_, open_fake)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((request_.out / "shards").iterdir())
    assert synthesize(request_, open_fake).state == "complete"
    open_cohort(request_.out).verify()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a place where nobody can make a folder")
def test_a_folder_that_cannot_be_made_is_a_sentence(request_: SynthesisRequest) -> None:
    nowhere = Path("/proc/nope")
    with pytest.raises(CohortError, match=r"Cannot begin a cohort in /proc/nope: .*Check the path"):
        synthesize(request_.model_copy(update={"out": nowhere}), open_fake)


def test_a_folder_that_cannot_be_written_is_a_sentence(request_: SynthesisRequest) -> None:
    request_.out.write_text("a file where the folder should be")
    with pytest.raises(CohortError, match=r"Cannot begin a cohort in .*exists already. Choose another path"):
        synthesize(request_, open_fake)


@pytest.mark.slow
def test_errors_in_a_worker_process_reach_the_user(request_: SynthesisRequest) -> None:
    (request_.out / "shards").parent.mkdir()
    two = request_.model_copy(update={"workers": 2})
    synthesize(elsewhere(two, "other", patients=60), open_fake)
    shutil.copy(elsewhere(two, "other").out / "_plan.json", two.out / "_plan.json")
    (two.out / "shards").write_text("a file where the folder should be")
    with pytest.raises(CohortError, match=r"Cannot write .*shard-0000[01]\.h5: "):
        synthesize(two.model_copy(update={"patients": 60}), open_fake)


def test_a_checkpoint_must_be_named_and_be_there(request_: SynthesisRequest, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="No trained system is given: give --run-dir FOLDER or --checkpoint"
    ):
        find_checkpoint(request_.model_copy(update={"checkpoint": None}), None)
    with pytest.raises(StorageError, match="holds no checkpoint: check --checkpoint"):
        find_checkpoint(request_.model_copy(update={"checkpoint": tmp_path}), None)


def test_the_device_is_that_of_the_cohort_begun(
    request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = make_plan(request_, "a" * 64, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device(request_, begun) == "cpu"
    assert find_device(request_, None) == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device(request_, None) == "cpu"
    with pytest.raises(CohortError, match="is to be made on a CUDA device and there is none here"):
        find_device(request_, begun.model_copy(update={"device": "cuda"}))


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_the_cohort(request_: SynthesisRequest, workers: int) -> None:
    peaks = []
    for patients in (2_000, 20_000):
        sized = elsewhere(
            request_,
            f"c{patients}",
            patients=patients,
            patients_per_shard=500,
            batch_size=250,
            workers=workers,
        )
        said, complained = drive(sized).communicate(timeout=300)
        assert "peak KiB" in said, complained
        peaks.append([int(number) for number in said.split("peak KiB:")[1].split()])
    for small, large in zip(*peaks, strict=True):
        assert large <= 1.05 * small


def wait_for(path: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


@pytest.mark.parametrize(("device", "ahead"), [("cpu", 0), ("cuda", 1)])
def test_a_gpu_begins_with_the_next_batch_before_one_is_read(
    request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch, device: str, ahead: int
) -> None:
    source, events = open_fake(request_.checkpoint or Path()), list[str]()
    plan, system = make_plan(request_, source.sha256, "cpu"), source.build("cpu", ())
    expected = [compute_shard(source, system, plan, index) for index in (3, 5)]
    begin = FakeSystem.begin_sample

    def noted(self: FakeSystem, *arguments: Any) -> Making:
        events.append("begin")
        finish = begin(self, *arguments)
        return lambda: (events.append("read"), finish())[1]

    monkeypatch.setattr(FakeSystem, "begin_sample", noted)
    monkeypatch.setattr(system, "device", SimpleNamespace(type=device))
    found = list(compute_shards(source, system, plan, [3, 5]))
    assert [index for index, _ in found] == [3, 5]
    for computed, (_, own) in zip(expected, found, strict=True):
        assert computed is not None
        assert encoded(pack_shard(source, plan, 3, own)) == encoded(pack_shard(source, plan, 3, computed))
    assert len(events) > 8
    begun = [events[:place].count("begin") for place, event in enumerate(events) if event == "read"]
    assert begun == [min(read + ahead, len(begun)) for read in range(1, len(begun) + 1)]
    # Stopped after two batches of the second shard, only the first is there.
    batches = len(expected[0].parts) if expected[0] else 0
    stops = iter([False] * (batches + 2))
    found = list(compute_shards(source, system, plan, [3, 5], lambda: next(stops, True)))
    assert [index for index, _ in found] == [3]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_finished_shard_is_not_lost_if_the_next_one_fails(
    request_: SynthesisRequest, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    source = open_fake(request_.checkpoint or Path())
    plan, system = make_plan(request_, source.sha256, "cpu"), source.build("cpu", ())
    only = compute_shard(source, system, plan, 3)
    assert only is not None
    begin, begun = FakeSystem.begin_sample, count()

    def fails_at_the_next_shard(self: FakeSystem, *arguments: Any) -> Making:
        if next(begun) == len(only.parts):
            raise SamplingError("nobody is accepted")
        return begin(self, *arguments)

    monkeypatch.setattr(FakeSystem, "begin_sample", fails_at_the_next_shard)
    monkeypatch.setattr(system, "device", SimpleNamespace(type=device))
    shards = compute_shards(source, system, plan, [3, 5])
    assert next(shards)[0] == 3
    with pytest.raises(SamplingError, match="nobody"):
        next(shards)
