"""Reading a schema from YAML."""

import re
from pathlib import Path
from typing import Any

from healthgym.errors import SchemaError
from healthgym.schema.schema import Schema
from healthgym.strict import Plain, load_yaml, parse, read_yaml

_NOTHING = ("", "~", "null", "Null", "NULL")
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,14})(\.0*)?")


def load_schema(path: Path) -> Schema:
    """Read a schema from YAML. Names, codes and labels are taken literally, quoted or not.

    Raises:
        SchemaError: with every problem found.
    """
    return parse(Schema, _values(load_yaml(path, words=True)), str(path), SchemaError)


def schema_from_text(text: str, name: str) -> Schema:
    """Read a schema from the text of a YAML file; `name` is its name in messages.

    Raises:
        SchemaError: with every problem found.
    """
    return parse(Schema, _values(read_yaml(text, name, words=True)), name, SchemaError)


def _values(node: Any) -> Any:
    """Return a schema's words as text; an unquoted code may be a number, and other unquoted words null."""
    if isinstance(node, dict):
        return {
            str(name): _classes(value) if name == "classes" else _values(value)
            for name, value in node.items()
        }
    if isinstance(node, list):
        return [_values(value) for value in node]
    return None if isinstance(node, Plain) and node in _NOTHING else str(node)


def _classes(node: Any) -> Any:
    """Return {code: label}, or a list of codes that are labels too."""
    if isinstance(node, dict):
        codes = [_code(code) for code in node]
        # 1 and 1.0 stay different words, so that they are refused and no class is lost silently.
        alike = {code for code in codes if codes.count(code) > 1}
        return {str(word) if _code(word) in alike else _code(word): _label(node[word]) for word in node}
    return [_code(code) for code in node] if isinstance(node, list) else _values(node)


def _code(word: Any) -> Any:
    whole = isinstance(word, Plain) and _WHOLE.fullmatch(word)
    return int(float(word)) if whole else _label(word)


def _label(word: Any) -> Any:
    """Return a label's text; None if it is empty."""
    return str(word) if isinstance(word, str) and (word or not isinstance(word, Plain)) else None
