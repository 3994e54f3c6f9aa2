"""The report as a whole: its verdicts on known cohorts, what is not judged, and its errors."""

import json
import re
import runpy
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from evaluation_cohort import SCHEMA, cohort, one_type, shuffled, write_shards

from healthgym.data.prepare import SplitSettings, prepare
from healthgym.data.tables.table import check_table
from healthgym.errors import CohortError, ConfigError, TableError
from healthgym.evaluation.build import compare
from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.metric import metric, metrics
from healthgym.evaluation.pages.summary import summarise
from healthgym.evaluation.report import SECTIONS, evaluate, file_names, make_report, write_report
from healthgym.evaluation.result import Result, Section, Verdict, worst_section
from healthgym.evaluation.sections import (
    collapse,
    dynamics,
    followup,
    joint,
    marginals,
    privacy,
    validity,
)
from healthgym.evaluation.sections.use import utility
from healthgym.evaluation.settings import ReportConfig, load_report_config
from healthgym.evaluation.sources import Source, open_real, open_synthetic, sample, source_of
from healthgym.evaluation.statistics.groups import Group
from healthgym.evaluation.statistics.hashes import hash_patients
from healthgym.evaluation.statistics.panel import panel_from_frame
from healthgym.schema import Schema

ROOT = Path(__file__).parents[2]
THRESHOLDS = ROOT / "configs" / "report.yaml"
ENDPOINT = "endpoints=[{{name: a, schema: toy, event: {}, history: {}, window: [8, 15]}}]"


@cache
def config(*overrides: str) -> ReportConfig:
    """Return the thresholds that users get, with few halvings to save time."""
    return load_report_config(THRESHOLDS, ("num_splits=4", *overrides))


@cache
def real_patients(seed: int, num_patients: int = 300) -> pd.DataFrame:
    return cohort(num_patients, seed)


def source(frame: pd.DataFrame, name: str = "table") -> Source:
    return source_of(panel_from_frame(frame, SCHEMA, name), name)


def compared(synthetic: pd.DataFrame, holdout: bool = True, *overrides: str) -> Comparison:
    """Return toy training patients and a holdout beside a cohort."""
    unseen = source(real_patients(2, 150), "holdout") if holdout else None
    return compare(SCHEMA, config(*overrides), source(real_patients(1)), unseen, source(synthetic))


def result(section: Section, key: str) -> Result:
    return next(each for each in section.results if each.key == key)


def verdicts(section: Section) -> dict[str, Verdict]:
    return {each.key.partition(".")[2]: each.verdict for each in section.results}


# --- four cohorts, made for the purpose ----------------------------------------------------------


def test_fresh_real_patients_pass() -> None:
    comparison = compared(real_patients(3))
    for judged in (marginals, joint, dynamics, collapse, privacy, validity):
        section = judged.section(comparison)
        assert section.verdict is Verdict.PASS, verdicts(section)


def test_shuffled_columns_pass_alone_and_fail_together_and_over_time() -> None:
    comparison = compared(shuffled(real_patients(1)))
    assert marginals.section(comparison).verdict is Verdict.PASS
    assert joint.section(comparison).verdict is Verdict.FAIL
    over_time = verdicts(dynamics.section(comparison))
    assert over_time["within"] is over_time["transitions"] is over_time["changes"] is Verdict.FAIL
    assert over_time["lost"] is Verdict.FAIL
    assert result(validity.section(comparison), "validity.static").value == pytest.approx(1.0, abs=0.01)


def test_page_one_names_the_variable_that_other_patients_gave() -> None:
    spoiled = real_patients(5)
    rows = np.random.default_rng(0).permutation(300)
    spoiled["rate"] = spoiled["rate"].to_numpy().reshape(300, -1)[rows].ravel()
    comparison = compared(spoiled)
    parts = [joint.section(comparison), dynamics.section(comparison)]
    assert re.fullmatch(r"(All|\d+ of the) \d+ metrics that fail concern rate\.", summarise(parts).concern)


def test_one_patient_type_repeated_is_a_collapse() -> None:
    section = collapse.section(compared(one_type(real_patients(1))))
    found = verdicts(section)
    assert section.verdict is Verdict.FAIL
    assert found["groups"] is found["twins"] is found["diversity"] is Verdict.FAIL
    groups = result(section, "collapse.groups")  # a ratio to nobody is not shown
    assert groups.shown == "0 of 300"
    assert groups.value is groups.to_json()["value"] is groups.interval is None


def test_the_ratio_to_a_few_real_patients_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Group("group = D", 6, 60, 300, 300, 1e-6)
    monkeypatch.setattr(collapse, "compared_groups", lambda *_: [few])
    groups = result(collapse.section(compared(real_patients(1))), "collapse.groups")
    assert groups.verdict is Verdict.FAIL
    assert groups.value is groups.interval is groups.rows[0].value is groups.rows[0].real is None
    assert groups.shown == "not shown"
    assert "fewer than 10 real patients" in groups.reason
    assert "60" not in groups.finding


def test_the_training_data_itself_fails_privacy_and_nothing_before_it() -> None:
    comparison = compared(real_patients(1))
    assert joint.section(comparison).verdict is Verdict.PASS
    section = privacy.section(comparison)
    found = verdicts(section)
    for key in ("membership_auc", "membership_tpr", "membership_shadow", "nearer_to_training"):
        assert found[key] is Verdict.FAIL, key
    for key in ("copies", "near_copies", "courses", "attribute_inference"):
        assert found[key] is Verdict.FAIL, key
    for key in ("copies", "near_copies", "courses"):
        assert result(section, f"privacy.{key}").value == 300, key
    assert result(section, "privacy.membership_auc").value == 1.0


def test_jittered_training_data_passes_no_copies_and_still_fails_privacy() -> None:
    jittered = real_patients(1).copy()
    jittered["rate"] += np.random.default_rng(0).normal(size=len(jittered))
    found = verdicts(privacy.section(compared(jittered)))
    assert found["copies"] is Verdict.PASS
    assert found["near_copies"] is found["courses"] is Verdict.FAIL
    assert (
        found["membership_auc"] is found["membership_shadow"] is found["nearer_to_training"] is Verdict.FAIL
    )


@pytest.mark.slow
def test_the_whole_report_tells_the_cohorts_apart(tmp_path: Path) -> None:
    expected = {
        "fresh": (real_patients(3), set()),
        "shuffled": (shuffled(real_patients(1)), {"joint", "dynamics", "discriminability", "utility"}),
        "one type": (one_type(real_patients(1)), {"collapse", "discriminability"}),
        "training": (real_patients(1), {"privacy"}),
    }
    for name, (frame, fails) in expected.items():
        report = make_report(compared(frame), {})
        failed = {section.key for section in report.sections if section.verdict is Verdict.FAIL}
        assert fails <= failed, name
        if name in ("fresh", "training"):
            assert failed == fails, (name, failed)
        write_report(report, tmp_path / name)
        check_files(tmp_path / name)


def check_files(folder: Path) -> None:
    """Assert that a written report is complete, self-contained and strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in report.json")

    content = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    assert content["version"] == 2
    drawn = [figure for section in content["sections"] for figure in section["pictures"]]
    assert {path.stem for path in (folder / "pictures").iterdir()} == set(file_names(drawn))
    for section in content["sections"]:
        for each in section["figures"]:
            assert each["what"].endswith(".")
            assert each["source"]
            assert each["threshold"]
            hidden = each["key"] == "collapse.groups"  # a ratio to few patients or to nobody
            assert each["value"] is not None or each["verdict"] == "not judged" or hidden
            assert each["value"] is not None or each["note"].endswith(".")
    page = (folder / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page


# --- what cannot be judged -----------------------------------------------------------------------


def test_without_a_holdout_membership_is_not_judged_and_says_why() -> None:
    comparison = compared(real_patients(3), False)
    found = result(privacy.section(comparison), "privacy.membership_auc")
    assert found.verdict is Verdict.NOT_JUDGED
    assert found.value is None
    assert "needs enough held-out patients" in found.reason
    section = privacy.section(comparison)
    assert section.verdict is Verdict.NOT_JUDGED  # distances alone prove no privacy
    passing = validity.section(comparison)
    assert worst_section([passing, section]) is Verdict.NOT_JUDGED
    assert worst_section([passing]) is Verdict.PASS


def test_without_a_holdout_no_model_is_judged_unless_it_fails() -> None:
    section = utility.section(compared(real_patients(3), False))
    found = result(section, "utility.next_step")
    assert found.verdict is section.verdict is Verdict.NOT_JUDGED
    assert found.value is not None
    assert "tested on patients that the cohort was made from" in found.reason
    assert result(section, "utility.effects").verdict is Verdict.PASS  # compares coefficients, tests no model
    assert not any(
        "training models" in use.purpose for use in summarise([section]).uses if use.verdict is Verdict.PASS
    )
    assert any("no holdout" in note for note in section.notes)
    spoiled = utility.section(compared(shuffled(real_patients(1)), False))
    assert result(spoiled, "utility.next_step").verdict is spoiled.verdict is Verdict.FAIL


def test_single_timesteps_leave_dynamics_unjudged() -> None:
    first = real_patients(3)[real_patients(3)["Timestep"] == 0]
    section = dynamics.section(compared(first))
    assert result(section, "dynamics.changes").verdict is Verdict.NOT_JUDGED
    assert "too few timesteps" in result(section, "dynamics.changes").reason
    assert result(followup.section(compared(first)), "follow_up.lengths").verdict is Verdict.FAIL


def test_unequal_lengths_are_judged() -> None:
    frames = []
    for seed in (1, 3):
        lengths = np.random.default_rng(seed).integers(6, 17, 300)
        frame = real_patients(seed)
        frames.append(frame[frame["Timestep"] < np.repeat(lengths, 16)].reset_index(drop=True))
    comparison = compare(SCHEMA, config(), source(frames[0]), None, source(frames[1]))
    for judged in (validity, dynamics, marginals):
        assert judged.section(comparison).verdict is Verdict.PASS
    short = frames[1][frames[1]["Timestep"] < 8]
    comparison = compare(SCHEMA, config(), source(frames[0]), None, source(short))
    assert result(followup.section(comparison), "follow_up.lengths").verdict is Verdict.FAIL


def test_longer_synthetic_patients_are_cut_and_their_lengths_reported() -> None:
    longer = cohort(300, 3, num_timesteps=24)
    comparison = compared(longer)
    assert comparison.synthetic.panel.num_timesteps == 16
    found = result(followup.section(comparison), "follow_up.lengths")
    assert found.verdict is Verdict.FAIL
    assert found.value == pytest.approx(1.0)
    assert "up to 24 timesteps. Only the first 16" in validity.section(comparison).notes[0]


def test_a_schema_without_static_variables_or_reals_is_judged_as_far_as_it_goes() -> None:
    bare = Schema.model_validate(
        {"name": "bare", "variables": [{"name": "drug", "kind": "binary", "classes": {0: "no", 1: "yes"}}]}
    )
    sets = [source_of(panel_from_frame(real_patients(seed), bare, "bare"), "bare") for seed in (1, 2, 3)]
    comparison = compare(bare, config(), sets[0], sets[1], sets[2])
    sections = {
        judged.__name__: judged.section(comparison) for judged in (marginals, collapse, privacy, joint)
    }
    found = result(sections["healthgym.evaluation.sections.collapse"], "collapse.groups")
    assert found.verdict is Verdict.NOT_JUDGED
    assert "No group of patients" in found.reason
    found = result(sections["healthgym.evaluation.sections.marginals"], "marginals.ks")
    assert found.verdict is Verdict.NOT_JUDGED


def test_a_constant_synthetic_variable_is_a_loss_and_no_nan() -> None:
    flat = real_patients(3).assign(rate=80.0)
    comparison = compared(flat)
    assert result(joint.section(comparison), "joint.lost").verdict is not Verdict.PASS
    assert result(dynamics.section(comparison), "dynamics.moves").verdict is Verdict.FAIL
    assert verdicts(marginals.section(comparison))["ks"] is Verdict.FAIL


def test_negative_and_impossible_values_are_counted() -> None:
    odd = real_patients(3).copy()
    odd.loc[::20, "urine"] = -5.0
    odd.loc[::50, "rate"] = 9000.0
    section = validity.section(compared(odd))
    assert result(section, "validity.negative").value == pytest.approx(0.05, abs=0.001)
    assert verdicts(section)["negative"] is verdicts(section)["range"] is Verdict.FAIL


def test_missing_values_are_compared() -> None:
    holed = real_patients(3).copy()
    holed.loc[np.random.default_rng(0).random(len(holed)) < 0.3, "rate"] = np.nan
    comparison = compared(holed)
    found = result(marginals.section(comparison), "marginals.missing")
    # No real value is absent: the share counts as that of ten patients, and is not shown.
    assert found.value == pytest.approx(0.3 - 10 / 300, abs=0.02)
    assert found.interval is None
    assert "more than in real patients, where it is below 10 in 300" in found.finding
    assert found.verdict is Verdict.FAIL
    assert result(validity.section(comparison), "validity.absent").verdict is Verdict.FAIL


def test_a_variable_without_any_synthetic_value_fails_where_it_is_absent() -> None:
    comparison = compared(real_patients(3).assign(rate=np.nan))
    assert result(marginals.section(comparison), "marginals.missing").verdict is Verdict.FAIL
    assert result(joint.section(comparison), "joint.lost").verdict is not Verdict.PASS
    assert utility.section(comparison).verdict is not Verdict.NOT_JUDGED


# --- amounts -------------------------------------------------------------------------------------


def test_a_large_cohort_is_counted_whole_and_sampled_for_the_rest() -> None:
    comparison = compared(cohort(700, 3), True, "num_patients=100")
    assert comparison.synthetic.panel.num_patients == 100
    assert comparison.synthetic.num_patients == comparison.synthetic.statistics.num_patients == 700
    assert comparison.train.statistics.num_patients == 300
    assert any("all 700 synthetic patients" in note for note in privacy.section(comparison).notes)
    again = compared(cohort(700, 3), True, "num_patients=100")
    np.testing.assert_array_equal(comparison.synthetic.panel.reals_NTR, again.synthetic.panel.reals_NTR)


def test_a_small_cohort_is_compared_with_the_noise_of_a_small_one() -> None:
    small, large = compared(cohort(60, 3)), compared(real_patients(3))
    assert small.halves[1].num_patients == 60
    assert large.halves[1].num_patients == 150
    first, second = (set(side.statistics.hashes_N.tolist()) for side in large.halves)
    assert not first & second
    # Training data and holdout together: 450 patients, of whom 60 or half play the cohort.
    assert [panel.num_patients for panel in small.anchors.split(0)] == [300, 60]
    assert [panel.num_patients for panel in large.anchors.split(0)] == [225, 225]
    assert large.anchors.widening(225, 225) > 1.1


# --- files and errors ----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Write schema, training data, holdout and cohort as files."""
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(json.loads(SCHEMA.model_dump_json())))
    for name, seed, count in (("real", 1, 80), ("holdout", 2, 60), ("synthetic", 3, 80)):
        cohort(count, seed).to_csv(tmp_path / f"{name}.csv", index=False)
    return {path.stem: path for path in tmp_path.iterdir()}


def judged_files(files: dict[str, Path], out: Path, *overrides: str) -> None:
    evaluate(files["schema"], files["real"], files["synthetic"], out, THRESHOLDS, files["holdout"], overrides)


def test_report_from_files(files: dict[str, Path], tmp_path: Path) -> None:
    judged_files(files, tmp_path / "out", "num_splits=3")
    check_files(tmp_path / "out")
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [section["key"] for section in content["sections"]] == list(SECTIONS)
    assert content["facts"]["synthetic"].startswith("80 patients")


def test_a_prepared_cohort_brings_its_holdout(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "prepared.h5"
    table = check_table(real_patients(1), SCHEMA)
    prepare(table, SCHEMA, path, SplitSettings(), "toy")
    train, holdout = open_real(path, SCHEMA), open_real(path, SCHEMA, "holdout")
    assert train.num_patients + holdout.num_patients == 300
    assert 30 <= holdout.num_patients <= 90
    whole = panel_from_frame(table, SCHEMA, "toy")
    hashes = np.concatenate([hash_patients(sample(part, 300, 0)) for part in (train, holdout)])
    assert set(hashes.tolist()) == set(hash_patients(whole).tolist())
    values = json.loads(SCHEMA.model_dump_json())
    values["variables"][0]["unit"] = "kPa"
    with pytest.raises(TableError, match="prepared with the schema 'toy'"):
        open_real(path, Schema.model_validate(values))


def change(path: Path, **columns: object) -> None:
    frame = pd.read_csv(path)
    frame.assign(**columns).to_csv(path, index=False)


def test_too_few_patients_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    cohort(49, 3).to_csv(files["synthetic"], index=False)
    with pytest.raises(TableError, match="has 49 patients; a report needs at least 50"):
        judged_files(files, tmp_path / "out")


def test_a_folder_that_is_no_cohort_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match=r"neither a _manifest\.json nor a table \(\.csv, "):
        open_synthetic(tmp_path / "empty", SCHEMA)


def test_real_data_must_fit_its_schema(files: dict[str, Path]) -> None:
    frame = pd.read_csv(files["real"])
    frame.loc[3, "sex"] = "female" if frame.loc[3, "sex"] == "male" else "male"
    frame.to_csv(files["real"], index=False)
    with pytest.raises(TableError, match="static"):
        open_real(files["real"], SCHEMA)
    assert open_synthetic(files["real"], SCHEMA).num_patients == 80


def test_an_unknown_label_in_a_frame_is_refused() -> None:
    with pytest.raises(TableError, match="column 'ward': unknown label"):
        panel_from_frame(real_patients(1).assign(ward="upper"), SCHEMA, "cohort")
    with pytest.raises(TableError, match="column 'rate': 4800 infinite"):
        panel_from_frame(real_patients(1).assign(rate=np.inf), SCHEMA, "cohort")
    with pytest.raises(TableError, match="cohort lacks drug"):
        panel_from_frame(real_patients(1).drop(columns="drug"), SCHEMA, "cohort")


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="coverage: rate"):
        compared(real_patients(3), True, "coverage=[[rate, sex]]")
    with pytest.raises(ConfigError, match="unknown key"):
        config("num_halves=2")
    with pytest.raises(ConfigError, match="window must begin after the history"):
        config(ENDPOINT.format("{variable: rate, above: 1}", 10))
    with pytest.raises(ConfigError, match="exactly one of below, above and is"):
        config(ENDPOINT.format("{variable: rate}", 8))


def test_endpoint_and_policy_of_the_settings() -> None:
    chosen = (
        "endpoints=[{name: shock, schema: toy, event: {variable: pressure, below: 85}, num_steps: 3, "
        "history: 8, window: [8, 15]},"
        "{name: never, schema: toy, event: {variable: pressure, below: 0}, history: 8, window: [9, 9]}]",
        "policies=[{name: drug, schema: toy, action: drug, num_states: 8, "
        "reward: [{when: {variable: pressure, above: 85}, weight: 1}]},"
        "{name: odd, schema: toy, action: nothing, reward: [{when: {variable: rate, above: 85}, weight: 1}]"
        "}]",
    )
    fresh = utility.section(compared(real_patients(3), True, *chosen))
    assert fresh.verdict is Verdict.PASS, verdicts(fresh)
    assert "have the event" in result(fresh, "utility.endpoint:never").reason
    assert "no categorical 'nothing'" in result(fresh, "utility.policy_value:odd").reason
    assert "below 85 on at least 3 of the timesteps 8 to 15" in result(fresh, "utility.endpoint:shock").source
    assert "below 0 at timestep 9" in result(fresh, "utility.endpoint:never").source
    spoiled = utility.section(compared(shuffled(real_patients(1)), True, *chosen))
    assert result(spoiled, "utility.endpoint:shock").verdict is Verdict.FAIL
    assert result(spoiled, "utility.next_step").verdict is Verdict.FAIL


def test_what_the_schema_calls_impossible_is_counted() -> None:
    never = [{"variable": "drug", "is": "yes"}, {"variable": "pressure", "below": 95}]
    rules = [{"name": "drug at low pressure", "never": never}]
    schema = Schema.from_json(json.dumps(json.loads(SCHEMA.to_json()) | {"impossible": rules}))
    fresh = validity.section(replace(compared(real_patients(3)), schema=schema))
    assert result(fresh, "validity.impossible").value == 0.0
    comparison = replace(compared(shuffled(real_patients(1))), schema=schema)
    assert result(validity.section(comparison), "validity.impossible").verdict is Verdict.FAIL


# --- a cohort of shards --------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "cohort", real_patients(3), 80)


def test_a_cohort_of_shards_is_judged_as_one_table(shards: Path) -> None:
    schema = SCHEMA
    folder = compare(schema, config(), source(real_patients(1)), None, open_synthetic(shards, schema))
    table = compared(real_patients(3), False)
    assert folder.synthetic.num_patients == 300
    np.testing.assert_allclose(
        folder.synthetic.statistics.pearson_VV, table.synthetic.statistics.pearson_VV, atol=1e-5
    )
    raw = result(validity.section(folder), "validity.raw_static")
    assert raw.value == pytest.approx(0.02)
    assert raw.rows[0].name == "sex"


def test_copies_are_found_in_shards_of_float32(shards: Path) -> None:
    comparison = compare(SCHEMA, config(), source(real_patients(3)), None, open_synthetic(shards, SCHEMA))
    assert result(privacy.section(comparison), "privacy.copies").value == 300


def test_missing_and_altered_shards_are_named(shards: Path) -> None:
    (shards / "shards" / "shard-00002.h5").unlink()
    with (shards / "shards" / "shard-00001.h5").open("r+b") as stream:
        stream.seek(3000)
        stream.write(b"xxxx")
    with pytest.raises(
        CohortError, match=r"missing: shards/shard-00002\.h5.*checksum: shards/shard-00001\.h5"
    ):
        open_synthetic(shards, SCHEMA)


def test_a_cohort_of_another_schema_is_refused(shards: Path) -> None:
    def with_ward(*labels: str) -> Schema:
        values = json.loads(SCHEMA.model_dump_json())
        ward = next(variable for variable in values["variables"] if variable["name"] == "ward")
        ward["classes"] = list(labels)
        return Schema.model_validate(values)

    with pytest.raises(CohortError, match="'ward': the cohort has the labels low, mid, high"):
        open_synthetic(shards, with_ward("low", "high"))
    values = json.loads(SCHEMA.model_dump_json())
    values["variables"].append({"name": "lactate", "kind": "real"})
    with pytest.raises(TableError, match="lacks lactate; it has pressure"):
        open_synthetic(shards, Schema.model_validate(values))


def test_the_program_reports_errors_without_a_traceback(
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = {"schema": files["schema"], "real": files["real"], "out": tmp_path / "out"}
    arguments["synthetic"] = tmp_path / "none.csv"
    given = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *given])
    with pytest.raises(SystemExit) as status:
        runpy.run_path(str(ROOT / "jobs" / "evaluate.py"), run_name="__main__")
    assert status.value.code == 1
    printed = capsys.readouterr().err
    assert "none.csv: there is no such file" in printed
    assert "Traceback" not in printed


def test_a_metric_that_registers_twice_is_an_error() -> None:
    declared = metrics()["marginals"]["ks"]
    with pytest.raises(ValueError, match=r"two metrics 'marginals\.ks'"):
        metric(declared.key, declared.title, declared.what, declared.source)
    assert metrics()["marginals"]["ks"] is declared


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("thresholds.marginls.ks={at_most: 0, fail_above: 1}", r"no such section \(did you mean 'marginals'"),
        ("thresholds.marginals.kss={at_most: 0, fail_above: 1}", r"no such metric \(did you mean 'ks'"),
        ("thresholds.utility.endpoint:x={at_most: 0, fail_above: 1}", "the section has no such metric"),
        ("thresholds.marginals.ks.at_mst=0", "unknown key"),
    ],
)
def test_a_threshold_that_no_result_has_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(override)
