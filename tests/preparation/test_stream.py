"""A table in parts or in several files gives the same prepared cohort, bit for bit, as the whole table."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import small_schema, small_table

from healthgym import files
from healthgym.data.fitting import columns, scratch, stream, units
from healthgym.data.fitting.columns import ColumnFile, in_memory, median, order_statistics, quantiles
from healthgym.data.fitting.transform import Transform
from healthgym.data.prepare import SplitSettings, prepare, prepare_parts
from healthgym.data.sequences import PreparedCohort
from healthgym.data.tables.reading import read_parts, read_table
from healthgym.data.tables.sources import find_source
from healthgym.errors import ConfigError, TableError
from healthgym.schema import Schema, Variable

SPLIT = SplitSettings(0.3, 1)

GAPS = Schema(
    name="gaps",
    variables=(
        Variable(name="x", kind="real", missing="carry_forward", measured_flag="x measured"),
        Variable(name="sex", kind="binary", classes={1: "Male", 2: "Female"}, static=True),
        Variable(name="y", kind="real", missing="model", measured_flag="y measured"),
        Variable(
            name="drug",
            kind="categorical",
            classes={0: "A", 1: "B", 2: "C"},
            missing="carry_forward",
            measured_flag="drug measured",
        ),
    ),
)


def gappy(num_patients: int = 50, seed: int = 1) -> pd.DataFrame:
    frame = tiny.table(ragged=True, num_patients=num_patients, seed=seed)
    random = np.random.default_rng(seed)
    for name in ("x", "y", "drug"):
        frame[name] = frame[name].astype(float).mask(random.random(len(frame)) < 0.3)
    return frame


def cut(frame: pd.DataFrame, rows: int) -> Iterator[pd.DataFrame]:
    for start in range(0, len(frame), rows):
        yield frame.iloc[start : start + rows]


# --- parts -----------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), rows=st.integers(5, 90), text=st.booleans(), shuffled=st.booleans())
def test_parts_of_any_size_and_patients_in_any_order_give_the_same_bytes(
    tmp_path: Path, seed: int, rows: int, text: bool, shuffled: bool
) -> None:
    frame = gappy(25, seed)
    frame["Timestep"] += 3
    if text:
        frame["PatientID"] = frame["PatientID"].map(lambda i: f"p{i}" if i > 12 else str(i))
    prepare(frame, GAPS, tmp_path / "whole.h5", SPLIT, sort=True)
    if shuffled:
        order = np.random.default_rng(seed).permutation(frame["PatientID"].unique())
        frame = pd.concat([frame[frame["PatientID"] == patient] for patient in order])
    prepare_parts(cut(frame, rows), GAPS, tmp_path / "parts.h5", SPLIT)
    assert (tmp_path / "parts.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_small_blocks_change_the_last_bits_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(gappy(), GAPS, tmp_path / "whole.h5", SPLIT)
    monkeypatch.setattr(columns, "BLOCK", 17)
    monkeypatch.setattr(stream, "BLOCK_ROWS", 13)
    (tmp_path / ".blocks.h5.abc.rows").mkdir()  # of a killed process
    (tmp_path / ".blocks.h5.abc.rows" / "reals").touch()
    blocks = prepare(gappy(), GAPS, tmp_path / "blocks.h5", SPLIT)
    for name in ("lambda_R", "min_R", "range_R"):
        one, other = getattr(whole.transform, name), getattr(blocks.transform, name)
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(whole.correlation_FF, blocks.correlation_FF, rtol=0, atol=1e-7)
    for split in ("train", "holdout"):
        pd.testing.assert_frame_equal(whole.frame(split), blocks.frame(split), check_exact=True)
        one, other = (getattr(each, split).gather(np.arange(5), 2) for each in (whole, blocks))
        np.testing.assert_allclose(one[0], other[0], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(one[1], other[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks.h5", "whole.h5"], "nothing is left"


def test_the_lowest_ids_only(tmp_path: Path) -> None:
    frame, split = tiny.table(num_patients=40), SplitSettings(0.3, 1, max_patients=25)
    backwards = frame.sort_values(["PatientID", "Timestep"], ascending=[False, True])
    prepare(frame[frame["PatientID"] < 25], tiny.SCHEMA, tmp_path / "whole.h5", SplitSettings(0.3, 1))
    prepare_parts(cut(backwards, 10), tiny.SCHEMA, tmp_path / "parts.h5", split)
    assert (tmp_path / "parts.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_rows_in_any_order_can_be_sorted(tmp_path: Path) -> None:
    frame = gappy()
    prepare(frame, GAPS, tmp_path / "whole.h5", SPLIT)
    shuffled = frame.sample(frac=1, random_state=0)
    prepare_parts(cut(shuffled, 9), GAPS, tmp_path / "parts.h5", SPLIT, sort=True)
    assert (tmp_path / "parts.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    with pytest.raises(TableError, match=r"not sorted by PatientID and Timestep: row .*--sort"):
        prepare_parts(cut(shuffled, 9), GAPS, tmp_path / "no.h5", SPLIT)


def test_memory_does_not_grow_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", 1000)
    monkeypatch.setattr(stream, "BLOCK_ROWS", 1000)
    monkeypatch.setattr(files, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(scratch, "CHECKED_BYTES", 1000)
    monkeypatch.setattr(units, "MOST_DISTINCT", 500)
    monkeypatch.setattr(units, "NUM_QUANTILES", 64)

    def peak(num_timesteps: int) -> int:
        frame = tiny.table(20, num_timesteps)
        tracemalloc.start()
        prepare_parts(cut(frame, 1000), tiny.SCHEMA, tmp_path / "p.h5", SPLIT)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(20)  # imports
    assert peak(1000) < 1.1 * peak(100)  # each column kept whole is 14% more


# --- messages --------------------------------------------------------------------------------------


def test_refusals(tmp_path: Path) -> None:
    frame, out = tiny.table(num_patients=20), tmp_path / "out.h5"

    def refused(parts: list[pd.DataFrame], match: str) -> None:
        with pytest.raises(TableError, match=match):
            prepare_parts(parts, tiny.SCHEMA, out, SPLIT, "big.csv")
        assert not list(tmp_path.iterdir())

    one, two = frame[:60], frame[60:].reset_index(drop=True)
    refused([one, one[-3:]], r"same patient and timestep as an earlier row: row 57 \(patient 9, Timestep 3\)")
    refused([one, two.assign(x=-5.0)], r"(?s)big.csv.*'x': not above.*row 0 .* and 57 more")
    refused([one.assign(x=1.0), two.assign(x=1.0)], "the same value in every row .* 'x' = 1")
    refused(
        [one, two.assign(Timestep=two["Timestep"] + 1)], r"do not start at Timestep 0 .*row 0 \(patient 10"
    )
    refused([one, two.drop(columns="y")], "big.csv: the table lacks 'y'")
    refused(
        [one, two.assign(sex=[1, 2] * 30)], r"'sex': static, but changes within a patient: row 1 \(patient 10"
    )
    refused([one[:0], two[:0]], "columns but no rows")
    refused([one, two.assign(PatientID=None)], r"'PatientID': no patient: row 0, row 1, row 2 and 57 more")


def test_all_that_is_wrong_in_a_file_is_told_with_its_lines(tmp_path: Path) -> None:
    frame = small_table(30, 4).astype({"dose": object, "drug": object})
    frame.loc[[5, 60, 61, 100], "drug"] = "X"
    frame.loc[90, "dose"] = "much"
    frame = frame.drop(index=[70])
    frame.to_csv(tmp_path / "t.csv", index=False)
    parts = read_parts(tmp_path / "t.csv", small_schema(), 5 * 11)
    with pytest.raises(TableError) as caught:
        prepare_parts(parts, small_schema(), tmp_path / "p.h5", SPLIT, "t.csv")
    with pytest.raises(TableError) as whole:
        prepare(
            read_table(tmp_path / "t.csv", small_schema()), small_schema(), tmp_path / "p.h5", SPLIT, "t.csv"
        )
    text = str(caught.value)
    assert sorted(text.splitlines()) == sorted(str(whole.value).splitlines())
    assert text.startswith("t.csv: 3 problems\n")
    assert "'drug': unknown class: line 7 (X), line 62 (X), line 63 (X) and 1 more." in text
    assert "'dose': not a number: line 91 (much)." in text
    assert "timesteps are missing before a row: line 72 (patient 17, Timestep 2 is missing)." in text


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
@pytest.mark.parametrize("cells", [1, 35, 10_000])
def test_a_file_is_read_in_parts_as_it_is_whole(tmp_path: Path, name: str, cells: int) -> None:
    frame = small_table(9, 3).assign(other="text").astype({"dose": float})
    frame.loc[4, "dose"] = np.nan
    path = tmp_path / name
    frame.to_parquet(path, row_group_size=10) if name.endswith("parquet") else frame.to_csv(path, index=False)
    parts = list(read_parts(path, small_schema(), cells))
    whole = read_table(path, small_schema())
    assert len(parts) >= min(len(frame), len(frame) * 5 // cells)
    together = pd.concat(parts)
    pd.testing.assert_frame_equal(together, whole[list(together)], check_exact=True)
    assert together.index.name == whole.index.name
    assert together.index.tolist() == whole.index.tolist()


def test_lines_are_counted_over_parts_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "PatientID,Timestep,dose,drug,sex\n0,0,1.5,0,m\n\n0,1,2,0,m\n,,,,\n0,2,bad,0,m\n"
    )
    parts = list(read_parts(tmp_path / "t.csv", small_schema(), 10))
    assert [part.index.tolist() for part in parts] == [[2, 4], [6]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,2,3,4"], r"the 3 of the header: line 12 has 4\."),
        (["1,2,\udcff", ""], r"line 12: not UTF-8 text \(invalid start byte\)"),
    ],
)
def test_damage_in_a_later_part_is_named(tmp_path: Path, rows: list[str], message: str) -> None:
    lines = ["PatientID,Timestep,dose", *["1,2,3"] * 10, *rows]
    (tmp_path / "t.csv").write_text("\n".join(lines), errors="surrogateescape")
    with pytest.raises(TableError, match=message):
        list(read_parts(tmp_path / "t.csv", small_schema(), 6))


def test_true_is_no_number_however_a_file_is_cut(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("PatientID,Timestep,dose,drug,sex\n0,0,True,0,m\n0,1,2.5,0,m\n")
    parts = read_parts(tmp_path / "t.csv", small_schema(), 5)
    with pytest.raises(TableError, match=r"'dose': not a number: line 2 \(True\)"):
        prepare_parts(parts, small_schema(), tmp_path / "p.h5")


@pytest.mark.parametrize("cells", [5, None])
def test_true_beside_gaps_is_no_number(tmp_path: Path, cells: int | None) -> None:
    (tmp_path / "t.csv").write_text("PatientID,Timestep,x,sex,y,drug\n0,0,True,1,2.5,0\n0,1,,1,2.5,0\n")
    with pytest.raises(TableError, match=r"'x': not a number: line 2 \(True\)"):
        prepare_parts(read_parts(tmp_path / "t.csv", GAPS, cells), GAPS, tmp_path / "p.h5")


def test_an_index_of_any_kind_says_nothing(tmp_path: Path) -> None:
    frame, schema = small_table(30, 4), small_schema()
    expected = prepare(frame, schema, tmp_path / "p.h5", SPLIT).fingerprint
    for index in (frame.index.astype(str), pd.MultiIndex.from_frame(frame[["PatientID", "Timestep"]])):
        assert prepare(frame.set_axis(index), schema, tmp_path / "q.h5", SPLIT).fingerprint == expected
        wrong = frame.assign(Timestep=frame["Timestep"].astype(str).mask(frame.index == 7, "x"))
        with pytest.raises(TableError, match=r"row 7 \(x\)"):
            prepare(wrong.set_axis(index), schema, tmp_path / "r.h5", SPLIT)


def test_binary_ids_are_text_and_lists_no_traceback(tmp_path: Path) -> None:
    frame, schema, table = small_table(30, 4), small_schema(), tmp_path / "t.parquet"
    for name, written in {"plain": int, "bytes": lambda i: str(i).encode(), "list": lambda i: [i]}.items():
        frame.assign(PatientID=frame["PatientID"].map(written)).to_parquet(table)
        prepare_parts(read_parts(table, schema, 50), schema, tmp_path / name, SPLIT)
    ids = {
        name: PreparedCohort.open(tmp_path / name).train.patient_ids for name in ("plain", "bytes", "list")
    }
    assert ids["bytes"].tolist() == ids["plain"].tolist()
    assert ids["list"][0] == "[0]"


def test_a_column_that_appears_twice_is_refused(tmp_path: Path) -> None:
    frame = pd.concat([small_table(), small_table()[["dose"]]], axis=1)
    with pytest.raises(TableError, match="column 'dose' appears twice in the table"):
        prepare(frame, small_schema(), tmp_path / "p.h5", SPLIT)


def test_a_date_is_no_timestep(tmp_path: Path) -> None:
    frame = small_table(30, 4)
    frame["Timestep"] = pd.to_datetime(frame["Timestep"], unit="D")
    with pytest.raises(TableError, match=r"'Timestep': not a whole number: row 0 \(1970-01-01"):
        prepare(frame, small_schema(), tmp_path / "p.h5", SPLIT)


def prepared_bytes(table: Path, out: Path, sort: bool = False) -> bytes:
    source = find_source(small_schema(), table, None, 0, None, None)
    prepare_parts(source.parts(), small_schema(), out, SPLIT, source.name, sort)
    return out.read_bytes()


def test_a_folder_or_a_pattern_is_one_table(tmp_path: Path) -> None:
    frame = small_table(30, 4)
    frame.to_csv(tmp_path / "whole.csv", index=False)
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "notes.txt").touch()
    frame[:40].to_csv(folder / "north.csv", index=False)
    frame[80:].to_parquet(folder / "east.parquet", index=False)
    frame[40:80].to_csv(folder / "south.csv.gz", index=False)
    expected = prepared_bytes(tmp_path / "whole.csv", tmp_path / "whole.h5")
    assert prepared_bytes(folder, tmp_path / "p.h5") == expected
    frame[80:].to_csv(folder / "west.csv", index=False)
    assert prepared_bytes(folder / "*.csv*", tmp_path / "p.h5") == expected
    found = find_source(small_schema(), folder / "*.csv*", None, 0, None, None)
    assert found.name == f"{folder}/*.csv* (3 files)"
    (folder / "west.csv").rename(folder / "centre.csv")
    assert find_source(small_schema(), folder / "*.csv*", None, 0, None, None).identity == found.identity
    frame[80:].assign(dose=1.0).to_csv(folder / "centre.csv", index=False)
    assert find_source(small_schema(), folder / "*.csv*", None, 0, None, None).identity != found.identity


def test_faults_in_one_of_several_files_name_it(tmp_path: Path) -> None:
    folder = tmp_path / "years"
    folder.mkdir()
    frame = small_table(10, 4)

    def refused(second: pd.DataFrame, message: str, name: str = "2021.csv") -> None:
        frame[:20].to_csv(folder / "2020.csv", index=False)
        second.to_parquet(folder / name) if name.endswith("t") else second.to_csv(folder / name, index=False)
        with pytest.raises(TableError, match=message):
            prepared_bytes(folder, tmp_path / "p.h5")
        (folder / name).unlink()

    later = frame[20:].reset_index(drop=True)
    bad = later.assign(drug=[9, *[1] * 19])
    refused(bad, r"years \(2 files\): 1 problem\n.*'drug': unknown class: 2021\.csv line 2 \(9\)")
    refused(bad, r"1 problem \(rows are counted from 0\)\n.*: 2021\.parquet row 0 \(9\)", "2021.parquet")
    refused(later.drop(columns="sex"), r"2021\.csv: the table lacks 'sex'")
    refused(frame[18:], r"same patient and timestep as an earlier row: 2021\.csv line 2 \(patient 4")
    split = pd.concat([frame[20:], small_table(5, 6)[28:].assign(sex=frame["sex"][19])])
    refused(
        split, r"not sorted by PatientID and Timestep: 2021\.csv line 22 \(patient 4, Timestep 4\).*--sort"
    )


def test_a_patient_may_continue_in_the_next_file(tmp_path: Path) -> None:
    folder = tmp_path / "years"
    folder.mkdir()
    frame = small_table(10, 4)
    frame.to_csv(tmp_path / "whole.csv", index=False)
    frame[:18].to_csv(folder / "a.csv", index=False)
    frame[18:].to_csv(folder / "b.csv", index=False)
    expected = prepared_bytes(tmp_path / "whole.csv", tmp_path / "whole.h5")
    assert prepared_bytes(folder, tmp_path / "p.h5") == expected
    late = frame["Timestep"] > 1
    frame[~late].to_csv(folder / "a.csv", index=False)
    frame[late].to_csv(folder / "b.csv", index=False)
    assert prepared_bytes(folder, tmp_path / "p.h5", sort=True) == expected


@pytest.mark.parametrize("kind", ["folder", "link to nothing"])
def test_what_has_a_tables_name_and_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    small_table(30, 4).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.csv").mkdir() if kind == "folder" else (tmp_path / "b.csv").symlink_to("nothing")
    with pytest.raises(TableError, match=r"b\.csv: cannot be read: .*--table takes a file, a folder"):
        find_source(small_schema(), tmp_path, None, 0, None, None)


@pytest.mark.parametrize("change", ["longer", "one more file"])
def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    frame = small_table(30, 4)
    frame[:40].to_csv(tmp_path / "a.csv", index=False)
    frame[40:80].to_csv(tmp_path / "b.csv", index=False)
    parts = find_source(small_schema(), tmp_path, None, 0, None, None).parts()

    def grow() -> Iterator[pd.DataFrame]:
        yield from (part for i, part in enumerate(parts) if i or write())

    def write() -> bool:
        name = "b.csv" if change == "longer" else "c.csv"
        frame[80:].to_csv(tmp_path / name, mode="a", header=change != "longer", index=False)
        return True

    with pytest.raises(TableError, match="was changed while it was being read"):
        prepare_parts(grow(), small_schema(), tmp_path / "p.h5")
    assert not (tmp_path / "p.h5").exists()


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no table in this folder \(\.csv, \.csv\.gz, .*\.parquet\)"
    ):
        find_source(small_schema(), tmp_path, None, 0, None, None)
    with pytest.raises(ConfigError, match=r"\*\.csv: there is no such file"):
        find_source(small_schema(), tmp_path / "*.csv", None, 0, None, None)


# --- columns ---------------------------------------------------------------------------------------

numbers = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1.0, 2.0]))


@settings(max_examples=40, deadline=None)
@given(values=st.lists(numbers, min_size=1, max_size=40))
def test_order_statistics_by_counting_are_exact(values: list[float]) -> None:
    column, ranks = np.array(values), [0, len(values) // 3, len(values) - 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "BLOCK", 0)
        found = order_statistics(lambda: iter(np.array_split(column, 3)), ranks)
    np.testing.assert_array_equal(found, np.sort(column)[ranks])


def test_medians_and_quantiles_are_numpys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", 64)
    values = np.random.default_rng(0).normal(size=1001)
    kept = ColumnFile(tmp_path / "column")
    for part in np.split(values, [3, 500]):
        kept.append(part)
    for blocks in (kept, in_memory(values)):
        assert median(blocks) == np.median(values)
        shares = [0, 0.13, 0.5, 1]
        np.testing.assert_allclose(quantiles(blocks, shares), np.quantile(values, shares), rtol=1e-14)
    assert median(in_memory(values[:1000])) == np.median(values[:1000])


def test_a_streamed_fit_equals_the_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(1).gamma(2.0, 30.0, (3000, 1))
    schema = Schema(name="s", variables=(Variable(name="x", kind="real"),))
    whole = Transform.fit(table, schema)
    monkeypatch.setattr(columns, "BLOCK", 100)
    blocks = Transform.fit(table, schema)
    for name in ("lambda_R", "min_R", "range_R"):
        # Around the highest likelihood, float64 tells exponents apart to about 1e-8.
        np.testing.assert_allclose(getattr(blocks, name), getattr(whole, name), rtol=2e-7)
