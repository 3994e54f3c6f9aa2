"""All stages as one submission, with stand-ins for the programs of Slurm."""

import json
import re
import shutil
from pathlib import Path

import pytest
import tiny
from fake_slurm import FakeSlurm
from full_disk import Disk

from healthgym.errors import HealthgymError, LaunchError, StorageError
from healthgym.launch.pipeline import Pipeline, show_pipeline, submit_pipeline
from healthgym.launch.programs import ended
from healthgym.launch.records import submissions_folder

ROOT = Path(__file__).parents[2]
DISK = Disk()
STAGES = ("prepare", "train", "synthesize", "evaluate")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm whose sbatch counts up from 41."""
    tmp_path.chmod(0o755)
    fake = FakeSlurm(tmp_path / "bin", monkeypatch)
    for name in ("srun", "scontrol", "squeue", "sacct", "sbatch"):
        fake.says(name)
    count = tmp_path / "count"
    count.write_text("41")
    (fake.folder / "sbatch").write_text(
        f'#!/bin/sh\n[ "$1" = --test-only ] && {{ echo trial >>{tmp_path}/trials; exit 0; }}\n'
        f'n=$(cat {count}); echo $((n + 1)) >{count}; echo "Submitted batch job $n"\n'
    )
    return fake


@pytest.fixture
def pipeline(slurm: FakeSlurm, tmp_path: Path) -> Path:
    (tmp_path / "cpu.yaml").write_text('time: "60"\nnode_local: []\n')
    (tmp_path / "array.yaml").write_text('time: "60"\nnode_local: []\narray: {tasks: 2}\n')
    work = tmp_path / "work"
    path = tmp_path / "pipeline.yaml"
    cpu, schema = f"resources: {tmp_path}/cpu.yaml", f"schema_path: {ROOT}/configs/schemas/art_hiv.yaml"
    data = f"{work}/prepared.h5"
    stages = {
        "prepare": [cpu, schema, "dataset: simulated_art_hiv", f"out: {data}"],
        "train": [cpu, f"config: {ROOT}/configs/demo.yaml", f"run_dir: {work}/run", f"set: [data={data}]"],
        "synthesize": [
            f"resources: {tmp_path}/array.yaml",
            f"run_dir: {work}/run",
            f"out: {work}/cohort",
            "patients: 9000",
        ],
        "evaluate": [
            cpu,
            schema,
            f"real: {data}",
            f"synthetic: {work}/cohort",
            f"out: {work}/report",
            f"config: {ROOT}/configs/report.yaml",
        ],
    }
    path.write_text("".join(f"{name}: {{{', '.join(words)}}}\n" for name, words in stages.items()))
    return path


def targets(tmp_path: Path) -> dict[str, Path]:
    work = tmp_path / "work"
    return dict(
        zip(STAGES, (work / "prepared.h5", work / "run", work / "cohort", work / "report"), strict=True)
    )


def dependency(target: Path) -> str | None:
    """Return the dependencies of the newest batch script for a target."""
    scripts = submissions_folder(target).glob("*/*_submission.sh")
    newest = max(scripts, key=lambda path: path.stat().st_mtime_ns).read_text()
    found = re.search(r"--dependency=(\S+)", newest)
    assert bool(found) == ("--kill-on-invalid-dep=yes" in newest)
    return found[1] if found else None


def finish(target: Path) -> None:
    """Let all jobs of the newest submission say that they have finished, and the target be there."""
    if not target.exists():
        target.write_bytes(b"")
    newest = max(
        submissions_folder(target).glob("*/submission.json"), key=lambda path: path.stat().st_mtime_ns
    )
    for number in json.loads(newest.read_text())["places"]:
        (newest.parent / f"state-{number}.json").write_text('{"state": "finished", "message": ""}')


def test_each_stage_waits_for_the_one_before(pipeline: Path, tmp_path: Path) -> None:
    assert submit_pipeline(pipeline) == ["41", "42", "43", "44"]
    waits = [dependency(target) for target in targets(tmp_path).values()]
    assert waits == [None, "afterok:41", "afterok:42", "afterok:43"]


def test_a_file_that_was_deleted_is_made_again(pipeline: Path, tmp_path: Path) -> None:
    submit_pipeline(pipeline)
    for target in targets(tmp_path).values():
        finish(target)
    assert submit_pipeline(pipeline) == []
    targets(tmp_path)["prepare"].unlink()
    assert submit_pipeline(pipeline) == ["45", "46", "47", "48"]


def test_submitting_again_resumes(slurm: FakeSlurm, pipeline: Path, tmp_path: Path) -> None:
    submit_pipeline(pipeline)
    folders = targets(tmp_path)
    finish(folders["prepare"])
    [said] = [json.loads(path.read_text()) for path in folders["train"].glob("submissions/*/submission.json")]
    slurm.says("squeue", f"{said['name']}|42|RUNNING|n1\n")  # the rest was cancelled
    assert submit_pipeline(pipeline) == ["45", "46"]
    assert dependency(folders["synthesize"]) == "afterok:42"
    assert dependency(folders["evaluate"]) == "afterok:45"


def test_stages_recorded_by_earlier_versions_are_done(pipeline: Path, tmp_path: Path) -> None:
    submit_pipeline(pipeline)
    for target in targets(tmp_path).values():
        finish(target)
        [record] = submissions_folder(target).glob("*/submission.json")
        said = json.loads(record.read_text())
        record.write_text(json.dumps(said | {"work": said["work"].replace(", task='')", ", place='')")}))
    assert submit_pipeline(pipeline) == []


def test_on_a_full_disk_no_job_is_queued_without_its_record(
    slurm: FakeSlurm, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cancelled = tmp_path / "cancelled"
    cancelled.mkdir()
    slurm.says("scancel")  # and then a script that needs no room to note its call
    (slurm.folder / "scancel").write_text(f"#!/bin/sh\nmkdir {cancelled}/$1\n")
    whole, wanted = tmp_path / "work", targets(tmp_path).values()

    def forget() -> None:
        for target in wanted:
            shutil.rmtree(submissions_folder(target), ignore_errors=True)

    def numbers(folder: Path) -> dict[str, str]:
        return json.loads((folder / "submission.json").read_text())["places"]

    with DISK.watching(whole):
        submit_pipeline(pipeline)
    for full_from in range(len(DISK.opened)):
        forget()
        first = int((tmp_path / "count").read_text())
        capsys.readouterr()
        with DISK.watching(whole, full_from):
            assert ended(lambda: len(submit_pipeline(pipeline))) == 1
        said = capsys.readouterr().err
        assert "error: Cannot " in said, said
        assert "the file would be larger" in said, said
        folders = [folder for target in wanted for folder in submissions_folder(target).glob("*")]
        recorded = {number.partition("_")[0] for folder in folders for number in numbers(folder)}
        queued = {str(number) for number in range(first, int((tmp_path / "count").read_text()))}
        taken_back = {path.name for path in cancelled.iterdir()} & queued
        assert recorded.isdisjoint(taken_back)
        assert recorded | taken_back == queued
    assert any(cancelled.iterdir())  # there was no room for a record
    forget()
    assert len(submit_pipeline(pipeline)) == 4


def test_a_job_that_has_no_record_and_cannot_be_cancelled_is_named(
    slurm: FakeSlurm, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("Cannot write the record: no space is left.")

    slurm.says("scancel", status=1)
    monkeypatch.setattr("healthgym.launch.submission.write_json", full)
    with pytest.raises(LaunchError, match=r"no space is left\. Job 41 is queued .*by scancel 41 before"):
        submit_pipeline(pipeline)


def test_when_all_is_done_nothing_is_submitted(pipeline: Path, tmp_path: Path) -> None:
    submit_pipeline(pipeline)
    for target in targets(tmp_path).values():
        finish(target)
    assert submit_pipeline(pipeline) == []


def test_a_changed_stage_and_all_after_it_are_done_again(pipeline: Path, tmp_path: Path) -> None:
    submit_pipeline(pipeline)
    for target in targets(tmp_path).values():
        finish(target)
    tiny.cohort(tmp_path / "work")  # what the finished stage had made
    pipeline.write_text(
        pipeline.read_text().replace(
            "set: [", "set: [training.epochs=77, curriculum.lengths=auto, curriculum.batch_size=8, "
        )
    )
    assert submit_pipeline(pipeline) == ["45", "46", "47"]
    assert dependency(targets(tmp_path)["train"]) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("patients: 9000", "patients: 0", "synthesize.patients"),
        ("patients: 9000", "patient: 9000", r"synthesize.patient: unknown key \(did you mean 'patients'\?\)"),
        ("set: [", "set: [training.epoch=7, ", "training.epoch: unknown key"),
        ("cpu.yaml, schema_path", "none.yaml, schema_path", "Cannot read .*none.yaml"),
        ("configs/report.yaml", "configs/none.yaml", "Cannot read .*none.yaml"),
    ],
)
def test_nothing_is_queued_if_any_stage_is_wrong(
    pipeline: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in pipeline.read_text()
    pipeline.write_text(pipeline.read_text().replace(old, new))
    with pytest.raises(HealthgymError, match=said):
        submit_pipeline(pipeline)
    assert (tmp_path / "count").read_text() == "41"


def test_every_stage_is_tried_out_before_the_first_is_queued(
    pipeline: Path, slurm: FakeSlurm, tmp_path: Path
) -> None:
    (slurm.folder / "sbatch").write_text(
        '#!/bin/sh\ngrep -q synthesize "$2" && { echo "Invalid qos specification" >&2; exit 1; }\nexit 0\n'
    )
    with pytest.raises(
        HealthgymError, match=r"Invalid qos specification\nLook at the key qos in .*array\.yaml"
    ):
        submit_pipeline(pipeline)
    assert not any(submissions_folder(target).exists() for target in targets(tmp_path).values())


def test_no_stage(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("{}")
    with pytest.raises(HealthgymError, match="The pipeline has no stage"):
        submit_pipeline(tmp_path / "p.yaml")


def test_a_dry_run_shows_all(pipeline: Path, tmp_path: Path) -> None:
    shown = show_pipeline(pipeline)
    assert shown.count("#!/bin/bash") == 4
    assert "afterok:NUMBER_OF_SYNTHESIZE" in shown
    assert not (tmp_path / "work").exists()


def test_the_shipped_example(monkeypatch: pytest.MonkeyPatch) -> None:
    from healthgym.strict import load

    monkeypatch.chdir(ROOT)
    jobs = load(Pipeline, Path("slurm/pipeline.yaml")).jobs()
    assert [job.kind for job, _ in jobs] == list(STAGES)
    assert all(on.exists() for _, on in jobs)
