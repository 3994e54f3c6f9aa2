"""Normalisation of names, labels and ids for comparison: one Unicode form, no surrounding spaces.

An accented letter can be written as one character or, as often on macOS, as a letter and a combining accent.
Text from schemas and tables is therefore brought into the composed form (Unicode Standard Annex 15, NFC) when
it is read.
"""

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator

_UNPRINTABLE = {"Cc": "a control character", "Cs": "half a character", "Zl": "a line end", "Zp": "a line end"}


def one_form(value: Any) -> str:
    """Return normalised text; bytes, as in some Parquet files, are decoded as UTF-8."""
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return unicodedata.normalize("NFC", text).strip()


def _line_of_text(text: str) -> str:
    """Return a normalised name or label.

    Raises:
        ValueError: it has a line end, a tab or another control character, which files and plots cannot show.
    """
    text = one_form(text)
    for character in text:
        what = _UNPRINTABLE.get(unicodedata.category(character))
        if what:
            raise ValueError(
                f"{text!a} holds {what} (U+{ord(character):04X}), which not every file can; remove it"
            )
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("is empty; give a name")
    return text


def _text(text: str) -> str:
    """Return longer text, which may have several lines; refuse characters that files cannot hold."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds NUL or half a character (a surrogate), which not every file can; remove it")
    return text


def counted(number: int, noun: str) -> str:
    """Return "1 row" or "1,200 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


Word = Annotated[str, AfterValidator(_line_of_text)]
"""A label or unit."""
Name = Annotated[Word, AfterValidator(_not_empty)]
"""The name of a column or a rule."""
Text = Annotated[str, AfterValidator(_text)]
"""A description."""
