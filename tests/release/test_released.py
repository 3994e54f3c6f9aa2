"""Files of released versions stay readable, and their work can be resumed.

tests/data/released/VERSION has a prepared cohort, checkpoints, the plan and shards of a cohort in both
formats, a report, and a release with its card, all of the tiny schema, and in facts.json what that version
read in them. `write_released.py` writes them once for each release. 0.1.0.dev0 is a development version
before the first release, whose cohorts have other names of files and an older plan.
"""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import write_released

from healthgym.data.sequences import PreparedCohort
from healthgym.errors import CohortError
from healthgym.release.card import read_report
from healthgym.release.trained import find_trained
from healthgym.storage.checkpoint import load_checkpoint, read_checkpoint
from healthgym.storage.shards import open_cohort
from healthgym.strict import parse
from healthgym.synthesis.cohort import Outcome, SynthesisRequest, synthesize
from healthgym.synthesis.plan import SynthesisPlan
from healthgym.training.run import train

RELEASED = Path(__file__).parents[1] / "data" / "released"
VERSIONS = sorted(path for path in RELEASED.iterdir() if path.is_dir())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a version's files."""
    return Path(shutil.copytree(request.param, tmp_path / "files"))


def facts(files: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files / "facts.json").read_text())
    return found


def columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the mean of each real variable, and how often each class occurs, to be compared."""
    found = write_released.columns(frame)
    return {
        name: pytest.approx(value, abs=2e-4) if isinstance(value, float) else value
        for name, value in found.items()
    }


def made(checkpoint: Path, out: Path, patients: int = 60, form: str = "hdf5") -> Outcome:
    """Ask for the cohort that a version made, or another."""
    wanted = {"checkpoint": checkpoint, "out": out, "patients": patients, "patients_per_shard": 30}
    return synthesize(parse(SynthesisRequest, wanted | {"file_format": form, "workers": 1}, "the test"))


def test_there_are_files_of_every_version() -> None:
    assert [path.name for path in VERSIONS] == ["0.1.0", "0.1.0.dev0"]


def test_a_prepared_cohort(files: Path) -> None:
    cohort, expected = PreparedCohort.open(files / "prepared.h5"), facts(files)["prepared"]
    assert cohort.fingerprint == expected["fingerprint"]
    assert cohort.train.num_patients == expected["training_patients"]
    assert cohort.holdout.num_patients == expected["holdout_patients"]
    assert expected["columns"] == columns(cohort.frame("train"))


def test_training_resumes_from_a_checkpoint(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)  # where the settings look for prepared.h5
    checkpoint, expected = load_checkpoint(files / "checkpoint.h5"), facts(files)["checkpoint"]
    assert (checkpoint.progress.step, checkpoint.schema.name) == (expected["step"], expected["schema"])
    target = files / "run" / "checkpoints" / f"step-{expected['step']:09d}.h5"
    target.parent.mkdir(parents=True)
    shutil.copy(files / "checkpoint.h5", target)
    longer = checkpoint.config.training.model_copy(update={"epochs": checkpoint.config.training.epochs + 1})
    log = io.StringIO()
    assert train(files / "run", checkpoint.config.model_copy(update={"training": longer}), log)
    assert f"resuming from step {expected['step']}" in log.getvalue()
    assert load_checkpoint(files / "run").progress.step > expected["step"]


def test_trained_systems_make_patients(files: Path, tmp_path: Path) -> None:
    trained = [*files.glob("checkpoint*.h5"), files / "release.h5"]
    assert len(trained) >= 2
    for path in trained:
        out = tmp_path / path.stem
        assert made(path, out, 40).state == "complete"
        assert open_cohort(out).num_patients == 40
        assert read_checkpoint(path).released == (path.stem == "release")


@pytest.mark.parametrize("form", ["hdf5", "parquet"])
def test_a_cohort(files: Path, form: str) -> None:
    cohort = files / f"cohort-{form}"
    reader = open_cohort(cohort)
    reader.verify()
    assert facts(files)[cohort.name] == columns(reader.read())
    assert (reader.manifest.plan["num_patients"], reader.manifest.plan["file_format"]) == (60, form)
    if reader.manifest.plan["form"] == SynthesisPlan.model_fields["form"].default:
        again = made(files / "checkpoint.h5", cohort, form=form)
        assert (again.state, again.patients_made) == ("complete", 0)
    else:  # lengths are drawn otherwise by now
        with pytest.raises(CohortError, match=r"format 2, .* makes format 4.* read it as it is"):
            made(files / "checkpoint.h5", cohort, form=form)


def test_a_report_and_a_card(files: Path) -> None:
    assert read_report(files / "report.json")["title"] == "tiny"
    card = json.loads((files / "release.json").read_text())
    assert card["kind"] == "healthgym release card"
    _, released = find_trained(files / "release.h5")
    assert released.sha256 == card["sha256"]["release"]
