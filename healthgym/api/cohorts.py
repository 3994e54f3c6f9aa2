"""From a table to a prepared cohort."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from healthgym import shipped
from healthgym.data import command
from healthgym.data.prepare import SplitSettings
from healthgym.data.sequences import PreparedCohort
from healthgym.data.tables.sources import Source, find_source
from healthgym.errors import SchemaError
from healthgym.schema import Schema, load_schema
from healthgym.schema.cells import LEAST_PATIENTS
from healthgym.strict import parse

AnyPath: TypeAlias = str | PathLike[str]
AnySchema: TypeAlias = Schema | AnyPath | Mapping[str, Any]


def prepare(
    table: pd.DataFrame | AnyPath,
    schema: AnySchema,
    out: AnyPath = "prepared.h5",
    *,
    holdout: float = 0.2,
    seed: int = 0,
    max_patients: int | None = None,
    least_patients: int = LEAST_PATIENTS,
    sort: bool = False,
    overwrite: bool = False,
) -> PreparedCohort:
    """Check a table, hold patients out, and write what training reads; do nothing if that was done before.

    Args:
        table: a long table, one row per patient and time: a data frame, or the path of a CSV or Parquet
            file, of a folder of such files or a pattern that names them.
        schema: what the columns mean: a `Schema`, the path of its YAML file, the name of one that comes with
            the package (`art_hiv`), or a mapping of the same form as the file.
        out: the file to write (HDF5).
        holdout: share of the patients that training never sees, which `evaluate` compares with.
        seed: decides who is held out.
        max_patients: use so many patients only, those with the lowest ids.
        least_patients: values that fewer training patients had are pooled in what `ar` learns from.
        sort: whether rows that are out of order are sorted.
        overwrite: whether to replace a file that was made from something else.

    Returns:
        The cohort: `cohort.frame("train")` and `cohort.frame("holdout")` are its patients as data frames.

    Raises:
        HealthgymError: the table does not fit the schema, with the rows and what to do; or `out` holds
            something else.
    """
    declared = schema_of(schema)
    command.check(holdout, max_patients, least_patients)
    split = SplitSettings(holdout, seed, max_patients, least_patients)
    if isinstance(table, pd.DataFrame):
        source = Source("the data frame", f"data frame {_digest(table)}", lambda: [table])
    else:
        source = find_source(declared, Path(table), None, seed, max_patients, None)
    return command.prepare_once(source, declared, Path(out), split, sort, overwrite)[0]


def schema_of(schema: AnySchema) -> Schema:
    """Return a schema that was given as such, as a YAML file, by the name of a shipped one or as a mapping.

    Raises:
        SchemaError: with every problem found.
    """
    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, Mapping):
        return parse(Schema, schema, "the schema", SchemaError)
    return load_schema(shipped.schema(Path(schema)))


def overrides_of(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return settings as the programs' `--set` has them: "training.epochs=2"."""
    if not isinstance(settings, Mapping):
        return list(settings)
    return [f"{name}={json.dumps(value, default=str)}" for name, value in settings.items()]


def _digest(table: pd.DataFrame) -> str:
    """Return a SHA-256 of a table's names and values."""
    digest = hashlib.sha256(repr(list(table.columns)).encode())
    digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return digest.hexdigest()
