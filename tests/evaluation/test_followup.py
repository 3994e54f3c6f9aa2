"""The report detects wrong follow-up: events, their times, visits and gaps by outcome, rows after the end."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from followed import schema, table

from healthgym.data.tables.table import check_table
from healthgym.evaluation.build import compare
from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.result import Result, Verdict
from healthgym.evaluation.sections import followup
from healthgym.evaluation.settings import load_report_config
from healthgym.evaluation.sources import open_synthetic, source_of
from healthgym.evaluation.statistics.models.survival import (
    FollowUp,
    curve_distance,
    kaplan_meier,
    last_values,
)
from healthgym.evaluation.statistics.panel import panel_from_frame

CONFIG = load_report_config(Path(__file__).parents[2] / "configs" / "report.yaml", ("num_splits=8",))


@cache
def patients(seed: int) -> pd.DataFrame:
    return check_table(table(400, seed), schema())


def compared(synthetic: pd.DataFrame) -> Comparison:
    sources = [
        source_of(panel_from_frame(each, schema(), name), name)
        for each, name in ((patients(1), "real"), (synthetic, "synthetic"))
    ]
    return compare(schema(), CONFIG, sources[0], None, sources[1])


def results(synthetic: pd.DataFrame) -> dict[str, Result]:
    found = followup.section(compared(synthetic)).results
    return {result.key.removeprefix("follow_up."): result for result in found}


def test_other_real_patients_pass() -> None:
    section = followup.section(compared(patients(2)))
    assert section.verdict is Verdict.PASS
    assert {result.key.removeprefix("follow_up.") for result in section.results} == {
        "lengths", "lengths_by_group", "length_relations", "gaps", "events", "survival", "order",
    }  # fmt: skip
    names = [figure.name for figure in section.figures]
    assert names[:3] == ["survival-any event", "survival-dead", "survival-transplanted"]
    assert {name.partition(":")[0] for name in names[3:]} == {"survival-arm"}
    assert "at risk: real, synthetic" in section.figures[0].svg


def test_a_cohort_without_the_dead_fails() -> None:
    frame = patients(2)
    dead = frame["status"] != "censored"
    kept = ~dead | (frame["id"] % 10 == 0)
    found = results(frame[kept].assign(id=pd.factorize(frame["id"][kept])[0]))
    for name in ("events", "survival", "lengths"):
        assert found[name].verdict is Verdict.FAIL, name
    assert {row.name for row in found["events"].rows[:3]} == {"censored", "dead", "transplanted"}
    real, synthetic = (
        (f["status"] == "censored").groupby(f["id"]).any().mean() for f in (patients(1), frame[kept])
    )
    said = f"censored: {synthetic:.1%} of synthetic patients, {real:.1%} of real ones"
    assert found["events"].finding == said
    assert re.fullmatch(
        r"\d+% of synthetic patients and \d+% of real ones are without an event after [\d.]+ \w+",
        found["survival"].finding,
    )


def test_length_drawn_without_regard_to_the_patient_fails() -> None:
    """Deaths by length as flat as in a cohort whose lengths were drawn apart from the patients."""
    frame = patients(2).copy()
    order = np.random.default_rng(0).permutation(frame["id"].nunique())
    for name in ("status", "arm"):
        of_patient = frame.groupby("id")[name].first().to_numpy()[order]
        frame[name] = pd.Categorical(of_patient[frame["id"]], categories=frame[name].cat.categories)
    found = results(frame)
    assert found["lengths"].verdict is Verdict.PASS
    assert found["lengths_by_group"].verdict is Verdict.FAIL
    assert found["length_relations"].verdict is Verdict.FAIL
    assert found["length_relations"].rows[0].name.startswith("status: ")


def test_gaps_of_another_size_fail() -> None:
    frame = patients(2)
    found = results(frame.assign(time=frame["time"] / 2))
    assert found["gaps"].verdict is Verdict.FAIL
    assert {row.name for row in found["gaps"].rows} == {"all patients", "censored", "dead", "transplanted"}


def test_rows_after_the_end_of_follow_up_are_counted_and_not_refused(tmp_path: Path) -> None:
    frame = table(400, 2)
    frame["futime"] = np.where(frame["id"] % 4 == 0, 1, frame["futime"])
    frame.to_csv(tmp_path / "cohort.csv", index=False)
    source = open_synthetic(tmp_path / "cohort.csv", schema())
    late = followup.late_rows(compared(patients(2)).train, compared_with(source))
    visits = frame.groupby("id").size()
    assert late["patients"] == pytest.approx(((visits > 1) & (visits.index % 4 == 0)).mean())


def compared_with(source: object) -> object:
    return compare(
        schema(), CONFIG, source_of(panel_from_frame(patients(1), schema(), "real"), "real"), None, source
    ).synthetic


def test_without_follow_up_lengths_are_judged() -> None:
    plain = schema().model_copy(update={"follow_up": None})
    panels = [panel_from_frame(patients(seed), plain, "table") for seed in (1, 2)]
    section = followup.section(
        compare(plain, CONFIG, source_of(panels[0], "a"), None, source_of(panels[1], "b"))
    )
    assert [result.key for result in section.results] == [
        "follow_up.lengths", "follow_up.lengths_by_group", "follow_up.length_relations", "follow_up.gaps",
    ]  # fmt: skip
    assert "no `follow_up`" in section.notes[0]
    assert section.verdict is Verdict.PASS


# --- Kaplan-Meier ----------------------------------------------------------------------------------


def test_the_curve_is_the_product_of_conditional_shares() -> None:
    time = np.array([1.0, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    event = np.array([1, 1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0], np.int16)
    found = FollowUp(time, event, censored=0)
    everybody = np.ones(12, bool)
    any_event, first = kaplan_meier(found, everybody), kaplan_meier(found, everybody, 1)
    assert any_event is not None
    assert first is not None
    at = np.array([0.5, 1, 2, 3.9, 4, 11])
    np.testing.assert_allclose(
        any_event.at(at), [1, 11 / 12, 11 / 12 * 9 / 11, 0.75, 0.75 * 7 / 8, 0.75 * 7 / 8]
    )
    np.testing.assert_allclose(first.at(at)[2:4], 11 / 12 * 10 / 11)
    assert any_event.at_risk(np.array([0, 1, 1.5, 2, 11])).tolist() == [12, 12, 11, 11, 1]
    assert any_event.last == 2.0, "after that fewer than ten are at risk"
    low, high = any_event.band(np.array([2.0]))
    greenwood = 0.75 * np.sqrt(1 / (12 * 11) + 2 / (11 * 9))
    assert high[0] - low[0] == pytest.approx(min(1, 0.75 + 1.96 * greenwood) - (0.75 - 1.96 * greenwood))
    distance = curve_distance(any_event, first)
    assert distance == pytest.approx(11 / 12 * 10 / 11 - 0.75)
    assert kaplan_meier(found, everybody & (time > 3)) is None


def test_last_values_are_the_last_known_ones() -> None:
    frame = patients(1)
    columns = last_values(panel_from_frame(frame, schema(), "table"))
    last = frame.groupby("id").last()
    np.testing.assert_allclose(columns["last index"], last["index"], rtol=1e-6)
    assert columns["status: dead"].tolist() == (last["status"] == "dead").astype(float).tolist()
    assert columns["arm: treated"].tolist() == (last["arm"] == "treated").astype(float).tolist()
    assert "arm: control" not in columns
