"""What a release changes in the report: two cohorts, judged side by side, on the card."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from healthgym import stopping
from healthgym.data.sequences import PreparedCohort
from healthgym.errors import SamplingError, TableError
from healthgym.evaluation import report
from healthgym.evaluation.comparison import Comparison, Side
from healthgym.evaluation.metric import Metric
from healthgym.evaluation.result import Result, Section, Verdict
from healthgym.evaluation.sections import validity
from healthgym.files import sha256_of
from healthgym.release import effect
from healthgym.release.dossier import worse
from healthgym.release.effect import Cohorts, changed_first, side_by_side
from healthgym.storage.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
THRESHOLDS = ROOT / "configs" / "report.yaml"
WORK = ".r.h5.work"


def means(comparison: Comparison) -> Section:
    """A quick section: how far the means of the synthetic patients are from the real ones'."""

    def distances(real: Side, synthetic: Side) -> dict[str, float]:
        difference_R = np.nanmean(real.panel.reals_NTR, (0, 1)) - np.nanmean(
            synthetic.panel.reals_NTR, (0, 1)
        )
        return {
            variable.name: abs(float(d)) for variable, d in zip(tiny.SCHEMA.reals, difference_R, strict=True)
        }

    about = Metric("means.distance", "Distance of means", "Largest of all variables.", "This test")
    return Section("means", "Means", "", [comparison.metric_result(about, distances)])


@pytest.fixture(autouse=True)
def _short_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sections stand for all eight."""
    monkeypatch.setattr(report, "SECTIONS", {"validity": validity.section, "means": means})


DESPITE = "a test of *stars*"


def run_release(
    trained: Path, out: Path, *options: str, system: str = "v2", data: bool = True, despite: str = DESPITE
) -> int:
    """Run the program on a run folder and return its exit status; tiny systems fail their reports."""
    spec = importlib.util.spec_from_file_location("release_program", ROOT / "jobs" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asked = ["--run-dir", str(trained / system), "--out", str(out), "--config", str(trained / "quick.yaml")]
    asked += ["--data", str(trained / "prepared.h5")] if data else []
    status: int = module.main([*asked, "--despite", despite, *options])
    return status


def card_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return content


def without_times(card: dict[str, Any]) -> dict[str, Any]:
    """The reports' checksums cover the minute they were made."""
    return card | {"report_effect": {**card["report_effect"], "sha256": None}}


def fails(comparison: Comparison) -> Section:
    result = Result("means.x", "X", "Whatever it is.", "This test", value=1.0, verdict=Verdict.FAIL)
    return Section("means", "Means", "", [result])


def test_a_failing_system_is_released_only_with_a_reason(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "SECTIONS", {"validity": validity.section, "means": fails})
    out = tmp_path / "r.h5"
    assert run_release(trained, out, despite=" ") == 1
    said = capsys.readouterr().err
    assert "Nothing was released: a cohort made from it fails Means of its report" in said
    assert "--despite" in said
    assert [path.name for path in tmp_path.iterdir()] == [WORK]
    judged = sorted((tmp_path / WORK).rglob("report.json"))
    assert len(judged) == 2
    monkeypatch.setattr(effect, "write_report", None)  # both reports are there already
    assert run_release(trained, out) == 0
    assert card_of(out)["released_despite"] == {"sections": ["Means"], "reason": DESPITE}
    text = out.with_suffix(".md").read_text()
    assert "**Its report fails (Means). It is released despite that, because:** a test of \\*stars\\*" in text
    for heading in ("What it may be used for", "Attacks that were tried", "Variables", "Approval"):
        assert f"\n## {heading}\n" in text
    assert "| sex | binary, constant | Male, Female |" in text
    assert "- never for decisions on single patients" in text


def test_a_system_that_passes_needs_no_reason(trained: Path, tmp_path: Path) -> None:
    assert run_release(trained, tmp_path / "r.h5", "--no-effect", despite="") == 0
    assert card_of(tmp_path / "r.h5")["released_despite"] is None


def test_what_got_worse_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def row(title: str, before: str, after: str) -> dict[str, Any]:
        verdict, value = {"before": before, "after": after}, {"before": 0.1, "after": 0.2}
        return {"key": "means.x", "title": title, "verdict": verdict, "value": value, "style": "percent"}

    rows = [row("A", "pass", "fail"), row("B", "fail", "pass"), row("C", "pass", "not judged")]
    assert worse({"measured": True, "figures": rows}) == ["A: 10.0%, pass; of the release 20.0%, fail"]
    assert worse({"measured": False, "why": "not asked"}) == []


@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_every_system_is_released_with_its_effect(trained: Path, tmp_path: Path, system: str) -> None:
    out = tmp_path / "r.h5"
    assert run_release(trained, out, system=system) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r-reports", "r.h5", "r.json", "r.md"]
    found, text = card_of(out)["report_effect"], out.with_suffix(".md").read_text()
    cohort = PreparedCohort.open(trained / "prepared.h5")
    assert found["patients"] == found["training_patients"] == cohort.train.num_patients
    assert found["holdout_patients"] == cohort.holdout.num_patients
    contents = {}
    assert f"- report on a cohort made from it: **{found['verdict']['after']}**, see below" in text
    for side, sha256 in (
        ("before", load_checkpoint(trained / system).sha256),
        ("after", load_checkpoint(out).sha256),
    ):
        written = tmp_path / "r-reports" / side / "report.json"
        assert found["sha256"][side] == sha256_of(written)
        contents[side] = json.loads(written.read_text())
        assert contents[side]["facts"]["synthetic from"] == f"checkpoint {sha256[:16]}, seed 0"
        assert found["verdict"][side] == contents[side]["verdict"]
        assert f"(r-reports/{side}/report.html)" in text
        assert (tmp_path / "r-reports" / side / "report.html").is_file()
    rows = {row["key"]: row for row in found["figures"]}
    for side, content in contents.items():
        for result in (each for section in content["sections"] for each in section["figures"]):
            row = rows[result["key"]]
            assert row["value"][side] == result["value"]
            assert row["verdict"][side] == result["verdict"]
            assert row["noise_floor"] == result["noise_floor"]
            assert f"| {result['title']} |" in text
    same = all(row["value"]["before"] == row["value"]["after"] for row in rows.values())
    assert same is ("the release makes the same patients" in text)
    assert same is (system == "ar"), (
        "rare lengths of a group are given to common ones, and a latent memory is made coarse: ar has neither"
    )
    everything = text + "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    for secret in (str(trained), cohort.fingerprint, cohort.fingerprint[:16]):
        assert secret not in everything


def test_a_number_of_patients_and_a_seed_can_be_given(trained: Path, tmp_path: Path) -> None:
    assert run_release(trained, tmp_path / "r.h5", "--patients", "30", "--seed", "7") == 0
    text = (tmp_path / "r.md").read_text()
    assert "30 patients were made from the checkpoint (before)" in text
    assert "the same seed (7)" in text
    facts = json.loads((tmp_path / "r-reports" / "after" / "report.json").read_text())["facts"]
    assert facts["synthetic"].startswith("30 patients")


def test_what_is_not_measured_says_how(trained: Path, tmp_path: Path) -> None:
    assert run_release(trained, tmp_path / "r.h5") == 0
    assert (tmp_path / "r-reports").is_dir()
    assert run_release(trained, tmp_path / "r.h5", data=False) == 0
    assert card_of(tmp_path / "r.h5")["report_effect"]["measured"] is False
    assert (
        "Not measured: the patients that it was trained on were not given. With --data"
        in (tmp_path / "r.md").read_text()
    )
    assert not (tmp_path / "r-reports").exists(), "reports of an earlier release stayed beside this one"
    assert run_release(trained, tmp_path / "r.h5", "--no-effect") == 0
    text = (tmp_path / "r.md").read_text()
    assert "Not measured: left out by --no-effect, since two cohorts and two reports take minutes" in text
    assert "| metric of the audit |" in text


def interrupt_second(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> list[str]:
    """Fail at the second report; return the titles of those that were begun."""
    begun: list[str] = []
    real: Callable[..., report.Report] = report.make_report

    def make_report(comparison: Any, facts: Any, title: str) -> report.Report:
        begun.append(title.rpartition(" ")[2])
        if error and len(begun) == 2:
            raise error
        return real(comparison, facts, title)

    monkeypatch.setattr(effect, "make_report", make_report)
    return begun


def test_an_interrupt_leaves_nothing_and_is_resumed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "straight").mkdir()
    (tmp_path / "broken").mkdir()
    assert run_release(trained, tmp_path / "straight" / "r.h5") == 0
    interrupt_second(monkeypatch, KeyboardInterrupt())
    broken = tmp_path / "broken" / "r.h5"
    assert run_release(trained, broken) == stopping.INTERRUPTED
    assert "Give the same command to resume" in capsys.readouterr().err
    assert [path.name for path in broken.parent.iterdir()] == [WORK]
    begun = interrupt_second(monkeypatch, None)
    assert run_release(trained, broken) == 0
    assert begun == ["release"], "the checkpoint's report was made again"
    assert WORK not in {path.name for path in broken.parent.iterdir()}
    assert without_times(card_of(broken)) == without_times(card_of(tmp_path / "straight" / "r.h5"))
    assert broken.read_bytes() == (tmp_path / "straight" / "r.h5").read_bytes()


def test_what_was_made_for_another_question_is_not_used(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_second(monkeypatch, KeyboardInterrupt())
    assert run_release(trained, tmp_path / "r.h5") == stopping.INTERRUPTED
    begun = interrupt_second(monkeypatch, None)
    assert run_release(trained, tmp_path / "r.h5", "--seed", "1") == 0
    assert begun == ["checkpoint", "release"]


def test_a_signal_while_patients_are_made_stops_it(trained: Path, tmp_path: Path) -> None:
    stopping.request("SIGTERM")
    try:
        assert run_release(trained, tmp_path / "r.h5") == stopping.INTERRUPTED
    finally:
        stopping.clear()
    assert [path.name for path in tmp_path.iterdir()] == [WORK]
    assert run_release(trained, tmp_path / "r.h5") == 0


def test_an_error_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_second(monkeypatch, SamplingError("No patient was accepted."))
    assert run_release(trained, tmp_path / "r.h5") == 1
    assert capsys.readouterr().err.endswith("error: No patient was accepted.\n")
    assert list(tmp_path.iterdir()) == []


def test_too_few_patients_are_refused_before_anything_is_made(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_release(trained, tmp_path / "r.h5", "--patients", "19") == 1
    assert "--patients 19: give at least 20, which a report needs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TableError, match="--data has 19 training patients; a report needs at least 20"):
        Cohorts().sized(19, 20)
    assert Cohorts().sized(5000, 50).patients == effect.PATIENTS
    assert Cohorts().sized(60, 50).patients == 60
    assert Cohorts(9000).sized(60, 50).patients == 9000


def test_no_other_file_is_overwritten(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = trained / "prepared.h5"
    before = data.read_bytes()
    assert run_release(trained, data) == 1
    assert "prepared.h5 exists already and is not a release. Give another name." in capsys.readouterr().err
    assert data.read_bytes() == before


@pytest.mark.parametrize("name", ["r.md", "r.json", "r-reports/mine.html"])
def test_no_file_beside_a_release_is_lost(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert run_release(trained, tmp_path / "r.h5") == 1
    said = f"{tmp_path / name.split('/')[0]}, which goes beside it, exists already"
    assert said in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "r.h5").exists()


VERDICTS = st.sampled_from([str(verdict) for verdict in Verdict])
RESULTS = st.lists(st.tuples(VERDICTS, VERDICTS, st.floats(0, 1), st.floats(0, 1)), max_size=12)


@given(RESULTS)
def test_changed_verdicts_come_first_and_worse_before_better(
    results: list[tuple[str, str, float, float]],
) -> None:
    before = [{"key": str(i), "value": row[2], "verdict": row[0]} for i, row in enumerate(results)]
    after = [{"key": str(i), "value": row[3], "verdict": row[1]} for i, row in enumerate(results)]
    ordered = changed_first(side_by_side(before, after[::-1]))
    assert sorted(int(row["key"]) for row in ordered) == list(range(len(results)))
    for row in ordered:
        was, became, value_before, value_after = results[int(row["key"])]
        assert row["verdict"] == {"before": was, "after": became}
        assert row["value"] == {"before": value_before, "after": value_after}
    severity = ["pass", "caution", "fail", "not judged", "shown"]
    kinds = [
        (severity.index(row["verdict"]["after"]) > severity.index(row["verdict"]["before"]))
        - (severity.index(row["verdict"]["after"]) < severity.index(row["verdict"]["before"]))
        for row in ordered
    ]
    assert kinds == sorted(kinds, key=[1, -1, 0].index)
    kept = [int(row["key"]) for row in ordered if row["verdict"]["before"] == row["verdict"]["after"]]
    assert kept == sorted(kept), "the rest stays in the report's order"
