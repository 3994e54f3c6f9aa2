"""Checking a clinical table against its schema, with all problems reported at once."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.encode import labelled
from healthgym.data.fitting.transform import BOXCOX_EPS
from healthgym.data.tables.dates import days_in, has_dates
from healthgym.data.tables.grid import GridCounts, check_grid, on_grid
from healthgym.data.tables.keys import KeyRows, Keys, check_order, numbers_in, patient_ids, read_keys
from healthgym.data.tables.missing import Fills, apply_flags
from healthgym.data.tables.problems import Problems
from healthgym.data.tables.reading import read_table
from healthgym.data.tables.visits import Rows, TimeFinder, check_times, visit_times
from healthgym.errors import TableError, listed, nearest
from healthgym.schema import Schema, Variable, plain_word
from healthgym.schema.timing import Grid, TimeForm
from healthgym.words import one_form

__all__ = [
    "check_columns",
    "check_rows",
    "check_static",
    "check_table",
    "in_one_form",
    "read_classes",
    "read_real",
    "read_rows",
    "read_table",
    "refuse_empty",
]

LARGEST_REAL = float(np.finfo(np.float32).max)
"""Cohorts keep reals as float32."""


def check_table(
    frame: pd.DataFrame, schema: Schema, source: str = "table", sort: bool = False
) -> pd.DataFrame:
    """Return the checked table, sorted by its keys, with values carried forward according to the schema.

    Args:
        frame: a table as `read_table` gives it, or any other with the schema's columns.
        schema: what its columns mean.
        source: names the table in messages.
        sort: whether rows that are out of order are sorted (else they are a problem).

    Returns:
        keys, then the variables in encoded order, but for gaps between visits: reals as float64, the others
        as pandas categories (labels, in the schema's order), derived flags included. Only a value with
        `missing: model` can be NaN: where its flag says "not measured".

    Raises:
        TableError: with every kind of problem found, its column, rows, values and remedy.
    """
    checked = check_rows(frame, schema, source, sort)
    return Fills.fit(checked, schema, source).carry_forward(checked, schema, modelled=False)


def check_rows(frame: pd.DataFrame, schema: Schema, source: str, sort: bool = False) -> pd.DataFrame:
    """Do the same as `check_table`, but leave gaps that are to be carried forward empty."""
    frame = in_one_form(frame)
    check_columns(frame, schema, source)
    refuse_empty(len(frame), source)
    problems = Problems(source, frame.index)
    rows, variables = read_rows(frame, schema, problems)
    if rows is None:
        problems.raise_if_any()
        raise AssertionError("unreadable keys are a problem")
    keys = Keys.of(patient_ids([rows.words_R]), rows.lengths_R, rows.timestep_N)
    check_order(keys, schema, problems, sort, rows.dated)
    finder = TimeFinder(schema)
    finder.see(rows, variables, problems)
    found = finder.rows(
        variables.take(keys.order_N),
        keys.timestep_N[keys.order_N],
        np.bincount(keys.patient_N).astype(np.int64),
        keys.order_N,
        keys.patient_ids,
    )
    finder.look(found)
    finder.check_origin(problems)
    check_rows_of(found, schema, finder.form, problems)
    visits = schema.keys.visits
    first = 0 if visits else int(keys.timestep_N.min())
    if isinstance(visits, Grid):
        problems.raise_if_any()
        found = on_grid(found, schema, visits, GridCounts())
        check_grid(found, schema, problems)
    problems.raise_if_any()
    in_order = found.frame.reset_index(drop=True)
    times_N: NDArray[Any] = found.times_N
    if visits is None or visits.kind == "grid":
        times_N = visit_times(None, found.lengths_P, schema, finder.form, first)
    in_order.insert(0, schema.keys.patient, np.repeat(found.ids_P, found.lengths_P))
    in_order.insert(1, schema.keys.timestep, times_N)
    return in_order


def check_rows_of(rows: Rows, schema: Schema, form: TimeForm, problems: Problems) -> None:
    """Report problems of whole patients: statics that change, rows outside their follow-up."""
    ids_N = np.repeat(rows.ids_P, rows.lengths_P)
    check_static(rows.frame, schema, ids_N, rows.rows_N, problems)
    check_times(rows, schema, form, problems)


def read_rows(frame: pd.DataFrame, schema: Schema, problems: Problems) -> tuple[KeyRows | None, pd.DataFrame]:
    """Check each row for itself, and return its keys (None if they cannot be read) and variables.

    The variables stand in encoded order, as `check_table` gives them, the rows as in `frame`.
    """
    keys = read_keys(frame, schema, problems)
    columns: dict[str, Any] = {}
    follow = schema.follow_up.time if schema.follow_up else ""
    form = schema.keys.visits.format if schema.keys.visits else ""
    if follow and has_dates(frame[follow], form):
        frame = frame.assign(**{follow: days_in(frame[follow], form)})
        keys = replace(keys, follow_dated=True) if keys else None
    for variable in schema.encoded:
        if variable.name in frame and variable != schema.gap:
            read = read_real if variable.kind == "real" else read_classes
            columns[variable.name] = read(with_meanings(frame[variable.name], variable), variable, problems)
    cleaned = pd.DataFrame(columns)
    apply_flags(cleaned, schema, problems)
    return keys, cleaned[[v.name for v in schema.encoded if v != schema.gap]]


def with_meanings(column: pd.Series, variable: Variable) -> pd.Series:
    """Return a column in which each word is replaced by the value that the schema gives it."""
    if not variable.meanings:
        return column
    codes, uniques = pd.factorize(column)
    known = variable.meanings
    words = [variable.plain(word) if pd.notna(word) else "" for word in uniques] + [""]
    if not any(word in known for word in words):
        return column
    found = [known.get(word, old) for word, old in zip(words, [*uniques, None], strict=True)]
    return pd.Series(np.array(found, dtype=object)[codes], index=column.index, name=column.name)


def in_one_form(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its columns' names in the form in which names are compared."""
    names = [one_form(name) if isinstance(name, str) else name for name in frame.columns]
    return frame if names == list(frame.columns) else frame.set_axis(names, axis=1)


def check_columns(frame: pd.DataFrame, schema: Schema, source: str) -> None:
    """Refuse a table that lacks a column, or has one twice."""
    declared = [schema.keys.patient, schema.keys.timestep, *(v.name for v in schema.variables)]
    absent = [name for name in declared if name not in frame]
    spare = [name for name in frame if name not in declared]
    if absent:
        raise TableError(
            f"{source}: the table lacks {listed(f'{name!r}{nearest(name, spare)}' for name in absent)}, "
            f"which the schema '{schema.name}' declares. Rename or add the columns, remove them from the "
            f"schema, or give the schema that belongs to this table."
        )
    twice = [name for name in declared if (frame.columns == name).sum() > 1]
    if twice:
        raise TableError(f"{source}: column '{twice[0]}' appears twice in the table. Rename one.")


def refuse_empty(num_rows: int, source: str) -> None:
    """Refuse a table without rows."""
    if not num_rows:
        raise TableError(
            f"{source}: the table has columns but no rows. Give one row per patient and timestep."
        )


def read_real(column: pd.Series, variable: Variable, problems: Problems) -> NDArray[np.float64]:
    """Return a real variable's values; NaN where missing."""
    numbers = numbers_in(column)
    missing = column.isna().to_numpy()

    def note(wrong: NDArray[np.bool_], what: str, remedy: str) -> None:
        rows = np.flatnonzero(wrong)
        problems.add(what, remedy, variable.name, rows, column.iloc[rows[:3]])

    note(np.isnan(numbers) & ~missing, "not a number", "Write numbers with a decimal point and no unit.")
    note(np.isinf(numbers), "infinite", "Correct it, or leave it empty.")
    with np.errstate(invalid="ignore"):
        note(
            np.isfinite(numbers) & (np.abs(numbers) > LARGEST_REAL),
            f"larger than {LARGEST_REAL:.1e}, the largest number that a cohort's files can contain",
            f"Correct it, or give '{variable.name}' in a larger unit.",
        )
    shift = BOXCOX_EPS + variable.offset
    with np.errstate(invalid="ignore"):
        note(
            np.isfinite(numbers) & (numbers + shift <= 0),
            f"not above {-shift:g}, which the Box-Cox transform needs",
            f"Correct it; if such values are correct, give '{variable.name}' an `offset:` in the schema that "
            f"makes them positive.",
        )
    _note_missing(missing, variable, problems)
    return numbers


def read_classes(column: pd.Series, variable: Variable, problems: Problems) -> "pd.Categorical[Any]":
    """Return a binary or categorical variable's labels; NaN where missing. Code or label may stand."""
    class_of = _class_lookup(variable)
    codes, uniques = pd.factorize(_as_words(column))
    classes = np.array([class_of.get(plain_word(word), -1) for word in uniques] + [-1], dtype=np.int64)[codes]
    rows = np.flatnonzero((classes < 0) & (codes >= 0))
    expected = listed(
        f"{code}" if str(code) == label else f"{code} ({label})" for code, label in variable.classes.items()
    )
    guess = nearest(column.iloc[rows[0]], class_of) if len(rows) else ""
    problems.add(
        "unknown class",
        f"Expected {expected}{guess}. Correct it, or add the class to the schema.",
        variable.name,
        rows,
        column.iloc[rows[:3]],
    )
    _note_missing(codes < 0, variable, problems)
    return labelled(classes, variable)


def _class_lookup(variable: Variable) -> dict[str, int]:
    """Return the class of each label and code, as `plain_word` writes them: the schema leaves no two alike.

    True and False also stand for the codes 1 and 0, where these are all codes and neither is a label.
    """
    class_of = {plain_word(code): k for k, code in enumerate(variable.codes)}
    truths = {"False": "0", "True": "1"}
    if class_of.keys() == set(truths.values()) and truths.keys().isdisjoint(map(plain_word, variable.labels)):
        class_of |= {truth: class_of[code] for truth, code in truths.items()}
    return class_of | {plain_word(label): k for k, label in enumerate(variable.labels)}


def _as_words(column: pd.Series) -> pd.Series:
    """Return a column of mixed objects as text: pandas takes True and 1 in it for the same value."""
    mixed = column.dtype == object and pd.api.types.infer_dtype(column).startswith("mixed")
    return column.map(plain_word, na_action="ignore") if mixed else column


def _note_missing(missing: NDArray[np.bool_], variable: Variable, problems: Problems) -> None:
    if variable.missing == "refuse" and not variable.fill:
        problems.add(
            "no value",
            "Fill it in"
            + (
                ", or say `fill: first` in the schema if a patient's first row has it."
                if variable.static
                else ", or say `missing: carry_forward` or `missing: model` in the schema."
            ),
            variable.name,
            np.flatnonzero(missing),
        )


def check_static(
    table: pd.DataFrame,
    schema: Schema,
    patient_N: NDArray[Any],
    rows_N: NDArray[np.int64],
    problems: Problems,
) -> None:
    """Note where a variable that is constant within a patient changes.

    Args:
        table: the variables of whole patients, in the order of the keys.
        schema: of the table.
        patient_N: whose row each is.
        rows_N: where each row stands, as messages count.
        problems: takes them.
    """
    for variable in schema.encoded:
        if not variable.static:
            continue
        codes, uniques = pd.factorize(table[variable.name])
        known = np.flatnonzero((codes[1:] >= 0) & (codes[:-1] >= 0) & (codes[1:] != codes[:-1])) + 1
        changed = known[patient_N[known] == patient_N[known - 1]]
        problems.add(
            "static, but changes within a patient",
            "Correct it, or drop `static: true` in the schema.",
            variable.name,
            rows_N[changed],
            [
                f"patient {patient_N[i]}, from {uniques[codes[i - 1]]} to {uniques[codes[i]]}"
                for i in changed[:3]
            ],
        )
