"""The format of a CSV file: separator, decimal mark and encoding, detected in its first bytes or given.

Numbers are read strictly with this decimal mark: a point among decimal commas, or a comma among points, is
    refused
with its row, since it may be either a decimal mark or a separator of thousands.
"""

import codecs
import csv
import io
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from healthgym.errors import ConfigError, TableError

SAMPLE_BYTES = 1 << 22
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_MANY_BYTES = re.compile(rb"[\xc3-\xf4][\x80-\xbf]")  # a letter in UTF-8
_ACCENT = re.compile(
    rb"[A-Za-z][\xc0-\xfe]|[\xc0-\xfe][A-Za-z]|[\xb0\xb5\xb2\xb3][A-Za-z/]|[A-Za-z][\xb2\xb3]"
)
_NO_LETTER = re.compile(rb"[\x00\x81\x8d\x8f\x90\x9d\xff]")  # in text of Western Europe (cp1252)
_NAMED = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "bar": "|", "pipe": "|", "space": " "}
_MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_DECIMAL_SAMPLE = 1 << 20
_LINES = 200  # by which a separator is judged
_WITH_COMMA = re.compile(r"\s*([<>≤≥]=?\s*)?[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
_WITH_POINT = re.compile(r"\s*([<>≤≥]=?\s*)?[+-]?\d*\.\d+([eE][+-]?\d+)?\s*")
_PLAIN_NUMBER = re.compile(r"\s*([<>≤≥]=?\s*)?[+-]?\d+\s*")
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})+\s*")


@dataclass(frozen=True)
class Dialect:
    """The format of a CSV file.

    Args:
        separator: of fields, one ASCII character.
        decimal: of numbers, "." or ",".
        encoding: of the text, as Python names it.
    """

    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"

    def __str__(self) -> str:
        separator = _SEPARATORS.get(self.separator, f"{self.separator!r}")
        mark = "comma" if self.decimal == "," else "point"
        return f"separated by {separator}, decimal {mark}, {self.encoding}"


@dataclass(frozen=True)
class Given:
    """The user's settings for the format of a table's files; detected if empty.

    Args:
        separator: a character, or one of comma, semicolon, tab, bar, space.
        decimal: "." or ",".
        encoding: a name that Python knows, e.g. latin-1.

    Raises:
        ConfigError: a setting is invalid.
    """

    separator: str = ""
    decimal: str = ""
    encoding: str = ""

    def __post_init__(self) -> None:
        separator = _NAMED.get(self.separator, self.separator)
        if separator and (len(separator) != 1 or not separator.isascii() or separator in '"\r\n'):
            raise ConfigError(
                f"--separator {self.separator}: give one character, such as ';', or one of "
                f"{', '.join(_NAMED)}."
            )
        object.__setattr__(self, "separator", separator)
        decimal = {"comma": ",", "point": "."}.get(self.decimal, self.decimal)
        if decimal not in ("", ".", ","):
            raise ConfigError(f"--decimal {self.decimal}: give '.' or ','.")
        object.__setattr__(self, "decimal", decimal)
        try:
            if self.encoding:
                codecs.lookup(self.encoding)
        except LookupError:
            raise ConfigError(
                f"--encoding {self.encoding}: unknown. Give a name such as utf-8, latin-1, cp1252 or utf-16."
            ) from None


FOUND_OUT = Given()
"""Nothing is given."""


def find_dialect(sample: bytes, given: Given = FOUND_OUT) -> Dialect:
    """Return the format of a file that begins with these bytes."""
    encoding = given.encoding or _encoding(sample)
    text = sample.decode(encoding, errors="replace").lstrip("\ufeff")
    lines = text.splitlines()[:-1] or text.splitlines()
    separator = given.separator or _separator(lines[:_LINES])
    return Dialect(separator, given.decimal or _decimal(text, separator), encoding)


def _encoding(sample: bytes) -> str:
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name
    if sample[1:2] == b"\0" and sample[3:4] == b"\0":
        return "utf-16-le"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        # One wrong byte in UTF-8 text is damage, and refused with its line.
        if not _MANY_BYTES.search(sample) and _ACCENT.search(sample) and not _NO_LETTER.search(sample):
            return "cp1252"
    return "utf-8"


def _separator(lines: list[str]) -> str:
    """Return the character that stands equally often in each line, most often in the first."""
    unquoted = [re.sub(r'"[^"]*"', "", line) for line in lines if line.strip()]
    if not unquoted:
        return ","
    found = []
    for index, character in enumerate(_SEPARATORS):
        counts = [line.count(character) for line in unquoted]
        if counts[0]:
            alike = sum(count == counts[0] for count in counts) / len(counts)
            found.append((alike, character != " ", counts[0], -index, character))
    return max(found)[-1] if found else ","


def _decimal(text: str, separator: str) -> str:
    """Return the mark of the most columns that hold numbers; a comma of thousands is no sign."""
    try:
        rows = list(csv.reader(io.StringIO(text[:_DECIMAL_SAMPLE], newline=""), delimiter=separator))[1:]
    except csv.Error:
        return "."
    commas, points = 0, 0
    for column in zip_longest(*(rows[:-1] or rows), fillvalue=""):
        fields = [field for field in column if field.strip()]
        with_comma = [f for f in fields if _WITH_COMMA.fullmatch(f) and not _THOUSANDS.fullmatch(f)]
        numbers = len(with_comma) + sum(bool(_PLAIN_NUMBER.fullmatch(field)) for field in fields)
        with_point = sum(bool(_WITH_POINT.fullmatch(field)) for field in fields)
        if len(with_comma) > with_point:
            commas += numbers >= 0.5 * len(fields) and len(set(with_comma)) > 1
        points += with_point > len(with_comma)
    return "," if commas > points else "."


def with_point(word: str) -> str:
    """Return a number written with a decimal comma with a point; one with a point is none then."""
    if _WITH_COMMA.fullmatch(word):
        return word.replace(",", ".")
    return f"{word} (with a point among decimal commas)" if _WITH_POINT.fullmatch(word) else word


class AsUTF8:
    """A stream of bytes in another encoding, read as UTF-8.

    Args:
        stream: the bytes.
        encoding: of the stream.
        path: for messages.
    """

    def __init__(self, stream: BinaryIO, encoding: str, path: Path) -> None:
        self._stream, self._path, self._name = stream, path, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def read(self, size: int) -> bytes:
        """Return about this many bytes; empty only at the end."""
        while block := self._stream.read(size):
            if text := self._decode(block, final=False):
                return text.encode()
        return self._decode(b"", final=True).encode()

    def _decode(self, block: bytes, final: bool) -> str:
        try:
            return self._decoder.decode(block, final)
        except UnicodeDecodeError as error:
            raise TableError(
                f"{self._path}: is not {self._name} text ({error.reason}). Name its encoding by --encoding, "
                "or save it as UTF-8."
            ) from None
