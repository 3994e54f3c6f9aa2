"""A table as words: each column's distinct words, and which of them stands in each row.

Legend: N rows, W distinct words.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.schema import plain_word
from healthgym.words import one_form

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: of the column, in one form.
        codes_N: each row's word, an index into `words`.
        words: all distinct words, numbers in plain writing; "" is an empty field.
    """

    name: str
    codes_N: NDArray[np.int32]
    words: tuple[str, ...]

    @cached_property
    def counts_W(self) -> NDArray[np.int64]:
        """In how many rows each word stands."""
        return np.bincount(self.codes_N, minlength=len(self.words)).astype(np.int64)

    @cached_property
    def numbers_W(self) -> NDArray[np.float64]:
        """The number that each word is; NaN for the others."""
        return np.array([float(w) if NUMBER.fullmatch(w) else np.nan for w in self.words], dtype=np.float64)

    @cached_property
    def numbers_N(self) -> NDArray[np.float64]:
        """The number in each row."""
        return np.asarray(self.numbers_W[self.codes_N])

    def rows_with(self, chosen_W: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return in which rows one of the chosen words stands."""
        return np.asarray(chosen_W[self.codes_N])


@dataclass(frozen=True)
class Words:
    """A table, or its first rows.

    Args:
        name: of the table, for messages.
        columns: in the order of the table; those whose name appears twice are left out.
        num_rows: that were read.
        whole: whether that is all of them.
        twice: names of several columns.
        form: how the file is written, in words; empty for a table in memory.
    """

    name: str
    columns: tuple[Column, ...]
    num_rows: int
    whole: bool = True
    twice: tuple[str, ...] = ()
    form: str = ""

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    @property
    def names(self) -> list[str]:
        """Of all columns."""
        return [column.name for column in self.columns]

    def only(self, chosen_N: NDArray[np.bool_]) -> "Words":
        """Return some of the rows."""
        columns = tuple(replace(column, codes_N=column.codes_N[chosen_N]) for column in self.columns)
        return replace(self, columns=columns, num_rows=int(chosen_N.sum()))


def words_of(
    parts: Iterable[pd.DataFrame], name: str, most_cells: int | None = None, form: str = ""
) -> Words:
    """Return a table's words.

    Args:
        parts: its rows, in one or several frames with the same columns.
        name: of the table.
        most_cells: stop after a part in which that many cells are exceeded.
        form: how the file is written.
    """
    builders: dict[str, _Builder] = {}
    twice: dict[str, None] = {}
    num_rows, whole = 0, True
    for part in parts:
        if most_cells is not None and num_rows * max(1, len(builders)) > most_cells:
            whole = False
            break
        named = [one_form(column) for column in part.columns]
        twice |= dict.fromkeys(column for column in named if named.count(column) > 1)
        for k, column in enumerate(named):
            if column not in twice:
                builders.setdefault(column, _Builder(num_rows)).add(part.iloc[:, k], num_rows)
        num_rows += len(part)
    columns = tuple(builder.column(key, num_rows) for key, builder in builders.items() if key not in twice)
    return Words(name, columns, num_rows, whole, tuple(twice), form)


class _Builder:
    """Gathers a column's words part by part."""

    def __init__(self, before: int) -> None:
        self._codes: list[NDArray[np.int32]] = []
        self._known: dict[str, int] = {}
        self._length = 0
        self._pad(before)

    def add(self, part: pd.Series, before: int) -> None:
        self._pad(before)
        codes, uniques = pd.factorize(part)
        placed = [self._place(_word(word)) for word in uniques]
        placed.append(self._place("") if (codes < 0).any() else -1)
        self._codes.append(np.array(placed, dtype=np.int32)[codes])
        self._length += len(part)

    def column(self, name: str, num_rows: int) -> Column:
        self._pad(num_rows)
        codes = np.concatenate(self._codes) if self._codes else np.zeros(0, np.int32)
        return Column(name, codes, tuple(self._known))

    def _place(self, word: str) -> int:
        return self._known.setdefault(word, len(self._known))

    def _pad(self, length: int) -> None:
        if missing := length - self._length:
            self._codes.append(np.full(missing, self._place(""), np.int32))
            self._length = length


def _word(value: object) -> str:
    """Return a value as text; midnight of a day is that day."""
    if isinstance(value, pd.Timestamp):
        return value.isoformat().removesuffix("T00:00:00")
    return plain_word(value)
