"""The content of a shard of a synthetic cohort: columns of equal length, one row per timestep.

Legend: N patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.errors import CohortError
from healthgym.schema import Schema, Variable

KIND = "synthetic cohort shard"
VERSION = 1
DAY_ZERO = "2000-01-01"
"""The date of every patient's time 0 if the table had dates: no real date is kept."""


@dataclass(frozen=True)
class Shard:
    """Decoded patients, numbered `first_patient` upwards.

    Args:
        schema: what the columns mean.
        first_patient: number of the first patient.
        lengths_N: timesteps of each patient.
        columns: an array of sum(lengths_N) values per variable, without the gap between visits: float32
            reals, NaN where missing, and class indices of type `code_dtype`, `blank_code` where missing.
        num_candidates: patients sampled for it, including those that a guardrail rejected; 0 without
            guardrail.
        first_timestep: number of each patient's first timestep.
        times_N: times of all rows, if visits have times.
        decimals: number of decimals of real variables, if known. Their values are already rounded.
        dates: columns of days that a table shows as dates, and whether all of them are whole days.
    """

    schema: Schema
    first_patient: int
    lengths_N: NDArray[np.int32]
    columns: Mapping[str, NDArray[Any]]
    num_candidates: int = 0
    first_timestep: int = 0
    times_N: NDArray[Any] | None = None
    decimals: Mapping[str, int] = field(default_factory=dict)
    dates: Mapping[str, bool] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Number of timesteps of all patients."""
        return int(self.lengths_N.sum())

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, schema: Schema, decimals: Mapping[str, int], dates: Mapping[str, bool]
    ) -> "Shard":
        """Return the shard of a table that was read; patients' numbers must be consecutive."""
        patients_N = frame[schema.keys.patient].to_numpy()
        lengths_N = np.unique(patients_N, return_counts=True)[1].astype(np.int32)
        columns: dict[str, NDArray[Any]] = {}
        for variable in variables_in_order(schema):
            column = frame[variable.name]
            if variable.kind == "real":
                columns[variable.name] = column.to_numpy(np.float32)
                continue
            codes = column.cat.codes.to_numpy(np.int32)
            columns[variable.name] = np.where(codes < 0, blank_code(variable), codes).astype(
                code_dtype(variable)
            )
        times_N = frame[schema.keys.timestep].to_numpy()
        first = int(patients_N[0])
        return cls(schema, first, lengths_N, columns, times_N=times_N, decimals=decimals, dates=dates)


def code_dtype(variable: Variable) -> type[np.uint8] | type[np.uint16]:
    """Return the type of a class index, with one value for missing."""
    return np.uint8 if len(variable.classes) < 256 else np.uint16


def blank_code(variable: Variable) -> int:
    """Return the class index of a missing value: the type's largest number."""
    return int(np.iinfo(code_dtype(variable)).max)


def variables_in_order(schema: Schema) -> tuple[Variable, ...]:
    """Return variables in the order of the schema, then derived flags.

    The gap between visits is left out, because the cohort has times.
    """
    declared = {variable.name for variable in schema.variables}
    return schema.variables + tuple(v for v in schema.encoded if v.name not in declared and v != schema.gap)


def key_columns(shard: Shard) -> dict[str, NDArray[Any]]:
    """Return the patient's number and the timestep of each row."""
    num_patients = len(shard.lengths_N)
    last = shard.first_patient + num_patients
    patients_N = np.arange(shard.first_patient, last, dtype=np.int32 if last < 2**31 else np.int64)
    starts_N = np.cumsum(shard.lengths_N) - shard.lengths_N
    timesteps: NDArray[Any] = np.arange(shard.num_rows) - np.repeat(
        starts_N - shard.first_timestep, shard.lengths_N
    )
    if shard.times_N is not None:
        timesteps = shard.times_N
    small = bool(np.abs(timesteps).max(initial=0) < 2**31)
    if timesteps.dtype.kind == "i":
        timesteps = timesteps.astype(np.int32 if small else np.int64)
    return {
        shard.schema.keys.patient: np.repeat(patients_N, shard.lengths_N),
        shard.schema.keys.timestep: timesteps,
    }


def column_notes(shard: Shard) -> dict[str, dict[str, Any]]:
    """Return the attributes of each column, in the columns' order: kind, unit or labels, and so on."""
    schema, days = shard.schema, f"days since {DAY_ZERO}"
    keys = (schema.keys.patient, schema.keys.timestep)
    notes: dict[str, dict[str, Any]] = {name: {"name": name, "kind": "key"} for name in keys}
    notes[keys[1]]["unit"] = schema.time_unit
    for variable in variables_in_order(schema):
        notes[variable.name] = _notes(variable, shard.decimals)
    for name in shard.dates:
        notes[name]["unit"] = days
    return notes


def _notes(variable: Variable, decimals: Mapping[str, int]) -> dict[str, Any]:
    common = {
        "name": variable.name,
        "kind": variable.kind,
        "description": variable.description,
        "static": variable.static,
    }
    if variable.kind == "real":
        known = {"decimals": decimals[variable.name]} if variable.name in decimals else {}
        return {**common, "unit": variable.unit, **known}
    whole = all(isinstance(code, int) for code in variable.codes)
    codes: Any = np.array(variable.codes, dtype=np.int64) if whole else [str(c) for c in variable.codes]
    blank = {"blank": blank_code(variable)} if variable.missing == "model" else {}
    return {**common, "labels": list(variable.labels), "codes": codes, **blank}


def columns_table(schema: Schema, decimals: Mapping[str, int], dates: Mapping[str, bool]) -> str:
    """Return a CSV that describes each column: kind, unit, decimals, labels."""
    empty = np.zeros(0, np.int32)
    notes = column_notes(Shard(schema, 0, empty, {}, decimals=decimals, dates=dates))
    rows = [
        {
            "column": name,
            "kind": note["kind"],
            "unit": note.get("unit", ""),
            "decimals": note.get("decimals", ""),
            "static": note.get("static", ""),
            "labels": "; ".join(note.get("labels", ())),
            "codes": "; ".join(map(str, note.get("codes", ()))),
            "description": note.get("description", ""),
        }
        for name, note in notes.items()
    ]
    return pd.DataFrame(rows).to_csv(index=False)


def describe(schema: Schema) -> str:
    """Return a sentence that describes a shard."""
    return (
        f"Synthetic patients in the form of {schema.title or schema.name}, drawn from noise through a "
        f"trained generator; copies of real patients were not looked for. One row per patient and "
        f"{schema.timestep_unit}; a categorical column holds the index into its attribute 'labels'."
    )


def check(where: str, kind: Any, version: Any, schema_json: Any, schema: Schema) -> None:
    """Refuse a file that is not a shard of this version and schema.

    Raises:
        CohortError: names the kind and version of the file.
    """
    if kind != KIND or version is None or int(version) != VERSION:
        raise CohortError(
            f"{where} is a '{kind}' of version {version}; a '{KIND}' of version {VERSION} was expected."
        )
    if schema_json != schema.to_json():
        raise CohortError(
            f"{where} has another schema than the cohort's manifest. Delete this shard and give the command "
            "that made the cohort again."
        )
