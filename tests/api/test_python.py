"""`import healthgym as hg`: data frames in, data frames and verdicts out."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

import healthgym as hg
from healthgym import stopping
from healthgym.errors import ConfigError, StorageError, TableError
from healthgym.storage.checkpoint import read_checkpoint
from healthgym.synthesis.cohort import SynthesisRequest, synthesize

SMALL = {"width": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 6, "embedding_dim": 3}
SETTINGS = {f"system.{name}": value for name, value in SMALL.items()} | {
    "training.epochs": 1,
    "training.seed": 5,
    "training.threads": 1,
    "curriculum.batch_size": 16,
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> hg.PreparedCohort:
    folder = tmp_path_factory.mktemp("api")
    table = tiny.table(num_patients=160, ragged=True).assign(
        x=lambda t: t["x"].round(1), y=lambda t: t["y"].round()
    )
    return hg.prepare(table, tiny.SCHEMA, folder / "prepared.h5")


@pytest.fixture(scope="module")
def run(cohort: hg.PreparedCohort) -> hg.Run:
    return hg.train(cohort, "ar", cohort.path.parent / "run", settings=SETTINGS)


def test_the_package_imports_at_once() -> None:
    program = (
        "import sys, healthgym; print(sorted({'torch', 'pandas', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented() -> None:
    assert set(hg.__all__) <= set(dir(hg))
    for name in hg.__all__:
        value = getattr(hg, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value) and value.__module__.startswith("healthgym.api"):
            text = inspect.getdoc(value) or ""
            assert [p for p in inspect.signature(value).parameters if f"{p}:" not in text] == []
            assert "Raises:" in text
    with pytest.raises(AttributeError, match="module 'healthgym' has no attribute 'sampel'"):
        getattr(hg, "sampel")  # noqa: B009


def test_a_data_frame_is_prepared_once(cohort: hg.PreparedCohort, tmp_path: Path) -> None:
    table = tiny.table(num_patients=30)
    out = tmp_path / "a.h5"
    first = hg.prepare(table, tiny.SCHEMA, out)
    written = out.stat().st_mtime_ns
    again = hg.prepare(table.copy(), tiny.SCHEMA, str(out))
    assert (again.fingerprint, out.stat().st_mtime_ns) == (first.fingerprint, written)
    assert repr(again).startswith(f"PreparedCohort('{out}': 26 patients to train on, 4 held out, 180 rows")
    other = table.assign(x=table["x"] + 1)
    with pytest.raises(StorageError, match=r"was prepared differently \(table: data frame [0-9a-f]+ -> data"):
        hg.prepare(other, tiny.SCHEMA, out)
    assert hg.prepare(other, tiny.SCHEMA, out, overwrite=True).fingerprint != first.fingerprint
    with pytest.raises(TableError, match="the data frame"):
        hg.prepare(table.drop(columns="x"), tiny.SCHEMA, tmp_path / "b.h5")


def test_a_schema_may_be_a_mapping_and_a_table_a_path(tmp_path: Path) -> None:
    tiny.table(num_patients=30).to_csv(tmp_path / "t.csv", index=False)
    values = {
        "name": "mine",
        "variables": [
            {"name": "x", "kind": "real"},
            {"name": "sex", "kind": "binary", "classes": {1: "M", 2: "F"}},
        ],
    }
    cohort = hg.prepare(tmp_path / "t.csv", values, tmp_path / "a.h5", holdout=0.5)
    assert (cohort.schema.name, cohort.holdout.num_patients) == ("mine", 11)
    with pytest.raises(hg.HealthgymError, match="the schema: 1 problem"):
        hg.prepare(tmp_path / "t.csv", {"name": "mine"}, tmp_path / "b.h5")


def test_a_table_that_nobody_described_is_described_and_prepared(tmp_path: Path) -> None:
    table = tiny.table(num_patients=60).replace(
        {"sex": {1: "Male", 2: "Female"}, "drug": {0: "A", 1: "B", 2: "C"}}
    )
    found = hg.describe(table)
    assert {v.name: v.kind for v in found.schema.variables}["drug"] == "categorical"
    cohort = hg.prepare(table, found, tmp_path / "a.h5")
    assert cohort.schema == found.schema
    table.to_csv(tmp_path / "t.csv", index=False)
    again = hg.describe(tmp_path / "t.csv")
    assert again.schema.variables == found.schema.variables
    (tmp_path / "s.yaml").write_text(again.yaml)
    assert hg.load_schema(tmp_path / "s.yaml") == again.schema


def test_a_description_is_saved_but_not_over_one_that_was_corrected(tmp_path: Path) -> None:
    table, path = tiny.table(num_patients=60), tmp_path / "visits.yaml"
    found = hg.describe(table)
    found.save(path)
    found.save(path)
    assert hg.prepare(table, path, tmp_path / "p.h5").schema.fingerprint == found.schema.fingerprint
    path.write_text(found.yaml + "# corrected\n")
    with pytest.raises(StorageError, match="may have been edited"):
        found.save(path)
    found.save(path, overwrite=True)
    assert path.read_text() == found.yaml


def test_training_resumes(cohort: hg.PreparedCohort, run: hg.Run) -> None:
    steps = read_checkpoint(run.checkpoints[0]).progress.step
    assert repr(run) == f"Run('{run.path}': saved at step {steps:,})"
    assert {"step", "epoch", "length", "seconds"} <= set(run.metrics)
    longer = hg.train(cohort.path, "ar", run.path, settings=[*(f"{n}={v}" for n, v in SETTINGS.items()),
                                                           "training.epochs=2"])  # fmt: skip
    assert read_checkpoint(longer.checkpoints[0]).progress.step > steps
    with pytest.raises(ConfigError, match="was started with other settings"):
        hg.train(cohort, "ar", run.path, settings={**SETTINGS, "training.seed": 6})
    with pytest.raises(StorageError, match="is not a run folder"):
        hg.Run(run.path / "nowhere")


def test_patients_are_those_that_the_program_makes(run: hg.Run, tmp_path: Path) -> None:
    made = hg.sample(run, 40, seed=3)
    request = SynthesisRequest(
        run_dir=run.path, out=tmp_path / "c", patients=40, seed=3, workers=1, file_format="csv"
    )
    assert synthesize(request).state == "complete"
    written = pd.read_csv(tmp_path / "c" / "shards" / "shard-00000.csv")
    assert list(made) == list(written) == ["PatientID", "Timestep", "x", "sex", "y", "drug"]
    assert made["PatientID"].nunique() == 40
    assert (made["y"].dtype, made["sex"].dtype) == (np.int64, "category")
    for name in made:
        assert made[name].astype(str).tolist() == written[name].astype(str).tolist()
    assert made["x"].tolist() == made["x"].round(1).tolist()
    pd.testing.assert_frame_equal(hg.sample(run.path, 40, seed=3), made)


def test_patients_are_made_to_order(run: hg.Run) -> None:
    women = hg.sample(run, 30, where={"sex": "Female", "timesteps": (2, 3)})
    assert set(women["sex"]) == {"Female"}
    assert women.groupby("PatientID").size().between(2, 3).all()
    both = hg.sample(run.checkpoints[0], 30, where={"sex": ["Female", "Male"]})
    assert set(both["sex"]) == {"Female", "Male"}
    pd.testing.assert_frame_equal(
        hg.sample(run, 5, where=["sex=Male"]), hg.sample(run, 5, where={"sex": "Male"})
    )
    ends = hg.sample(run, 40, where={"timesteps": [(2, 3), 6]})
    assert set(ends.groupby("PatientID").size()) == {2, 3, 6}
    pd.testing.assert_frame_equal(hg.sample(run, 5, where=None), hg.sample(run, 5))
    pd.testing.assert_frame_equal(
        hg.sample(run, 5, where="sex=Male"), hg.sample(run, 5, where={"sex": "Male"})
    )
    with pytest.raises(ConfigError, match="Femal"):
        hg.sample(run, 5, where={"sex": "Femal"})
    with pytest.raises(ConfigError, match=r"^where: expected a dictionary such as .* not 5\."):
        hg.sample(run, 5, where=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^where: 'sex' has no value"):
        hg.sample(run, 5, where={"sex": []})


def test_an_interrupt_is_an_interrupt(run: hg.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from healthgym.synthesis import cohort as module

    def stop(*arguments: Any) -> None:
        stopping.request("SIGINT")

    monkeypatch.setattr(module, "work_here", stop)
    with pytest.raises(KeyboardInterrupt):
        hg.sample(run, 5)
    assert stopping.requested() is None


def test_a_cohort_is_judged_in_memory(cohort: hg.PreparedCohort, run: hg.Run, tmp_path: Path) -> None:
    patients = hg.sample(run, 60)
    quick = {"num_splits": 3, "min_patients": 20}
    found = hg.evaluate(cohort, patients, settings=quick)
    assert next(iter(found.verdicts)) == "Privacy"
    assert found.verdict in {"pass", "caution", "fail", "not judged"}
    assert {"section", "key", "value", "verdict", "threshold", "noise"} <= set(found.metrics)
    assert found.metrics["key"].is_unique
    assert all(svg.lstrip().startswith("<") for svg in found.plots.values())
    assert found.html.startswith("<!doctype html>")
    for title, verdict in found.verdicts.items():
        assert f"  {verdict}" in next(line for line in repr(found).splitlines() if title in line)
        assert f"<td>{verdict}</td>" in found._repr_html_()
    found.save(tmp_path / "report")
    assert (tmp_path / "report" / "report.html").read_text() == found.html
    train, holdout = cohort.frame("train"), cohort.frame("holdout")
    again = hg.evaluate(
        train, patients, holdout, schema=cohort.schema, settings=["num_splits=3", "min_patients=20"]
    )
    columns = ["key", "value", "verdict"]
    pd.testing.assert_frame_equal(again.metrics[columns], found.metrics[columns])
    with pytest.raises(ConfigError, match="evaluate needs `schema`"):
        hg.evaluate(train, patients)


def test_outside_a_notebook_the_verdicts_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from healthgym.evaluation.report import Report
    from healthgym.evaluation.result import Result, Section, Verdict

    bad = [Result(f"privacy.{n}", f"Attack <{n}>", "", "", verdict=Verdict.FAIL) for n in (1, 2)]
    well = Result("joint.pairs", "Pairs", "", "", verdict=Verdict.PASS)
    open_ = Result("joint.other", "Other", "", "", verdict=Verdict.NOT_JUDGED)
    sections = [
        Section("privacy", "Privacy", "", [well, *bad]),
        Section("joint", "Relations", "", [well, open_]),
        Section("use", "Use", "", [well, open_], essential=frozenset({"joint.other"})),
    ]
    report = Report("a cohort", {}, sections, {})
    hg.Evaluation(report).show()
    said = capsys.readouterr().out
    assert said.splitlines()[:4] == [
        "Evaluation of a cohort: fail",
        "  Privacy    fail        Attack <1> and 1 more",
        "  Relations  pass",
        "  Use        not judged  Other",
    ]
    assert "Attack &lt;1&gt; and 1 more" in hg.Evaluation(report)._repr_html_()
    assert ".save(folder)" in said
