"""Missing values: refuse, carry forward and flag, or model the missingness.

With `carry_forward`, a gap at a patient's beginning has no previous value. It gets the median of the measured
values (for classes the most frequent one) of the training patients: the patient's own later values would leak
the future into the past. A median that only few patients have is replaced by a mean of values around it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.encode import labelled
from healthgym.data.tables.problems import Problems
from healthgym.errors import TableError
from healthgym.schema import Schema, measured_class


def apply_flags(frame: pd.DataFrame, schema: Schema, problems: Problems) -> None:
    """Add derived flags to `frame`, and blank modelled values where the flag says "not measured".

    A flag that several variables share is derived as "any of them was measured". A gap must be flagged,
    whether it is modelled or carried forward: a filled-in value may not pass for a measured one.
    """
    for variable in schema.variables:
        name = variable.measured_flag
        if name is None or name in frame:
            continue
        sharing = [v.name for v in schema.variables if v.measured_flag == name]
        flag = schema[name]
        measured = frame[sharing].notna().any(axis=1).to_numpy()
        code = measured_class(flag)
        frame[name] = labelled(np.where(measured, code, 1 - code), flag)
    for variable in schema.variables:
        if variable.missing != "refuse" and variable.measured_flag:
            flag = schema[variable.measured_flag]
            measured = (frame[flag.name] == flag.labels[measured_class(flag)]).to_numpy()
            absent = np.flatnonzero(measured & frame[variable.name].isna().to_numpy())
            problems.add(
                f"no value, but '{flag.name}' says that it was measured",
                "Correct either; variables that are not measured together need a flag each.",
                variable.name,
                absent,
            )
            if variable.missing == "model":
                frame[variable.name] = frame[variable.name].where(measured)


@dataclass(frozen=True)
class Fills:
    """The fills of gaps at a patient's beginning: {variable: number or label}."""

    values: Mapping[str, float | str]

    @classmethod
    def fit(cls, frame: pd.DataFrame, schema: Schema, source: str = "table") -> "Fills":
        """Fit on a checked table (of training patients); `source` names it in messages.

        Raises:
            TableError: a variable has no value at all.
        """
        values: dict[str, float | str] = {}
        for variable in schema.variables:
            if variable.missing == "refuse":
                continue
            column = frame[variable.name]
            if column.isna().all():
                raise TableError(
                    f"{source}: column '{variable.name}' has no value at all among the training patients. "
                    f"Take it out of the schema."
                )
            values[variable.name] = (
                float(column.median()) if variable.kind == "real" else str(column.value_counts().idxmax())
            )
        return cls(values)

    def carry_forward(self, frame: pd.DataFrame, schema: Schema, modelled: bool) -> pd.DataFrame:
        """Fill gaps with the previous value, or else the fill; modelled gaps only if `modelled`."""
        policies = ("carry_forward", "model") if modelled else ("carry_forward",)
        filled = {}
        for variable in (*schema.variables, *((schema.gap,) if schema.gap else ())):
            if variable.name not in frame:  # a raw table has no gap between visits
                continue
            column = frame[variable.name]
            if variable.missing in policies and column.isna().any():
                row = _last_value(column.notna().to_numpy(), frame[schema.keys.patient].to_numpy())
                carried = column.take(row).where(row >= 0).fillna(self.values[variable.name])
                filled[variable.name] = carried.set_axis(frame.index)
        return frame.assign(**filled) if filled else frame


def _last_value(present: NDArray[np.bool_], patient: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the row of each row's latest present value within the patient, or -1."""
    rows = np.arange(len(present))
    last = np.maximum.accumulate(np.where(present, rows, -1))
    starts = np.concatenate([[True], patient[1:] != patient[:-1]])
    first = np.maximum.accumulate(np.where(starts, rows, 0))
    return np.where(last >= first, last, -1)
