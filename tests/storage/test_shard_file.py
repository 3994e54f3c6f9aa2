"""One shard's file: readable without this package, the same bytes for the same content."""

import hashlib
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from fake_system import SCHEMA

from healthgym.errors import CohortError
from healthgym.schema import Schema, Variable
from healthgym.storage.formats.table import frame_of, table_of
from healthgym.storage.forms import COMPRESSIONS
from healthgym.storage.shard import Shard, blank_code, code_dtype, variables_in_order
from healthgym.storage.shard_file import encode_shard, read_shard, suffix

FORMATS = [(name, compression) for name, offered in COMPRESSIONS.items() for compression in offered]
LENGTHS = np.array([3, 1, 4], dtype=np.int32)


def make_shard(lengths_N: "np.ndarray[tuple[int], np.dtype[np.int32]]" = LENGTHS) -> Shard:
    rng, rows = np.random.default_rng(3), int(lengths_N.sum())
    columns: dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]] = {}
    for variable in SCHEMA.encoded:
        if variable.kind == "real":
            columns[variable.name] = rng.normal(size=rows).astype(np.float32)
        else:
            columns[variable.name] = rng.integers(0, len(variable.classes), rows).astype(code_dtype(variable))
    columns["Lactate"][1:2] = np.nan
    columns["Stain"][2:3] = blank_code(SCHEMA["Stain"])
    return Shard(SCHEMA, 100, lengths_N, columns)


def save(tmp_path: Path, file_format: str, compression: str, shard: Shard | None = None) -> Path:
    path = tmp_path / f"s{suffix(file_format, compression)}"  # type: ignore[arg-type]
    path.write_bytes(encode_shard(shard or make_shard(), file_format, compression))  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("file_format", COMPRESSIONS)
@pytest.mark.parametrize("first", [1, -2, 2**40])
def test_timesteps_start_where_the_shard_says(tmp_path: Path, file_format: str, first: int) -> None:
    shard = replace(make_shard(), first_timestep=first)
    frame = read_shard(save(tmp_path, file_format, "none", shard), SCHEMA)
    assert (frame["Timestep"] - first).tolist() == [0, 1, 2, 0, 0, 1, 2, 3]


@pytest.mark.parametrize(("file_format", "compression"), FORMATS)
def test_what_is_read_is_what_was_written(tmp_path: Path, file_format: str, compression: str) -> None:
    shard = make_shard()
    frame = read_shard(save(tmp_path, file_format, compression, shard), SCHEMA)
    assert list(frame) == ["PatientID", "Timestep", *(v.name for v in variables_in_order(SCHEMA))]
    assert frame["PatientID"].tolist() == [100] * 3 + [101] + [102] * 4
    assert frame["Timestep"].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    for variable in SCHEMA.encoded:
        column, written = frame[variable.name], shard.columns[variable.name]
        if variable.kind == "real":
            np.testing.assert_array_equal(column.to_numpy(), written)
            continue
        assert list(column.cat.categories) == list(variable.labels)
        codes = np.where(written == blank_code(variable), -1, written.astype(int))
        np.testing.assert_array_equal(column.cat.codes, codes)
    assert np.isnan(frame["Lactate"][1])
    assert frame["Stain"].isna().tolist() == [False, False, True] + [False] * 5


@pytest.mark.parametrize(("file_format", "compression"), FORMATS)
def test_equal_content_gives_equal_bytes_in_another_process(file_format: str, compression: str) -> None:
    program = (
        'import sys, hashlib; sys.path[:0] = sys.argv[1].split(":")\n'
        "from test_shard_file import make_shard, encode_shard\n"
        "print(hashlib.sha256(encode_shard(make_shard(), *sys.argv[2:])).hexdigest())"
    )
    if (file_format, compression) in (("hdf5", "gzip"), ("parquet", "zstd")):
        here = Path(__file__).resolve().parent
        folders = f"{here}:{here.parent / 'support'}"
        command = [sys.executable, "-c", program, folders, file_format, compression]
        there = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    else:
        there = hashlib.sha256(encode_shard(make_shard(), file_format, compression)).hexdigest()  # type: ignore[arg-type]
    content = encode_shard(make_shard(), file_format, compression)  # type: ignore[arg-type]
    assert hashlib.sha256(content).hexdigest() == there


def test_h5py_alone_reads_an_hdf5_shard(tmp_path: Path) -> None:
    with h5py.File(save(tmp_path, "hdf5", "gzip")) as file:
        assert Schema.from_json(file.attrs["schema"]) == SCHEMA
        assert file.attrs["kind"] == "synthetic cohort shard"
        assert "copies of real patients were not looked for" in file.attrs["description"]
        assert list(file["columns"])[:3] == ["PatientID", "Timestep", "Gender"]
        assert {len(column) for column in file["columns"].values()} == {8}
        assert file["offsets"][:].tolist() == [0, 3, 4, 8]
        gender, load, stain = (file["columns"][name] for name in ("Gender", "Load", "Stain"))
        assert list(gender.attrs["labels"]) == ["Male", "Female"]
        assert gender.attrs["codes"].tolist() == [1, 2]
        assert bool(gender.attrs["static"])
        assert (gender.attrs["kind"], load.attrs["kind"], load.attrs["unit"]) == (
            "binary",
            "real",
            "copies/mL",
        )
        assert stain.attrs["blank"] == 255
        assert stain[2] == 255
        assert "blank" not in gender.attrs
        assert gender.dtype == np.uint8
        assert load.dtype == np.float32
        assert load.compression == "gzip"
        assert load.shuffle
        slashed = file["columns"]["Drug|Dose"]
        assert slashed.attrs["name"] == "Drug/Dose"
        assert list(slashed.attrs["codes"]) == ["a", "b", "c"]


@pytest.mark.parametrize("compression", COMPRESSIONS["hdf5"])
def test_columns_of_several_chunks_survive(tmp_path: Path, compression: str) -> None:
    shard = make_shard(np.full(9000, 4, dtype=np.int32))
    with h5py.File(save(tmp_path, "hdf5", compression, shard)) as file:
        for variable in SCHEMA.encoded:
            column = file["columns"][variable.name.replace("/", "|")]
            assert column.chunks[0] < len(column)
            np.testing.assert_array_equal(column[:], shard.columns[variable.name])
        np.testing.assert_array_equal(file["columns/PatientID"][:], np.repeat(np.arange(100, 9100), 4))
        np.testing.assert_array_equal(file["columns/Timestep"][:], np.tile(np.arange(4), 9000))


def test_pandas_alone_reads_a_parquet_shard_with_labels_as_categories(tmp_path: Path) -> None:
    shard = make_shard(np.array([1], dtype=np.int32))  # one row: most labels are not used
    shard.columns["Ethnic"][0] = 2
    frame = pd.read_parquet(io.BytesIO(encode_shard(shard, "parquet", "zstd")))
    assert list(frame["Ethnic"].cat.categories) == ["X", "Y", "Z", "W"]
    assert frame["Ethnic"].tolist() == ["Z"]
    assert frame["Load"].dtype == np.float32


def exact(values: "list[float]") -> Shard:
    """Return a shard of one patient whose Load has one decimal and whose Age has none."""
    shard = make_shard(np.array([len(values)], dtype=np.int32))
    rows = np.array(values, np.float32)
    shard.columns["Load"][:], shard.columns["Age"][:] = np.round(rows, 1), np.round(rows)
    return replace(shard, decimals={"Load": 1, "Age": 0})


def test_tables_have_the_decimals_and_the_integers_of_the_data(tmp_path: Path) -> None:
    shard = exact([61.2, 0.1, 1234567.8, 16777216.0])
    for file_format in ("parquet", "csv"):
        path = save(tmp_path, file_format, "none", shard)
        frame = pd.read_parquet(path) if file_format == "parquet" else pd.read_csv(path)
        assert frame["Load"].tolist() == [61.2, 0.1, 1234567.8, 16777216.0]
        assert (frame["Age"].dtype, frame["Age"].tolist()) == (np.int64, [61, 0, 1234568, 16777216])
    with h5py.File(save(tmp_path, "hdf5", "none", shard)) as file:
        assert file["columns/Load"].attrs["decimals"] == 1
        assert "decimals" not in file["columns/Lactate"].attrs


def test_a_csv_shard_has_labels_bare_numbers_and_empty_blanks(tmp_path: Path) -> None:
    lines = save(tmp_path, "csv", "none", exact([61.2, 5, 7])).read_text().splitlines()
    assert lines[0].startswith('"PatientID","Timestep","Gender","Load","Age","Lactate","Drug/Dose"')
    assert re.fullmatch(r'100,0,"(Male|Female)",61\.2,61,-?[0-9.e-]+,"(A|B \+ C|Other)",.*', lines[1])
    assert re.fullmatch(r'100,1,"[A-Za-z]+",5,5,,.*', lines[2])  # Lactate is blank
    assert lines[3].split(",")[8] == ""  # Stain is blank


@pytest.mark.parametrize("file_format", COMPRESSIONS)
@pytest.mark.parametrize("whole", [True, False])
def test_dates_count_from_a_day_that_nobody_lived(tmp_path: Path, file_format: str, whole: bool) -> None:
    days = np.array([0.0, 3, 31, 0, 0, 1, 2, 366 + (0 if whole else 0.5)])
    shard = replace(make_shard(), times_N=days.astype(np.int64) if whole else days, dates={"Timestep": whole})
    path = save(tmp_path, file_format, "none", shard)
    np.testing.assert_array_equal(read_shard(path, SCHEMA)["Timestep"], days)
    if file_format == "hdf5":
        with h5py.File(path) as file:
            assert file["columns/Timestep"].attrs["unit"] == "days since 2000-01-01"
        return
    frame = pd.read_parquet(path) if file_format == "parquet" else pd.read_csv(path, parse_dates=["Timestep"])
    last = "2001-01-01" if whole else "2001-01-01 12:00:00"
    assert [str(frame["Timestep"][1])[:10], frame["Timestep"][7]] == ["2000-01-04", pd.Timestamp(last)]


def test_a_shard_that_was_read_is_the_shard_that_was_made(tmp_path: Path) -> None:
    shard = replace(exact([61.2, 5, 7]), first_timestep=1)
    frame = read_shard(save(tmp_path, "parquet", "zstd", shard), SCHEMA)
    again = Shard.from_frame(frame, SCHEMA, shard.decimals, {})
    for file_format in ("hdf5", "parquet", "csv"):
        assert encode_shard(again, file_format, "none") == encode_shard(shard, file_format, "none")  # type: ignore[arg-type]
    joined = frame_of([table_of(shard), table_of(replace(make_shard(), decimals=shard.decimals))])
    assert list(joined["Ethnic"].cat.categories) == ["X", "Y", "Z", "W"]
    assert joined["Age"].dtype == np.int64


def test_256_classes_leave_room_for_the_blank() -> None:
    many = Variable(name="m", kind="categorical", classes={n: f"label {n}" for n in range(256)})
    few = Variable(name="f", kind="categorical", classes={n: f"label {n}" for n in range(255)})
    assert (code_dtype(many), blank_code(many)) == (np.uint16, 65535)
    assert (code_dtype(few), blank_code(few)) == (np.uint8, 255)


@pytest.mark.parametrize("file_format", ["hdf5", "parquet"])
def test_a_file_of_another_schema_or_kind_is_refused(tmp_path: Path, file_format: str) -> None:
    path = save(tmp_path, file_format, "gzip")
    other = SCHEMA.model_copy(update={"title": "another"})
    with pytest.raises(CohortError, match="has another schema than the cohort's manifest"):
        read_shard(path, other)
    path.write_bytes(b"not a shard")
    with pytest.raises(CohortError, match=r"Cannot read the shard .*s\.(h5|parquet)"):
        read_shard(path, SCHEMA)


def test_an_hdf5_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs.update({"kind": "checkpoint", "version": 1})
    with pytest.raises(
        CohortError, match=r"is a 'checkpoint' of version 1; a 'synthetic cohort shard' of version 1"
    ):
        read_shard(tmp_path / "x.h5", SCHEMA)
