"""Cohorts that other tools made, as one long table: read as they are, for somebody who can only judge them.

What does not fit the schema is counted and left empty: a word where a number belongs, a label that the schema
does not know, a number that single precision cannot hold, a time that is none. A variable without any value
is left out of the schema by which real and synthetic patients are compared. Only a table whose patients
cannot be told apart is refused.

Legend: N rows, P patients.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.tables.dates import days_in, has_dates
from healthgym.data.tables.grid import GridCounts, on_grid
from healthgym.data.tables.keys import numbers_in, patient_ids
from healthgym.data.tables.missing import Fills, apply_flags
from healthgym.data.tables.problems import Problems
from healthgym.data.tables.sources import read_files
from healthgym.data.tables.table import in_one_form, read_classes, read_real, with_meanings
from healthgym.data.tables.visits import Rows, fill_statics
from healthgym.errors import TableError, listed, nearest
from healthgym.schema import Schema
from healthgym.schema.timing import Grid, ratio
from healthgym.words import one_form

_ANY_NUMBER = 1e307
_LARGEST = float(np.finfo(np.float32).max)
_NO_VALUE = "no value"
_DAY = "day"
IN_MEMORY = "the data frame"


@dataclass(frozen=True)
class Foreign:
    """A cohort as it could be read.

    Args:
        frame: keys and variables, sorted by patient and time.
        schema: without the variables that have no value.
        unfit: share of the table's rows, by column and what does not fit there.
        remarks: what does not fit and where, and what is left out, in sentences.
    """

    frame: pd.DataFrame
    schema: Schema
    unfit: dict[str, float]
    remarks: list[str]


def read_foreign(cohort: Path | pd.DataFrame, schema: Schema) -> Foreign:
    """Read a CSV or Parquet file, or a folder of them; or take a table that is in memory.

    Raises:
        TableError: it cannot be read, names no patients, or has nothing to judge.
    """
    if isinstance(cohort, pd.DataFrame):
        path, tables = IN_MEMORY, [cohort]
    else:
        path, tables = str(cohort), [part for _, part in read_files(cohort, schema)]
    parts = [in_one_form(part) for part in tables]
    table = pd.concat(parts, ignore_index=True)
    _check_can_be_judged(table, schema, path)
    problems = Problems(path)
    problems.read_whole(_row_names(parts))
    columns = _read_columns(table, schema, problems)
    empty = [v.name for v in schema.variables if v.name not in columns or columns[v.name].isna().all()]
    reduced = without(schema, empty, timed=schema.keys.timestep in table)
    if len(empty) == len(schema.variables):
        raise TableError(
            f"{path}: no variable of the schema '{schema.name}' has a value. There is nothing to evaluate."
        )
    variables = columns[[name for name in columns if name not in empty]]
    apply_flags(variables, reduced, problems)
    patient_N, time_N = _patients(table, schema, problems), _times(table, schema, problems)
    order_N = np.lexsort((time_N, patient_N))[int((patient_N < 0).sum()) :]
    _note_times(patient_N[order_N], time_N[order_N], order_N, reduced, problems)
    from_first = _from_first(table, schema)
    frame = _in_order(variables.take(order_N), patient_N[order_N], time_N[order_N], reduced, from_first)
    frame = Fills.fit(frame, reduced, path).carry_forward(frame, reduced, modelled=False)
    unfit, remarks = _counted(problems, len(table))
    unfit |= {f"{name}: no value at all": 1.0 for name in empty}
    return Foreign(frame, reduced, unfit, remarks + _left_out(empty, table, schema))


def without(schema: Schema, names: Collection[str], timed: bool = True) -> Schema:
    """Return a schema without some variables and what is said of them, and without times unless timed."""
    kept = [variable for variable in schema.variables if variable.name not in names]
    lost = {"missing": "refuse", "measured_flag": None}
    variables = [v.model_copy(update=lost) if v.measured_flag in names else v for v in kept]
    follow, values = schema.follow_up, {name: getattr(schema, name) for name in Schema.model_fields}
    if follow and {follow.time, follow.event} & set(names):
        values["follow_up"] = None
    if not timed:
        values["keys"] = schema.keys.model_copy(update={"visits": None})
    values["impossible"] = tuple(
        rule for rule in schema.impossible if not {each.variable for each in rule.never} & set(names)
    )
    return Schema(**values | {"variables": tuple(variables)}) if kept else schema


def lenient(schema: Schema) -> Schema:
    """Return the schema with statics that may change, negative reals and rows after the end of follow-up."""
    variables = tuple(
        variable.model_copy(
            update={"static": False, "fill": None}
            | ({"offset": _ANY_NUMBER} if variable.kind == "real" else {})
        )
        for variable in schema.variables
    )
    values = {name: getattr(schema, name) for name in Schema.model_fields}
    return Schema(**values | {"variables": variables, "follow_up": None})


def _row_names(parts: Sequence[pd.DataFrame]) -> Callable[[int], str]:
    """Return what says where a row of the joined parts stands."""
    starts = np.cumsum([0, *map(len, parts)])

    def name_of(row: int) -> str:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        index = parts[part].index
        return f"{index.name or 'row'} {index[row - int(starts[part])]}"

    return name_of


def _check_can_be_judged(table: pd.DataFrame, schema: Schema, path: str) -> None:
    key, declared = schema.keys.patient, [schema.keys.patient, schema.keys.timestep, *schema.names()]
    if key not in table:
        raise TableError(
            f"{path}: the cohort has no column '{key}'{nearest(key, table.columns)} that identifies its "
            f"patients; it has {listed(table.columns) or 'no columns'}. Give a copy of the schema in which "
            f"`keys: {{patient: ...}}` names the one that does, or add one to a copy of the cohort."
        )
    twice = [name for name in declared if (table.columns == name).sum() > 1]
    if twice:
        raise TableError(
            f"{path}: column '{twice[0]}' appears twice. Rename one, so that it is clear which is meant."
        )
    if table.empty:
        raise TableError(f"{path}: the cohort has columns but no rows. There is nothing to evaluate.")


def _read_columns(table: pd.DataFrame, schema: Schema, problems: Problems) -> pd.DataFrame:
    """Return the variables that the table has, in encoded order; what does not fit is noted and empty."""
    columns: dict[str, Any] = {}
    for variable in lenient(schema).encoded:
        if variable.name not in table or variable == schema.gap:
            continue
        column = table[variable.name]
        if variable.kind != "real":
            columns[variable.name] = read_classes(with_meanings(column, variable), variable, problems)
            continue
        column = with_meanings(column, variable)
        if schema.follow_up and variable.name == schema.follow_up.time and _dated(column, schema):
            column = _numbers_of(column, schema.follow_up_unit, schema)
            if not _dated_rows(table, schema):
                what = "dates, while the rows' times are none, so that they are left out"
                problems.add(what, "", variable.name, np.arange(len(column)))
                column = pd.Series(np.nan, column.index)
        numbers = read_real(column, variable, problems)
        columns[variable.name] = np.where(np.abs(numbers) <= _LARGEST, numbers, np.nan)
    return pd.DataFrame(columns)


def _patients(table: pd.DataFrame, schema: Schema, problems: Problems) -> NDArray[np.int64]:
    """Return each row's patient, counted in the order of their ids; -1 where it has none."""
    words = table[schema.keys.patient].map(one_form, na_action="ignore")
    codes, uniques = pd.factorize(words.mask(words == "").astype(object))
    nobody = np.flatnonzero(codes < 0)
    problems.add("no patient, so that the row is left out", "", schema.keys.patient, nobody)
    ids = patient_ids([np.asarray(uniques, dtype=object)])
    rank = np.unique(ids, return_inverse=True)[1]
    return np.append(rank, -1)[codes].astype(np.int64)


def _times(table: pd.DataFrame, schema: Schema, problems: Problems) -> NDArray[np.float64]:
    """Return each row's time; infinity where it has none, so that it comes after the patient's other rows."""
    key = schema.keys.timestep
    if key not in table:
        return np.zeros(len(table))
    column, unit = table[key], schema.time_unit if schema.keys.visits else _DAY
    numbers = numbers_in(_numbers_of(column, unit, schema) if _dated(column, schema) else column)
    none = np.flatnonzero(~np.isfinite(numbers))
    problems.add("neither a number nor a date", "", key, none, column.iloc[none[:3]])
    return np.where(np.isfinite(numbers), numbers, np.inf)


def _dated(column: pd.Series, schema: Schema) -> bool:
    """Return whether a column has dates, ISO or of the schema's format."""
    return has_dates(column) or (bool(_format(schema)) and has_dates(column, _format(schema)))


def _dated_rows(table: pd.DataFrame, schema: Schema) -> bool:
    return schema.keys.timestep in table and _dated(table[schema.keys.timestep], schema)


def _format(schema: Schema) -> str:
    return schema.keys.visits.format if schema.keys.visits else ""


def _numbers_of(column: pd.Series, unit: str, schema: Schema) -> pd.Series:
    """Return dates as times since 1970 in a unit, or in days if the unit is unknown; other words stay."""
    days = days_in(column, "" if has_dates(column) else _format(schema))
    try:
        per_day = ratio(_DAY, unit)
    except ValueError:
        return days
    return days.map(lambda value: value * per_day if isinstance(value, float) else value)


def _from_first(table: pd.DataFrame, schema: Schema) -> tuple[bool, bool]:
    """Return whether the times, and the ends of follow-up, count from each patient's first row."""
    visits, follow = schema.keys.visits, schema.follow_up
    if not visits:
        return False, False
    dated = _dated_rows(table, schema)
    times = dated or visits.origin == "first"
    follows = follow is not None and follow.time in table and _dated(table[follow.time], schema) == dated
    return times, times and follows


def _note_times(
    patient_N: NDArray[np.int64],
    time_N: NDArray[np.float64],
    order_N: NDArray[np.int64],
    schema: Schema,
    problems: Problems,
) -> None:
    """Note rows, in order, whose time a schema of whole timesteps without gaps does not expect."""
    key, known = schema.keys.timestep, np.isfinite(time_N)
    follows = np.r_[False, patient_N[1:] == patient_N[:-1]] & known
    with np.errstate(invalid="ignore"):
        step = np.diff(time_N, prepend=0.0)
    if not isinstance(schema.keys.visits, Grid) and (time_N != time_N[0]).any():
        again = order_N[np.sort(np.flatnonzero(follows & (step == 0)))]
        problems.add("the same patient and time as another row", "", key, again)
    if schema.keys.visits is None and (time_N != time_N[0]).any():
        odd = known & (time_N != np.round(time_N))
        problems.add("not a whole number, so that only the order counts", "", key, np.sort(order_N[odd]))
        late = follows & ~odd & (step > 1)
        problems.add("timesteps missing before the row", "", key, np.sort(order_N[late]))


def _in_order(
    variables: pd.DataFrame,
    patient_N: NDArray[np.int64],
    time_N: NDArray[np.float64],
    schema: Schema,
    from_first: tuple[bool, bool],
) -> pd.DataFrame:
    """Return sorted rows with keys, on the schema's grid if it has one; `_from_first` gives `from_first`."""
    patients, lengths_P = np.unique(patient_N, return_counts=True)
    known = pd.Series(np.where(np.isfinite(time_N), time_N, np.nan))
    times_N = np.asarray(known.groupby(patient_N).ffill().fillna(0.0), np.float64)
    visits, follow = schema.keys.visits, schema.follow_up
    variables = fill_statics(variables.reset_index(drop=True), schema, patient_N)
    if visits and from_first[0]:
        first_N = np.repeat(np.cumsum(lengths_P) - lengths_P, lengths_P)
        if follow and from_first[1]:
            origin_N = np.where(np.isfinite(time_N[first_N]), times_N[first_N], np.nan)
            ends_N = variables[follow.time].to_numpy(np.float64) - origin_N * schema.time_ratio
            variables = variables.assign(**{follow.time: ends_N})
        times_N = times_N - times_N[first_N]
    rows = Rows(variables, times_N, lengths_P, np.arange(len(times_N)), patients)
    if isinstance(visits, Grid):
        rows = on_grid(rows, schema, visits, GridCounts())
    frame = rows.frame.copy()
    frame.insert(0, schema.keys.patient, np.repeat(rows.ids_P, rows.lengths_P))
    frame.insert(1, schema.keys.timestep, rows.times_N)
    return frame


def _counted(problems: Problems, num_rows: int) -> tuple[dict[str, float], list[str]]:
    """Return the share of rows of each kind, and a sentence on each; absent values are counted elsewhere."""
    unfit, remarks = {}, []
    for column, what, count, rows in problems.found():
        if what != _NO_VALUE:
            unfit[f"{column}: {what}"] = count / num_rows
            remarks.append(f"'{column}', {what}: {rows}.")
    return unfit, remarks


def _left_out(empty: Collection[str], table: pd.DataFrame, schema: Schema) -> list[str]:
    """Name the variables whose metrics cannot be computed."""
    said = []
    if empty:
        said.append(
            f"The cohort has no value of {listed(empty)}: metrics of them cannot be computed, and the others "
            f"leave them out."
        )
    if schema.keys.timestep not in table:
        said.append(
            f"The cohort has no column '{schema.keys.timestep}': each patient's rows are taken in the order "
            f"of the file."
        )
    return said
