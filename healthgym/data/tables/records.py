"""The records of a CSV file, found in its bytes before any value is read.

A parser of values takes a row that was cut short for one with missing values, and counts records where a
user counts lines. Here each record is found with its number of fields and the line of the file it begins
at; quoted fields may hold commas and line ends. Fields, quotation marks and line ends are told apart as
Python's `csv` and pandas do: a quotation mark quotes only at the beginning of a field, and is doubled
inside a quoted one.

Legend: N records.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from healthgym.errors import TableError

BLOCK_BYTES = 1 << 22
_LONGEST_RECORD = 1 << 26  # a longer one is a quotation mark that nothing closes
_QUOTE, _LF, _CR = b'"\n\r'
_FIELD = rb'("[^"]*(?:""[^"]*)*("|\Z))?[^%b\r\n]*[%b\r\n]?'
_NOT_TEXT = {
    b"\xff\xfe": "it is UTF-16 text. Save it as UTF-8",
    b"\xfe\xff": "it is UTF-16 text. Save it as UTF-8",
    b"\x1f\x8b": "it is packed by gzip. Let its name end in .csv.gz",
    b"PK": "it is an archive or a spreadsheet. Unpack it, or save the table as CSV",
}

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Records:
    """Whole records.

    Args:
        content: their bytes.
        ends_N: where each ends in `content`, its line end included.
        lines_N: the line of the file at which each begins, from 1.
        fields_N: how many fields each has.
        ended: whether the last one has a line end.
    """

    content: bytes
    ends_N: Positions
    lines_N: Positions
    fields_N: Positions
    ended: bool = True

    @property
    def starts_N(self) -> Positions:
        """Where each begins in `content`."""
        return np.concatenate([np.zeros(min(1, len(self.ends_N)), np.int64), self.ends_N[:-1]])

    def slice(self, first: int, last: int | None = None) -> "Records":
        """Return the records `first:last`."""
        ends_N = self.ends_N[first:last]
        start, end = (int(self.starts_N[first]), int(ends_N[-1])) if len(ends_N) else (0, 0)
        whole = self.ended or end < len(self.content)
        lines_N, fields_N = self.lines_N[first:last], self.fields_N[first:last]
        return Records(self.content[start:end], ends_N - start, lines_N, fields_N, whole)

    def only(self, chosen_N: NDArray[np.bool_]) -> "Records":
        """Return some of the records."""
        if chosen_N.all():
            return self
        kept = [
            self.content[a:b] for a, b in zip(self.starts_N[chosen_N], self.ends_N[chosen_N], strict=True)
        ]
        ends_N = np.cumsum([len(record) for record in kept], dtype=np.int64)
        return Records(b"".join(kept), ends_N, self.lines_N[chosen_N], self.fields_N[chosen_N], self.ended)


class Readable(Protocol):
    """Bytes that are read one after the other."""

    def read(self, size: int, /) -> bytes:
        """Return about this many bytes; empty only at the end."""


def read_records(stream: Readable, path: Path, separator: str = ",") -> Iterator[Records]:
    """Yield all records of a CSV file, those of some megabytes at a time.

    Raises:
        TableError: the file is no text, or a quotation mark is never closed.
    """
    content, line, first, ended = b"", 1, True, False
    while not ended:
        block = stream.read(max(BLOCK_BYTES, len(content)))
        ended = not block
        content += block
        if first:
            _refuse_other_forms(content, path)
            content = content.removeprefix(b"\xef\xbb\xbf")
        first = False
        if b"\0" in content:
            at = line + _num_lines(content[: content.index(b"\0")])
            raise TableError(
                f"{path}, line {at}: a NUL byte, which text does not contain: part of the file was lost, as "
                "in an incomplete copy. Copy or export it again."
            )
        found = _scan(content, line, ended, path, separator.encode())
        if len(found.ends_N):
            yield found
            line += _num_lines(found.content)
            content = content[len(found.content) :]


def _refuse_other_forms(content: bytes, path: Path) -> None:
    for mark, what in _NOT_TEXT.items():
        if content.startswith(mark):
            raise TableError(f"{path}: is not UTF-8 text: {what}.")


def _num_lines(content: bytes) -> int:
    """Return how many line ends there are: of Unix, Windows, or a lone carriage return."""
    return content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")


def _scan(content: bytes, line: int, ended: bool, path: Path, separator: bytes) -> Records:
    """Return the whole records at the beginning of `content`; all there are if the file `ended` with it."""
    chars = np.frombuffer(content, np.uint8)
    breaks, commas, quotes = (
        _line_ends(chars, ended),
        np.flatnonzero(chars == separator[0]),
        _quotes(content, chars, separator),
    )
    ends_N = _outside(breaks, quotes) + 1
    done = int(ends_N[-1]) if len(ends_N) else 0
    if done < len(content) and (ended or len(content) - done > _LONGEST_RECORD):
        if len(quotes) % 2 or not ended:
            at = line + int(np.searchsorted(breaks, quotes[-1] if len(quotes) else done))
            raise TableError(
                f"{path}, line {at}: a quotation mark that begins a field is never closed. Close it, or "
                f"double each quotation mark inside quoted text."
            )
        ends_N = np.append(ends_N, len(content))
    starts_N = np.concatenate([[0], ends_N])
    lines_N = line + np.searchsorted(breaks, starts_N[:-1])
    fields_N = np.diff(np.searchsorted(_outside(commas, quotes), starts_N)) + 1
    return Records(content[: starts_N[-1]], ends_N, lines_N, fields_N, done == starts_N[-1])


def _line_ends(chars: NDArray[np.uint8], ended: bool) -> Positions:
    """Return where lines end: the line feeds, and carriage returns that none follows."""
    returns = np.flatnonzero(chars == _CR)
    if not len(returns):
        return np.flatnonzero(chars == _LF)
    follows = np.append(chars, 0 if ended else _LF)[returns + 1]  # at the end of a block, wait for the next
    return np.sort(np.concatenate([np.flatnonzero(chars == _LF), returns[follows != _LF]]))


def _outside(positions: Positions, quotes: Positions) -> Positions:
    """Return the positions that are not in a quoted field."""
    return positions[np.searchsorted(quotes, positions) % 2 == 0] if len(quotes) else positions


def _quotes(content: bytes, chars: NDArray[np.uint8], separator: bytes) -> Positions:
    """Return the quotation marks that begin and end quoted fields, or parts of one around a doubled mark."""
    quotes = np.flatnonzero(chars == _QUOTE)
    opening = quotes[::2]
    before = np.where(opening > 0, chars[opening - 1], _LF)
    if np.isin(before, [separator[0], _LF, _CR, _QUOTE]).all():
        return quotes
    # A mark within an unquoted field, as in 5" nails, means itself: find the others field by field.
    marks = [
        position
        for field in re.finditer(_FIELD.replace(b"%b", re.escape(separator)), content)
        if field[1]
        for position in (field.start(1), *([field.end(1) - 1] if field[2] else []))
    ]
    return np.array(marks, np.int64)
