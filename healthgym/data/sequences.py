"""A prepared cohort: patients' sequences by position, for training and for evaluation.

Legend: N patients, B batch, T timesteps, R real variables, K binary and categorical variables.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.encode import decode
from healthgym.data.fitting.transform import Transform
from healthgym.data.tables.visits import decode_times
from healthgym.schema import Schema
from healthgym.schema.cells import NONE, Cells
from healthgym.schema.timing import TimeForm
from healthgym.storage.prepared import SplitArrays, open_prepared, read_head
from healthgym.storage.rows import RowsOnDisk

RealForm: TypeAlias = Literal["scaled", "cells"]
"""The form of real variables: scaled to [0, 1], or codes of their cells."""


_ROWS = 1 << 20  # read at a time


class Sequences:
    """The patients of one split, or some of them.

    Attributes:
        cells: codes of the real variables' cells, int16 (rows, R) on disk; None if the file has none.
    """

    def __init__(self, arrays: SplitArrays, chosen_N: NDArray[np.int64] | None = None) -> None:
        self._arrays, self._chosen_N = arrays, chosen_N
        self.lengths_N = arrays.lengths if chosen_N is None else arrays.lengths[chosen_N]
        self.cells: RowsOnDisk | None = getattr(arrays, "cells", None)

    @cached_property
    def patient_ids(self) -> NDArray[Any]:
        """Ids of the patients, shape (N,), which training does not need."""
        ids = self._arrays.read_ids()
        return ids if self._chosen_N is None else ids[self._chosen_N]

    def only(self, chosen_N: NDArray[np.int64]) -> "Sequences":
        """Return some of a whole split's patients, given their positions."""
        assert self._chosen_N is None
        return type(self)(self._arrays, chosen_N)

    @cached_property
    def _starts_N(self) -> NDArray[np.int64]:
        starts_N = np.cumsum(self._arrays.lengths, dtype=np.int64) - self._arrays.lengths
        return starts_N if self._chosen_N is None else starts_N[self._chosen_N]

    @cached_property
    def _common_length(self) -> int | None:
        """Common length of all patients of a whole split, None if lengths differ; this saves memory."""
        same = self.num_patients and self._chosen_N is None and (self.lengths_N == self.lengths_N[0]).all()
        return int(self.lengths_N[0]) if same else None

    @property
    def num_patients(self) -> int:
        """N."""
        return len(self.lengths_N)

    @property
    def num_rows(self) -> int:
        """Patient-timesteps."""
        return len(self._arrays.codes) if self._chosen_N is None else int(self.lengths_N.sum(dtype=np.int64))

    @property
    def max_length(self) -> int:
        """Length of the longest patient; 0 without patients."""
        return int(self.lengths_N.max(initial=0))

    @property
    def mean_length(self) -> float:
        """Mean length of the patients; 0 without patients."""
        return self.num_rows / max(self.num_patients, 1)

    def at_least(self, length: int) -> NDArray[np.int64]:
        """Return the positions of patients with at least `length` timesteps."""
        return np.flatnonzero(self.lengths_N >= length)

    def gather(
        self, indices_B: NDArray[np.int64], length: int, form: RealForm = "scaled"
    ) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.int64]]:
        """Return the first `length` timesteps of some patients, zeros where a patient has fewer.

        Args:
            indices_B: positions of patients.
            length: T.
            form: of the reals.

        Returns:
            reals_BTR, transformed (in [0, 1] but for a few patients) or codes of cells; codes_BTK, class
            indices; lengths_B, each patient's number of timesteps among the T.

        Raises:
            ValueError: cells are asked for and the file has none.
        """
        first_B, lengths_B = self.rows_of(indices_B, length)
        timestep_T = np.arange(length)
        if (lengths_B == length).all():
            rows_BT = first_B[:, None] + timestep_T
            reals, codes = (each.take(rows_BT, axis=0) for each in self.encoded(form))
            return reals, codes, lengths_B
        rows_BT = first_B[:, None] + np.minimum(timestep_T, lengths_B[:, None] - 1)
        reals, codes = (each.take(rows_BT, axis=0) for each in self.encoded(form))
        padding_BT = timestep_T >= lengths_B[:, None]
        reals[padding_BT], codes[padding_BT] = 0, 0
        return reals, codes, lengths_B

    def rows_of(
        self, indices_B: NDArray[np.int64], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first row of some patients, and how many of the first `length` timesteps each has."""
        same = self._common_length
        if same is None:
            lengths_B = np.minimum(self.lengths_N[indices_B], length).astype(np.int64)
            return self._starts_N[indices_B], lengths_B
        indices_B = np.asarray(indices_B, np.int64)
        return indices_B * same, np.full(len(indices_B), min(same, length))

    def encoded(self, form: RealForm = "scaled") -> tuple[RowsOnDisk, RowsOnDisk]:
        """Return reals in one of their forms, and class indices, of all rows, on disk.

        Raises:
            ValueError: cells are asked for and the file has none.
        """
        if form == "scaled":
            return self._arrays.reals, self._arrays.codes
        if self.cells is None:
            raise ValueError("this prepared cohort holds no cells")
        return self.cells, self._arrays.codes

    def first_codes(self) -> NDArray[np.uint8]:
        """Return the class indices of each patient's first timestep, shape (N, K)."""
        return self._arrays.codes.take(self._starts_N, axis=0)

    def seen_classes(self, num_classes: Sequence[int]) -> list[NDArray[np.bool_]]:
        """Return for each categorical variable which of its classes any patient of the whole split has.

        Args:
            num_classes: of each variable.
        """
        assert self._chosen_N is None
        codes, seen = self._arrays.codes, [np.zeros(count, bool) for count in num_classes]
        for first in range(0, len(codes), _ROWS):
            block = codes[first : first + _ROWS]
            for k, found in enumerate(seen):
                found[np.unique(block[:, k])] = True
        return seen

    def first_pieces(self) -> NDArray[np.int64]:
        """Return the piece of each real at each patient's first timestep, shape (N, R).

        Raises:
            ValueError: the file has no cells.
        """
        cells, _ = self.encoded("cells")
        return cells.take(self._starts_N, axis=0).astype(np.int64) & NONE

    def raw(self, first: int = 0, last: int | None = None) -> tuple[NDArray[Any], ...]:
        """Return (patient_ids, timesteps from 0, raw_R, codes_K) of the rows of patients `first:last`.

        Raw reals are in the variables' units, exactly as in the table.
        """
        assert self._chosen_N is None
        lengths_N = self.lengths_N[first:last]
        starts_N = np.cumsum(lengths_N, dtype=np.int64) - lengths_N
        begin = int(self._starts_N[first]) if first < self.num_patients else self.num_rows
        rows = slice(begin, begin + int(lengths_N.sum(dtype=np.int64)))
        timesteps = np.arange(rows.stop - rows.start) - np.repeat(starts_N, lengths_N)
        ids = np.repeat(self.patient_ids[first:last], lengths_N)
        return ids, timesteps, self._arrays.raw[rows], self._arrays.codes[rows]


class PreparedCohort:
    """A prepared cohort, opened: rows are read from the file when they are asked for.

    Attributes:
        path: the file.
        schema: what the variables mean.
        train, holdout: the patients to train on and those held out, as `Sequences`.
        fingerprint: SHA-256 of the file's content.
    """

    def __init__(
        self,
        head: dict[str, Any],
        correlation_FF: NDArray[np.float64],
        splits: dict[str, SplitArrays],
        fingerprint: str,
        path: Path = Path(),
    ) -> None:
        self.path = path
        self.schema = Schema.from_json(head["schema"])
        self.transform = Transform.from_tree(head["transform"])
        self.cells = Cells.from_tree(head["cells"]) if "cells" in head else None
        self.recipe: dict[str, Any] = head["recipe"]
        self.first_timestep: int = head["first_timestep"]
        self.time = TimeForm.from_tree(head.get("time", {}))
        self.grid: str = head.get("grid", "")
        self.correlation_FF = correlation_FF
        self.fingerprint = fingerprint
        self.train = Sequences(splits["train"])
        self.holdout = Sequences(splits["holdout"])

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> "PreparedCohort":
        """Open a file that `healthgym prepare` wrote.

        Args:
            path: the file.
            verify: whether every byte is checked first, which reads the file once.

        Raises:
            StorageError: the file is missing, cut short, altered, or of another kind or version.
        """
        return cls(*open_prepared(path, verify), path)

    def __repr__(self) -> str:
        train, holdout = self.train, self.holdout
        return (
            f"PreparedCohort({str(self.path)!r}: {train.num_patients:,} patients to train on, "
            f"{holdout.num_patients:,} held out, {train.num_rows + holdout.num_rows:,} rows, "
            f"{len(self.schema.reals)} real and {len(self.schema.categoricals)} other variables)"
        )

    @cached_property
    def max_length(self) -> int:
        """Timesteps of the longest training patient."""
        return self.train.max_length

    def frame(self, split: str, first: int = 0, last: int | None = None) -> pd.DataFrame:
        """Return patients `first:last` of "train" or "holdout" as a long table, as in the raw table.

        Columns are the keys, raw reals, and labels as pandas categories; a value that the schema models
        as missing is NaN. Where the table had dates, there are days since the patient's first row.
        """
        sequences = {"train": self.train, "holdout": self.holdout}[split]
        ids, _, raw_NR, codes_NK = sequences.raw(first, last)
        frame = decode(raw_NR, codes_NK, self.schema)
        lengths_N = sequences.lengths_N[first:last]
        times_N, frame = decode_times(frame, lengths_N, self.schema, self.time, self.first_timestep)
        frame.insert(0, self.schema.keys.patient, ids)
        frame.insert(1, self.schema.keys.timestep, times_N)
        return frame


def schema_of(path: Path) -> Schema:
    """Return the schema of a prepared cohort, without reading its rows.

    Raises:
        StorageError: the file is missing, damaged, or of another kind or version.
    """
    return Schema.from_json(read_head(path)["schema"])
