"""The problems of a table, collected so that all are reported at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.errors import TableError

_SHOWN_PER_KIND = 3
_ROW = "row"


class Problems:
    """Problems of one table: each kind once, with its first rows and the number of rows.

    Args:
        source: the file, as messages name it.
        index: of the first part of the table, see `read`; one named "line" holds line numbers.
    """

    def __init__(self, source: str, index: pd.Index | None = None) -> None:
        self.source = source
        self._kinds: dict[tuple[str | None, str], _Kind] = {}
        self._by_row = False
        if index is not None:
            self.read(index)

    def read(self, index: pd.Index) -> None:
        """Let rows be positions in a chunk of the table with this index, from now on."""
        unit = index.name or _ROW
        self._row_name: Callable[[int], str] = lambda row: f"{unit} {index[row]}"

    def read_whole(self, row_name: Callable[[int], str]) -> None:
        """Let rows be positions in the whole table, from now on; `row_name` names a row in messages."""
        self._row_name = row_name

    def add(
        self,
        what: str,
        remedy: str,
        column: str | None,
        rows: NDArray[Any],
        details: Sequence[Any] | NDArray[Any] | pd.Series | None = None,
    ) -> None:
        """Note one kind of problem, or more rows of one that was noted before.

        Args:
            what: what is wrong.
            remedy: what to do, a sentence.
            column: where, if it is one column's.
            rows: positions of the rows concerned; with none of them there is no problem to note.
            details: the value (or more) at each of these rows, or at the first ones.
        """
        if not len(rows):
            return
        kind = self._kinds.setdefault((column, what), _Kind(remedy))
        shown = [self._row_name(int(row)) for row in rows[:_SHOWN_PER_KIND]]
        self._by_row |= any(f" {_ROW} " in f" {name}" for name in shown)
        if details is not None:
            values = list(details[:_SHOWN_PER_KIND])
            shown = [f"{name} ({_show(value)})" for name, value in zip(shown, values, strict=True)]
        kind.shown += shown[: _SHOWN_PER_KIND - len(kind.shown)]
        kind.count += len(rows)

    def found(self) -> Iterator[tuple[str | None, str, int, str]]:
        """Yield each kind: its column, what is wrong, at how many rows, and the first of them in words."""
        for (column, what), kind in self._kinds.items():
            yield column, what, kind.count, kind.rows

    def raise_if_any(self) -> None:
        """Raise all problems as one `TableError`."""
        if not self._kinds:
            return
        lines = [
            "  - " + (f"column '{column}': " if column is not None else "") + f"{what}: {kind}"
            for (column, what), kind in self._kinds.items()
        ]
        noun = "problem" if len(lines) == 1 else "problems"
        counted = " (rows are counted from 0)" if self._by_row else ""
        raise TableError(f"{self.source}: {len(lines)} {noun}{counted}\n" + "\n".join(lines))


class _Kind:
    def __init__(self, remedy: str) -> None:
        self.remedy, self.count = remedy, 0
        self.shown: list[str] = []

    @property
    def rows(self) -> str:
        """The first rows, and how many more there are."""
        left = self.count - len(self.shown)
        return f"{', '.join(self.shown)}{f' and {left:,} more' if left else ''}"

    def __str__(self) -> str:
        return f"{self.rows}. {self.remedy}"


def _show(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
