"""Wrong objects instead of a table or a path are refused with an error that says what was expected."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import tiny

import healthgym as hg
from healthgym.errors import ConfigError, HealthgymError, TableError

TABLE = tiny.table(num_patients=60)
PATIENT, TIME = tiny.SCHEMA.keys.patient, tiny.SCHEMA.keys.timestep


@pytest.mark.parametrize("given", [None, 3, TABLE["x"], {"x": [1]}, TABLE.to_numpy()])
def test_no_table_at_all(given: Any, tmp_path: Path) -> None:
    said = "expected a data frame, or the path of a file or a folder, not an object of type"
    with pytest.raises(ConfigError, match=f"^table: {said}"):
        hg.describe(given)
    with pytest.raises(ConfigError, match=f"^table: {said}"):
        hg.prepare(given, tiny.SCHEMA, tmp_path / "p.h5")
    with pytest.raises(ConfigError, match=f"^synthetic: {said}"):
        hg.evaluate(TABLE, given, schema=tiny.SCHEMA)
    with pytest.raises(ConfigError, match="expected a prepared cohort"):
        hg.train(TABLE, "ar", tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a run"):
        hg.sample(given, 3)
    with pytest.raises(ConfigError, match=r"schema: expected a description.*of type int"):
        hg.prepare(TABLE, 3, tmp_path / "p.h5")  # type: ignore[arg-type]


def test_keys_in_the_index(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=rf"'{PATIENT}', '{TIME}' in its index.*reset_index"):
        hg.describe(TABLE.set_index([PATIENT, TIME]))
    with pytest.raises(TableError, match=rf"'{PATIENT}' in its index.*reset_index"):
        hg.prepare(TABLE.set_index(PATIENT), tiny.SCHEMA, tmp_path / "p.h5")
    numbered = TABLE.rename_axis("row")
    assert hg.prepare(numbered, tiny.SCHEMA, tmp_path / "p.h5").train.num_patients > 0


def test_columns_of_any_type(tmp_path: Path) -> None:
    arrow = TABLE.astype({"x": pd.ArrowDtype(pa.float16())}).convert_dtypes(dtype_backend="pyarrow")
    arrow["notes"] = [[n] for n in range(len(arrow))]
    arrow["seen"] = pd.Series([{"a": 1}] * len(arrow))
    expected = hg.prepare(TABLE.astype({"x": "float16"}), tiny.SCHEMA, tmp_path / "p.h5").frame("train")
    assert "notes" in hg.describe(arrow).yaml
    arrow.drop(columns="x").to_parquet(tmp_path / "t.parquet")  # pandas writes no half floats
    assert "notes" in hg.describe(tmp_path / "t.parquet").yaml
    pd.testing.assert_frame_equal(hg.prepare(arrow, tiny.SCHEMA, tmp_path / "q.h5").frame("train"), expected)


@pytest.mark.parametrize("kind", ["Float64", pd.ArrowDtype(pa.float64())])
def test_nan_and_missing_are_one_in_columns_that_know_both(kind: Any, tmp_path: Path) -> None:
    both = TABLE["x"].astype(object)
    both[[3, 5]] = [None, float("nan")]
    column = pd.Series(pa.array(list(both), pa.float64()), dtype=pd.ArrowDtype(pa.float64()))
    table = TABLE.assign(x=column if kind != "Float64" else column.astype("Float64"))
    with pytest.raises(TableError, match=r"1 problem.*\n.*'x': no value: row 3, row 5\. "):
        hg.prepare(table, tiny.SCHEMA, tmp_path / "p.h5")


def test_columns_of_several_levels() -> None:
    with pytest.raises(TableError, match="2 levels of column names"):
        hg.describe(pd.concat({"a": TABLE, "b": TABLE}, axis=1))


def test_visits_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"visits 'gird': expected irregular or grid \(did you mean 'grid'"):
        hg.describe(TABLE, visits="gird")  # type: ignore[arg-type]
    for every in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=rf"every {every}: .* a number above 0"):
            hg.describe(TABLE, visits="grid", every=every)


def test_a_description_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(HealthgymError, match=f"Cannot write {tmp_path}: "):
        hg.describe(TABLE).save(tmp_path)
