"""Patients as arrays: what every metric is computed from.

N patients, T timesteps, R real and K binary or categorical variables, V = R + K.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.tables.visits import with_gaps
from healthgym.errors import TableError, listed
from healthgym.evaluation.statistics.scale import Scale
from healthgym.schema import Schema

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """Some patients, padded to the longest.

    Args:
        schema: what the columns mean.
        reals_NTR: raw values, of float32's precision; NaN after a patient's end and where missing.
        codes_NTK: class index; -1 after a patient's end and where missing.
        lengths_N: timesteps per patient.
        scale: how reals are put on a common scale, fitted on the training data.
    """

    schema: Schema
    reals_NTR: Floats
    codes_NTK: NDArray[np.int16]
    lengths_N: NDArray[np.int64]
    scale: Scale | None = None

    @property
    def num_patients(self) -> int:
        """N."""
        return len(self.lengths_N)

    @property
    def num_timesteps(self) -> int:
        """T, the longest patient's."""
        return int(self.reals_NTR.shape[1])

    @cached_property
    def present_NT(self) -> NDArray[np.bool_]:
        """True up to each patient's end."""
        return np.arange(self.num_timesteps)[None, :] < self.lengths_N[:, None]

    @cached_property
    def scaled_NTR(self) -> Floats:
        """Reals on the common scale: about standard normal in the training data."""
        assert self.scale is not None, "fit a Scale on the training data first"
        return self.scale.apply(self.reals_NTR)

    @cached_property
    def values_NTV(self) -> Floats:
        """Scaled reals, then class indices as numbers; NaN where absent."""
        codes = np.where(self.codes_NTK < 0, np.nan, self.codes_NTK.astype(np.float64))
        return np.concatenate([self.scaled_NTR, codes], axis=2)

    @cached_property
    def values_rows(self) -> Floats:
        """`values_NTV` of the timesteps that exist, shape (rows, V)."""
        return np.asarray(self.values_NTV[self.present_NT])

    def take(self, indices: NDArray[np.int64]) -> "Panel":
        """Return the panel of some patients."""
        return replace(
            self,
            reals_NTR=self.reals_NTR[indices],
            codes_NTK=self.codes_NTK[indices],
            lengths_N=self.lengths_N[indices],
        )

    def first(self, num_timesteps: int) -> "Panel":
        """Return the panel cut to its first timesteps."""
        return replace(
            self,
            reals_NTR=self.reals_NTR[:, :num_timesteps],
            codes_NTK=self.codes_NTK[:, :num_timesteps],
            lengths_N=np.minimum(self.lengths_N, num_timesteps),
        )

    def on(self, scale: Scale) -> "Panel":
        """Return the panel with a scale."""
        return replace(self, scale=scale)

    def real(self, position: int) -> Floats:
        """Return the values of a real variable: per timestep, or per patient where static."""
        return self._each(self.reals_NTR, position)

    def scaled(self, position: int) -> Floats:
        """Return the same on the common scale."""
        return self._each(self.scaled_NTR, position)

    def _each(self, reals_NTR: Floats, position: int) -> Floats:
        static = self.schema.reals[position].static
        values = reals_NTR[:, 0, position] if static else reals_NTR[:, :, position][self.present_NT]
        return np.asarray(values[np.isfinite(values)])

    def codes(self, position: int) -> NDArray[np.int16]:
        """Return the class indices of a categorical variable: per timestep, or per patient where static."""
        static = self.schema.categoricals[position].static
        codes = self.codes_NTK[:, 0, position] if static else self.codes_NTK[:, :, position][self.present_NT]
        return np.asarray(codes[codes >= 0])


def join(panels: Sequence[Panel]) -> Panel:
    """Concatenate panels of the same schema and scale."""
    longest = max(panel.num_timesteps for panel in panels)
    reals = [np.pad(p.reals_NTR, _grow(p, longest), constant_values=np.nan) for p in panels]
    codes = [np.pad(p.codes_NTK, _grow(p, longest), constant_values=-1) for p in panels]
    lengths = np.concatenate([panel.lengths_N for panel in panels])
    first = panels[0]
    return Panel(first.schema, np.concatenate(reals), np.concatenate(codes), lengths, first.scale)


def _grow(panel: Panel, longest: int) -> list[tuple[int, int]]:
    return [(0, 0), (0, longest - panel.num_timesteps), (0, 0)]


def panel_from_frame(frame: pd.DataFrame, schema: Schema, source: str) -> Panel:
    """Turn a checked long table, sorted by patient and timestep, into a panel.

    Raises:
        TableError: where a variable is missing, infinite, or has a label that the schema does not know.
    """
    frame = with_gaps(frame, schema)
    wanted = [schema.keys.patient, *schema.names()]
    absent = [name for name in wanted if name not in frame.columns]
    if absent:
        raise TableError(
            f"{source} lacks {listed(absent)}; its columns are {listed(frame.columns)}. Use a schema with "
            "the variables that the cohort has."
        )
    patients = frame[schema.keys.patient].to_numpy()
    starts = np.flatnonzero(np.r_[True, patients[1:] != patients[:-1]]) if len(patients) else np.zeros(0, int)
    lengths = np.diff(np.r_[starts, len(patients)]).astype(np.int64)
    patient_of_row = np.repeat(np.arange(len(starts)), lengths)
    step_of_row = np.arange(len(patients)) - np.repeat(starts, lengths)
    shape = (len(starts), int(lengths.max(initial=0)))
    reals = np.full((*shape, len(schema.reals)), np.nan)
    codes = np.full((*shape, len(schema.categoricals)), -1, dtype=np.int16)
    for position, variable in enumerate(schema.reals):
        # As float32, which shards hold: else no value of a table equals the same value of a shard, and
        # every distance between distributions counts that.
        with np.errstate(over="ignore"):
            values = frame[variable.name].to_numpy(dtype=np.float64).astype(np.float32).astype(np.float64)
        if np.isinf(values).any():
            raise TableError(
                f"{source}, column '{variable.name}': {np.isinf(values).sum()} infinite value(s). Correct "
                f"them, or leave them empty."
            )
        reals[patient_of_row, step_of_row, position] = values
    for position, variable in enumerate(schema.categoricals):
        codes[patient_of_row, step_of_row, position] = _codes(frame[variable.name], variable.labels, source)
    return Panel(schema, reals, codes, lengths)


def _codes(column: "pd.Series[str]", labels: tuple[str, ...], source: str) -> NDArray[np.int16]:
    """Return the class index of every label, -1 where missing."""
    as_labels = column.astype("category")
    unknown = [label for label in as_labels.cat.categories if label not in labels]
    if unknown and as_labels.isin(unknown).any():
        raise TableError(
            f"{source}, column '{column.name}': unknown label(s) {listed(unknown)}; the schema knows "
            f"{listed(labels)}."
        )
    return as_labels.cat.set_categories(list(labels)).cat.codes.to_numpy().astype(np.int16)
