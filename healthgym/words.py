"""Names, labels and ids as they are compared: in one Unicode form, without spaces around them.

An accented letter can be written as one character or as a letter and an accent: programs on macOS often do
the second. Both look the same and mean the same, so that text from schemas and tables is brought into the
composed form (Unicode Standard Annex 15, NFC) wherever it is read.
"""

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator

_UNPRINTABLE = {"Cc": "a control character", "Cs": "half a character", "Zl": "a line end", "Zp": "a line end"}


def one_form(value: Any) -> str:
    """Return text in the form in which it is compared; bytes, as Parquet may hold, are UTF-8 text."""
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return unicodedata.normalize("NFC", text).strip()


def _line_of_text(text: str) -> str:
    """Return a name or label in one form.

    Raises:
        ValueError: it holds what files and pictures cannot: a line end, a tab, another control character.
    """
    text = one_form(text)
    for character in text:
        what = _UNPRINTABLE.get(unicodedata.category(character))
        if what:
            raise ValueError(
                f"{text!a} holds {what} (U+{ord(character):04X}), which not every file can; take it out"
            )
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("is empty; give a name")
    return text


def _text(text: str) -> str:
    """Return longer text, which may have lines, unless no file can hold it."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds NUL or half a character (a surrogate), which not every file can; take it out")
    return text


def counted(number: int, noun: str) -> str:
    """Return "1 row" or "1,200 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


Word = Annotated[str, AfterValidator(_line_of_text)]
"""A label or unit."""
Name = Annotated[Word, AfterValidator(_not_empty)]
"""What a column or a rule is called."""
Text = Annotated[str, AfterValidator(_text)]
"""A description."""
