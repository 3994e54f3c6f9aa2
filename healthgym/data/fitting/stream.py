"""A checked table on disk, written as it comes in parts and read in the order of its keys.

Memory holds the ids, lengths and first rows of patients, and one part or block of rows. Only a table whose
rows must be sorted takes 32 bytes of memory per row more.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.encode import encode_codes, labelled
from healthgym.data.fitting.scratch import ScratchFile
from healthgym.data.tables.grid import GridCounts, check_grid, on_grid
from healthgym.data.tables.keys import Keys, check_order, patient_ids
from healthgym.data.tables.problems import Problems
from healthgym.data.tables.table import check_columns, check_rows_of, in_one_form, read_rows, refuse_empty
from healthgym.data.tables.visits import Rows, TimeFinder, to_learn
from healthgym.schema import Schema
from healthgym.schema.timing import Grid, TimeForm

BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class Patients:
    """Patients and where their rows are.

    Args:
        ids: of each patient.
        lengths_N: their timesteps.
        starts_N: the first row of each: its position in `rows`, or in the table if that is None.
        rows: positions of all rows in the order of the keys.
    """

    ids: NDArray[Any]
    lengths_N: NDArray[np.int32]
    starts_N: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None

    def only(self, chosen: NDArray[Any] | slice) -> "Patients":
        """Return some of the patients."""
        return replace(
            self, ids=self.ids[chosen], lengths_N=self.lengths_N[chosen], starts_N=self.starts_N[chosen]
        )

    def blocks(self) -> Iterator["Patients"]:
        """Yield them a few at a time: whole patients, together not many more rows than a block has."""
        ends_N = self.lengths_N.cumsum(dtype=np.int64)
        first = 0
        while first < len(ends_N):
            before = ends_N[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends_N, before + BLOCK_ROWS, side="right")))
            yield self.only(slice(first, last))
            first = last

    def positions(self) -> NDArray[np.int64]:
        """Return where all their rows are in the table."""
        skipped_N = self.starts_N - (np.cumsum(self.lengths_N, dtype=np.int64) - self.lengths_N)
        positions = np.repeat(skipped_N, self.lengths_N) + np.arange(self.lengths_N.sum(dtype=np.int64))
        return positions if self.rows is None else self.rows[positions]


class RowStore:
    """The rows of a table on disk, in the order they came.

    Args:
        folder: takes the files.
        schema: of the table.
        source: names it in messages.

    Attributes:
        first_timestep: that every patient starts at, once `patients` found nothing wrong.
        grid_counts: rows that a grid merged and added; None without a grid.
    """

    first_timestep: int = 0
    grid_counts: GridCounts | None = None

    def __init__(self, folder: Path, schema: Schema, source: str) -> None:
        self._schema = schema
        self._problems = Problems(source)
        self._words: list[NDArray[Any]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._first_rows: list[int] = []
        self._units: list[str] = []
        self._num_rows = 0
        self._damaged, self._gridded = False, False
        self._finder = TimeFinder(schema)
        self._files = {
            f"{prefix}{name}": ScratchFile(folder / f"{prefix}{name}", dtype, width)
            for prefix in ("", "grid-")  # on a grid, a row's place is the row in the table
            for name, dtype, width in (
                ("reals", np.float64, len(schema.reals)),
                ("codes", np.int16, len(schema.categoricals)),  # -1: missing
                ("timestep", np.float64 if schema.keys.visits else np.int64, 1),
                ("place", np.int64, 1),  # line or row in the file it came from
            )
        }

    @property
    def form(self) -> TimeForm:
        """The settings with which gaps are turned into times again, after `patients` was called."""
        return self._finder.form

    def add(self, part: pd.DataFrame) -> None:
        """Check the rows of a part and keep them; problems are noted."""
        part = in_one_form(part)
        check_columns(part, self._schema, self._problems.source)
        if part.empty:
            return
        if not pd.api.types.is_integer_dtype(part.index):
            part = part.set_axis(pd.RangeIndex(self._num_rows, self._num_rows + len(part)))
        self._problems.read(part.index)
        keys, variables = read_rows(part, self._schema, self._problems)
        if keys is None:
            self._damaged = True
            return
        self._words.append(keys.words_R)
        self._lengths.append(keys.lengths_R)
        self._first_rows.append(self._num_rows)
        self._units.append(str(part.index.name or "row"))
        self._num_rows += len(part)
        self._finder.see(keys, variables, self._problems)
        self._write("reals", self._reals(variables))
        self._write("codes", encode_codes(variables, self._schema, np.int16))
        self._write("timestep", keys.timestep_N)
        self._write("place", part.index.to_numpy(np.int64))

    def patients(self, sort: bool) -> Patients:
        """Return all patients in the order of their ids.

        Args:
            sort: whether rows that are out of order are sorted.

        Raises:
            TableError: with all that is wrong with the table.
        """
        if self._damaged:
            self._problems.raise_if_any()
        refuse_empty(self._num_rows, self._problems.source)
        self._problems.read_whole(self._place)
        patients, schema = self._in_order(sort), self._schema
        if any(variable.static for variable in schema.variables) or schema.keys.visits:
            for block in patients.blocks():
                rows = self._rows(block)
                self._finder.look(rows)
                check_rows_of(rows, schema, self.form, self._problems)
            self._finder.check_origin(self._problems)
        self._problems.raise_if_any()
        if isinstance(schema.keys.visits, Grid):
            patients = self._on_grid(patients, schema.keys.visits)
            self._problems.raise_if_any()
        return patients

    def read(self, patients: Patients) -> pd.DataFrame:
        """Return rows as a system learns them, after the patient's id."""
        rows = self._rows(patients)
        frame = to_learn(rows, self._schema, self.form)
        frame.insert(0, self._schema.keys.patient, np.repeat(patients.ids, patients.lengths_N))
        return frame

    def _rows(self, patients: Patients) -> Rows:
        """Return the rows of whole patients as they are in the table, or on the grid."""
        rows_N, schema = patients.positions(), self._schema
        named = [v.name for v in schema.reals]
        frame = pd.DataFrame(self._take(self._now("reals"), rows_N), columns=named)
        codes_NK = self._take(self._now("codes"), rows_N)
        for k, variable in enumerate(schema.categoricals):
            frame[variable.name] = labelled(codes_NK[:, k], variable)
        if schema.gap:
            frame = frame.drop(columns=schema.gap.name)
        times_N = self._take(self._now("timestep"), rows_N)[:, 0]
        if self._gridded:
            return Rows(frame, times_N, patients.lengths_N, rows_N, patients.ids)
        return self._finder.rows(frame, times_N, patients.lengths_N, rows_N, patients.ids)

    def _reals(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Return a table's reals, with room for the gap between visits."""
        return frame.reindex(columns=[v.name for v in self._schema.reals]).to_numpy(np.float64)

    def _on_grid(self, patients: Patients, grid: Grid) -> Patients:
        """Write the rows on the grid, in the order of the keys, and return where they are."""
        counts, lengths = GridCounts(), []
        for block in patients.blocks():
            rows = on_grid(self._rows(block), self._schema, grid, counts)
            check_grid(rows, self._schema, self._problems)
            self._write("grid-reals", self._reals(rows.frame))
            self._write("grid-codes", encode_codes(rows.frame, self._schema, np.int16))
            self._write("grid-timestep", rows.times_N * grid.every)
            self._write("grid-place", rows.rows_N)
            lengths.append(rows.lengths_P.astype(np.int32))
        self._gridded, self.grid_counts = True, counts
        lengths_N = np.concatenate(lengths)
        return Patients(patients.ids, lengths_N, np.cumsum(lengths_N, dtype=np.int64) - lengths_N)

    def _now(self, name: str) -> str:
        return f"grid-{name}" if self._gridded else name

    def _in_order(self, sort: bool) -> Patients:
        ids_R, lengths_R = patient_ids(self._words), np.concatenate(self._lengths)
        self._words.clear()
        new_R = np.flatnonzero(np.concatenate([[True], ids_R[1:] != ids_R[:-1]]))  # a part may end within
        ids_N, lengths_N = ids_R[new_R], np.add.reduceat(lengths_R, new_R).astype(np.int32)
        order_N = np.argsort(ids_N, kind="stable")
        starts_N: NDArray[np.int64] = np.cumsum(lengths_N, dtype=np.int64) - lengths_N
        as_found = Patients(ids_N, lengths_N, starts_N)
        patients = as_found.only(order_N)
        if (patients.ids[1:] != patients.ids[:-1]).all() and self._is_regular(as_found):
            return patients
        keys = Keys.of(ids_R, lengths_R, self._take("timestep", np.arange(self._num_rows))[:, 0])
        self.first_timestep = 0 if self._schema.keys.visits else int(keys.timestep_N.min())
        check_order(keys, self._schema, self._problems, sort, self._finder.dated)
        counts_N = np.bincount(keys.patient_N).astype(np.int64)
        starts_N = np.cumsum(counts_N) - counts_N
        return Patients(keys.patient_ids, counts_N.astype(np.int32), starts_N, keys.order_N)

    def _is_regular(self, patients: Patients) -> bool:
        """Return whether each patient's timesteps follow each other, from the same one on, or times rise."""
        if self._schema.keys.visits:
            return all(self._rises(block) for block in patients.blocks())
        self.first_timestep = int(self._take("timestep", np.array([0]))[0, 0])
        for block in patients.blocks():
            rows_N = block.positions()
            within_N = rows_N - np.repeat(block.starts_N, block.lengths_N)
            if (self._take("timestep", rows_N)[:, 0] != self.first_timestep + within_N).any():
                return False
        return True

    def _rises(self, patients: Patients) -> bool:
        times_N = self._take("timestep", patients.positions())[:, 0]
        rises_N = np.diff(times_N) > 0
        rises_N[np.cumsum(patients.lengths_N)[:-1] - 1] = True
        return bool(rises_N.all())

    def _place(self, row: int) -> str:
        unit = self._units[bisect.bisect_right(self._first_rows, row) - 1]
        return f"{unit} {self._take('place', np.array([row]))[0, 0]}"

    def _write(self, name: str, values: NDArray[Any]) -> None:
        self._files[name].append(values)

    def _take(self, name: str, rows_N: NDArray[np.int64]) -> NDArray[Any]:
        return self._files[name].take(rows_N)
