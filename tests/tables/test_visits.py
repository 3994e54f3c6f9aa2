"""Irregular visits, visits on a grid, and follow-up: reading, errors, modelling as gaps, and generation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fake_system import FakeSystem
from followed import IRREGULAR, schema, table
from torch import Tensor

from healthgym import seeds
from healthgym.data.prepare import SplitSettings, prepare, prepare_parts
from healthgym.data.sequences import PreparedCohort
from healthgym.data.tables.table import check_table
from healthgym.data.tables.visits import visit_times, with_gaps
from healthgym.errors import SchemaError, TableError
from healthgym.schema import Schema
from healthgym.schema.layout import FeatureLayout
from healthgym.schema.timing import Resolution, TimeForm, ratio
from healthgym.storage.forms import COMPRESSIONS
from healthgym.storage.shard_file import encode_shard, read_shard, suffix
from healthgym.strict import parse
from healthgym.synthesis.plan import SynthesisPlan
from healthgym.synthesis.shard import make_shard
from healthgym.synthesis.source import Source

ALL = SplitSettings(holdout=0.0)
DAYS = {**IRREGULAR, "unit": "day"}


def grid(**changes: Any) -> dict[str, Any]:
    return {"column": "time", "kind": "grid", "unit": "year", "every": 0.5, **changes}


# --- irregular -------------------------------------------------------------------------------------


def test_visits_and_follow_up_come_back_as_they_were(tmp_path: Path) -> None:
    frame = table()
    cohort = prepare(frame, schema(), tmp_path / "a.h5", ALL)
    back = cohort.frame("train")
    assert list(back) == ["id", "time", "index", "futime", "arm", "status"]
    np.testing.assert_array_equal(back["time"], frame["time"])
    np.testing.assert_allclose(back["futime"], frame["futime"], rtol=0, atol=1e-9)
    assert cohort.time == TimeForm(365.25, 1.0, True)
    reals = {v.name: column for v, column in zip(cohort.schema.reals, cohort.train.raw()[2].T, strict=True)}
    first = ~frame["id"].duplicated()
    gap = frame.groupby("id")["time"].diff()
    np.testing.assert_allclose(reals["time (gap)"][~first], gap[~first], atol=1e-9)
    assert np.ptp(reals["time (gap)"][first]) == 0, "a first visit at time 0 has no gap, but what fills it"
    last = frame.groupby("id")["time"].transform("last") * 365.25
    np.testing.assert_allclose(reals["futime"], frame["futime"] - last, atol=1e-9)


def test_parts_and_order_change_no_bit(tmp_path: Path) -> None:
    frame = table()
    prepare(frame, schema(), tmp_path / "whole.h5")
    parts = (frame.iloc[start : start + 7] for start in range(0, len(frame), 7))
    prepare_parts(parts, schema(), tmp_path / "parts.h5")
    assert (tmp_path / "parts.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    shuffled = frame.sample(frac=1, random_state=0)
    prepare(shuffled, schema(), tmp_path / "sorted.h5", sort=True)
    assert (tmp_path / "sorted.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    with pytest.raises(TableError, match="not sorted by id and time"):
        prepare(shuffled, schema(), tmp_path / "no.h5")


@pytest.mark.parametrize("dtype", [str, "datetime64[ns]"])
def test_dates_become_days_since_the_first_visit(tmp_path: Path, dtype: Any) -> None:
    frame = table()
    start = pd.Timestamp("2001-01-01") + pd.to_timedelta(frame["id"] * 10, "D")
    days = (frame["time"] * 365.25).round()
    dated = frame.assign(
        time=(start + pd.to_timedelta(days, "D")).dt.strftime("%Y-%m-%d").astype(dtype),
        futime=(start + pd.to_timedelta(frame["futime"], "D")).dt.strftime("%Y-%m-%d").astype(dtype),
    )
    cohort = prepare(dated, schema(DAYS), tmp_path / "a.h5", ALL)
    back = cohort.frame("train")
    np.testing.assert_array_equal(back["time"], days)
    np.testing.assert_array_equal(back["futime"], frame["futime"])
    assert back["time"].dtype.kind == "i", "whole days stay whole"
    prepare(frame.assign(time=days), schema(DAYS), tmp_path / "b.h5", ALL)
    numbered = PreparedCohort.open(tmp_path / "b.h5")
    pd.testing.assert_frame_equal(back, numbered.frame("train"))
    assert cohort.time == replace(numbered.time, dated=True, follow_dated=True)
    again = check_table(back.astype({"arm": str, "status": str}), cohort.schema)
    np.testing.assert_array_equal(again["time"], days)
    with pytest.raises(TableError, match=r"dates, which count in days: row .*Say `unit: day`"):
        check_table(dated, schema())


def dated_table(zone: str = "") -> pd.DataFrame:
    frame = table()
    start = pd.Timestamp("2001-01-01")
    for name, per in (("time", 365.25), ("futime", 1)):
        date = start + pd.to_timedelta((frame[name] * per).round(), "D")
        frame[name] = date.dt.strftime(f"%Y-%m-%dT01:00:00{zone}")
    return frame


@pytest.mark.parametrize("said", [{"unit": "month"}, {"unit": "", "futime": {"unit": "year"}}])
def test_a_follow_up_of_dates_counts_in_days(said: Any, tmp_path: Path) -> None:
    found = r"'futime': dates, which count in days: row .*Say `unit: day` in `follow_up`"
    for check in (check_table, lambda frame, schema: prepare(frame, schema, tmp_path / "a.h5", ALL)):
        with pytest.raises(TableError, match=found):
            check(dated_table(), schema(DAYS, **said))


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("hour", [0, 9])
def test_days_are_whole_where_clocks_change(written: bool, hour: int) -> None:
    days = table()["id"].map(lambda _: 0) + table().groupby("id").cumcount()
    times = (pd.Timestamp("2020-03-27") + pd.to_timedelta(days, "D") + pd.Timedelta(hours=hour)).dt
    local: Any = times.tz_localize("Europe/Berlin")  # the clocks change on the 29th
    frame = table().assign(time=local.astype(str) if written else local, futime=400)
    found = check_table(frame, schema(grid(unit="day", every=1), index=MODELLED))
    if hour:  # the time that has passed: 9 h on the day before is 10 h earlier than on this one
        assert check_table(frame, schema(DAYS))["time"].mod(1).nunique() == 2
        return
    np.testing.assert_array_equal(found["time"], days)
    assert found["index measured"].eq("True").all()
    np.testing.assert_array_equal(check_table(frame, schema(DAYS))["time"], days)


def test_times_with_and_without_a_time_zone_are_not_mixed() -> None:
    zoned, naive = dated_table("+02:00"), dated_table()
    pd.testing.assert_frame_equal(check_table(zoned, schema(DAYS)), check_table(naive, schema(DAYS)))
    mixed = zoned.assign(time=zoned["time"].where(zoned.index != 4, naive["time"]))
    with pytest.raises(TableError, match=r"a date without a time zone, while .*: row 4 \(2001"):
        check_table(mixed, schema(DAYS))
    follow = zoned.assign(futime=mixed["futime"].where(zoned["id"] != 0, naive["futime"]))
    with pytest.raises(TableError, match=r"'futime': not a number: row 0 .*without a time zone\)"):
        check_table(follow, schema(DAYS))


def test_rows_out_of_order_are_named_by_their_dates(tmp_path: Path) -> None:
    swapped = table().assign(time=["2001-05-02", "2001-05-01T08:30", *dated_table()["time"][2:]])
    swapped = swapped.assign(id=[0, 0, *swapped["id"][2:]])
    said = r"not sorted by id and time: row 1 \(patient 0, time 2001-05-01T08:30:00\).*or give --sort if"
    for check in (check_table, lambda frame, schema: prepare(frame, schema, tmp_path / "a.h5", ALL)):
        with pytest.raises(TableError, match=said):
            check(swapped, schema(DAYS))


def test_a_later_first_visit_keeps_its_time(tmp_path: Path) -> None:
    frame = table()
    frame["time"] += np.where(frame["id"] % 2, 10 / 365.25, 0)
    frame["futime"] += 10
    back = prepare(frame, schema(), tmp_path / "a.h5", ALL).frame("train")
    np.testing.assert_allclose(back["time"], frame["time"], rtol=0, atol=1e-12)
    from_first = schema({**IRREGULAR, "origin": "first"})
    first = prepare(frame, from_first, tmp_path / "b.h5", ALL).frame("train")
    np.testing.assert_allclose(first["time"], table()["time"], rtol=0, atol=1e-12)


def test_the_gap_of_a_first_visit_at_time_zero_is_unknown() -> None:
    frame = with_gaps(check_table(table(), schema()), schema())
    assert frame["time (gap)"].isna().equals(~frame["id"].duplicated())


@pytest.mark.parametrize(
    ("unit", "times", "per_unit"),
    [
        ("day", [0, 3, 10], 1),
        ("year", [0, 0.5, 2], 2),
        ("year", [0, 89 / 365.24, 1000 / 365.24], 365.24),
        ("year", [0, 0.24, 1.37], 100),
        ("day", [0, 1 + 7 / 24], 24),
        ("visit", [0, np.pi], 0),
    ],
)
def test_the_recorded_precision_is_found(unit: str, times: list[float], per_unit: float) -> None:
    resolution = Resolution(unit)
    resolution.see(np.array(times))
    assert resolution.per_unit == per_unit


def test_generated_visits_are_in_order_whatever_the_gaps() -> None:
    gaps = np.array([5.0, -3.0, 0.2, 0.0, 0.4, 1.26])
    times = visit_times(gaps, np.array([2, 4]), schema(), TimeForm(10, 1, True), 0)
    np.testing.assert_allclose(times, [0, 0.1, 0, 0.1, 0.5, 1.8])


# --- refusals --------------------------------------------------------------------------------------


def set_cell(row: int, name: str, value: Any) -> Any:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame[name] = frame[name].astype(object)
        frame.loc[row, name] = value
        return frame

    return change


FAULTS = [
    (set_cell(3, "time", "soon"), r"'time': neither a number nor a date: row 3 \(soon\)"),
    (set_cell(3, "time", -1.0), r"'time': before time 0: row 3 .*`origin: first`"),
    (set_cell(3, "time", "2001-01-01"), r"'time': neither a number nor a date"),
    (set_cell(3, "futime", "late"), r"'futime': not a number: row 3 \(late\)"),
    (lambda frame: frame.assign(time=frame["time"] + 2001), r"patient spans more than .*`origin: first`"),
    (lambda frame: frame.assign(time=0.5), r"the same patient and timestep .*`kind: grid`"),
    (lambda frame: frame.assign(time=frame["time"] + (frame.index == 3) * (frame["time"][2] + 1e-15 -
     frame["time"][3])), r"'time': the same time as in the row before, but for rounding: times have steps of "
     r"1/365.25 year: row 3 \(patient 0, time "),
    (lambda frame: frame.assign(futime=frame["futime"] / 365.25), r"'futime': follow-up ends before the "
     r"patient's last row \('time' in year, follow-up in day\): row .*correct the units"),
    (lambda frame: frame.assign(status=np.where(frame["id"].duplicated(), 1, 0)), r"'status': static, but "
     r"changes within a patient"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_faults_are_named_in_parts_and_as_a_whole(change: Any, message: str, tmp_path: Path) -> None:
    frame = change(table())
    with pytest.raises(TableError, match=message):
        check_table(frame, schema())
    with pytest.raises(TableError, match=message):
        prepare(frame, schema(), tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("column", ["time", "Timestep"])
def test_a_refusal_of_irregular_rows_names_both_ways_out(column: str) -> None:
    plain = schema("time", unit="year", futime={})
    frame = table()
    if column == "Timestep":
        frame["time"] = 2 * frame.groupby("id").cumcount()
        frame["futime"] = 99
    with pytest.raises(TableError, match=r"kind: irregular.*kind: grid"):
        check_table(frame, plain)


def test_what_a_schema_may_not_say_of_time() -> None:
    def refused(match: str, **changes: Any) -> None:
        values = {**schema().model_dump(), **changes}
        with pytest.raises(SchemaError, match=match):
            parse(Schema, values, "schema", SchemaError)

    follow = {"time": "futime", "event": "status", "unit": "day"}
    refused(r"no variable 'fu'.*static: true", follow_up={**follow, "time": "fu"})
    refused("'index' must be binary or categorical", follow_up={**follow, "event": "index"})
    refused("no class of 'status' has the label 'alive'", follow_up={**follow, "censored": "alive"})
    refused("'fortnight' is none of second", follow_up={**follow, "unit": "fortnight"})
    refused("every", keys={"patient": "id", "timestep": {"column": "time", "kind": "grid"}})
    assert ratio("year", "days") == 365.25
    assert Schema.from_json(schema().to_json()) == schema()
    assert "follow_up" not in Schema.model_validate({"name": "a", "variables": [
        {"name": "x", "kind": "real"}]}).to_json()  # fmt: skip


# --- statics in the first row ----------------------------------------------------------------------


def test_statics_are_carried_from_the_first_row(tmp_path: Path) -> None:
    frame = table()
    first = ~frame["id"].duplicated()
    sparse = frame.assign(**{name: frame[name].where(first) for name in ("arm", "futime", "status")})
    carried = schema(**{name: {"fill": "first"} for name in ("arm", "futime", "status")})
    prepare(sparse, carried, tmp_path / "a.h5")
    prepare(frame, carried, tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    with pytest.raises(TableError, match=r"'arm': no value: row .*`fill: first`"):
        prepare(sparse, schema(), tmp_path / "c.h5")
    with pytest.raises(TableError, match=r"'arm': no value in any row of a patient: row 0 \(patient 0\)"):
        prepare(sparse.assign(arm=sparse["arm"].where(sparse["id"] > 0)), carried, tmp_path / "c.h5")
    later = first.index[~first & (first.shift() == True)][0]  # noqa: E712 - a second row
    sparse.loc[later, "arm"] = "control" if sparse["arm"][later - 1] == "treated" else "treated"
    with pytest.raises(TableError, match="'arm': static, but changes"):
        check_table(sparse, carried)


# --- a grid ----------------------------------------------------------------------------------------

MODELLED = {"missing": "model", "measured_flag": "index measured"}
CARRIED = {"missing": "carry_forward", "measured_flag": "index measured"}


def rows_on_grid() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [1, 1, 1, 1, 2, 2],
            "time": [0.0, 0.6, 0.8, 2.1, 0.1, 0.4],
            "index": [50.0, 60.0, 70.0, 80.0, 10.0, np.nan],
            "arm": ["control"] * 4 + ["treated"] * 2,
            "futime": [900.0] * 4 + [200.0] * 2,
            "status": [1] * 4 + [0] * 2,
        }
    )


@pytest.mark.parametrize(("take", "value"), [("last", 70.0), ("first", 60.0), ("median", 65.0)])
def test_visits_on_a_grid(take: str, value: float, tmp_path: Path) -> None:
    on = schema(grid(take=take), index={**CARRIED, "missing": "model"})
    checked = check_table(rows_on_grid(), on)
    assert checked["time"].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 0.0]
    np.testing.assert_array_equal(checked["index"], [50, value, np.nan, np.nan, 80, 10])
    assert checked["index measured"].tolist() == ["True", "True", "False", "False", "True", "True"]
    assert checked["arm"].tolist() == ["control"] * 5 + ["treated"]
    cohort = prepare(rows_on_grid(), on, tmp_path / "a.h5", ALL)
    pd.testing.assert_frame_equal(cohort.frame("train"), checked[list(cohort.frame("train"))])
    assert cohort.grid == (
        "6 rows in 6 intervals: 4 rows shared an interval with another, 2 intervals (33.3%) have no row and "
        "are missing there"
    )
    assert cohort.train.lengths_N.tolist() == [5, 1]


def test_a_late_first_row_leaves_intervals_before_it_missing() -> None:
    frame = rows_on_grid()
    frame["time"] += 0.6
    frame["futime"] += 300
    checked = check_table(frame, schema(grid(origin="zero"), index=CARRIED))
    assert checked["index measured"].tolist()[:2] == ["False", "True"]
    assert checked["arm"].tolist()[-2:] == ["treated", "treated"]
    assert checked["index"][0] == 60.0, "nothing precedes it: the median of what was measured"


def test_a_grid_with_gaps_needs_values_that_may_be_missing(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"'index': no value .*missing: carry_forward.*kind: irregular"):
        check_table(rows_on_grid().dropna(), schema(grid()))
    with pytest.raises(TableError, match=r"'index': no value .*patient 1, interval 2"):
        prepare(rows_on_grid().dropna(), schema(grid()), tmp_path / "a.h5")


# --- synthesis -------------------------------------------------------------------------------------


class Wild(FakeSystem):
    """Makes any numbers, those that no patient shows included."""

    def __init__(self, layout: FeatureLayout) -> None:
        self.layout, self.device = layout, torch.device("cpu")

    def sample_features(self, length: int, seed: int, first_patient: int, num_patients: int) -> Tensor:
        width = self.layout.num_features
        z = seeds.uniform_rows((length, width), num_patients, first_patient, seed, "wild")
        return torch.from_numpy(z) * 3 - 1


@pytest.mark.parametrize("time", [IRREGULAR, grid(every=0.1), "time"])
@pytest.mark.parametrize("file_format", ["hdf5", "parquet", "csv"])
def test_any_synthetic_patient_is_one_that_could_be(time: Any, file_format: Any, tmp_path: Path) -> None:
    of = schema(time, index={"missing": "carry_forward", "measured_flag": "measured"})
    frame = table()
    if time == "time":
        frame["time"] = frame.groupby("id").cumcount()
        frame["futime"] += 365.25 * 8
    cohort = prepare(frame, of, tmp_path / "a.h5", ALL)
    source = Source(
        "0" * 64, of, cohort.transform, {1: 3, 5: 4, 8: 1}, (8,), lambda *_: Wild(of.layout), time=cohort.time
    )
    plan = SynthesisPlan(checkpoint_sha256="0" * 64, num_patients=40, file_format=file_format,
                         compression=COMPRESSIONS[file_format][0])  # fmt: skip
    made = make_shard(source, Wild(of.layout), plan, 0)
    assert made is not None
    path = tmp_path / f"shard{suffix(file_format, plan.compression)}"
    path.write_bytes(encode_shard(made[0], file_format, plan.compression))
    read = read_shard(path, of)
    assert "time (gap)" not in read
    checked = check_table(read.assign(index=1.0), of)  # not refused
    np.testing.assert_array_equal(checked["time"], read["time"])
    last = read.groupby("id")[["time", "futime"]].last()
    wait = last["futime"] - last["time"] * 365.25
    real = frame.groupby("id")[["time", "futime"]].last()
    longest = (real["futime"] - real["time"] * 365.25).max()
    # A grid's row stands for all of its interval.
    assert wait.max() <= longest + 0.51 + (36.525 if time != IRREGULAR else 0)
    if time == IRREGULAR:
        days = read["time"] * 365.25
        np.testing.assert_allclose(days, days.round(), atol=1e-6)
        assert (read.groupby("id")["time"].diff().dropna() > 0).all()
        assert (read.groupby("id")["time"].first() == 0).all()
