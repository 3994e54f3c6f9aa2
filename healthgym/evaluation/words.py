"""A report in the words of its readers: the schema's unit of time, and flags as "measured"."""

import re
from dataclasses import replace

from healthgym.evaluation.result import Section
from healthgym.schema import Schema

_MEASURED = " (M)"  # ends the name of a flag that says whether a variable was measured


def in_plain_words(text: str, schema: Schema) -> str:
    """Return a text without names that only the schema explains, and in its unit of time."""
    for variable in schema.categoricals:
        stem = variable.name.removesuffix(_MEASURED)
        if stem != variable.name and len(variable.labels) == 2:
            for label, word in zip(variable.labels, ("not measured", "measured"), strict=True):
                text = text.replace(f"{variable.name} = {label}", f"{stem} {word}")
            text = text.replace(
                f"how often {variable.name} changes", f"how often {stem} begins or ceases to be measured"
            )
            text = text.replace(variable.name, f"whether {stem} was measured")
    text = text.replace(" = <", " <").replace(" = >", " >")
    unit = schema.timestep_unit
    return re.sub(r"\btimestep(s?)\b", rf"{unit}\1", text) if unit.isalpha() else text


def reword(section: Section, schema: Schema) -> None:
    """Put all sentences of a section in plain words; titles and sources stay."""
    section.intro = in_plain_words(section.intro, schema)
    section.notes = [in_plain_words(note, schema) for note in section.notes]
    section.results = [
        replace(
            result,
            what=in_plain_words(result.what, schema),
            finding=in_plain_words(result.finding, schema),
            reason=in_plain_words(result.reason, schema),
            rows=[
                replace(
                    row,
                    name=in_plain_words(row.name, schema),
                    about=tuple(in_plain_words(name, schema) for name in row.about),
                )
                for row in result.rows
            ],
        )
        for result in section.results
    ]
