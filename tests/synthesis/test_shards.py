"""The cohort folder: receipts, manifest, reading, and detection of damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_system import open_fake, write_fake

from healthgym.errors import CohortError
from healthgym.storage.shards import (
    finished_shard,
    open_cohort,
    read_receipt,
    receipt_path,
    remove_left_overs,
)
from healthgym.synthesis.cohort import SynthesisRequest, synthesize


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    checkpoint = write_fake(folder / "fake.json", lengths={"3": 1, "8": 1})
    request = SynthesisRequest(
        checkpoint=checkpoint, out=folder / "cohort", patients=70, patients_per_shard=20, workers=1
    )
    assert synthesize(request, open_fake).state == "complete"
    return request.out


@pytest.fixture
def cohort(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "cohort"))


def change_manifest(cohort: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    content = json.loads((cohort / "_manifest.json").read_text())
    change(content)
    (cohort / "_manifest.json").write_text(json.dumps(content))


def test_reader_gives_every_patient_in_order(cohort: Path) -> None:
    reader = open_cohort(cohort)
    frames = list(reader.iter_frames())
    assert [frame["PatientID"].nunique() for frame in frames] == [20, 20, 20, 10]
    everything = reader.read()
    assert everything["PatientID"].unique().tolist() == list(range(70))
    assert (reader.num_patients, reader.num_rows) == (70, len(everything))
    assert everything["Gender"].dtype == frames[0]["Gender"].dtype


@pytest.mark.parametrize("wanted", [1, 20, 21, 69, 70, 500])
def test_reading_some_patients_reads_the_first_ones(cohort: Path, wanted: int) -> None:
    part, everything = open_cohort(cohort).read(wanted), open_cohort(cohort).read()
    expected = everything[everything["PatientID"] < wanted]
    assert part["PatientID"].nunique() == min(wanted, 70)
    np.testing.assert_array_equal(part["Load"], expected["Load"])


def test_missing_and_altered_shards_are_named(cohort: Path) -> None:
    open_cohort(cohort).verify()
    (cohort / "shards" / "shard-00002.h5").unlink()
    flip_byte(cohort / "shards" / "shard-00001.h5")
    with pytest.raises(CohortError, match=r"1 of 4 shards are missing: shards/shard-00002\.h5; ") as error:
        open_cohort(cohort).verify()
    assert "1 of 4 shards do not match their checksum: shards/shard-00001.h5" in str(error.value)
    with pytest.raises(CohortError, match=r"do not match their checksum: shards/shard-00001\.h5"):
        open_cohort(cohort).read()
    frames = open_cohort(cohort).iter_frames(verify=False)
    next(frames)


def test_every_flipped_byte_is_noticed(cohort: Path) -> None:
    path, plan = cohort / "shards" / "shard-00003.h5", json.loads(receipt_path(cohort, 3).read_text())["plan"]
    size = path.stat().st_size
    for place in {0, size - 1, *np.random.default_rng(0).integers(0, size, 40).tolist()}:
        assert finished_shard(cohort, 3, plan, 10) is not None
        flip_byte(path, place)
        assert finished_shard(cohort, 3, plan, 10) is None
        flip_byte(path, place)


def test_a_receipt_of_another_plan_shard_or_form_does_not_count(cohort: Path) -> None:
    path = receipt_path(cohort, 1)
    content = json.loads(path.read_text())
    assert read_receipt(cohort, 1, content["plan"], 20) is not None
    assert read_receipt(cohort, 1, "0" * 64, 20) is None
    assert read_receipt(cohort, 1, content["plan"], 19) is None
    shutil.copy(receipt_path(cohort, 2), path)
    assert read_receipt(cohort, 1, content["plan"], 20) is None
    for damaged in ("", "{}", "[]", json.dumps(content)[:-9], json.dumps(content | {"shard": 2})):
        path.write_text(damaged)
        assert read_receipt(cohort, 1, content["plan"], 20) is None


@pytest.mark.parametrize(
    "name", ["../secret.h5", "/etc/passwd", "shards/../../x.h5", "shards/shard-00000.h5\n"]
)
def test_a_manifest_cannot_point_outside_its_folder(cohort: Path, name: str) -> None:
    change_manifest(cohort, lambda content: content["shards"][0].update(file=name))
    with pytest.raises(CohortError, match=r"shards\.0\.file: String should match pattern"):
        open_cohort(cohort)


def test_totals_must_agree(cohort: Path) -> None:
    change_manifest(cohort, lambda content: content.update(num_patients=71))
    with pytest.raises(CohortError, match="says 71 patients, but its shards have 70"):
        open_cohort(cohort)


def test_unfinished_foreign_and_damaged_folders_get_a_sentence(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match=r"is not a synthetic cohort: it has no _manifest\.json"):
        open_cohort(tmp_path / "empty")
    (cohort / "_manifest.json").write_text("[1]")
    with pytest.raises(CohortError, match="num_patients: is required and missing"):
        open_cohort(cohort)
    (cohort / "_manifest.json").write_text("{")
    with pytest.raises(CohortError, match=r"Cannot read .*manifest\.json"):
        open_cohort(cohort)
    (cohort / "_manifest.json").unlink()
    with pytest.raises(
        CohortError, match=r"is not complete: it has no _manifest\.json, and 4 shards are finished"
    ):
        open_cohort(cohort)


def test_left_overs_of_some_shards_are_removed(cohort: Path) -> None:
    for name in (".shard-00001.h5.ab.tmp", ".shard-00002.h5.cd.tmp"):
        (cohort / "shards" / name).write_bytes(b"")
    remove_left_overs(cohort, shards=[1, 3])
    assert [path.name for path in (cohort / "shards").glob(".*")] == [".shard-00002.h5.cd.tmp"]
    remove_left_overs(cohort)
    assert not list((cohort / "shards").glob(".*"))


def flip_byte(path: Path, place: int = 1000) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
