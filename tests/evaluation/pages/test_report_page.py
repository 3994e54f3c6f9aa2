"""The first page of a report: its summary for a board, and that it shows no small groups."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from evaluation_cohort import SCHEMA

from healthgym.evaluation.concerns import concerned, shared_concern
from healthgym.evaluation.families import _finding, _least_size, _row
from healthgym.evaluation.pages.figures import bars, curves, density
from healthgym.evaluation.pages.page import render
from healthgym.evaluation.pages.summary import findings, small_groups, summarise, table
from healthgym.evaluation.report import Report, resembles_nobody
from healthgym.evaluation.result import Noise, Result, Row, Section, Verdict, in_words
from healthgym.evaluation.settings import Threshold
from healthgym.evaluation.statistics.findings import Difference
from healthgym.evaluation.statistics.models.regression import Analysis, default_effects, effects_of
from healthgym.evaluation.statistics.panel import Panel, panel_from_frame
from healthgym.evaluation.statistics.patients import summary_names, summary_variables
from healthgym.evaluation.words import in_plain_words
from healthgym.schema import Schema


def result(key: str, verdict: Verdict, value: float | None = 0.5, finding: str = "") -> Result:
    return Result(key, "Title", "What it is.", "nobody", value, verdict=verdict, finding=finding)


def section(key: str, *results: Result) -> Section:
    return Section(key, key, "", list(results))


def test_uses_follow_the_verdicts_of_sections() -> None:
    found = summarise(
        [
            section("privacy", result("privacy.copies", Verdict.FAIL, 3.0)),
            section("marginals", result("marginals.ks", Verdict.PASS)),
            section("joint", result("joint.lost", Verdict.FAIL)),
            section("follow_up", result("follow_up.lengths", Verdict.PASS)),
        ]
    )
    assert [(use.verdict, use.words) for use in found.uses] == [
        (Verdict.PASS, "May be used for"),
        (Verdict.FAIL, "Not for"),
    ]
    assert "single variables" in found.uses[0].purpose
    assert "exposes patients" in found.advice
    assert found.release == "Release: no. Do not share the cohort."
    assert "within the environment that holds" in found.within
    assert "3 equal a training patient" in " ".join(found.privacy)
    assert "No membership inference attack could be made" in found.privacy[1]


def test_the_strongest_attack_is_the_one_of_the_worst_verdict() -> None:
    attacks = (
        result("privacy.membership_auc", Verdict.NOT_JUDGED, 0.54),
        result("privacy.membership_tpr", Verdict.FAIL, 0.074),
        result("privacy.membership_shadow", Verdict.PASS, 0.61),
    )
    said = summarise([section("privacy", *attacks)]).privacy
    assert "finds 7.4% of the training patients" in said[0]
    assert "fails" in said[0]
    assert "no formal guarantee" in said[-1]
    passing = [replace(attack, verdict=Verdict.PASS) for attack in attacks]
    assert "61 times in 100" in summarise([section("privacy", *passing)]).privacy[0]


@pytest.mark.parametrize(
    ("privacy", "joint", "said", "colour"),
    [
        (Verdict.PASS, Verdict.PASS, "Release: yes, for relations between variables.", Verdict.PASS),
        (Verdict.PASS, Verdict.FAIL, "Release: no. It is not fit for any use", Verdict.FAIL),
        (Verdict.FAIL, Verdict.PASS, "Release: no. Do not share the cohort.", Verdict.FAIL),
        (Verdict.NOT_JUDGED, Verdict.PASS, "Release: undecided.", Verdict.NOT_JUDGED),
        (Verdict.CAUTION, Verdict.PASS, "Release: only after a review of its privacy", Verdict.CAUTION),
    ],
)
def test_the_first_line_says_whether_to_release(
    privacy: Verdict, joint: Verdict, said: str, colour: Verdict
) -> None:
    sections = [
        section("privacy", result("privacy.copies", privacy)),
        section("joint", result("joint.lost", joint)),
    ]
    found = summarise(sections)
    assert found.release.startswith(said)
    assert found.colour is colour
    page = render(Report("Title", {}, sections, {}).to_json(), sections)
    assert f"<strong>{found.release}</strong>" in page


def test_a_cohort_that_resembles_nobody_reassures_nowhere() -> None:
    tested = section(
        "privacy",
        result("privacy.membership_auc", Verdict.PASS, 0.502),
        result("privacy.copies", Verdict.PASS, 0.0, "none found"),
        result("privacy.disclosure", Verdict.PASS, 0.01),
        result("privacy.courses", Verdict.FAIL, 4.0, "4 of 100"),
    )
    tested.essential = frozenset({"privacy.membership_auc"})
    sections = [tested, section("collapse", result("collapse.knn_coverage", Verdict.FAIL, 0.214))]
    why = resembles_nobody(sections)
    assert "resembles hardly any real patient" in why
    assert Verdict.PASS not in {each.verdict for each in tested.results}
    assert "none found" not in {each.finding for each in tested.results}
    said = summarise(sections, why).privacy
    assert said[1] == why or said[0] == why
    assert not any("50 times in 100" in each or "0 equal" in each for each in said)
    assert any("4 repeat a stretch" in each for each in said)
    honest = [section("collapse", result("collapse.knn_coverage", Verdict.PASS, 0.9))]
    assert resembles_nobody(honest) == ""


def test_three_findings_at_most_and_the_worst_first() -> None:
    made = [
        result("joint.a", Verdict.PASS, finding="a is right"),
        result("joint.b", Verdict.CAUTION, finding="b is doubtful"),
        result("joint.c", Verdict.FAIL, finding="c is wrong"),
        result("joint.d", Verdict.PASS, finding="d is right"),
    ]
    assert [said for _, said in findings(section("joint", *made))] == [
        "c is wrong.",
        "b is doubtful.",
        "a is right.",
    ]


def test_a_relation_lost_within_a_group_is_always_told() -> None:
    made = [result(f"joint.{name}", Verdict.FAIL, finding=f"{name} is wrong") for name in "abc"]
    found = result("joint.by_group", Verdict.CAUTION, finding="women differ")
    for real, synthetic, told in ((0.2, 0.005, True), (0.2, 0.15, False), (0.05, 0.3, False)):
        rows = [Row("Gender = Female: HR and DBP", 0.2, real=real, synthetic=synthetic)]
        said = [text for _, text in findings(section("joint", *made, replace(found, rows=rows)))]
        assert ("women differ." in said) is told
        assert len(said) == 3


def test_a_share_of_few_real_patients_is_not_given_away_by_the_difference() -> None:
    few = Difference("measured", ("SBP", ""), "how often SBP changes", 0.0011, 0.3391, 0.01)
    said = _finding(few, 3000, "percent")
    assert said == "how often SBP changes: 33.9%, more than in real patients, where it is below 10 in 3,000"
    assert _least_size(few, 3000) == pytest.approx(0.3391 - 10 / 3000)
    assert _row(few, 3000, SCHEMA).value is _row(few, 3000, SCHEMA).real is None
    universal = replace(few, real=0.999, synthetic=0.5)
    assert "less than in real patients, where it is all but fewer than 10 in 3,000" in _finding(
        universal, 3000, "percent"
    )
    same = replace(few, synthetic=0.0)
    assert "in real and in synthetic patients" in _finding(same, 3000, "percent")
    assert _least_size(same, 3000) == 0


def test_a_relation_within_a_group_is_said_of_the_group() -> None:
    names = ("Gender = Female: HR", "DBP")
    lost = Difference("stratum", names, "Gender = Female: HR and DBP", 0.2, 0.0, 0.02)
    assert (
        _finding(lost, 3000, "number")
        == "correlation of HR and DBP where Gender = Female: synthetic 0.00, real 0.20"
    )


def test_findings_are_in_the_words_of_readers() -> None:
    icu = Schema.model_validate(
        {
            "name": "icu",
            "timestep_unit": "hour",
            "variables": [
                {"name": "BP (M)", "kind": "binary", "classes": {0: "False", 1: "True"}},
                {"name": "FiO2", "kind": "categorical", "classes": {0: "none", 1: "<= 0.4"}},
            ],
        }
    )
    for said, meant in (
        ("the share of BP (M) = True", "the share of BP measured"),
        (
            "BP (M) and FiO2 = <= 0.4 one timestep later",
            "whether BP was measured and FiO2 <= 0.4 one hour later",
        ),
        ("3 timesteps later", "3 hours later"),
    ):
        assert in_plain_words(said, icu) == meant
    slower = Difference("step", ("x", ""), "the size of steps of x", -1.0, -1.0 + np.log(2), 0.01)
    for difference, ratio, times in (
        (slower, "synthetic over real", "2 times"),
        (replace(slower, synthetic=-1.0 - np.log(2)), "real over synthetic", "0.5 times"),
    ):
        row = _row(difference, 3000, icu)
        assert (row.name, row.value) == (f"the size of steps of x: {ratio}", pytest.approx(2))
        said = _finding(difference, 3000, "number")
        assert said == f"the size of steps of x: {times} the value in real patients"


def test_flags_in_summaries_and_regressions_are_said_in_words() -> None:
    icu = Schema.model_validate(
        {
            "name": "icu",
            "timestep_unit": "day",
            "variables": [
                {"name": "BP (M)", "kind": "binary", "classes": {0: "False", 1: "True"}},
                {"name": "BP", "kind": "real"},
            ],
        }
    )
    said = {in_plain_words(name, icu) for name in summary_names(icu)}
    assert {
        "number of days",
        "share of days at which BP stays the same",
        "share of days with BP measured",
        "how often BP begins or ceases to be measured",
        "whether BP was measured at the first day",
    } <= said
    assert len(summary_variables(icu)) == len(summary_names(icu)) == len(said)
    analysis = Analysis(default_effects(icu)[0], icu)
    effects = effects_of([analysis], panel_of(icu), {-1: 1.0, 0: 1.0, 1: 1.0})
    phrases = {in_plain_words(effects.phrase(*name), icu) for name in effects.names}
    assert phrases == {"the coefficient of time for BP"}
    assert effects.phrase("timestep with sex", "BP") == "the coefficient of time with sex for BP"


def test_a_name_that_ends_another_one_is_left_alone() -> None:
    flags = ("BP (M)", "DBP (M)", "Pa CO2 (M)", "CO2 (M)")
    kinds = [{"name": name, "kind": "binary", "classes": {0: "False", 1: "True"}} for name in flags]
    variables = [*kinds, {"name": "timestep width", "kind": "real"}]
    schema = Schema.model_validate({"name": "icu", "timestep_unit": "hour", "variables": variables})
    for said, meant in (
        ("how often DBP (M) changes", "how often DBP begins or ceases to be measured"),
        ("DBP (M) at the first timestep", "whether DBP was measured at the first hour"),
        ("BP (M) = True and DBP (M) = False", "BP measured and DBP not measured"),
        ("Pa CO2 (M) and CO2 (M)", "whether Pa CO2 was measured and whether CO2 was measured"),
        ("timestep width after 3 timesteps", "timestep width after 3 hours"),
    ):
        assert in_plain_words(said, schema) == meant


def panel_of(schema: Schema) -> Panel:
    frame = pd.DataFrame(
        {
            "PatientID": np.repeat(np.arange(30), 2),
            "Timestep": np.tile([0, 1], 30),
            "BP": np.arange(60.0),
            "BP (M)": np.tile(["False", "True"], 30),
        }
    )
    return panel_from_frame(frame, schema, "patients")


def about(key: str, verdict: Verdict, *rows: tuple[str, ...]) -> Result:
    return replace(result(key, verdict), rows=[Row(" and ".join(names), 0.5, about=names) for names in rows])


def test_the_variable_that_most_failures_share_is_named() -> None:
    pairs = about("joint.a", Verdict.FAIL, ("DBP", "MAP"), ("DBP", "SBP"), ("DBP", "HR"))
    one = about("joint.b", Verdict.FAIL, ("DBP", "MAP"))
    alone = about("marginals.c", Verdict.FAIL, ("DBP",), ("HR",))
    other = about("marginals.d", Verdict.FAIL, ("HR",))
    without = result("collapse.e", Verdict.FAIL)
    passing = about("joint.f", Verdict.PASS, ("MAP",))
    parts = [section("joint", pairs, one, passing), section("marginals", alone, other, without)]
    said = "3 of the 5 metrics that fail concern DBP."
    assert shared_concern(parts) == said
    assert summarise(parts).concern == said
    assert said in render(Report("Title", {}, parts, {}).to_json(), parts)
    assert shared_concern([section("joint", pairs, one, other, alone, without, without)]) == ""
    assert shared_concern([section("joint", pairs, one)]) == ""
    cautious = [replace(each, verdict=Verdict.CAUTION) for each in (one, alone)]
    assert (
        shared_concern([section("joint", pairs, *cautious)])
        == "All 3 metrics that fail or ask for caution concern DBP."
    )


def test_what_is_tied_is_named_together_or_not_at_all() -> None:
    def said(*names: str) -> str:
        return shared_concern([section("joint", *(about(f"joint.{k}", Verdict.FAIL, names) for k in "abc"))])

    assert said("MAP", "DBP") == "All 3 metrics that fail concern DBP and MAP."
    assert said("Gender", "Gender = Female") == "All 3 metrics that fail concern Gender = Female."
    assert said("MAP", "DBP", "HR") == ""


def test_rows_that_pass_alone_do_not_hide_what_fails() -> None:
    rows = [Row("DBP", 0.4, about=("DBP",)), *(Row(f"x{k}", 0.0, about=(f"x{k}",)) for k in range(9))]
    fails = replace(result("validity.a", Verdict.FAIL), rows=rows, marks=(0.01, 0.1))
    assert shared_concern([section("validity", fails, fails, fails)]).endswith("concern DBP.")


def test_many_variables_that_fail_have_nothing_in_common() -> None:
    names = [(f"x{k}",) for k in range(6)]
    parts = [section("joint", *(about(f"joint.{k}", Verdict.FAIL, *names) for k in range(4)))]
    assert shared_concern(parts) == ""


def test_statistics_know_their_variables() -> None:
    for family, names, found in (
        ("same time", ("change of rate", "ward = high"), ("rate", "ward")),
        ("stratum", ("sex = male: pressure", "rate"), ("pressure", "rate", "sex = male")),
        ("class", ("ward", "rate"), ("ward",)),
        ("lag 3", ("rate", "rate"), ("rate",)),
        ("effect", ("number of timesteps", "urine"), ("urine",)),
    ):
        assert concerned(Difference(family, names, "x", 0.5, 0.1, 0.01), SCHEMA) == found


def test_a_limit_that_no_share_exceeds_is_no_limit() -> None:
    assert in_words(Threshold(at_most=0.05, fail_above=1), None, "percent").endswith("never fails")


def test_a_drawing_holds_both_cohorts_and_nothing_below_zero() -> None:
    real, synthetic = np.linspace(0.9, 1.0, 200), np.linspace(0.2, 0.3, 200)
    drawn = density("x", "share of timesteps at which Creatinine stays the same", "", real, synthetic).svg
    assert ">0.2<" in drawn.replace("−", "-")
    zeros = np.r_[np.zeros(100), np.linspace(0, 200, 100)]
    assert "−" not in density("x", "Urine", "mL/h", zeros, zeros).svg


def test_a_section_that_is_not_judged_says_why_first() -> None:
    why = replace(result("joint.lost", Verdict.NOT_JUDGED), reason="Too few patients.")
    part = section("joint", result("joint.a", Verdict.PASS, finding="a is right"), why)
    part.essential = frozenset({"joint.lost"})
    assert [said for _, said in findings(part)] == ["Too few patients.", "a is right."]
    assert summarise([part]).uses[0].because == "Title: Too few patients."


def test_a_metric_that_fails_is_named_even_without_words_of_its_own() -> None:
    fails = replace(result("joint.b", Verdict.FAIL, 0.4), limit="passes up to 0.1, fails above 0.2")
    part = section("joint", result("joint.a", Verdict.PASS, finding="a is right"), fails)
    said = "0.4 (passes up to 0.1, fails above 0.2)."
    assert findings(part)[0] == (fails, said)
    assert summarise([part]).uses[0].because == f"Title: {said}"
    part.results[1] = replace(fails, interval=(0.15, 0.65))
    assert findings(part)[0][1] == "0.4, 95% interval 0.15 to 0.65 (passes up to 0.1, fails above 0.2)."


def test_copies_come_first_where_they_fail_and_chance_is_said_where_they_pass() -> None:
    attack = result("privacy.membership_auc", Verdict.PASS, 0.5)
    leaking = summarise([section("privacy", attack, result("privacy.near_copies", Verdict.FAIL, 9.0))])
    assert "9 nearly equal one" in leaking.privacy[0]
    by_chance = summarise([section("privacy", attack, result("privacy.copies", Verdict.PASS, 2.0))])
    assert "2 equal a training patient (as many as real patients do by chance)" in by_chance.privacy[1]


def test_tables_have_no_empty_columns() -> None:
    rows = [Row("a", 0.1), Row("b", 0.2)]
    for given, shown in ((rows, False), ([*rows, Row("c", 0.3, real=0.1, synthetic=0.4)], True)):
        part = section("joint", replace(result("joint.a", Verdict.PASS), rows=given))
        page = render(Report("Title", {}, [part], {}).to_json(), [part])
        assert ("<th>synthetic</th>" in page) is shown


def test_small_groups_are_counted_and_their_numbers_not_shown() -> None:
    said = small_groups({"sex": [40, 60], "sex x group": [0, 7, 53, 9]})
    assert "sex x group (2)" in said
    assert "7" not in said
    assert "No class" in small_groups({"sex": [40, 60]})


def test_the_csv_has_every_result() -> None:
    made = Result(
        "joint.lost", "Lost", "What.", "nobody", 0.25, Noise(0.0, 0.1, 0.8), (0.2, 0.3), Verdict.CAUTION
    )
    rows = list(csv.DictReader(io.StringIO(table([section("joint", made)]))))
    assert len(rows) == 1
    assert rows[0]["key"] == "joint.lost"
    assert [float(rows[0][name]) for name in ("value", "low_95", "noise_limit", "independent")] == [
        pytest.approx(x) for x in (0.25, 0.2, 0.1, 0.8)
    ]


def test_a_long_title_stands_on_two_lines() -> None:
    long = "Autocorrelation: whether GCS was measured (same class)"
    x = np.arange(5.0)
    for drawn in (
        curves("a", long, "lag, hours", x, x, x),
        bars("b", long, ["no", "yes"], np.array([0.5, 0.5]), np.array([0.4, 0.6])),
    ):
        assert not any(long in text for text in re.findall(r"<text[^>]*>([^<]*)<", drawn.svg))
        assert "(same class)" in drawn.svg
