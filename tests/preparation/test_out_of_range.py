"""Reals outside the range of float32 are refused in tables and in shards."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healthgym.data.fitting.transform import Transform
from healthgym.data.tables.table import check_table
from healthgym.errors import CohortError, TableError
from healthgym.schema import Schema
from healthgym.storage.shard import Shard
from healthgym.synthesis.shard import Computed, pack_shard
from healthgym.systems.base import Made

SCHEMA = Schema.model_validate(
    {
        "name": "t",
        "variables": [
            {"name": "VL", "kind": "real"},
            {"name": "c", "kind": "binary", "classes": {0: "a", 1: "b"}},
        ],
    }
)


def table(values: list[float]) -> pd.DataFrame:
    patients = np.arange(len(values))
    return pd.DataFrame({"PatientID": patients, "Timestep": 0, "VL": values, "c": patients % 2})


@pytest.mark.parametrize("value", [3.5e38, 1e300])
def test_a_table_with_them_is_refused(value: float) -> None:
    with pytest.raises(TableError, match=r"'VL': larger than 3\.4e\+38, .* in a larger unit"):
        check_table(table([1.0, 2.0, value]), SCHEMA)


def test_what_a_shard_can_hold_is_taken() -> None:
    assert check_table(table([1.0, 2.0, 3.4e38]), SCHEMA)["VL"].max() == 3.4e38


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-30, 38), min_size=4, max_size=30))
def test_the_transform_of_any_such_values_is_finite(exponents: list[float]) -> None:
    """The search for an exponent overflowed for values that are dozens of powers of ten apart."""
    values = 10.0 ** np.array(exponents)
    transform = Transform.fit(pd.DataFrame({"VL": values}), SCHEMA)
    back = transform.inverse_reals(transform.forward_reals(values[:, None]))
    assert np.isfinite(back).all()


def packed(reals: list[float], lambda_: float = 0.0) -> Shard:
    """Return a shard of one patient whose scaled values are these."""
    one = np.ones(1)
    transform = Transform(("VL",), 0 * one, lambda_ * one, 0 * one, 100 * one)
    settings = {"written_decimals": {}, "dates": {}, "first_timestep": 0, "time": None}
    source: Any = SimpleNamespace(schema=SCHEMA, transform=transform, **settings)
    plan: Any = SimpleNamespace(patients=lambda index: range(1))
    values = np.array(reals, np.float32)[None, :, None]
    made = Made(values, np.zeros(values.shape, np.uint8), np.array([len(reals)], np.int32))
    return pack_shard(source, plan, 0, Computed([(np.arange(1), made)], tried=1))[0]


def test_a_shard_with_them_is_refused() -> None:
    with pytest.raises(
        CohortError, match=r"makes 2 value\(s\) of 'VL' beyond 3\.4e\+38.*an earlier checkpoint"
    ):
        packed([0.1, 1.0, 50.0])


def test_a_shard_within_float32_is_made() -> None:
    assert packed([0.0, 0.1, 0.8]).columns["VL"].tolist() == pytest.approx(
        [1.0, np.exp(10), np.exp(80)], rel=1e-5
    )


def test_no_warning_of_numpy_reaches_the_user(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(CohortError):
        packed([9.0])
    assert not recwarn.list
