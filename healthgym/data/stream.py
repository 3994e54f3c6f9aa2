"""Prepare a cohort from a table that comes in parts, in memory that hardly grows with it.

The table is read twice: to find the patients and fit what is fitted, then to encode. On the way the
training patients' real columns lie in files beside the output, from where the Box-Cox transform is fitted
one column at a time: memory takes about 24 bytes per training row and the ids and lengths of patients.
The result is that of `prepare`, but that correlations are added up in other blocks.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.data.correlation import Moments
from healthgym.data.missing import Fills
from healthgym.data.prepare import (
    SplitSettings,
    encode_rows,
    head_of,
    patients_of,
    refuse_all_held,
    refuse_constant,
)
from healthgym.data.sequences import PreparedCohort
from healthgym.data.split import held_out
from healthgym.data.table import check_rows
from healthgym.data.transform import Transform
from healthgym.errors import TableError
from healthgym.schema import Schema
from healthgym.storage.prepared import prepared_writer, write_head

_SUFFIX = ".columns"
Parts = Callable[[], Iterable[pd.DataFrame]]


def prepare_parts(
    parts: Parts,
    schema: Schema,
    out: Path,
    split: SplitSettings,
    source: str,
    recipe: dict[str, Any] | None = None,
) -> PreparedCohort:
    """Write a prepared cohort and open it.

    Args:
        parts: returns, at each call, the same parts of the table: whole patients, in the order of ids.
        schema, out, split, source, recipe: see `healthgym.data.prepare.prepare`.

    Raises:
        TableError: the table does not fit the schema, or leaves nothing to train on.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*{_SUFFIX}"):
        shutil.rmtree(left, ignore_errors=True)  # of a killed process
    with tempfile.TemporaryDirectory(_SUFFIX, f".{out.name}.", out.parent) as folder:
        survey = _Survey(schema, source, Path(folder))
        for checked in _checked(parts, schema, source, split.max_patients):
            survey.add(checked, held_out(patients_of(checked, schema)[0], split.holdout, split.seed))
        if not survey.any:
            raise TableError(f"{source}: the table has no rows. Give one per patient and timestep.")
        refuse_all_held(survey.held_N, split, source)
        fills = survey.fills()
        transform = Transform.fit_columns(survey.columns(fills), schema)
    moments = Moments(schema.layout.num_features)
    with prepared_writer(out, survey.patients(), len(schema.reals), len(schema.categoricals)) as (
        file,
        writers,
    ):
        for checked in _checked(parts, schema, source, split.max_patients):
            table = fills.carry_forward(checked, schema, modelled=False)
            ids, lengths_N = patients_of(checked, schema)
            held = np.repeat(held_out(ids, split.holdout, split.seed), lengths_N)
            encode_rows(table[~held], schema, fills, transform, writers["train"], moments)
            encode_rows(table[held], schema, fills, transform, writers["holdout"])
        write_head(
            file,
            head_of(schema, transform, fills, survey.first_timestep, recipe),
            moments.correlation(),
        )
    return PreparedCohort.open(out)


def _checked(parts: Parts, schema: Schema, source: str, max_patients: int | None) -> Iterator[pd.DataFrame]:
    """Yield the parts checked; together they must be a table in the order of its keys."""
    rows = patients = 0
    last: Any = None
    for part in parts():
        checked = check_rows(part.set_axis(pd.RangeIndex(rows, rows + len(part))), schema, source)
        ids, lengths_N = patients_of(checked, schema)
        if last is not None and not ids[0] > last:
            raise TableError(
                f"{source}: patient {ids[0]} begins a part of the table, after patient {last}. Parts must "
                f"hold whole patients in the order of their ids."
            )
        last, left = ids[-1], None if max_patients is None else max_patients - patients
        if left is not None and left < len(ids):
            checked = checked.iloc[: lengths_N[:left].sum()]
        if len(checked):
            yield checked
        rows, patients = rows + len(part), patients + len(ids)
        if max_patients is not None and patients >= max_patients:
            return


class _Survey:
    """What the first reading finds.

    Args:
        schema: of the table.
        source: names it in messages.
        folder: takes the training patients' real columns.
    """

    def __init__(self, schema: Schema, source: str, folder: Path) -> None:
        self._schema, self._source, self._folder = schema, source, folder
        self._ids: list[NDArray[Any]] = []
        self._lengths: list[NDArray[np.int32]] = []
        self._held: list[NDArray[np.bool_]] = []
        self._classes: dict[str, Counter[str]] = {}
        self.first_timestep = 0

    def add(self, checked: pd.DataFrame, held_N: NDArray[np.bool_]) -> None:
        """Take in a part."""
        first = int(checked[self._schema.keys.timestep].iloc[0])
        if self._ids and first != self.first_timestep:
            raise TableError(
                f"{self._source}: the first timestep is {self.first_timestep} at first, {first} later."
            )
        self.first_timestep = first
        ids, lengths_N = patients_of(checked, self._schema)
        self._ids.append(ids)
        self._lengths.append(lengths_N)
        self._held.append(held_N)
        train = checked[~np.repeat(held_N, lengths_N)]
        gaps = {v.name: np.nan if v.kind == "real" else v.labels[0] for v in self._schema.variables}
        carried = Fills(gaps).carry_forward(train, self._schema, modelled=False)
        for variable in self._schema.reals:
            self._append(variable.name, "carried", carried)
            if variable.missing != "refuse":
                self._append(variable.name, "measured", train)
        for variable in self._schema.categoricals:
            if variable.missing != "refuse":
                counts = train[variable.name].value_counts()
                found = {str(label): int(count) for label, count in counts.items()}
                self._classes.setdefault(variable.name, Counter()).update(found)

    @property
    def any(self) -> bool:
        """Whether there was any patient."""
        return bool(self._ids)

    @property
    def held_N(self) -> NDArray[np.bool_]:
        """Which patients are held out."""
        return np.concatenate(self._held)

    def patients(self) -> dict[str, tuple[NDArray[Any], NDArray[np.int32]]]:
        """Return ids and lengths of each split's patients."""
        ids, lengths_N, held_N = (np.concatenate(each) for each in (self._ids, self._lengths, self._held))
        chosen = {"train": ~held_N, "holdout": held_N}
        return {name: (ids[rows], lengths_N[rows]) for name, rows in chosen.items()}

    def fills(self) -> Fills:
        """Return what fills a gap that nothing precedes."""
        values: dict[str, float | str] = {}
        for variable in self._schema.variables:
            if variable.missing == "refuse":
                continue
            if variable.kind == "real":
                measured = self._column(variable.name, "measured")
                found = measured[~np.isnan(measured)]
                value: float | str | None = float(np.median(found)) if len(found) else None
            else:
                counts = +self._classes[variable.name]
                value = max(variable.labels, key=lambda label: counts[label]) if counts else None
            if value is None:
                raise TableError(
                    f"{self._source}: column '{variable.name}' has no value at all among the training "
                    f"patients. Take it out of the schema."
                )
            values[variable.name] = value
        return Fills(values)

    def columns(self, fills: Fills) -> Iterator[NDArray[np.float64]]:
        """Yield each real column of the training patients, gaps filled as `prepare` fills them."""
        for variable in self._schema.reals:
            column = self._column(variable.name, "carried")
            if variable.missing == "carry_forward":
                column[np.isnan(column)] = float(fills.values[variable.name])
            refuse_constant({variable.name: (column.min(), column.max())}, self._schema, self._source)
            yield column

    def _append(self, name: str, kind: str, table: pd.DataFrame) -> None:
        with self._path(name, kind).open("ab") as file:
            table[name].to_numpy(np.float64).tofile(file)

    def _column(self, name: str, kind: str) -> NDArray[np.float64]:
        return np.fromfile(self._path(name, kind), dtype=np.float64)

    def _path(self, name: str, kind: str) -> Path:
        place = [variable.name for variable in self._schema.reals].index(name)
        return self._folder / f"{place}-{kind}"
