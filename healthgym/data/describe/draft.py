"""The proposed schema of a table, as YAML with the evidence for each guess."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from healthgym.data.describe.follow_up import FollowUp, find_follow_up
from healthgym.data.describe.keys import Keys, find_keys
from healthgym.data.describe.time_form import TimeForm, time_form
from healthgym.data.describe.variables import Found, find_variables
from healthgym.data.describe.words import Words
from healthgym.errors import ConfigError, TableError, nearest
from healthgym.words import counted

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*( [A-Za-z0-9_]+)*")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,14})")
_RESERVED = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}

_VISITS = ("irregular", "grid")


@dataclass(frozen=True)
class Draft:
    """The findings about a table.

    Args:
        table: its words.
        keys: the columns of patients and times.
        time: the form of times.
        variables: every other column.
        follow_up: a proposal, or None.
    """

    table: Words
    keys: Keys
    time: TimeForm
    variables: tuple[Found, ...]
    follow_up: FollowUp | None

    @property
    def used(self) -> list[Found]:
        """Columns that are variables."""
        return [found for found in self.variables if found.kind]

    @property
    def left_out(self) -> list[Found]:
        """Columns that are not variables."""
        return [found for found in self.variables if not found.kind]

    @property
    def undecided(self) -> list[str]:
        """What could not be decided, in sentences."""
        doubts = [*self.keys.doubts]
        if not self.time.unit:
            doubts.append(f"the unit of '{self.keys.times.column.name}'")
        coded = [
            v.name
            for v in self.used
            if v.classes and all(w.lstrip("-").isdigit() for w in v.classes.values())
        ]
        if coded:
            shown = ", ".join(coded[:6]) + (f" and {len(coded) - 6} more" if len(coded) > 6 else "")
            doubts.append(f"the meaning of the codes of {shown}: the codes are used as labels")
        if self.follow_up and not self.follow_up.sure:
            doubts.append(
                f"whether '{self.follow_up.event}' and '{self.follow_up.time}' are the end of follow-up: "
                f"{self.follow_up.evidence}"
            )
        return doubts + [doubt for found in self.variables for doubt in found.doubts]


def draft(
    table: Words,
    patient: str | None = None,
    time: str | None = None,
    visits: str | None = None,
    every: float | None = None,
) -> Draft:
    """Return the findings about a table.

    Args:
        table: its words.
        patient, time: names of the key columns, if they are known.
        visits: irregular or grid, if one is wanted.
        every: width of the grid's intervals.

    Raises:
        ConfigError: there is no such treatment of visits, or a width that is none.
        TableError: it has no keys, is of a form that cannot be prepared, or has nothing to learn.
    """
    if visits not in (None, *_VISITS):
        raise ConfigError(f"visits '{visits}': expected irregular or grid{nearest(str(visits), _VISITS)}.")
    if every is not None and not 0 < every < math.inf:
        raise ConfigError(f"every {every}: the width of a grid's intervals is a number above 0.")
    if not table.num_rows:
        raise TableError(f"{table.name}: the table has no rows. Give one row per patient and time.")
    keys = find_keys(table, patient, time)
    form = time_form(keys, visits, every)
    variables = find_variables(table, keys)
    follow_up, variables = find_follow_up(table, keys, form, variables)
    if form.kind == "grid" and form.empty > 0:
        variables = _for_grid(variables, keys)
    if not any(found.kind for found in variables):
        shown = "; ".join(f"'{found.name}' {found.evidence}" for found in variables[:5])
        raise TableError(f"{table.name}: besides its keys it has no column that can be a variable: {shown}.")
    return Draft(table, keys, form, tuple(variables), follow_up)


def _for_grid(variables: list[Found], keys: Keys) -> list[Found]:
    """Add a flag to every variable that may vary: it has no value in an interval without a row."""
    taken = {keys.patient.name, keys.times.column.name, *(v.name for v in variables)}
    return [
        replace(v, flag=v.flag or _free(f"{v.name} (M)", taken))
        if v.kind and not v.static and not _is_flag(v, variables)
        else v
        for v in variables
    ]


def _is_flag(found: Found, variables: list[Found]) -> bool:
    return any(each.flag == found.name for each in variables)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    taken.add(name)
    return name


# --- YAML ------------------------------------------------------------------------------------------


def to_yaml(found: Draft, name: str, command: str) -> str:
    """Return the schema, each guess with its evidence in a comment.

    Args:
        found: what was found.
        name: of the schema.
        command: that makes it, for its first line.
    """
    return "\n".join(_lines(found, name, command)) + "\n"


def _lines(found: Draft, name: str, command: str) -> Iterator[str]:
    table, keys, form = found.table, found.keys, found.time
    rows = f"{'' if table.whole else 'the first '}{counted(table.num_rows, 'row')}"
    yield f"# Written by `{_one_line(command)}` from {rows}, {counted(keys.num_patients, 'patient')}."
    yield "# Each line is a guess, with its evidence beside it: change what is wrong."
    yield f"name: {_word(name)}"
    if form.kind == "irregular":
        yield "timestep_unit: visit"
    else:
        undecided = "" if form.unit else " # undecided: no name says it"
        yield f"timestep_unit: {_word(form.unit or 'timestep')}{undecided}"
    yield "keys:"
    yield f"  # {_one_line(keys.reasons[0])}; {_lengths(keys)}"
    yield f"  patient: {_word(keys.patient.name)}"
    yield f"  # {_one_line(keys.reasons[1])}; {form.why}"
    yield from _time_lines(found)
    if found.follow_up:
        yield from _follow_up_lines(found.follow_up)
    yield "variables:"
    for variable in found.used:
        yield f"  # {_one_line(variable.evidence)}"
        for doubt in variable.doubts:
            yield f"  # undecided: {_one_line(doubt)}"
        yield f"  - {_variable(variable)}"
    if found.left_out:
        yield "# Left out:"
        for variable in found.left_out:
            yield f"#   {_one_line(variable.name) or '(no name)'}: {_one_line(variable.evidence)}"


def _lengths(keys: Keys) -> str:
    low, high = int(keys.lengths_P.min()), int(keys.lengths_P.max())
    return f"{counted(low, 'row')} each" if low == high else f"{low} to {high} rows each"


def _time_lines(found: Draft) -> Iterator[str]:
    column, form, times = found.keys.times.column.name, found.time, found.keys.times
    if form.kind == "whole":
        yield f"  timestep: {_word(column)}"
        return
    common = [f"unit: {_word(form.unit)}"] if form.unit else []
    common += [f"format: {_quoted(times.format)}"] if times.format not in ("", "ISO") else []
    common += [f"origin: {form.origin}"] if form.origin else []
    irregular = _mapping(f"column: {_word(column)}", "kind: irregular", *common)
    grid = _mapping(f"column: {_word(column)}", "kind: grid", *common, f"every: {form.every:g}", "take: last")
    chosen, other = (grid, irregular) if form.kind == "grid" else (irregular, grid)
    yield f"  timestep: {chosen}"
    yield f"  # or: {other}"
    if form.kind == "grid":
        why = (
            f"which refuses {counted(form.repeats, 'row')} at a time that the patient has had before"
            if form.repeats
            else ""
        )
        yield f"  #   visits as they are{', ' + why if why else ''} (--visits irregular)"
    else:
        yield (
            f"  #   on a grid, of whose intervals {form.empty:.0%} would be empty: variables then need "
            "missing: model and a measured_flag (--visits grid writes them)"
        )


def _follow_up_lines(found: FollowUp) -> Iterator[str]:
    parts = [f"time: {_word(found.time)}", f"event: {_word(found.event)}"]
    parts += [f"unit: {_word(found.unit)}"] if found.unit else []
    parts += [f"censored: {_word(found.censored)}"] if found.censored != "censored" else []
    line = f"follow_up: {_mapping(*parts)}"
    if found.sure:
        yield f"# {_one_line(found.evidence)}"
        yield line
    else:
        yield f"# undecided: {_one_line(found.evidence)}; if it is the end of follow-up:"
        yield f"# {line}"


def _variable(found: Found) -> str:
    parts = [f"name: {_word(found.name)}", f"kind: {found.kind}"]
    parts += ["static: true"] if found.static else []
    parts += [f"unit: {_word(found.unit)}"] if found.unit else []
    parts += [f"offset: {found.offset:g}"] if found.offset else []
    parts += [f"classes: {_class_list(found.classes)}"] if found.classes else []
    parts += [f"fill: {found.fill}"] if found.fill else []
    parts += ["missing: model", f"measured_flag: {_word(found.flag)}"] if found.flag else []
    parts += [f"read_as: {_read_as(found.read_as)}"] if found.read_as else []
    return _mapping(*parts)


def _class_list(classes: dict[str, str]) -> str:
    if all(code == label for code, label in classes.items()):
        return "[" + ", ".join(_code(code) for code in classes) + "]"
    return _mapping(
        *(
            f"{_code(code)}: {_quoted(label) if _number_like(label) else _word(label)}"
            for code, label in classes.items()
        )
    )


def _read_as(words: dict[str, str | None]) -> str:
    return _mapping(
        *(f"{_quoted(word)}: {'null' if value is None else _word(value)}" for word, value in words.items())
    )


def _mapping(*parts: str) -> str:
    return "{" + ", ".join(parts) + "}"


def _code(word: str) -> str:
    return word if _WHOLE.fullmatch(word) else _word(word)


def _number_like(word: str) -> bool:
    return bool(re.fullmatch(r"[-+.0-9eE]+", word))


def _word(word: str) -> str:
    """Return a word as YAML text, in quotes if YAML could read it as something else."""
    return word if _PLAIN.fullmatch(word) and word.lower() not in _RESERVED else _quoted(word)


def _quoted(word: str) -> str:
    return json.dumps(word, ensure_ascii=False)


def _one_line(text: str) -> str:
    """Return a text that cannot end a comment."""
    return "".join(c if c.isprintable() else " " for c in text)
