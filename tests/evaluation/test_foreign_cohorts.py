"""Cohorts of other programs: values that do not fit the schema are counted, and the others are compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_cohort import SCHEMA, cohort
from followed import IRREGULAR as YEARS
from followed import schema as followed_schema
from followed import table as followed_table

from healthgym.data.tables.sources import read_files
from healthgym.data.tables.table import check_table
from healthgym.errors import CohortError, TableError
from healthgym.evaluation.foreign import Foreign, read_foreign, without
from healthgym.evaluation.report import evaluate
from healthgym.evaluation.sources import open_real, open_synthetic
from healthgym.schema import Schema

THRESHOLDS = Path(__file__).parents[2] / "configs" / "report.yaml"
Change = Callable[[pd.DataFrame], pd.DataFrame]


def put(column: str, value: Any, row: int = 5) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return change


def read(folder: Path, change: Change, schema: Schema = SCHEMA, name: str = "c.csv") -> Foreign:
    frame = change(cohort(60, 3, 4))
    frame.to_csv(folder / name, index=False)
    return read_foreign(folder / name, schema)


# --- what does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "unfit", "remark"),
    [
        (put("rate", np.nan), None, None),
        (put("rate", "high"), "rate: not a number", r"'rate', not a number: line 7 (high)."),
        (
            put("rate", "1e300"),
            "rate: larger than 3.4e+38, the largest number that a cohort's files can contain",
            "(1e+300)",
        ),
        (
            put("rate", "-1e39"),
            "rate: larger than 3.4e+38, the largest number that a cohort's files can contain",
            "line 7",
        ),
        (put("rate", "inf"), "rate: infinite", "'rate', infinite: line 7 (inf)."),
        (put("rate", "-5"), None, None),
        (put("ward", "upper"), "ward: unknown class", "'ward', unknown class: line 7 (upper)."),
        (put("sex", ""), None, None),
        (put("PatientID", np.nan, 7), "PatientID: no patient, so that the row is left out", "line 9"),
        (put("Timestep", "soon", 7), "Timestep: neither a number nor a date", "line 9 (soon)"),
        (put("Timestep", 1.5), "Timestep: not a whole number, so that only the order counts", "line 7"),
        (put("Timestep", 0), "PatientID", None),
    ],
)
def test_one_odd_value_is_counted(
    tmp_path: Path, change: Change, unfit: str | None, remark: str | None
) -> None:
    found = read(tmp_path, change)
    if unfit == "PatientID":
        assert any("same patient and time" in name for name in found.unfit)
        return
    assert found.unfit == ({unfit: 1 / 240} if unfit else {})
    assert (remark in found.remarks[0]) if remark else not found.remarks
    assert len(found.frame) == 240 - (unfit is not None and unfit.startswith("PatientID"))
    expected = read(tmp_path, lambda frame: frame).frame
    same = [name for name in expected if unfit is None or not unfit.startswith(str(name))][2:]
    if len(found.frame) == 240:
        rows = np.arange(240) != 5
        if unfit is None or "Timestep" not in unfit:
            pd.testing.assert_frame_equal(found.frame[same][rows], expected[same][rows])


@pytest.mark.parametrize(
    "times",
    [
        lambda t: t + 7.25,
        lambda t: t * 1.5 - 3,
        lambda t: pd.Timestamp("2020-02-27") + pd.to_timedelta(t, unit="D"),
        lambda t: (pd.Timestamp("2020-02-27") + pd.to_timedelta(t, unit="D")).dt.strftime("%Y-%m-%d"),
    ],
)
def test_times_of_any_kind_only_order_the_rows(tmp_path: Path, times: Any) -> None:
    expected = read(tmp_path, lambda frame: frame).frame.drop(columns="Timestep")
    turned = read(tmp_path, lambda frame: frame.assign(Timestep=times(frame["Timestep"])).iloc[::-1])
    pd.testing.assert_frame_equal(turned.frame.drop(columns="Timestep"), expected)
    frame = cohort(60, 3, 4).iloc[::-1]
    frame.assign(Timestep=times(frame["Timestep"])).to_parquet(tmp_path / "c.parquet")
    again = read_foreign(tmp_path / "c.parquet", SCHEMA)
    pd.testing.assert_frame_equal(again.frame.drop(columns="Timestep"), expected)


FORMS = ["%Y-%m-%d", "%d.%m.%Y", "%Y%m%d"]


def in_dates(form: str, follow: bool = True) -> pd.DataFrame:
    """Return the cohort with follow-up, the times of each patient as dates from another day on."""
    frame = followed_table()
    start = pd.Timestamp("2001-01-01") + pd.to_timedelta(7 * frame["id"], "D")
    for name, per in (("time", 365.25), *((("futime", 1),) if follow else ())):
        frame[name] = (start + pd.to_timedelta((frame[name] * per).round(), "D")).dt.strftime(form)
    return frame


@pytest.mark.parametrize(
    ("declared", "written"), [*zip(FORMS, FORMS, strict=True), *((form, FORMS[0]) for form in FORMS[1:])]
)
def test_dates_count_from_the_first_row_as_those_of_real_patients(declared: str, written: str) -> None:
    form = {} if declared == FORMS[0] else {"format": declared}
    schema = followed_schema({**YEARS, "unit": "day", **form})
    expected = check_table(in_dates(declared), schema)
    found = read_foreign(in_dates(written), schema)
    assert not found.remarks
    pd.testing.assert_frame_equal(found.frame, expected, check_dtype=False)


def test_dates_are_compared_with_numbers_in_the_unit_of_the_schema() -> None:
    schema = followed_schema()  # times in years
    found = read_foreign(in_dates(FORMS[0]), schema)
    expected = check_table(followed_table(), schema)
    np.testing.assert_allclose(found.frame["time"], expected["time"], atol=1e-9)
    np.testing.assert_allclose(found.frame["futime"], expected["futime"], atol=1e-6)
    only = in_dates(FORMS[0]).assign(time=followed_table()["time"])
    found = read_foreign(only, schema)
    assert "futime" not in found.frame
    assert any("'futime', dates, while the rows' times are none" in each for each in found.remarks)


def test_numbers_count_from_the_first_row_if_the_schema_says_so() -> None:
    schema = followed_schema({**YEARS, "origin": "first"})
    later = followed_table()
    later["time"] += 60 + later["id"]
    later["futime"] += 365.25 * (60 + later["id"])
    found, expected = read_foreign(later, schema).frame, check_table(later, schema)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    np.testing.assert_allclose(found["futime"], followed_table()["futime"], atol=1e-6)


def test_words_and_static_variables_are_read_as_those_of_real_patients() -> None:
    read_as = {"-9.90": None, "<1": "0.5"}
    modelled = {"missing": "model", "measured_flag": "measured"}
    schema = followed_schema(
        index={"read_as": read_as, **modelled},
        arm={"read_as": {"": "control", "R": "treated"}, "fill": None},
        futime={"fill": "first"},
    )
    frame = followed_table().astype({"index": object})
    frame.loc[[3, 7, 9, 11], "index"] = ["-9.9", -9.9, "<1", "-9.900"]
    frame.loc[frame["arm"] == "control", "arm"] = None
    frame.loc[frame["arm"] == "treated", "arm"] = "R"
    frame.loc[frame["id"].duplicated(), "futime"] = np.nan
    found = read_foreign(frame, schema)
    expected = check_table(frame, schema)
    assert not found.remarks
    assert expected["index"].isna().sum() == 3
    pd.testing.assert_frame_equal(found.frame, expected, check_dtype=False)


def test_without_times_the_order_of_the_file_counts(tmp_path: Path) -> None:
    expected = read(tmp_path, lambda frame: frame).frame.drop(columns="Timestep")
    found = read(tmp_path, lambda frame: frame.drop(columns="Timestep"))
    pd.testing.assert_frame_equal(found.frame.drop(columns="Timestep"), expected)
    assert found.unfit == {}
    assert found.remarks[0].startswith("The cohort has no column 'Timestep': each patient's rows are taken")


IRREGULAR = Schema.model_validate(
    {**SCHEMA.model_dump(), "keys": {"timestep": {"column": "Timestep", "kind": "irregular", "unit": "day"}}}
)


def test_irregular_visits_without_times_have_no_gaps(tmp_path: Path) -> None:
    assert read(tmp_path, lambda frame: frame, IRREGULAR).schema.gap
    found = read(tmp_path, lambda frame: frame.drop(columns="Timestep"), IRREGULAR)
    assert found.schema.gap is None
    assert open_synthetic(tmp_path / "c.csv", IRREGULAR).num_patients == 60


@pytest.mark.parametrize("change", [lambda f: f.drop(columns="rate"), lambda f: f.assign(rate="high")])
def test_a_variable_without_a_value_is_left_out(tmp_path: Path, change: Change) -> None:
    found = read(tmp_path, change)
    assert "rate" not in [v.name for v in found.schema.variables]
    assert found.unfit["rate: no value at all"] == 1
    assert "has no value of rate: metrics of them cannot be computed" in found.remarks[-1]


def test_what_is_said_of_a_variable_goes_with_it() -> None:
    values = SCHEMA.model_dump()
    first, *others = values["variables"]
    values["variables"] = [{**first, "missing": "model", "measured_flag": "drug"}, *others]
    values["impossible"] = [{"name": "r", "never": [{"variable": "urine", "below": 0}]}]
    schema = Schema.model_validate(values)
    left = without(schema, ["drug", "urine"])
    assert (left["pressure"].missing, left["pressure"].measured_flag, left.impossible) == ("refuse", None, ())
    assert without(schema, ["ward"]).impossible == schema.impossible


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.rename(columns={"PatientID": "patient_id"}),
            r"no column 'PatientID' \(did you mean 'pat",
        ),
        (lambda f: f[["PatientID", "Timestep"]], "no variable of the schema 'toy' has a value"),
        (lambda f: f.iloc[:0], "columns but no rows"),
    ],
)
def test_what_cannot_be_judged_at_all_is_told(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read(tmp_path, change)


# --- folders ---------------------------------------------------------------------------------------


def test_a_folder_of_files_or_partitions_is_one_cohort(tmp_path: Path) -> None:
    expected = read(tmp_path, lambda frame: frame).frame
    plain, parted = tmp_path / "plain", tmp_path / "parted"
    plain.mkdir()
    frame = cohort(60, 3, 4)
    frame[:100].to_csv(plain / "a.csv", index=False)
    frame[100:].to_parquet(plain / "b.parquet")
    frame.to_parquet(parted, partition_cols=["sex", "ward"])
    (parted / "_SUCCESS").touch()
    for folder in (plain, parted):
        found = read_foreign(folder, SCHEMA)
        pd.testing.assert_frame_equal(found.frame, expected)
        assert open_real(folder, SCHEMA).num_patients == 60
    put("ward", "upper")(frame[100:].reset_index(drop=True)).to_csv(plain / "b.csv", index=False)
    (plain / "b.parquet").unlink()
    assert read_foreign(plain, SCHEMA).remarks == ["'ward', unknown class: b.csv line 7 (upper)."]


def test_one_hdf5_file_is_told_from_a_table(tmp_path: Path) -> None:
    with pytest.raises(
        CohortError, match=r"one HDF5 file cannot be evaluated. Give the folder of its shards"
    ):
        open_synthetic(tmp_path / "one.h5", SCHEMA)


def test_names_of_partitions_are_unpacked_and_may_say_nothing(tmp_path: Path) -> None:
    frame = cohort(4, 3, 4)
    for folder, value in (("group=A%2FB", "A/B"), ("group=__HIVE_DEFAULT_PARTITION__", None)):
        (tmp_path / folder).mkdir()
        frame.drop(columns="group").to_csv(tmp_path / folder / "part.csv", index=False)
        (_, part), *_ = list(read_files(tmp_path, SCHEMA))[-1:]
        assert part["group"].iloc[0] == value or (value is None and pd.isna(part["group"].iloc[0]))
        (tmp_path / folder / "part.csv").unlink()
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(TableError, match=r"Delta Lake table.*Export its current rows"):
        list(read_files(tmp_path, SCHEMA))


# --- the whole report ------------------------------------------------------------------------------


def spoiled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a cohort with everything wrong that can be judged nevertheless."""
    random = np.random.default_rng(0)
    frame = frame.drop(columns=["urine", "drug"]).astype({"rate": object, "ward": object, "group": object})
    for name, values in {
        "rate": ["1e300", "inf", "", "fast", "-3", "3e38"],
        "ward": ["upper", "", "2.0"],
        "group": ["E", ""],
        "sex": [""],
    }.items():
        frame[name] = frame[name].astype(object)
        for value in values:
            frame.loc[random.choice(len(frame), 60, replace=False), name] = value
    frame["Timestep"] = frame["Timestep"] * 0.5
    return frame


@pytest.mark.slow
def test_a_spoiled_cohort_is_judged_and_its_rules_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        json.dumps({**json.loads(SCHEMA.model_dump_json(exclude={"follow_up"}))})
    )
    for name, frame in {
        "real": cohort(120, 1, 8),
        "holdout": cohort(80, 2, 8),
        "other": spoiled(cohort(120, 3, 8)),
    }.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    endpoint = (
        "endpoints=[{name: e, schema: toy, event: {variable: drug, is: 'yes'}, history: 2, window: [4, 7]}]"
    )
    report = evaluate(
        tmp_path / "s.yaml",
        tmp_path / "real.csv",
        tmp_path / "other.csv",
        tmp_path / "out",
        THRESHOLDS,
        tmp_path / "holdout.csv",
        ("num_splits=3", endpoint),
    )
    results = {result.key: result for section in report.sections for result in section.results}
    unfit = {row.name: row.value for row in results["validity.unfit"].rows}
    assert results["validity.unfit"].verdict == "fail"
    assert unfit["urine: no value at all"] == unfit["drug: no value at all"] == 1
    assert {
        "rate: not a number",
        "rate: infinite",
        "ward: unknown class",
        "group: unknown class",
    } < unfit.keys()
    absent = {row.name: row.value for row in results["validity.absent"].rows}
    assert absent["rate"]
    assert absent["rate"] > 0.15
    assert not any("urine" in row.name for row in results["marginals.ks"].rows)
    assert results["marginals.ks"].value is not None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "has no value of urine, drug" in page or "has no value of drug, urine" in page
