"""Strict models, read from YAML and `--set`, with all problems reported in plain words.

An unknown key names the nearest known one.
"""

import re
from collections.abc import Hashable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from healthgym.errors import ConfigError, HealthgymError, UnreadableError, nearest
from healthgym.files import read_text
from healthgym.words import counted

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True)


M = TypeVar("M", bound=BaseModel)


class Plain(str):
    """An unquoted word of a YAML file."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but duplicate keys are an error.

    Unquoted words are numbers, booleans or null as in YAML 1.2 (section 10.3.2). YAML 1.1, which PyYAML
    follows, also reads NO and off as False, 010 as 8, 6:30 as 390 and 2024-01-01 as a date: here these are
    text.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - so PyYAML declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            name = "<<" if key_node.tag == _MERGE else self.construct_object(key_node, deep=True)
            if not isinstance(name, Hashable):
                raise ConfigError(
                    f"{key_node.start_mark.name}, line {key_node.start_mark.line + 1}: a key must be a "
                    f"word or a number, not a list or a mapping."
                )
            if name in seen:
                raise ConfigError(
                    f"{key_node.start_mark.name}, line {key_node.start_mark.line + 1}: the key '{name}' "
                    "appears twice; keep one."
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


class _WordLoader(_Loader):
    """Keeps every scalar as text, unquoted ones as `Plain`."""

    yaml_implicit_resolvers = {}  # noqa: RUF012

    def construct_word(self, node: yaml.ScalarNode) -> str:
        """Return the text of a scalar."""
        text = str(self.construct_scalar(node))
        return Plain(text) if node.style is None else text


def _as_it_stands(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    """Return `<<` as text where it is a value, without merging."""
    return str(loader.construct_scalar(node))


_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_RESOLVERS = {
    "null": ("(?:~|null|Null|NULL|)", "~nN\0"),
    "bool": ("(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    "int": ("[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)",
        "-+.0123456789",
    ),
}
for _kind, (_pattern, _first) in _RESOLVERS.items():
    _starts = ["" if character == "\0" else character for character in _first]
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"{_pattern}\\Z"), _starts)
for _each in (_Loader, _WordLoader):
    _each.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])
    _each.add_constructor(_MERGE, _as_it_stands)
_WordLoader.add_constructor(f"{_TAG}str", _WordLoader.construct_word)


_TYPE = re.compile(
    r"int|float|str|bool|none|constrained-\w+|(literal|tuple|list|nullable|function-\w+|is-instance)\[.*\]"
)
_WORDS = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "is of the unknown kind '{tag}'; known are {expected_tags}",
    "union_tag_not_found": "needs a kind",
    "too_short": "must have at least {min_length} entries",
} | dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number")
_WORDS |= dict.fromkeys(("float_type", "float_parsing"), "must be a number")
_WORDS |= dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false")
_WORDS |= dict.fromkeys(("list_type", "tuple_type"), "must be a list, such as [a, b]")
_WORDS |= dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be 'key: value' settings")
_WORDS |= dict.fromkeys(("path_type", "string_type"), "must be text")
"""Messages of pydantic in plain words."""


def load_yaml(path: Path, words: bool = False) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: the file.
        words: whether every scalar is kept as text, unquoted ones as `Plain`.

    Raises:
        ConfigError: the file is missing, is not YAML, has a key twice, or is not a mapping.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ConfigError(
            f"Cannot read {path}: there is no such file. Give the path of a YAML file."
        ) from None
    except UnreadableError as error:
        raise ConfigError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    return read_yaml(text, str(path), words)


def read_yaml(text: str, name: str, words: bool = False) -> dict[str, Any]:
    """Read the text of a YAML file that holds a mapping; `name` is its name in messages.

    Raises:
        ConfigError: it is not YAML, has a key twice, or is not a mapping.
    """
    try:
        loader = (_WordLoader if words else _Loader)(text)
        loader.name = name
        content = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{name} must hold settings as 'key: value' lines, but holds {type(content).__name__}."
        )
    return content


def parse(
    model: type[M], values: Mapping[str, Any], where: str, error: type[HealthgymError] = ConfigError
) -> M:
    """Build a model, or report every problem at once.

    Args:
        model: the class to build.
        values: of the model's fields, as read.
        where: names the source in messages, e.g. the file's path.
        error: the class to raise.
    """
    try:
        return model.model_validate(values)
    except ValidationError as problems:
        lines = _sentences(problems, model)
        raise error(
            f"{where}: {counted(len(lines), 'problem')}\n" + "\n".join(f"  - {line}" for line in lines)
        ) from None


def load(model: type[M], path: Path, overrides: Iterable[str] = ()) -> M:
    """Read a model from a YAML file and `key.path=value` overrides."""
    values = load_yaml(path)
    for override in overrides:
        values = merge(values, parse_override(override))
    return parse(model, values, str(path))


def parse_override(text: str) -> dict[str, Any]:
    """Turn "training.epochs=2" into {"training": {"epochs": 2}}; the value is read as YAML."""
    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text}: expected key.path=value, such as training.epochs=2.")
    try:
        value = _Loader(raw).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value '{raw}' is not valid YAML: {error}") from error
    for part in reversed(name.strip().split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` merged into it recursively.

    If `over` changes a mapping's `kind` or `preset`, it replaces the mapping, since the old keys
    belong to the old kind. A preset given as a single word is merged as `{preset: word}`.
    """
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        if name == "system" and isinstance(value, Mapping) and isinstance(old, str | int | float):
            old = {"preset": str(old)}
        switches = isinstance(value, Mapping) and any(
            mark in value and isinstance(old, Mapping) and old.get(mark) != value[mark]
            for mark in ("kind", "preset")
        )
        merged[name] = (
            merge(old, value)
            if isinstance(old, Mapping) and isinstance(value, Mapping) and not switches
            else value
        )
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": value} for {"a": {"b": value}}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


class Mark(Enum):
    """A mark of a setting in its declaration: `Annotated[int, Mark.SAMPLING]`.

    `SAMPLING` settings affect only how a trained system samples. `FREE` settings change weights by no more
    than the order of floating-point sums. Both may change between two starts of one run.
    """

    SAMPLING = "sampling"
    FREE = "free"


def marked(model: type[BaseModel], *marks: Mark, prefix: str = "") -> frozenset[str]:
    """Return the names, as "a.b", of all settings with one of the marks and of those inside them."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        if any(mark in field.metadata for mark in marks):
            found |= _leaves(field.annotation, f"{prefix}{name}")
        else:
            for inner in _alternatives(field.annotation):
                if _is_model(inner):
                    found |= marked(inner, *marks, prefix=f"{prefix}{name}.")
    return frozenset(found)


def _leaves(annotation: Any, name: str) -> set[str]:
    """Return the names of all values inside a setting."""
    found: set[str] = set()
    for inner in _alternatives(annotation):
        if _is_model(inner):
            for part, field in inner.model_fields.items():
                found |= _leaves(field.annotation, f"{name}.{part}")
        else:
            found.add(name)
    return found


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types that an annotation allows."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for part in get_args(annotation) for inner in _alternatives(part))
    return (annotation,)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def differences(old: StrictModel, new: StrictModel) -> list[str]:
    """Return a line per setting in which two configurations differ, e.g. "training.seed: 0 -> 1"."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    return [
        f"{name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, "(absent)") != after.get(name, "(absent)")
    ]


def _sentences(problems: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return a line for each wrong setting; if a value may be of several kinds, the line has all of them."""
    lines: dict[str, str] = {}
    found = problems.errors()
    for problem in found:
        # What is wrong with an entry of a list, pydantic also reports as an entry that is absent.
        place = problem["loc"]
        within = any(each["loc"][: len(place)] == place for each in found if len(each["loc"]) > len(place))
        if problem["type"] == "too_short" and within:
            continue
        line = _sentence(problem, model)
        key_path, _, said = line.partition(": must be ")
        before = next((key for key in lines if said and key == key_path), None)
        if before is None:
            lines[key_path if said else line] = line
        else:
            head, _, given = lines[before].partition(" (given: ")
            lines[before] = f"{head}, or {said.partition(' (given: ')[0]}" + (
                f" (given: {given}" if given else ""
            )
    return list(lines.values())


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    """Turn one pydantic problem into a line for a user."""
    # For a union of kinds pydantic adds the kind to the path; a user's file does not have it.
    parts = [str(part) for part in problem["loc"] if part not in _kinds(model) and not _is_type(part)]
    key_path = ".".join(parts) or "settings"
    if problem["type"] == "extra_forbidden":
        known = _field_names(model)
        return f"{key_path}: unknown key{nearest(problem['loc'][-1], known)}"
    if problem["type"] == "missing":
        return f"{key_path}: is required and missing"
    message = _in_words(problem)
    given = problem["input"]
    if problem["type"] == "string_type" and (given is None or isinstance(given, bool | int | float)):
        read = "nothing" if given is None else f"{given!r}, which is no text"
        return f"{key_path}: YAML reads {read}; if a word is meant, put it in quotes"
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool | list | tuple) else ""
    return f"{key_path}: {message}{shown}"


def _in_words(problem: Any) -> str:
    """Return what is wrong with a value in plain words."""
    known, limits = _WORDS.get(problem["type"]), problem.get("ctx", {})
    return known.format(**limits) if known else str(problem["msg"]).removeprefix("Value error, ")


def _is_type(part: object) -> bool:
    """Return whether a part of a path is the name of a type, which pydantic adds for unions."""
    return isinstance(part, str) and _TYPE.fullmatch(part) is not None


def _kinds(model: type[BaseModel]) -> set[Any]:
    """Return every value that a field named `kind` may have in a model and in the models inside it."""
    return {
        name
        for inner in _models(model)
        if "kind" in inner.model_fields
        for name in get_args(inner.model_fields["kind"].annotation)
    }


def _models(model: Any, seen: frozenset[Any] = frozenset()) -> set[type[BaseModel]]:
    """Return a model and all models inside it."""
    found: set[type[BaseModel]] = set()
    if isinstance(model, type) and issubclass(model, BaseModel) and model not in seen:
        found.add(model)
        for field in model.model_fields.values():
            found |= _models(field.annotation, seen | {model})
    for inner in get_args(model):
        found |= _models(inner, seen)
    return found


def _field_names(model: Any) -> set[str]:
    """Return the names of all fields of a model and of the models inside it."""
    return {name for inner in _models(model) for name in inner.model_fields}
