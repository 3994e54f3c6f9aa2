"""`describe`: from a table without a schema to a schema that fits it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from healthgym.commands.main import main
from healthgym.data.describe.command import Description, describe_frame, describe_table
from healthgym.data.sequences import PreparedCohort
from healthgym.data.tables.dialect import Dialect, Given, find_dialect
from healthgym.errors import ConfigError, StorageError, TableError
from healthgym.schema import Schema, load_schema

RNG = np.random.default_rng(0)


def visits(patients: int = 60, patient: str = "subject_id", time: str = "hour") -> pd.DataFrame:
    """Return a table of patients with 2 to 5 rows: statics, reals, a flag."""
    rng = np.random.default_rng(7)
    rows = []
    for each in range(patients):
        sex, age = str(rng.choice(["M", "F"])), int(rng.integers(20, 90))
        for number in range(int(rng.integers(2, 6))):
            reals = {"hr": round(float(rng.normal(80, 12)), 1), "temp": round(float(rng.normal(37, 0.6)), 1)}
            rows.append(
                {patient: 1000 + each, time: number, "sex": sex, "age": age, **reals, "vent": number % 2}
            )
    return pd.DataFrame(rows)


def one(found: Description, name: str) -> Any:
    return found.schema[name]


def left_out(found: Description) -> dict[str, str]:
    return {each.name: each.evidence for each in found.found.left_out}


def test_a_plain_table_is_described_and_fits() -> None:
    found = describe_frame(visits())
    assert (found.schema.keys.patient, found.schema.keys.timestep) == ("subject_id", "hour")
    assert (found.schema.keys.visits, found.schema.timestep_unit) == (None, "hour")
    kinds = {v.name: (v.kind, v.static, v.unit) for v in found.schema.variables}
    assert kinds == {
        "sex": ("binary", True, ""),
        "age": ("real", True, "year"),
        "hr": ("real", False, "beats/min"),
        "temp": ("real", False, "degC"),
        "vent": ("binary", False, ""),
    }
    assert found.misfit == ""
    assert "# two values: 0 " in found.yaml
    assert found.undecided == ["the meaning of the codes of vent: the codes are used as labels"]


# --- how files are written ---------------------------------------------------------------------------


def packed(text: str, path: Path) -> None:
    codecs = {".zst": "zstd", ".bz2": "bz2", ".gz": "gzip"}
    with pa.CompressedOutputStream(str(path), codecs[path.suffix]) as stream:
        stream.write(text.encode())


WRITTEN: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "commas.csv": lambda f, p: f.to_csv(p, index=False),
    "bom.csv": lambda f, p: f.to_csv(p, index=False, encoding="utf-8-sig"),
    "german.csv": lambda f, p: f.to_csv(p, index=False, sep=";", decimal=",", encoding="latin-1"),
    "quoted.csv": lambda f, p: f.to_csv(p, index=False, decimal=","),
    "wide.csv": lambda f, p: f.to_csv(p, index=False, sep="\t", encoding="utf-16"),
    "tabs.tsv": lambda f, p: f.to_csv(p, index=False, sep="\t"),
    "bars.txt": lambda f, p: f.to_csv(p, index=False, sep="|"),
    "packed.csv.gz": lambda f, p: packed(f.to_csv(index=False), p),
    "packed.csv.bz2": lambda f, p: packed(f.to_csv(index=False), p),
    "packed.tsv.zst": lambda f, p: packed(f.to_csv(index=False, sep="\t"), p),
    "table.parquet": lambda f, p: f.to_parquet(p),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_however_a_file_is_written_its_cohort_is_the_same(tmp_path: Path, name: str) -> None:
    frame = visits(30).rename(columns={"temp": "Körpertemperatur"})
    frame.to_parquet(tmp_path / "plain.parquet")
    (tmp_path / name).unlink(missing_ok=True)
    WRITTEN[name](frame, tmp_path / name)
    made = []
    for number, each in enumerate((name, "plain.parquet")):
        out = tmp_path / f"{number}.h5"
        assert main(["prepare", str(tmp_path / each), "--out", str(out), "--holdout", "0.3"]) == 0
        made.append(PreparedCohort.open(out))
    assert made[0].train.num_patients == made[1].train.num_patients
    pd.testing.assert_frame_equal(made[0].frame("train"), made[1].frame("train"))


def test_folders_and_partitions_are_one_table(tmp_path: Path) -> None:
    frame = visits(30)
    for sex, part in frame.groupby("sex"):
        folder = tmp_path / "table" / f"sex={sex}"
        folder.mkdir(parents=True)
        part.drop(columns="sex").to_parquet(folder / "a.parquet")
    found = describe_table(tmp_path / "table")
    assert (one(found, "sex").labels, one(found, "sex").static) == (("F", "M"), True)
    assert (found.found.table.num_rows, found.misfit) == (len(frame), "")


def test_what_is_found_can_be_overruled(tmp_path: Path) -> None:
    visits(30).to_csv(tmp_path / "t.csv", index=False, sep=";", decimal=",")
    with pytest.raises(TableError, match="rows have another number of fields than the 1 of the header"):
        describe_table(tmp_path / "t.csv", Given(separator="comma"))
    found = describe_table(tmp_path / "t.csv", Given(";", ",", "latin-1"), patient="age", time="hr")
    assert (found.schema.keys.patient, found.schema.keys.timestep) == ("age", "hr")
    with pytest.raises(ConfigError, match="--separator xx: give one character"):
        Given(separator="xx")
    with pytest.raises(ConfigError, match="--encoding utf-9: unknown"):
        Given(encoding="utf-9")
    with pytest.raises(
        TableError, match=r"no column 'subject' \(did you mean 'subject_id'\?\), which --patient"
    ):
        describe_table(tmp_path / "t.csv", patient="subject")


@pytest.mark.parametrize(
    ("numbers", "mark"), [("0,125 0,250", ","), ("-0,500 0,125", ","), ("1,125 2,250", ".")]
)
def test_numbers_of_thousands_do_not_begin_with_zero(numbers: str, mark: str) -> None:
    rows = "".join(f"{number};a\n" for number in [*numbers.split(), "0"])
    assert find_dialect(f"x;y\n{rows}".encode()) == Dialect(";", mark)


def test_a_point_among_decimal_commas_is_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1.234 may be a thousand there."""
    frame = visits(30)
    frame["hr"] = frame["hr"].map(lambda number: f"{number}".replace(".", ","))
    frame.loc[3, "hr"] = "1.234"
    frame.drop(columns="temp").to_csv(tmp_path / "t.csv", index=False, sep=";")
    schema = "keys: {patient: subject_id, timestep: hour}\nname: s\nvariables: [{name: hr, kind: real}]\n"
    (tmp_path / "s.yaml").write_text(schema)
    words = ["--table", str(tmp_path / "t.csv"), "--out", str(tmp_path / "p.h5")]
    assert main(["prepare", str(tmp_path / "s.yaml"), *words]) == 1
    said = capsys.readouterr().err
    assert "column 'hr': not a number: line 5 (1.234 (with a point among decimal commas))" in said


# --- keys and times ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patient", "time"),
    [
        ("USUBJID", "VISITNUM"),
        ("stay_id", "hour"),
        ("Patienten-ID", "Tag"),
        ("id", "t"),
        ("xyz", "qqq"),  # no name says anything
    ],
)
def test_keys_go_by_name_or_by_their_course(patient: str, time: str) -> None:
    frame = visits(60, patient, time).assign(note=lambda f: [f"seen {i}" for i in range(len(f))])
    found = describe_frame(frame)
    assert (found.schema.keys.patient, found.schema.keys.timestep) == (patient, time)
    assert "free text" in left_out(found)["note"]


def test_ids_keep_their_zeros_and_other_identifiers_are_left_out(tmp_path: Path) -> None:
    frame = visits(60)
    frame = frame.assign(
        subject_id=frame["subject_id"].map(lambda i: f"{i - 1000:05d}"), hadm_id=frame["subject_id"] + 20_000
    )
    frame.to_csv(tmp_path / "t.csv")
    found = describe_table(tmp_path / "t.csv")
    assert left_out(found) == {"": "numbers the rows", "hadm_id": "an identifier beside 'subject_id'"}
    assert main(["prepare", str(tmp_path / "t.csv"), "--out", str(tmp_path / "p.h5")]) == 0
    assert PreparedCohort.open(tmp_path / "p.h5").train.patient_ids[0] == "00000"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("%Y-%m-%d %H:%M:%S", ""),
        ("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M"),
        ("%m/%d/%Y", "%m/%d/%Y"),
        ("%Y%m%d", "%Y%m%d"),
    ],
)
def test_dates_of_any_form_are_days_since_the_first_row(tmp_path: Path, form: str, expected: str) -> None:
    frame = visits(60)
    days = frame["hour"] * 17 + frame["hour"] ** 2 + frame["subject_id"]
    frame["charttime"] = (pd.Timestamp("2180-03-01") + pd.to_timedelta(days, unit="D")).dt.strftime(form)
    frame.drop(columns="hour").to_csv(tmp_path / "t.csv", index=False)
    found = describe_table(tmp_path / "t.csv")
    assert found.schema.keys.visits is not None
    assert (found.schema.keys.visits.kind, found.schema.keys.visits.format) == ("irregular", expected)
    assert (found.schema.time_unit, found.misfit) == ("day", "")
    assert "kind: grid" in found.yaml
    assert main(["prepare", str(tmp_path / "t.csv"), "--out", str(tmp_path / "p.h5")]) == 0
    times = PreparedCohort.open(tmp_path / "p.h5").frame("train")["charttime"]
    assert set(times) == {0, 18, 38, 60, 84}


def test_equal_gaps_make_a_grid_and_repeated_times_too() -> None:
    frame = visits(60, time="month")
    every_third = describe_frame(frame.assign(month=frame["month"] * 3))
    visits_of = every_third.schema.keys.visits
    assert visits_of is not None
    assert (visits_of.kind, getattr(visits_of, "every", 0)) == ("grid", 3)
    assert all(v.missing == "refuse" for v in every_third.schema.variables)
    twice = pd.concat([frame, frame.head(20)]).sort_values(["subject_id", "month"])
    found = describe_frame(twice)
    assert found.schema.keys.visits is not None
    assert found.schema.keys.visits.kind == "grid"
    assert "20 rows at a time that the patient has had before" in found.yaml


def test_a_grid_that_is_asked_for_gives_each_variable_a_flag() -> None:
    frame = visits(60, time="years")
    frame["years"] = frame["years"] * 1.5 + np.arange(len(frame)) % 3 * 0.1
    schema = describe_frame(frame).schema
    assert schema is not None
    assert schema.keys.visits is not None
    assert (schema.keys.visits.kind, schema.timestep_unit) == ("irregular", "visit")
    found = describe_frame(frame, visits="grid", every=0.5)
    assert found.misfit == ""
    assert [v.missing for v in found.schema.variables] == ["refuse", "refuse", "model", "model", "model"]


def test_what_repeats_the_keys_is_left_out() -> None:
    frame = visits(60, time="day")
    after = frame.groupby("subject_id")["day"].shift(-1).fillna(frame["day"] + 1)
    frame = frame.assign(VISIT=frame["day"].map("Visit {}".format), start=frame["day"], stop=after)
    assert left_out(describe_frame(frame)) == {
        "VISIT": "says in words what 'day' says",
        "start": "equals 'day' in every row",
        "stop": "is the 'day' of the patient's next row",
    }


# --- values ------------------------------------------------------------------------------------------


def test_marks_of_missing_values_and_limits_are_read(tmp_path: Path) -> None:
    frame = visits(60).astype({"hr": object, "temp": object})
    frame.loc[::7, "hr"] = -999
    frame.loc[::5, "temp"] = "."
    frame["vl"] = ["<50" if n % 3 else f"{60 + n}" for n in range(len(frame))]
    frame["base excess"] = np.linspace(-12, 9, len(frame)).round(2)
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = describe_table(tmp_path / "t.csv")
    assert one(found, "hr").read_as == {"-999": None}
    assert one(found, "temp").read_as == {".": None}
    assert one(found, "vl").read_as == {"<50": "25"}
    assert (one(found, "hr").missing, one(found, "hr").measured_flag) == ("model", "hr (M)")
    assert one(found, "base excess").offset >= 12
    assert found.misfit == ""
    assert any("'vl'" in doubt and "half of it" in doubt for doubt in found.undecided)
    assert main(["prepare", str(tmp_path / "t.csv"), "--out", str(tmp_path / "p.h5")]) == 0
    cohort = PreparedCohort.open(tmp_path / "p.h5")
    made = pd.concat([cohort.frame("train"), cohort.frame("holdout")])
    assert made["hr"].isna().sum() == (frame["hr"] == -999).sum()
    assert made["temp"].isna().sum() == (frame["temp"] == ".").sum()
    assert (made["vl"] == 25).sum() == (frame["vl"] == "<50").sum()
    assert made["hr"].min() > 0


def test_what_is_not_sure_is_said_and_nothing_is_lost() -> None:
    frame = visits(60)
    frame["hr"] = frame["hr"].where(frame.index % 20 != 0, 0)  # no pulse, or no measurement
    frame["score"] = np.where(frame.index % 50 == 0, -1, frame.index % 40)
    found = describe_frame(frame)
    assert (one(found, "hr").read_as, one(found, "score").read_as) == ({}, {})
    doubts = "\n".join(found.undecided)
    assert "'hr': 0 stands in" in doubts
    assert "'score': -1 stands in" in doubts


def test_statics_with_gaps_are_filled_or_get_a_class_of_their_own() -> None:
    frame = visits(60)
    first = frame["subject_id"] != frame["subject_id"].shift()
    frame["weight"] = (60.0 + frame["subject_id"] % 40).where(first)
    frame["smoker"] = frame["sex"].map({"M": "yes", "F": "no"}).where(frame["subject_id"] % 5 != 0)
    frame["height"] = (150.0 + frame["subject_id"] % 40).where(frame["subject_id"] % 5 != 0)
    found = describe_frame(frame)
    assert (one(found, "weight").static, one(found, "weight").fill) == (True, "first")
    assert one(found, "smoker").labels == ("no", "yes", "not recorded")
    assert (one(found, "height").static, one(found, "height").missing) == (False, "model")
    assert any("'height' is constant but 12 patients have no value" in doubt for doubt in found.undecided)
    assert found.misfit == ""


def test_gaps_in_the_same_rows_share_a_flag_and_a_flag_in_the_table_is_taken() -> None:
    frame = visits(60).assign(sbp=120.5, dbp=70.5)
    frame["sbp"] += frame.index % 30
    frame["dbp"] += frame.index % 20
    frame.loc[::3, ["sbp", "dbp"]] = np.nan
    frame.loc[::4, "temp"] = np.nan
    frame["temp_measured"] = frame["temp"].notna().astype(int)
    found = describe_frame(frame)
    assert one(found, "sbp").measured_flag == one(found, "dbp").measured_flag == "sbp (M)"
    assert one(found, "temp").measured_flag == "temp_measured"


def test_follow_up_is_proposed_where_it_is_sure() -> None:
    frame = visits(60, time="month")
    last = frame.groupby("subject_id")["month"].transform("max")
    dead = (frame["subject_id"] % 3 == 0).astype(int)
    frame = frame.assign(futime=last + 0.5 + frame["subject_id"] % 7 * 0.5, death=dead)
    frame["event"] = ((frame["month"] == last) & (dead == 1)).astype(int)
    found = describe_frame(frame)
    follow = found.schema.follow_up
    assert follow is not None
    assert (follow.time, follow.event) == ("futime", "death")
    assert one(found, "death").labels == ("censored", "dead")
    assert "repeats the outcome" in left_out(found)["event"]
    late = describe_frame(frame.assign(futime=frame["futime"] - 3))
    assert late.schema.follow_up is None
    assert "# follow_up: {time: futime, event: death}" in late.yaml


# --- what cannot be described ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: f.groupby("subject_id").head(1),
            "each 'subject_id' has one row, so that nothing changes over time",
        ),
        (lambda f: f.head(0), "the table has no rows"),
        (lambda f: f[["subject_id", "hour"]], "besides its keys it has no column that can be a variable"),
        (lambda f: f.head(2), "'subject_id' is '1000' in every row: one patient is not enough to learn from"),
        (lambda f: f[["sex", "age"]].drop_duplicates(), "no column looks like a patient identifier"),
        (
            lambda f: f.melt(["subject_id", "hour"], ["hr", "temp"], "itemid", "valuenum"),
            r"each row holds one measurement .*pivot_table\(index=\['subject_id', 'hour'\], columns='itemid'",
        ),
        (
            lambda f: (
                f.pivot(index="subject_id", columns="hour", values="hr").add_prefix("hr_").reset_index()
            ),
            r"hr_0, hr_1, hr_2, hr_3 and 1 more seem to be one variable at several times.*wide_to_long",
        ),
    ],
)
def test_other_tables_are_refused_with_what_to_do(change: Any, said: str) -> None:
    with pytest.raises(TableError, match=said):
        describe_frame(change(visits()))


@pytest.mark.parametrize(
    "name", ["it's: {odd}", "#1", "a\tb", "naïve, or not", "null", "- x", "x" * 70, '"q"']
)
def test_any_name_and_any_class_comes_back_from_yaml(name: str) -> None:
    frame = visits(60).rename(columns={"hr": name})
    frame["sex"] = frame["sex"].map({"M": f"{name}!", "F": "no"})
    found = describe_frame(frame)
    if "\t" in name:
        assert left_out(found)[name] == "has a name that not every file can hold"
        assert "free text" in left_out(found)["sex"]
        return
    assert one(found, name.strip()).kind == "real"
    assert set(one(found, "sex").labels) == {f"{name}!", "no"}


def test_a_schema_that_is_there_is_never_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    visits().to_csv(tmp_path / "t.csv", index=False)
    schema = tmp_path / "p.yaml"
    words = [str(tmp_path / "t.csv"), "--out", str(schema)]
    assert main(["describe", *words]) == 0
    assert main(["describe", *words]) == 0  # the same again
    corrected = schema.read_text().replace("kind: real, unit: degC", "kind: real, unit: degF")
    schema.write_text(corrected)
    assert main(["describe", *words]) == 1
    assert "may have been edited" in capsys.readouterr().err
    assert main(["prepare", str(tmp_path / "t.csv"), "--out", str(tmp_path / "p.h5")]) == 0
    assert "is used as it is" in capsys.readouterr().out
    assert schema.read_text() == corrected
    assert PreparedCohort.open(tmp_path / "p.h5").schema["temp"].unit == "degF"


def test_read_as_is_checked_and_kept(tmp_path: Path) -> None:
    text = "name: s\nvariables:\n  - {name: x, kind: real, read_as: {'<5': 2.5, -999: null}}\n"
    (tmp_path / "s.yaml").write_text(text)
    schema = load_schema(tmp_path / "s.yaml")
    assert schema["x"].read_as == {"<5": "2.5", "-999": None}
    assert Schema.from_json(schema.to_json()) == schema
    with pytest.raises(ValueError, match="which is no number"):
        Schema.model_validate(
            {"name": "s", "variables": [{"name": "x", "kind": "real", "read_as": {"<5": "low"}}]}
        )
    classes = {"name": "x", "kind": "binary", "classes": ["a", "b"], "read_as": {"": "c"}}
    with pytest.raises(ValueError, match="none of its classes a, b"):
        Schema.model_validate({"name": "s", "variables": [classes]})


def test_a_packed_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.zst"
    packed(visits(400).to_csv(index=False), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises((TableError, StorageError)):
        describe_table(path)
