"""Tables are read unchanged and checked completely; each problem is reported with its position and remedy."""

import gzip
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import small_schema, small_table

from healthgym.data.tables.missing import Fills
from healthgym.data.tables.reading import read_parts
from healthgym.data.tables.table import check_rows, check_table, read_table
from healthgym.errors import TableError
from healthgym.schema import Schema, load_schema

SCHEMAS = Path(__file__).parents[2] / "configs" / "schemas"


def set_cell(row: int, column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return change


def test_a_good_table_is_cleaned() -> None:
    checked = check_table(small_table(), small_schema())
    assert list(checked) == ["PatientID", "Timestep", "dose", "drug", "sex"]
    assert checked["dose"].dtype == np.float64
    assert list(checked["drug"].cat.categories) == ["none", "A", "B + C"]
    assert not checked["drug"].cat.ordered
    raw = small_table()
    assert (checked["drug"].cat.codes == raw["drug"]).all()
    assert (checked["sex"] == raw["sex"].map({"m": "male", "f": "female"})).all()


@pytest.mark.parametrize(
    "written",
    [
        lambda frame: frame.assign(drug=frame["drug"].astype(float)),
        lambda frame: frame.assign(drug=frame["drug"].astype(str)),
        lambda frame: frame.assign(drug=frame["drug"].astype(float).astype(str)),
        lambda frame: frame.assign(drug=frame["drug"].map({0: "none", 1: "A", 2: "B + C"})),
        lambda frame: frame.assign(drug=frame["drug"].map({0: "none", 1: 1, 2: "2"})),
        lambda frame: frame.assign(
            drug=frame["drug"].map({0: "none", 1: "A", 2: "B + C"}).astype("category")
        ),
        lambda frame: frame.assign(
            dose=frame["dose"].astype(str), PatientID=frame["PatientID"].astype(float)
        ),
        lambda frame: frame.assign(
            dose=frame["dose"].astype("Float64"), Timestep=frame["Timestep"].astype("Int64")
        ),
    ],
)
def test_codes_and_labels_may_be_written_in_any_way(
    written: Callable[[pd.DataFrame], pd.DataFrame],
) -> None:
    expected = check_table(small_table(), small_schema())
    pd.testing.assert_frame_equal(check_table(written(small_table()), small_schema()), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            set_cell(5, "drug", 7),
            r"'drug': unknown class: row 5 \(7\)\. Expected 0 \(none\), 1 \(A\), 2 \(B \+ C\)\. Correct it",
        ),
        (set_cell(5, "drug", "B+C"), r"unknown class: row 5 \(B\+C\)\. .*did you mean 'B \+ C'"),
        (
            set_cell(5, "drug", None),
            r"column 'drug': no value: row 5\. Fill it in, or say `missing: carry_forward`",
        ),
        (set_cell(8, "sex", np.nan), r"column 'sex': no value: row 8\. Fill it in, or say `fill: first`"),
        (set_cell(3, "dose", "12 mg"), r"column 'dose': not a number: row 3 \(12 mg\)\. Write numbers"),
        (set_cell(3, "dose", "1,5"), r"column 'dose': not a number: row 3 \(1,5\)\. .*decimal point"),
        (set_cell(3, "dose", np.inf), r"column 'dose': infinite: row 3 \(inf\)\. Correct"),
        (
            set_cell(3, "dose", -0.5),
            r"column 'dose': not above -0\.001, .*Box-Cox.*row 3 \(-0\.5\).*`offset:`",
        ),
        (set_cell(3, "dose", np.nan), r"column 'dose': no value: row 3\."),
        (set_cell(5, "PatientID", None), r"column 'PatientID': no patient: row 5\. Every row needs one"),
        (set_cell(5, "Timestep", "x"), r"column 'Timestep': not a whole number: row 5 \(x\)\. Number"),
        (set_cell(5, "Timestep", 1.5), r"column 'Timestep': not a whole number: row 5 \(1\.5\)"),
        (
            set_cell(5, "Timestep", 0),
            r"same patient and timestep as an earlier row: row 5 \(patient 1, Timestep 0\)",
        ),
        (
            lambda f: f.drop(index=5),
            r"timesteps are missing before a row: row 6 \(patient 1, Timestep 1 is missing\)",
        ),
        (lambda f: f.drop(index=4), r"do not start at Timestep 0 .*: row 5 \(patient 1, Timestep 1\)"),
        (
            lambda f: f.iloc[[0, 2, 1, *range(3, 24)]],
            r"not sorted by PatientID and Timestep: row 1 \(patient 0, .*--sort",
        ),
        (lambda f: f.iloc[[*range(3), *range(4, 24), 3]], r"not sorted .*: row 3 \(patient 0, Timestep 3\)"),
        (
            lambda f: f.assign(sex=["m", "m", "f", "f", *["m"] * 20]),
            r"'sex': static, but changes within a patient: row 2 \(patient 0, from male to female\)",
        ),
        (
            lambda f: f.drop(columns="dose"),
            r"lacks 'dose', which the schema 'small' declares\. Rename or add",
        ),
        (lambda f: f.rename(columns={"dose": "Dose"}), r"lacks 'dose' \(did you mean 'Dose'\?\)"),
        (lambda f: f.iloc[:0], r"columns but no rows"),
        (
            lambda f: f.assign(dose=pd.Timestamp("2020-01-01")),
            r"column 'dose': not a number: row 0 \(2020-01-01",
        ),
    ],
)
def test_faults_are_named(change: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    with pytest.raises(TableError, match=message) as caught:
        check_table(change(small_table()), small_schema(), "cohort.parquet")
    assert str(caught.value).startswith("cohort.parquet: ")


def test_all_faults_are_told_at_once_and_long_lists_are_cut() -> None:
    frame = small_table(100, 5).assign(drug=9)
    frame.loc[7, "dose"] = np.inf
    frame = frame.drop(index=12)
    with pytest.raises(TableError) as caught:
        check_table(frame, small_schema(), "t")
    text = str(caught.value)
    assert text.startswith("t: 3 problems (rows are counted from 0)\n")
    assert "row 0 (9), row 1 (9), row 2 (9) and 496 more." in text
    assert "infinite" in text
    assert "Timestep 2 is missing" in text
    assert len(text.splitlines()) == 4


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_sorting_undoes_any_order(seed: int) -> None:
    frame = small_table()
    shuffled = frame.sample(frac=1, random_state=seed)
    expected = check_table(frame, small_schema())
    pd.testing.assert_frame_equal(check_table(shuffled, small_schema(), sort=True), expected)


def test_patients_may_be_named_differ_in_length_and_stand_in_any_order() -> None:
    frame = small_table().drop(index=[3, 10, 11])
    frame["PatientID"] = "p" + (9 - frame["PatientID"]).astype(str)
    checked = check_table(frame, small_schema())
    assert checked.groupby("PatientID").size().tolist() == [4, 4, 4, 2, 4, 3]
    assert checked["PatientID"].unique().tolist() == ["p4", "p5", "p6", "p7", "p8", "p9"]
    first = check_table(frame[frame["PatientID"] == "p9"], small_schema())
    pd.testing.assert_frame_equal(checked[-3:].reset_index(drop=True), first)


def test_leading_zeros_keep_patients_apart(tmp_path: Path) -> None:
    rows = "".join(f"{patient},0,1.5,0,m\n" for patient in ("07", "7", "007"))
    (tmp_path / "t.csv").write_text("PatientID,Timestep,dose,drug,sex\n" + rows)
    checked = check_table(read_table(tmp_path / "t.csv", small_schema()), small_schema())
    assert list(checked["PatientID"]) == ["007", "07", "7"]


def test_offset_admits_negative_values() -> None:
    frame = small_table()
    frame.loc[3, "dose"] = -0.5
    checked = check_table(frame, small_schema(dose={"offset": 1.0}))
    assert checked.loc[3, "dose"] == -0.5


# --- missing values --------------------------------------------------------------------------------

CARRY = {"missing": "carry_forward", "measured_flag": "dose (M)"}
MODEL = {"missing": "model", "measured_flag": "dose (M)"}


def gappy_table() -> pd.DataFrame:
    frame = small_table(3, 4).astype({"dose": float})
    frame["dose"] = [np.nan, 2.0, np.nan, 4.0, 8.0, np.nan, np.nan, 1.0, 3.0, 3.0, 3.0, np.nan]
    return frame


def test_carry_forward_fills_with_the_past_only() -> None:
    checked = check_table(gappy_table(), small_schema(dose=CARRY))
    assert checked["dose"].tolist() == [3, 2, 2, 4, 8, 8, 8, 1, 3, 3, 3, 3]  # the first one: the median
    assert (checked["dose (M)"] == "True").tolist() == gappy_table()["dose"].notna().tolist()


def test_nothing_is_carried_from_one_patient_to_the_next() -> None:
    frame = gappy_table().assign(dose=[1.0, 1.0, 1.0, 9.0, np.nan, 4.0, 4.0, 4.0, np.nan, 4.0, 4.0, 4.0])
    checked = check_table(frame, small_schema(dose=CARRY))
    assert checked["dose"].tolist() == [1, 1, 1, 9, 4, 4, 4, 4, 4, 4, 4, 4]


def test_modelled_missingness_stays_blank() -> None:
    checked = check_table(gappy_table(), small_schema(dose=MODEL))
    np.testing.assert_array_equal(checked["dose"], gappy_table()["dose"])
    assert (checked["dose (M)"] == "True").tolist() == gappy_table()["dose"].notna().tolist()


@pytest.mark.parametrize("policy", [CARRY, MODEL])
def test_a_cleaned_table_is_its_own_cleaning(policy: dict[str, Any]) -> None:
    once = check_table(gappy_table(), small_schema(dose=policy))
    pd.testing.assert_frame_equal(check_table(once, small_schema(dose=policy)), once)


def test_missing_classes_are_carried_and_led_by_the_most_frequent() -> None:
    schema = small_schema(drug={"missing": "carry_forward", "measured_flag": "drug (M)"})
    frame = small_table(2, 3).astype({"drug": object})
    frame["drug"] = [None, 1, None, None, 1, 2]
    assert check_table(frame, schema)["drug"].tolist() == ["A", "A", "A", "A", "A", "B + C"]


def test_fills_come_from_the_table_they_were_fitted_on() -> None:
    schema = small_schema(dose=CARRY)
    checked = check_rows(gappy_table(), schema, "t")
    fills = Fills.fit(checked[checked["PatientID"] == 1], schema)
    assert fills.values == {"dose": 4.5}
    assert fills.carry_forward(checked, schema, modelled=False)["dose"].iloc[0] == 4.5


def test_a_declared_flag_blanks_what_was_not_measured_and_must_not_lie() -> None:
    flag = {"name": "dose (M)", "kind": "binary", "classes": {0: "no", 1: "yes"}}
    schema = Schema.model_validate(
        {"name": "s", "variables": [*small_schema(dose=MODEL).model_dump()["variables"], flag]}
    )
    frame = small_table(2, 2).assign(**{"dose (M)": [1, 0, 1, 1]})
    assert check_table(frame, schema)["dose"].isna().tolist() == [False, True, False, False]
    frame.loc[3, "dose"] = np.nan
    with pytest.raises(
        TableError, match=r"column 'dose': no value, but 'dose \(M\)' says .*: row 3\. Correct"
    ):
        check_table(frame, schema)


@pytest.mark.parametrize("policy", [CARRY, MODEL])
def test_a_gap_may_not_be_declared_measured(policy: dict[str, Any]) -> None:
    flag = {"name": "dose (M)", "kind": "binary", "classes": {0: "no", 1: "yes"}}
    schema = Schema.model_validate(
        {"name": "s", "variables": [*small_schema(dose=policy).model_dump()["variables"], flag]}
    )
    frame = small_table(1, 3).assign(**{"dose": [1.0, np.nan, 3.0], "dose (M)": [1, 1, 1]})
    with pytest.raises(TableError, match=r"column 'dose': no value, but 'dose \(M\)' says .*: row 1\. Corr"):
        check_table(frame, schema)
    checked = check_table(frame.assign(**{"dose (M)": [1, 0, 1]}), schema)
    assert checked["dose (M)"].tolist() == ["yes", "no", "yes"]


def test_values_carried_forward_before_stay_where_the_flag_says_so() -> None:
    once = check_table(gappy_table(), small_schema(dose=CARRY))
    assert once["dose"].notna().all()
    assert check_table(once, small_schema(dose=CARRY))["dose"].tolist() == once["dose"].tolist()


def test_a_variable_without_any_value_is_refused() -> None:
    with pytest.raises(TableError, match="'dose' has no value at all among the training patients"):
        check_table(small_table().assign(dose=np.nan), small_schema(dose=CARRY))


@pytest.mark.parametrize(
    "classes",
    [
        {1: "0", 0: "1"},
        {0: "1", 1: "2", 2: "3"},
        {0: "1.0", 1: "x"},
        {"a": "b", "b": "c"},
        {0: "true", 1: "TRUE"},
    ],
)
def test_a_word_that_could_mean_two_classes_is_refused(classes: dict[Any, str]) -> None:
    with pytest.raises(
        ValueError, match=r"'drug': a table's '\w+' could mean the class .* or .*; give labels"
    ):
        small_schema(drug={"classes": classes})


def drugs_of(frame: pd.DataFrame, classes: dict[Any, str], path: Path) -> list[str]:
    """Write a table, read it again, and return the labels of 'drug'."""
    schema = small_schema(drug={"classes": classes})
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return list(check_table(read_table(path, schema), schema)["drug"])


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize(
    ("classes", "written", "labels"),
    [
        ({0: "True", 1: "False"}, [True, False], ["True", "False"]),
        ({1: "False", 2: "True"}, [True, False], ["True", "False"]),
        ({1: "False", 2: "True"}, [1, 2], ["False", "True"]),
        ({0: "False", 1: "True"}, ["TRUE", "false"], ["True", "False"]),
        ({0: "no", 1: "yes"}, [True, False], ["yes", "no"]),
        ({1: "a", 0: "b"}, [1.0, 0.0], ["a", "b"]),
        ({1: "a", 100_000: "b"}, ["1.00", "1e+05"], ["a", "b"]),
        ({"01": "a", "1": "b"}, ["01", "1"], ["a", "b"]),
        ({5: "15", 6: "16"}, [15, 6], ["15", "16"]),
    ],
)
def test_a_label_is_never_taken_for_another_class(
    tmp_path: Path, name: str, classes: dict[Any, str], written: list[Any], labels: list[str]
) -> None:
    frame = small_table(1, 2).assign(drug=written)
    assert drugs_of(frame, classes, tmp_path / name) == labels


def test_true_and_one_in_one_column_are_two_words() -> None:
    schema = small_schema(drug={"classes": {0: "True", 1: "False"}})
    frame = small_table(1, 4).assign(drug=np.array([1, True, False, 0], dtype=object))
    assert list(check_table(frame, schema)["drug"]) == ["False", "True", "False", "True"]


def test_true_is_no_class_where_codes_are_others() -> None:
    schema = small_schema(drug={"classes": {1: "a", 2: "b"}})
    with pytest.raises(TableError, match=r"'drug': unknown class: row 0 \(True\)"):
        check_table(small_table(1, 2).assign(drug=[True, True]), schema)


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_formats_agree(tmp_path: Path, name: str) -> None:
    frame = small_table()
    path = tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    read = read_table(path, small_schema())
    expected = check_table(frame, small_schema())
    pd.testing.assert_frame_equal(check_table(read, small_schema(), str(path)), expected, check_exact=True)


def test_an_index_that_counts_rows_continues_from_part_to_part(tmp_path: Path) -> None:
    frame = small_table()
    frame["PatientID"] = 0
    frame.index = pd.RangeIndex(5, 5 + 2 * len(frame), 2, name="Timestep")
    frame.drop(columns="Timestep").to_parquet(tmp_path / "t.parquet")
    parts = list(read_parts(tmp_path / "t.parquet", small_schema(), cells=12))
    assert len(parts) > 2
    assert pd.concat(parts)["Timestep"].tolist() == frame.index.tolist()
    whole = read_table(tmp_path / "t.parquet", small_schema())
    assert whole["Timestep"].tolist() == frame.index.tolist()


def test_parquet_may_have_its_keys_in_the_index(tmp_path: Path) -> None:
    small_table().set_index(["PatientID", "Timestep"]).to_parquet(tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet", small_schema())
    pd.testing.assert_frame_equal(
        check_table(read, small_schema()), check_table(small_table(), small_schema())
    )


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    lines = [
        "\ufeffPatientID,Timestep,dose,other,drug,sex",
        "0,0,1.5,x,0,m",
        "",
        "0,1,bad,x,0,m",
        ",,,,,",
        "",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    frame = read_table(tmp_path / "t.csv", small_schema())
    assert len(frame) == 2
    with pytest.raises(TableError, match=r"t\.csv: 1 problem\n .*not a number: line 4 \(bad\)"):
        check_table(frame, small_schema(), "t.csv")


def test_a_class_may_be_called_none(tmp_path: Path) -> None:
    schema = small_schema(drug={"classes": ["None", "NA", "A"]})
    (tmp_path / "t.csv").write_text("PatientID,Timestep,dose,drug,sex\n0,0,1,None,m\n0,1,2,NA,m\n0,2,3,A,m\n")
    checked = check_table(read_table(tmp_path / "t.csv", schema), schema)
    assert checked["drug"].tolist() == ["None", "NA", "A"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", None, r"no such file\. Check the path"),
        (
            "t.xlsx",
            b"",
            r"the file name does not show the format\. Give a table as \.csv, \.csv\.gz, .*\.parquet",
        ),
        ("t.csv", b"", r"first line is empty"),
        ("t.csv", b"a,b\n1,2\n", r"none of the schema's columns .* the file has a, b\."),
        ("t.csv", b"PatientID,dose,dose\n1,2,3\n", r"line 1: column 'dose' appears twice"),
        (
            "t.csv",
            b"PatientID,Timestep,dose\n1,2,\xff\xfe\n",
            r"not UTF-8 text .* Save the table as UTF-8, "
            "or name its encoding by --encoding",
        ),
        (
            "t.csv",
            b"PatientID,Timestep\n1,2\n1,2,3,4\n",
            r"number of fields than the 2 of the header: line 3 has 4\. .*Correct the rows",
        ),
        (
            "t.csv",
            b"PatientID,Timestep\n1,2,3\n1,2,3\n",
            r"the 2 of the header: line 2 has 3, line 3 has 3\.",
        ),
        ("t.csv.gz", b"PatientID,Timestep\n", r"cannot be read: Not a gzipped file"),
        (
            "t.csv.gz",
            gzip.compress(b"PatientID,Timestep,dose\n" * 99, mtime=0)[:-9],
            r"cannot be read: Compressed file ended",
        ),
        ("t.parquet", b"PAR1 rubbish", r"cannot be read: .*Correct"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TableError, match=f"^{re.escape(str(path))}.*{message}"):
        read_table(path, small_schema())


def test_a_million_rows_take_seconds() -> None:
    schema = load_schema(SCHEMAS / "art_hiv_notebook.yaml")
    patients = np.repeat(np.arange(16_667), 60)
    columns: dict[str, Any] = {"PatientID": patients, "Timestep": np.tile(np.arange(60), 16_667)}
    columns |= {variable.name: 1.0 + patients % 7 for variable in schema.reals}
    columns |= {v.name: np.array(v.codes)[patients % len(v.codes)] for v in schema.categoricals}
    started = time.process_time()
    assert len(check_table(pd.DataFrame(columns), schema)) == 1_000_020
    assert time.process_time() - started < 10
