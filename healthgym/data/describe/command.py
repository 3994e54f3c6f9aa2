"""The work of `healthgym describe`: read a table, draft its schema, try it, and print the next commands."""

import shlex
import textwrap
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from healthgym.data.describe.advice import Advice, advise, commands
from healthgym.data.describe.draft import Draft, draft, to_yaml
from healthgym.data.describe.table import read_words
from healthgym.data.describe.words import words_of
from healthgym.data.request import DescribeRequest
from healthgym.data.tables.dialect import FOUND_OUT, Given
from healthgym.data.tables.reading import FORMS
from healthgym.data.tables.sources import read_files
from healthgym.data.tables.table import check_rows
from healthgym.errors import StorageError, TableError, listed
from healthgym.faults import refused
from healthgym.files import atomic_path
from healthgym.schema import Schema, schema_from_text
from healthgym.schema.schema import UNNAMED
from healthgym.words import counted

_WIDTH = 100


@dataclass(frozen=True)
class Description:
    """The description of a table.

    Args:
        yaml: the schema's text, with the evidence for each guess.
        schema: the schema.
        found: the findings it was made from.
        advice: settings for a first run.
        misfit: why the table does not fit this schema; empty if it does.
    """

    yaml: str
    schema: Schema
    found: Draft
    advice: Advice
    misfit: str

    @property
    def undecided(self) -> list[str]:
        """What could not be decided, in sentences."""
        return self.found.undecided

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the schema's text to a file, to be corrected and given to `prepare`.

        Raises:
            StorageError: there is another file already, which may have been corrected, or it cannot be
                written.
        """
        write_schema(self, Path(path), overwrite)

    def __str__(self) -> str:
        return "\n".join(summary(self))


def describe_frame(
    frame: pd.DataFrame,
    name: str = UNNAMED,
    patient: str | None = None,
    time: str | None = None,
    visits: str | None = None,
    every: float | None = None,
) -> Description:
    """Describe a table in memory.

    Args:
        frame: a row for each patient and time.
        name: of the schema.
        patient, time: names of the key columns, if known.
        visits: how visits at irregular times are treated: irregular or grid.
        every: width of a grid's intervals.

    Raises:
        TableError: it has no keys, has a form that cannot be prepared, or has no variables.
    """
    found = draft(words_of([frame], name), patient, time, visits, every)
    text = to_yaml(found, name, "healthgym.describe")
    schema = schema_from_text(text, name)
    return Description(text, schema, found, advise(found), _misfit(frame, schema, name))


def describe_table(
    table: Path,
    given: Given = FOUND_OUT,
    patient: str | None = None,
    time: str | None = None,
    visits: str | None = None,
    every: float | None = None,
    command: str = "healthgym describe",
) -> Description:
    """Describe a table in files; the arguments are those of `describe_frame`, and the format of the files.

    Raises:
        HealthgymError: it cannot be read, has no keys, or has a form that cannot be prepared.
    """
    words = read_words(table, given)
    found = draft(words, patient, time, visits, every)
    name = stem_of(table)
    text = to_yaml(found, name, command)
    schema = schema_from_text(text, f"the schema of {table}")
    misfit = ""
    if words.whole:
        frame = pd.concat([part for _, part in read_files(table, schema, given)])
        misfit = _misfit(frame, schema, str(table))
    return Description(text, schema, found, advise(found), misfit)


def _misfit(frame: pd.DataFrame, schema: Schema, name: str) -> str:
    """Return why a table does not fit a schema; empty if it does."""
    try:
        check_rows(frame, schema, name, sort=True)
    except TableError as error:
        return str(error)
    return ""


def stem_of(table: Path) -> str:
    """Return a table's name without folder and ending, e.g. "visits" of data/visits.csv.gz."""
    name = table.name
    while Path(name).suffix and (
        name.lower().endswith(FORMS) or Path(name).suffix.lower() in (".txt", ".dat", ".tab")
    ):
        name = next((name[: -len(form)] for form in FORMS if name.lower().endswith(form)), Path(name).stem)
    return name.replace("*", "").strip(" .-_") or UNNAMED


def run(asked: DescribeRequest) -> str:
    """Describe a table, write its schema, and return a summary.

    Raises:
        HealthgymError: with what is wrong and what to do.
    """
    table, out = asked.table, asked.out or Path(f"{stem_of(asked.table)}.yaml")
    words = {name: getattr(asked, name) for name in ("separator", "decimal", "encoding")}
    options = "".join(f" --{name} {shlex.quote(value)}" for name, value in words.items() if value)
    command = f"healthgym describe {shlex.quote(table.name)}{options}"
    given = Given(**words)
    found = describe_table(table, given, asked.patient, asked.time, asked.visits, asked.every, command)
    write_schema(found, out, asked.overwrite)
    lines = [f"{out} written: {found.found.table.form}", *summary(found)]
    following = commands(found.advice, found.found, out, str(table), options)
    return "\n".join([*lines, "  next", *(f"    {line}" for line in following)])


def write_schema(found: Description, out: Path, overwrite: bool) -> None:
    """Write a schema; do not overwrite one that may have been corrected.

    Raises:
        StorageError: the file exists, or cannot be written.
    """
    with refused(out, "write"):
        if out.exists() and not overwrite and out.read_text("utf-8", errors="replace") != found.yaml:
            raise StorageError(
                f"{out} exists already and may have been edited. Give another file (--out), or replace it "
                "(--overwrite; overwrite=True in Python)."
            )
        with atomic_path(out) as beside:
            beside.write_text(found.yaml, encoding="utf-8")


def summary(found: Description) -> list[str]:
    """Return the findings as a few lines, each with a keyword."""
    made, advice, keys = found.found, found.advice, found.found.keys
    low, high = int(keys.lengths_P.min()), int(keys.lengths_P.max())
    rows = f"{made.table.num_rows:,} rows" if made.table.whole else f"the first {made.table.num_rows:,} rows"
    kinds = [(kind, [v for v in made.used if v.kind == kind]) for kind in ("real", "binary", "categorical")]
    counted = ", ".join(f"{len(found)} {kind}" for kind, found in kinds if found)
    static = sum(v.static for v in made.used)
    told = [
        (
            "table",
            f"{rows}, {keys.num_patients:,} patients, {low if low == high else f'{low} to {high}'} rows each",
        ),
        ("patient", f"'{keys.patient.name}': {keys.reasons[0]}"),
        ("time", f"'{keys.times.column.name}': {keys.reasons[1]}; {_taken(found)}"),
        ("variables", f"{counted}; {static} constant within a patient" if static else counted),
    ]
    missing = [v.name for v in made.used if v.flag]
    marks = sorted({word for v in made.used for word, value in v.read_as.items() if value is None})
    if missing or marks:
        said = f"values of {listed(missing, 6)}" if missing else "none"
        told.append(("missing", said + (f"; marked by {listed(map(repr, marks), 6)}" if marks else "")))
    if made.left_out:
        told.append(("left out", "; ".join(f"'{v.name}' {v.evidence}" for v in made.left_out[:6])))
        if len(made.left_out) > 6:
            told.append(("", f"and {len(made.left_out) - 6} more columns"))
    if made.follow_up and made.follow_up.sure:
        told.append(
            (
                "follow-up",
                f"'{made.follow_up.time}' until '{made.follow_up.event}': {made.follow_up.evidence}",
            )
        )
    told += [("undecided" if not n else "", doubt) for n, doubt in enumerate(found.undecided[:12])]
    if len(found.undecided) > 12:
        told.append(("", f"and {len(found.undecided) - 12} more, in the schema"))
    told.append(("advice", _advice(advice, low, high)))
    told += [("", note) for note in advice.notes]
    if found.misfit:
        told.append(("problem", f"the table does not match this schema yet: {found.misfit}"))
    return [line for word, text in told for line in _wrapped(word, text)]


def _taken(found: Description) -> str:
    form = found.found.time
    if form.kind == "whole":
        return form.why
    other = "irregular" if form.kind == "grid" else "grid"
    every = f" of {form.every:g}{f' {form.unit}s' if form.unit else ''}" if form.kind == "grid" else ""
    return f"{form.why}: taken as {form.kind}{every} (or --visits {other})"


def _advice(advice: Advice, low: int, high: int) -> str:
    lengths = f"of {low}" if low == high else f"of {low} to {high}"
    minutes, cores = counted(advice.minutes, "minute"), counted(advice.cores, "core")
    return (
        f"system ar, whole patients {lengths} timesteps, batches of {advice.batch_size}; about {minutes} on "
        f"{cores}, {advice.limit} at most"
    )


def _wrapped(word: str, text: str) -> list[str]:
    lines = [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, _WIDTH - 12, break_on_hyphens=False)
    ]
    return [f"  {word if not n else '':<9} {line}" for n, line in enumerate(lines)]


def described(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of prepare with a schema; if a table is given in its place, it is described first.

    The schema is written beside the prepared cohort. An existing one is used as it is, since it may have been
    corrected.

    Raises:
        HealthgymError: the table cannot be described.
    """
    table = options["schema_path"]
    if options.get("table") or options.get("dataset") or not _is_table(table):
        return options
    schema = options["out"].with_suffix(".yaml")
    written = Given(*(options.get(name, "") for name in ("separator", "decimal", "encoding")))
    if schema.exists():
        print(f"{schema} exists and is used as it is; delete it to have {table} described again", flush=True)
        return options | {"schema_path": schema, "table": table}
    found = describe_table(table, written, command=f"healthgym prepare {shlex.quote(table.name)}")
    write_schema(found, schema, overwrite=False)
    print("\n".join([f"{schema} written: {found.found.table.form}", *summary(found)]), flush=True)
    more: dict[str, Any] = {} if found.found.keys.sorted else {"sort": True}
    if "holdout" not in options:
        more["holdout"] = found.advice.holdout
    return options | {"schema_path": schema, "table": table} | more


def _is_table(path: Path) -> bool:
    name = path.name.lower()
    return (
        name.endswith((*FORMS, ".txt", ".tab", ".dat"))
        or path.is_dir()
        or "*" in name
        or name.endswith(".pq")
    )
