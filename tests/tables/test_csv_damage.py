"""A damaged CSV file is refused with the line, and never read as missing values or other numbers."""

import csv
import gzip
import io
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import small_schema

from healthgym.data.prepare import prepare_parts
from healthgym.data.tables import records
from healthgym.data.tables.reading import read_parts, read_table
from healthgym.data.tables.records import read_records
from healthgym.data.tables.table import check_table
from healthgym.errors import TableError
from healthgym.schema import Schema

GAPS = {"missing": "model", "measured_flag": "measured"}
SCHEMA = small_schema(
    dose=GAPS, drug={"missing": "carry_forward", "measured_flag": "drug measured", "classes": [1, 2, 10]}
)
HEADER = "PatientID,Timestep,sex,drug,dose"
ROWS = [f"{n // 2},{n % 2},m,{1 + n % 2},{1000.25 + n}" for n in range(6)]


def written(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def refused(path: Path, message: str, schema: Schema = SCHEMA) -> None:
    for cells in (None, 7):
        with pytest.raises(TableError, match=f"(?s)^{re.escape(str(path))}.*{message}"):
            list(read_parts(path, schema, cells))
    out = path.with_name("p.h5")
    with pytest.raises(TableError, match=message):
        prepare_parts(read_parts(path, schema), schema, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "row", "message"),
    [
        (3, "0,1,m", r"the 5 of the header: line 3 has 3\. .*damaged"),
        (3, "0,1,m,2", r"line 3 has 4"),
        (3, "0,1,m,2,5.5,", r"line 3 has 6.*quote fields that hold commas"),
        (3, "0", r"line 3 has 1"),
        (7, "2,1,m", r"line 7 has 3"),
        (4, '1,0,"m,2,5.5', r"line 4: a quotation mark that begins a field is never closed"),
        (4, "1,0,m,\0\0\0\0", r"line 4: a NUL byte.*incomplete copy"),
        (4, "1,0,m,\udce9,5.5", r"line 4: not UTF-8 text"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_damaged_row_is_named_by_its_line(
    tmp_path: Path, line: int, row: str, message: str, ending: str
) -> None:
    lines = [HEADER, *ROWS]
    lines[line - 1] = row
    text = "".join(each + ending for each in lines).encode(errors="surrogateescape")
    refused(written(tmp_path, text), message)
    refused(written(tmp_path, text, "t.csv.gz"), message)


def test_several_damaged_rows_are_counted(tmp_path: Path) -> None:
    text = "\n".join([HEADER, *[row[:3] for row in ROWS], ""])
    refused(written(tmp_path, text), r"line 2 has 2, line 3 has 2, line 4 has 2, and at least 3 more\.")


def test_wherever_a_file_is_cut_no_value_changes(tmp_path: Path) -> None:
    """Cut within a line, a file is refused or all its values are those of the whole file."""
    whole = "\n".join([HEADER, *ROWS, ""])
    values = read_table(written(tmp_path, whole), SCHEMA)
    accepted = 0
    for size in range(len(HEADER) + 1, len(whole)):
        path = written(tmp_path, whole[:size])
        try:
            cut = read_table(path, SCHEMA)
        except TableError:
            continue
        accepted += 1
        assert cut.equals(values[: len(cut)].astype(cut.dtypes)), size
    assert accepted == len(ROWS), "only cuts at line ends"


@pytest.mark.parametrize(
    ("last", "whole"),
    [
        ("sex", True),  # "m", and no other class begins so
        ("other", True),  # not in the schema
        ("drug", False),  # "1" may have been "10"
        ("dose", False),
        ("Timestep", False),
    ],
)
def test_a_missing_last_line_end_is_accepted_where_the_last_field_is_surely_whole(
    tmp_path: Path, last: str, whole: bool
) -> None:
    names = sorted(["PatientID", "Timestep", "sex", "drug", "dose", "other"], key=lambda name: name == last)
    row = {"PatientID": "7", "Timestep": "0", "sex": "m", "drug": "1", "dose": "2.5", "other": "x"}
    text = ",".join(names) + "\n" + ",".join(row[name] for name in names)
    if whole:
        assert len(read_table(written(tmp_path, text), SCHEMA)) == 1
    else:
        refused(
            written(tmp_path, text), rf"line 2: .*so that '{last}' .* may have been cut off.*add a line end"
        )
    quoted = ",".join(names) + "\n" + ",".join(f'"{row[name]}"' for name in names)
    assert len(read_table(written(tmp_path, quoted), SCHEMA)) == 1
    assert len(read_table(written(tmp_path, text, "t.csv.gz"), SCHEMA)) == 1, "gzip says where a file ends"


@pytest.mark.parametrize("lost", [1, 4, 8, 20])
def test_gzip_without_its_end_is_refused(tmp_path: Path, lost: int) -> None:
    packed = gzip.compress("\n".join([HEADER, *ROWS, ""]).encode())
    path = tmp_path / "t.csv.gz"
    path.write_bytes(packed[:-lost])
    with pytest.raises(TableError, match=r"cannot be read: Compressed file ended"):
        read_table(path, SCHEMA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"PatientID,Timestep\n", mtime=0), r"packed by gzip\. Let its name end in \.csv\.gz"),
        (b"PK\x03\x04xl/", r"a spreadsheet\. .*save the table as CSV"),
    ],
)
def test_what_is_no_csv_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    refused(written(tmp_path, content), message)


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    """A quoted line end makes a record longer than a line, in the header too."""
    text = (
        'PatientID,Timestep,"no\nte",sex,drug,dose\r\n'
        '0,0,"two\r\nlines",m,1,1.5\r\n'
        "  \r\n"
        '0,1,"a ""quoted""\n\n\nword",m,1,bad\r\n'
        '0,2,6" nail,m,7,2.5\r\n'
    )
    frame = read_table(written(tmp_path, text), SCHEMA)
    assert frame.index.tolist() == [3, 6, 10]
    assert frame["no\nte"].tolist() == ["two\r\nlines", 'a "quoted"\n\n\nword', '6" nail']
    with pytest.raises(TableError) as caught:
        check_table(frame, SCHEMA, "t.csv")
    assert "'dose': not a number: line 6 (bad)" in str(caught.value)
    assert "'drug': unknown class: line 10 (7)" in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from('ab,,""\n\r'), max_size=40), block=st.integers(1, 50))
def test_records_are_those_of_pythons_csv(monkeypatch: pytest.MonkeyPatch, text: str, block: int) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", block)
    mark = "END\n" if not text or text[-1] in "\r\n" else "\nEND\n"
    reader = csv.reader(io.StringIO(text + mark, newline=""))
    *rows, last = [(row, reader.line_num) for row in reader]
    if last[0] != ["END"]:
        with pytest.raises(TableError, match="is never closed"):
            list(read_records(io.BytesIO(text.encode()), Path("t.csv")))
        return
    found = list(read_records(io.BytesIO(text.encode()), Path("t.csv")))
    assert b"".join(each.content for each in found).decode() == text
    assert [count for each in found for count in each.fields_N] == [max(1, len(row)) for row, _ in rows]
    lines = [line for each in found for line in each.lines_N]
    assert lines == [1, *[1 + end for _, end in rows]][: len(rows)]
