"""A table in parts is prepared as the whole table is."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from healthgym.data import transform
from healthgym.data.prepare import SplitSettings, prepare
from healthgym.data.sequences import PreparedCohort
from healthgym.data.stream import prepare_parts
from healthgym.errors import TableError
from healthgym.schema import Schema, Variable

SPLIT = SplitSettings(0.3, 1)


def in_parts(frame: pd.DataFrame, num_patients: int) -> Iterator[pd.DataFrame]:
    """Yield whole patients, a few at a time, each part with an index of its own."""
    ids = frame["PatientID"].unique()
    for start in range(0, len(ids), num_patients):
        yield frame[frame["PatientID"].isin(ids[start : start + num_patients])].reset_index(drop=True)


def assert_same(one: PreparedCohort, two: PreparedCohort) -> None:
    for name in ("eps_R", "lambda_R", "min_R", "range_R"):
        np.testing.assert_allclose(getattr(one.transform, name), getattr(two.transform, name), rtol=1e-9)
    np.testing.assert_allclose(one.correlation_FF, two.correlation_FF, rtol=0, atol=1e-9)
    assert one.first_timestep == two.first_timestep
    for split in ("train", "holdout"):
        pd.testing.assert_frame_equal(one.frame(split), two.frame(split))
        left, right = getattr(one, split), getattr(two, split)
        patients, length = left.at_least(2), 2
        for a, b in zip(left.gather(patients, length), right.gather(patients, length), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_parts_equal_the_whole(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform, "_BLOCK", 50)  # several blocks of a column, too
    frame = tiny.table(ragged=True, num_patients=60)
    frame["Timestep"] += 3
    whole = prepare(frame, tiny.SCHEMA, tmp_path / "whole.h5", SPLIT)
    (tmp_path / ".parts.h5.abc.columns").mkdir()  # of a killed process
    (tmp_path / ".parts.h5.abc.columns" / "0-carried").touch()
    parts = prepare_parts(lambda: in_parts(frame, size), tiny.SCHEMA, tmp_path / "parts.h5", SPLIT, "t")
    assert_same(whole, parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.h5", "whole.h5"], "nothing is left"


GAPS = Schema(
    name="gaps",
    variables=(
        Variable(name="x", kind="real", missing="carry_forward", measured_flag="x measured"),
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


def test_gaps_are_filled_alike(tmp_path: Path) -> None:
    frame = tiny.table(num_patients=50).drop(columns="sex")
    random = np.random.default_rng(1)
    for name in ("x", "y", "drug"):
        frame[name] = frame[name].astype(float).mask(random.random(len(frame)) < 0.3)
    whole = prepare(frame, GAPS, tmp_path / "whole.h5", SPLIT)
    parts = prepare_parts(lambda: in_parts(frame, 9), GAPS, tmp_path / "parts.h5", SPLIT, "t")
    assert_same(whole, parts)


def test_the_lowest_ids_only(tmp_path: Path) -> None:
    frame, split = tiny.table(num_patients=40), SplitSettings(0.3, 1, max_patients=25)
    whole = prepare(frame, tiny.SCHEMA, tmp_path / "whole.h5", split)
    parts = prepare_parts(lambda: in_parts(frame, 10), tiny.SCHEMA, tmp_path / "parts.h5", split, "t")
    assert_same(whole, parts)
    assert parts.train.num_patients + parts.holdout.num_patients == 25


def test_refusals(tmp_path: Path) -> None:
    frame, out = tiny.table(num_patients=20), tmp_path / "out.h5"

    def refused(parts: list[pd.DataFrame], match: str) -> None:
        with pytest.raises(TableError, match=match):
            prepare_parts(lambda: iter(parts), tiny.SCHEMA, out, SPLIT, "big.csv")
        assert not list(tmp_path.iterdir())

    one, two = in_parts(frame, 10)
    refused([two, one], r"big.csv: patient 0 begins a part of the table, after patient 19")
    refused([one, one.iloc[-3:]], "patient 9 begins a part")
    refused([one, two.assign(x=-5.0)], r"(?s)big.csv.*'x'.*not above")
    refused([one.assign(x=1.0), two.assign(x=1.0)], "the same value in every row .* 'x' = 1")
    refused([one, two.assign(Timestep=two["Timestep"] + 1)], "first timestep is 0 at first, 1 later")
    refused([], "no rows")
