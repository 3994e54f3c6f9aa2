"""Names, labels and ids with any characters: compared in one Unicode form, distinct in files, or refused."""

import unicodedata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import small_schema, small_table

from healthgym.data.prepare import prepare, prepare_parts
from healthgym.data.sequences import PreparedCohort
from healthgym.data.tables.reading import read_parts, read_table
from healthgym.data.tables.table import check_table
from healthgym.errors import TableError, nearest
from healthgym.schema import Schema, Variable
from healthgym.storage.formats.hdf5 import link_names
from healthgym.storage.shard import Shard
from healthgym.storage.shard_file import encode_shard, read_shard

COMPOSED, PARTED = "Größe é", unicodedata.normalize("NFD", "Größe é")


def renamed(frame: pd.DataFrame, **names: str) -> pd.DataFrame:
    return frame.rename(columns=names)


def schema_of(names: list[str]) -> Schema:
    return Schema(name="s", variables=tuple(Variable(name=name, kind="real") for name in names))


def shard_of(schema: Schema) -> Shard:
    columns = {v.name: np.full(2, n, np.float32) for n, v in enumerate(schema.variables)}
    return Shard(schema, 0, np.array([2], np.int32), columns)


# --- one form --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize(("declared", "written"), [(COMPOSED, PARTED), (PARTED, COMPOSED), ("x", " x ")])
def test_names_and_labels_are_compared_in_one_form(
    tmp_path: Path, name: str, declared: str, written: str
) -> None:
    classes = {0: "none", 1: declared, 2: "C"}
    variables = [
        {**v.model_dump(), "name": declared if v.name == "dose" else v.name} for v in small_schema().variables
    ]
    variables[1]["classes"] = classes
    schema = Schema.model_validate({"name": "s", "keys": {"patient": "P"}, "variables": variables})
    frame = renamed(small_table(), dose=written, PatientID="P").assign(drug=["none", written, "C"] * 8)
    frame["P"] = frame["P"].map(lambda i: f" {written.strip()}{i}" if i % 2 else f"{declared}{i}")
    expected = check_table(
        renamed(small_table(), dose=declared, PatientID="P").assign(
            drug=["none", declared, "C"] * 8, P=lambda f: f["P"].map(lambda i: f"{declared.strip()}{i}")
        ),
        schema,
    )
    frame.to_parquet(tmp_path / name) if name.endswith("t") else frame.to_csv(tmp_path / name, index=False)
    for given_frame in (frame, read_table(tmp_path / name, schema)):
        checked = check_table(given_frame, schema)
        assert checked["drug"].tolist() == expected["drug"].tolist()
    prepared = prepare_parts(read_parts(tmp_path / name, schema), schema, tmp_path / "p.h5")
    assert set(prepared.frame("train")["drug"]) <= set(schema["drug"].labels)


def test_columns_that_are_the_same_in_one_form_are_refused(tmp_path: Path) -> None:
    frame = renamed(small_table(), dose=COMPOSED).assign(**{PARTED: 1.0})
    schema = small_schema(dose={"name": PARTED})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match=f"column '{COMPOSED}' appears twice in the header"):
        read_table(tmp_path / "t.csv", schema)
    for read in (
        read_table(tmp_path / "t.parquet", schema),
        next(read_parts(tmp_path / "t.parquet", schema)),
    ):
        with pytest.raises(TableError, match=f"column '{COMPOSED}' appears twice in the table"):
            check_table(read, schema)
    with pytest.raises(ValueError, match=f"variable '{COMPOSED}' is declared twice"):
        schema_of([COMPOSED, PARTED])
    with pytest.raises(ValueError, match="same label twice"):
        small_schema(drug={"classes": {0: COMPOSED, 1: PARTED}})


def test_ids_with_spaces_are_the_same_patients(tmp_path: Path) -> None:
    frame = small_table(6, 4)
    expected = prepare(frame, small_schema(), tmp_path / "p.h5").fingerprint
    spaced = frame.assign(PatientID=[f" {i}" if n % 2 else f"{i} " for n, i in enumerate(frame["PatientID"])])
    assert prepare(spaced, small_schema(), tmp_path / "q.h5").fingerprint == expected
    spaced.to_csv(tmp_path / "t.csv", index=False)
    again = prepare_parts(
        read_parts(tmp_path / "t.csv", small_schema(), 5), small_schema(), tmp_path / "r.h5"
    )
    assert again.fingerprint == expected


def test_an_id_of_spaces_is_none(tmp_path: Path) -> None:
    frame = small_table().astype({"PatientID": str})
    frame.loc[5, "PatientID"] = "  "
    with pytest.raises(TableError, match=r"'PatientID': no patient: row 5\. Every row needs one"):
        check_table(frame, small_schema())


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_bytes_in_parquet_are_text_in_every_column(tmp_path: Path, kind: pa.DataType) -> None:
    frame = small_table()
    expected = prepare(frame, small_schema(), tmp_path / "p.h5").fingerprint
    columns: dict[str, Any] = {"Timestep": pa.array(frame["Timestep"])}
    for name in ("PatientID", "dose", "drug", "sex"):
        columns[name] = pa.array([str(value).encode() for value in frame[name]]).cast(kind)
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    parts = read_parts(tmp_path / "t.parquet", small_schema(), 30)
    assert prepare_parts(parts, small_schema(), tmp_path / "q.h5").fingerprint == expected
    odd = [f"Zo\xeb{i}".encode("latin-1") for i in frame["PatientID"]]
    pq.write_table(pa.table(columns | {"PatientID": pa.array(odd)}), tmp_path / "t.parquet")
    prepare_parts(read_parts(tmp_path / "t.parquet", small_schema()), small_schema(), tmp_path / "r.h5")
    assert PreparedCohort.open(tmp_path / "r.h5").train.patient_ids[0].startswith("Zo\\xeb")


def test_a_flipped_bit_in_parquet_with_checksums_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.Table.from_pandas(small_table(100, 4), preserve_index=False)
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    place = content.index(np.float64(small_table(100, 4)["dose"][7]).tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(TableError, match="cannot be read"):
        list(read_parts(path, small_schema()))


@pytest.mark.parametrize(
    ("word", "candidate", "said"),
    [
        ("dose", "Dose", "did you mean 'Dose'?"),
        ("\xb5g dose", "\u03bcg dose", r"did you mean 'μg dose', written '\u03bcg dose'?"),
        ("\xb5g", "\u03bcg", r"written '\u03bcg'?"),
        ("dose", "do\u200bse", "written 'do\\u200bse'?"),
        ("CD4 count", "CD4\xa0count", "written 'CD4\\xa0count'?"),
    ],
)
def test_a_name_that_only_looks_the_same_is_told_by_its_characters(
    word: str, candidate: str, said: str
) -> None:
    assert said in nearest(word, [candidate])


# --- what later steps can hold ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a\nb"},
        {"name": "a\0"},
        {"name": "\ud800x"},
        {"unit": "mg\t/dL"},
        {"name": "  "},
        {"description": "a\0b"},
        {"classes": {0: "a\x1b", 1: "b"}, "kind": "binary", "unit": ""},
        {"classes": {0: "a", "\x7f1": "b"}, "kind": "binary", "unit": ""},
    ],
)
def test_what_a_file_cannot_hold_is_refused_in_the_schema(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"which not every file can|is empty; give|unicode string"):
        small_schema(dose=change)


@pytest.mark.parametrize("key", ["PatientID", "Timestep"])
def test_a_derived_flag_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match=f"'{key}' is a key and cannot be a variable or its measured flag"):
        small_schema(dose={"missing": "model", "measured_flag": key})


def test_names_that_hdf5_would_take_for_one_another_are_numbered() -> None:
    schema = schema_of(["x/y", "x|y", "x|y (2)", ".", "|", "/", "..", "a/b/"])
    links = link_names(schema)
    assert links["x|y"] == "x|y"
    assert links["x/y"] == "x|y (3)"
    assert links["a/b/"] == "a|b|"
    assert len(set(links.values())) == len(links) == 10


names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=6) | st.text(
    st.sampled_from("x/|. ()23#"), min_size=1, max_size=4
)


@pytest.mark.parametrize("file_format", ["hdf5", "parquet"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(names, min_size=2, max_size=6))
def test_every_shard_keeps_every_name(tmp_path: Path, file_format: Any, chosen: list[str]) -> None:
    unique = [name for name in dict.fromkeys(unicodedata.normalize("NFC", n).strip() for n in chosen) if name]
    if not unique:
        return
    schema = schema_of(unique)
    path = tmp_path / ("s.h5" if file_format == "hdf5" else "s.parquet")
    path.write_bytes(encode_shard(shard_of(schema), file_format, "none"))
    frame = read_shard(path, schema)
    assert list(frame) == ["PatientID", "Timestep", *unique]
    assert frame[unique].iloc[0].tolist() == list(range(len(unique)))
    if file_format == "hdf5":
        with h5py.File(path) as file:
            assert [column.attrs["name"] for column in file["columns"].values()] == list(frame)


@pytest.mark.parametrize("file_format", ["hdf5", "parquet"])
def test_a_schema_larger_than_an_hdf5_attribute_is_held(tmp_path: Path, file_format: Any) -> None:
    many = {code: f"class {code} {'x' * 300}" for code in range(256)}
    variables = [Variable(name=f"v{n}", kind="categorical", classes=many) for n in range(20)]
    schema = Schema(
        name="s", variables=(*variables, Variable(name="x", kind="real", description="y" * 70_000))
    )
    columns = {v.name: np.zeros(2, np.float32 if v.kind == "real" else np.uint16) for v in schema.variables}
    path = tmp_path / ("s.h5" if file_format == "hdf5" else "s.parquet")
    path.write_bytes(encode_shard(Shard(schema, 0, np.array([2], np.int32), columns), file_format, "none"))
    assert read_shard(path, schema)["v3"].tolist() == [many[0]] * 2
