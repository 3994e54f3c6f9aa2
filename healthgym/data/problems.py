"""What is wrong with a table, gathered so that all of it is said at once."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.errors import TableError

_SHOWN_PER_KIND = 3


class Problems:
    """Problems of one table: each kind once, with its first rows and how many there are.

    Args:
        source: the file, as messages name it.
        index: the table's index; one named "line" holds line numbers of a CSV file.
    """

    def __init__(self, source: str, index: pd.Index) -> None:
        self.source = source
        self._index = index
        self._lines: list[str] = []

    def add(
        self,
        what: str,
        remedy: str,
        column: str | None = None,
        rows: NDArray[Any] | None = None,
        details: Sequence[Any] | NDArray[Any] | pd.Series | None = None,
    ) -> None:
        """Note one kind of problem.

        Args:
            what: what is wrong.
            remedy: what to do, a sentence.
            column: where.
            rows: positions of the rows concerned; with none of them there is no problem to note.
            details: the value (or more) at each of these rows.
        """
        if rows is not None and not len(rows):
            return
        where = f"column '{column}': " if column is not None else ""
        places = f": {self._places(rows, details)}" if rows is not None else ""
        self._lines.append(f"{where}{what}{places}. {remedy}")

    def raise_if_any(self) -> None:
        """Raise what was noted as one `TableError`."""
        if self._lines:
            counted = "" if self._index.name == "line" else " (rows are counted from 0)"
            noun = "problem" if len(self._lines) == 1 else "problems"
            raise TableError(
                f"{self.source}: {len(self._lines)} {noun}{counted}\n"
                + "\n".join(f"  - {line}" for line in self._lines)
            )

    def _places(self, rows: NDArray[Any], details: Any) -> str:
        unit = "line" if self._index.name == "line" else "row"
        first = rows[:_SHOWN_PER_KIND]
        shown: Iterable[str] = (f"{unit} {self._index[row]}" for row in first)
        if details is not None:
            values = list(details[:_SHOWN_PER_KIND])
            shown = (f"{place} ({_show(value)})" for place, value in zip(shown, values, strict=True))
        more = f" and {len(rows) - len(first):,} more" if len(rows) > len(first) else ""
        return ", ".join(shown) + more


def _show(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
