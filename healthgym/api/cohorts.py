"""From a table to a prepared cohort."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd

from healthgym import shipped
from healthgym.api.inputs import AnyPath, path_of, table_of
from healthgym.api.wording import python_errors
from healthgym.data import command
from healthgym.data.describe.command import Description, describe_frame, describe_table
from healthgym.data.prepare import SplitSettings
from healthgym.data.sequences import PreparedCohort
from healthgym.data.tables.dialect import FOUND_OUT
from healthgym.data.tables.sources import Source, find_source
from healthgym.errors import SchemaError
from healthgym.schema import Schema, load_schema
from healthgym.schema.cells import LEAST_PATIENTS
from healthgym.schema.schema import UNNAMED
from healthgym.strict import parse

AnySchema: TypeAlias = Schema | Description | AnyPath | Mapping[str, Any]


@python_errors()
def describe(
    table: pd.DataFrame | AnyPath,
    *,
    name: str = UNNAMED,
    patient: str | None = None,
    time: str | None = None,
    visits: Literal["irregular", "grid"] | None = None,
    every: float | None = None,
) -> Description:
    """Draft the schema of a table.

    Args:
        table: a long table, one row per patient and time: a data frame, or the path of a file, of a folder
            of files or a pattern that names them.
        name: of the schema, and title of its reports; a file gives its own.
        patient: name of the column of patients; found automatically if empty.
        time: name of the column of times; found automatically if empty.
        visits: how visits at irregular times are treated.
        every: width of a grid's intervals, in the unit of the times.

    Returns:
        The description, which `prepare` accepts. Printing it shows what was found and what could not be
        decided. `.yaml` is the text of the schema, with the evidence for each guess as a comment;
        `.save(path)` writes it, to be corrected and given to `prepare` as a file.

    Raises:
        HealthgymError: the table has no keys, or a form that cannot be prepared.
    """
    given = table_of(table, "table")
    if isinstance(given, pd.DataFrame):
        return describe_frame(given, name, patient, time, visits, every)
    return describe_table(given, FOUND_OUT, patient, time, visits, every)


@python_errors(sort="sort=True", overwrite="overwrite=True")
def prepare(
    table: pd.DataFrame | AnyPath,
    schema: AnySchema,
    out: AnyPath = "prepared.h5",
    *,
    holdout: float | None = None,
    seed: int = 0,
    max_patients: int | None = None,
    least_patients: int = LEAST_PATIENTS,
    sort: bool = False,
    overwrite: bool = False,
) -> PreparedCohort:
    """Check a table, hold out patients, and write a prepared cohort; do nothing if it exists already.

    Args:
        table: a long table, one row per patient and time: a data frame, or the path of a CSV or Parquet
            file, of a folder of such files or a pattern that names them.
        schema: the meaning of the columns: the result of `describe`, a `Schema`, the path of a YAML file, the
            name of a schema in the package (`art_hiv`), or a mapping of the same form as the file.
        out: the file to write (HDF5).
        holdout: share of the patients that are held out for `evaluate`: 0.2 by default, or the advice of
            `describe`.
        seed: of the random choice of held-out patients.
        max_patients: use only this number of patients, those with the lowest ids.
        least_patients: for `ar`, values of fewer training patients are pooled.
        sort: whether rows that are out of order are sorted; by default if `describe` found such rows.
        overwrite: whether to replace a file that was made from something else.

    Returns:
        The cohort: `cohort.frame("train")` and `cohort.frame("holdout")` are its patients as data frames.

    Raises:
        HealthgymError: the table does not fit the schema (with the rows and what to do), or `out` is another
            file.
    """
    given, declared, share = table_of(table, "table"), schema_of(schema), 0.2
    if isinstance(schema, Description):
        share, sort = schema.advice.holdout, sort or not schema.found.keys.sorted
    holdout = share if holdout is None else holdout
    command.check(holdout, max_patients, least_patients)
    split = SplitSettings(holdout, seed, max_patients, least_patients)
    if isinstance(given, pd.DataFrame):
        source = Source("the data frame", f"data frame {_digest(given)}", lambda: [given])
    else:
        source = find_source(declared, given, None, seed, max_patients, None)
    cohort = command.prepare_once(source, declared, Path(out), split, sort, overwrite)[0]
    if few := command.few_patients(cohort):
        warnings.warn(f"{few.replace('--least-patients', 'least_patients')}.", stacklevel=2)
    return cohort


def schema_of(schema: AnySchema) -> Schema:
    """Return a schema given as a `Schema`, a YAML file, the name of a schema in the package, or a mapping.

    Raises:
        HealthgymError: with every problem found.
    """
    if isinstance(schema, Description):
        return schema.schema
    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, Mapping):
        return parse(Schema, schema, "the schema", SchemaError)
    expected = "a description, a Schema, a mapping, a name or the path of a YAML file"
    return load_schema(shipped.schema(path_of(schema, "schema", expected)))


def overrides_of(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return settings in the form of `--set`: "training.epochs=2"."""
    if not isinstance(settings, Mapping):
        return list(settings)
    return [f"{name}={json.dumps(value, default=str)}" for name, value in settings.items()]


def _digest(table: pd.DataFrame) -> str:
    """Return a SHA-256 of a table's names and values."""
    digest = hashlib.sha256(repr(list(table.columns)).encode())
    digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return digest.hexdigest()
