"""Edge cases of the report: few patients, absent variables, large cohorts, near copies."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluation_cohort import SCHEMA, cohort

from healthgym.errors import ConfigError, TableError
from healthgym.evaluation import report
from healthgym.evaluation.build import compare
from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.result import NotJudgedError, Result, Section, Verdict
from healthgym.evaluation.sections import (
    discriminability,
    marginals,
    privacy,
)
from healthgym.evaluation.sections import validity as rules
from healthgym.evaluation.sections.disclosure import attribute_advantage, disclosure_result
from healthgym.evaluation.sections.use import utility
from healthgym.evaluation.settings import ReportConfig, load_report_config
from healthgym.evaluation.sources import Source, source_of
from healthgym.evaluation.statistics.attacks.membership import effective_nearest
from healthgym.evaluation.statistics.panel import panel_from_frame
from healthgym.schema import Schema

THRESHOLDS = Path(__file__).parents[2] / "configs" / "report.yaml"
REALS = [variable.name for variable in SCHEMA.reals]


@cache
def config(*overrides: str) -> ReportConfig:
    return load_report_config(THRESHOLDS, ("num_splits=4", *overrides))


@cache
def patients(seed: int, num_patients: int = 300) -> pd.DataFrame:
    return cohort(num_patients, seed)


def source(frame: pd.DataFrame, schema: Schema = SCHEMA) -> Source:
    return source_of(panel_from_frame(frame, schema, "table"), "table")


def compared(synthetic: pd.DataFrame, *overrides: str, unseen: int = 150) -> Comparison:
    """Return a cohort beside toy training patients and as many unseen ones as asked."""
    holdout = source(patients(2, unseen)) if unseen else None
    return compare(SCHEMA, config(*overrides), source(patients(1)), holdout, source(synthetic))


def lucky(frame: pd.DataFrame) -> pd.DataFrame:
    """Return patients whose rate and drug follow nothing."""
    rng = np.random.default_rng(len(frame))
    drug = pd.Categorical.from_codes(rng.integers(0, 2, len(frame)), categories=["no", "yes"])
    return frame.assign(rate=rng.normal(80, 10, len(frame)), drug=drug)


def result(section: Section, key: str) -> Result:
    return next(each for each in section.results if each.key == key)


# --- few patients --------------------------------------------------------------------------------


def test_too_small_a_holdout_is_left_out_and_said_so() -> None:
    comparison = compared(patients(3), unseen=3)
    section = privacy.section(comparison)
    assert comparison.holdout is None
    assert "The holdout has 3 patients, fewer than the 50" in section.notes[0]
    for name in ("membership_auc", "membership_shadow", "nearer_to_training"):
        assert result(section, f"privacy.{name}").verdict is Verdict.NOT_JUDGED


def test_a_rate_at_one_percent_of_few_outsiders_says_what_it_is() -> None:
    section = privacy.section(compared(patients(3), unseen=60))
    assert (
        "With 60 held-out patients, 1% is less than one patient"
        in result(section, "privacy.membership_tpr").reason
    )
    assert (
        "less than one patient"
        not in result(privacy.section(compared(patients(3))), "privacy.membership_tpr").reason
    )


def test_patients_who_share_few_nearest_real_ones_say_so() -> None:
    frame = patients(4)
    one = frame[frame["PatientID"] == frame["PatientID"].min()]
    collapsed = pd.concat([one.assign(PatientID=number) for number in range(300)], ignore_index=True)
    collapsed["rate"] += 0.1 * np.random.default_rng(0).normal(size=len(collapsed))
    reasons = {
        name: result(privacy.section(compared(made)), "privacy.nearer_to_training").reason
        for name, made in (("collapsed", collapsed), ("fresh", patients(4)))
    }
    assert "The nearest real patients are few (" in reasons["collapsed"]
    assert "are few (" not in reasons["fresh"]
    to_first, to_second = np.array([[1.0, 2], [1, 2], [2, 1], [9, 9]]), np.array([[5.0], [5], [5], [1]])
    # Nearest are a, a, b and c: of the six pairs of queries one shares its nearest.
    assert effective_nearest(to_first, to_second) == pytest.approx(6)
    assert effective_nearest(1 - np.eye(3), np.full((3, 1), 0.5)) == np.inf
    # All are equally near to everybody: two queries share their nearest of five with a chance of 1/5.
    assert effective_nearest(np.zeros((4, 2)), np.zeros((4, 3))) == pytest.approx(5)


def utility_among_the_lucky(setting: str, key: str) -> Result:
    """Return a metric on patients whose events are luck: nothing can be learned of them."""
    real, holdout, synthetic = (
        source(lucky(patients(seed, count))) for seed, count in ((1, 300), (2, 150), (3, 300))
    )
    return result(utility.section(compare(SCHEMA, config(setting), real, holdout, synthetic)), key)


def test_policies_that_real_halves_do_not_agree_on_are_not_judged() -> None:
    policy = (
        "policies=[{name: drug, schema: toy, action: drug, num_states: 20, "
        "reward: [{when: {variable: rate, above: 80}, weight: 1}]}]"
    )
    found = utility_among_the_lucky(policy, "utility.policy_disagreement:drug")
    assert found.verdict is Verdict.NOT_JUDGED
    assert "too few patients" in found.reason


def test_an_event_that_real_patients_do_not_teach_is_not_judged() -> None:
    endpoint = (
        "endpoints=[{name: luck, schema: toy, event: {variable: rate, above: 80}, history: 4, "
        "window: [8, 8]}]"
    )
    found = utility_among_the_lucky(endpoint, "utility.endpoint:luck")
    assert found.verdict is Verdict.NOT_JUDGED
    assert "It cannot be predicted even after training on real patients" in found.reason


def test_of_single_timesteps_nothing_later_can_be_inferred() -> None:
    panel = compared(patients(3)).train.panel
    with pytest.raises(NotJudgedError, match="one timestep only"):
        attribute_advantage(panel.first(1), panel.first(1), panel.first(1))


def test_a_holdout_with_training_patients_in_it_is_refused() -> None:
    mixed = pd.concat([patients(2, 150), patients(1)[: 16 * 10].assign(PatientID=999)], ignore_index=True)
    mixed["PatientID"] = np.repeat(np.arange(160), 16)
    with pytest.raises(TableError, match="10 of 160 holdout patients equal a patient of table"):
        compare(SCHEMA, config(), source(patients(1)), source(mixed), source(patients(3)))


# --- absent variables ----------------------------------------------------------------------------


def test_a_gap_in_a_static_variable_is_no_change() -> None:
    def counts(sex: object) -> dict[str, int]:
        frame = patients(3).copy()
        frame.loc[frame["Timestep"] == 5, "sex"] = sex
        return compared(frame).synthetic.statistics.changing_static

    assert counts(None)["sex"] == 0
    assert 100 < counts("male")["sex"] < 200


# --- the same numbers, written otherwise ---------------------------------------------------------


def test_values_of_float32_equal_those_of_a_table() -> None:
    coarse = patients(3).copy()
    coarse[REALS] = np.round(coarse[REALS] / 10, 1)
    as_shard = coarse.copy()
    as_shard[REALS] = coarse[REALS].astype(np.float32)
    comparison = compare(SCHEMA, config(), source(coarse), None, source(as_shard))
    sides = comparison.train, comparison.synthetic
    assert max(np.abs(each.difference_K).max() for each in comparison.compared.values()) == 0.0
    assert marginals.recorded(*sides)["pressure"] < 0.01


# --- large cohorts -------------------------------------------------------------------------------


def test_copies_hidden_in_a_large_cohort_are_found_by_membership_inference() -> None:
    rng = np.random.default_rng(0)
    near = patients(1).copy()
    near["rate"] += 0.1 * rng.normal(size=len(near))
    fresh = patients(5, 900).assign(PatientID=patients(5, 900)["PatientID"] + 1000)
    large = pd.concat([near, fresh], ignore_index=True)
    comparison = compared(large, "num_patients=300")
    assert comparison.synthetic.panel.num_patients == 300
    section = privacy.section(comparison)
    for name in ("membership_auc", "membership_tpr", "membership_shadow", "near_copies"):
        assert result(section, f"privacy.{name}").verdict is Verdict.FAIL, name
    assert result(section, "privacy.membership_auc").value > 0.95  # type: ignore[operator]
    assert result(section, "privacy.copies").value == 0
    whole = privacy.section(compared(large, "num_patients=2000"))
    assert result(whole, "privacy.membership_auc").value == pytest.approx(
        result(section, "privacy.membership_auc").value
    )


def test_a_section_says_what_was_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SECTIONS", {"validity": rules.section})
    large, small = (
        report.make_report(compared(patients(3), f"num_patients={amount}"), {}).sections[0]
        for amount in (100, 300)
    )
    sampled = "100 of 300 patients (training data) and 100 of 300 patients (synthetic), chosen at random"
    assert any(sampled in note for note in large.notes)
    assert not any("at random" in note for note in small.notes)


def test_privacy_and_rules_name_the_metrics_that_count_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SECTIONS", {"privacy": privacy.section, "validity": rules.section})
    comparison = replace(compared(patients(3), "num_patients=100"), raw_static={"sex": 0.0})
    sections = report.make_report(comparison, {}).sections
    counted = [
        next(n for n in section.notes if n.startswith("All patients are counted for")) for section in sections
    ]
    said = (
        "for: copied patients, identity disclosure risk. Unless a note says otherwise, the other metrics use"
    )
    assert f"{said} 100 of 300" in counted[0]
    for title in ("static variables constant", "values that do not fit", "static variables before decoding"):
        assert title in counted[1]


def test_copies_in_a_sample_are_given_as_a_number_of_it() -> None:
    """Three times the training patients, of whom a third is searched for repeated courses."""
    copies = pd.concat(
        [patients(1).assign(PatientID=patients(1)["PatientID"] + 1000 * k) for k in range(3)],
        ignore_index=True,
    )
    section = privacy.section(compared(copies, "num_patients=300"))
    assert result(section, "privacy.courses").finding.endswith(" of 300 synthetic patients")
    assert result(section, "privacy.copies").finding == "900 of 900 synthetic patients"
    assert result(section, "privacy.near_copies").finding.endswith(" of 300 synthetic patients")


def test_disclosure_counts_every_patient_of_a_large_cohort() -> None:
    values = {
        amount: disclosure_result(compared(patients(3), f"num_patients={amount}")) for amount in (60, 300)
    }
    assert values[60].value == values[300].value == pytest.approx(8 / 300)


def test_identifiers_that_the_schema_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="quasi_identifiers: race: expected binary or categorical"):
        compared(patients(3), "quasi_identifiers=[race]")


# --- copies --------------------------------------------------------------------------------------


def test_no_copy_is_allowed_even_where_real_patients_repeat_each_other() -> None:
    twice = patients(1, 150)
    twice = pd.concat([twice, twice.assign(PatientID=twice["PatientID"] + 150)], ignore_index=True)
    copied = pd.concat([patients(3), patients(1, 150)[:16].assign(PatientID=900)], ignore_index=True)
    comparison = compare(SCHEMA, config(), source(twice), None, source(copied))
    found = result(privacy.section(comparison), "privacy.copies")
    assert found.value == 1
    assert found.verdict is Verdict.FAIL


def test_less_than_guessing_is_not_judged_and_explained() -> None:
    found = result(
        discriminability.section(compared(patients(1), "num_patients=80")), "discriminability.boosting"
    )
    assert found.verdict is Verdict.NOT_JUDGED
    assert "near copies of training patients" in found.reason


def test_what_was_left_out_stands_in_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SECTIONS", {})
    comparison = compared(patients(3), unseen=10)
    assert "10 patients" in report.make_report(comparison, {}).facts["left out"]


def test_a_schema_without_rules_says_that_none_were_looked_for() -> None:
    assert any("no impossible combinations" in note for note in rules.section(compared(patients(3))).notes)
