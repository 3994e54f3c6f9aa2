"""A report in the words of its readers: the schema's unit of time, and flags as "measured"."""

import re
from dataclasses import replace

from healthgym.evaluation.result import Section
from healthgym.schema import Schema

_MEASURED = " (M)"  # ends the name of a flag that says whether a variable was measured


def in_plain_words(text: str, schema: Schema) -> str:
    """Return a text without names that only the schema explains, and in its unit of time."""
    flags = [each for each in schema.categoricals if each.name.endswith(_MEASURED) and len(each.labels) == 2]
    for flag in sorted(flags, key=lambda each: -len(each.name)):  # a name may end another one
        stem = flag.name.removesuffix(_MEASURED)
        sentences = {
            f"{flag.name} = {flag.labels[0]}": f"{stem} not measured",
            f"{flag.name} = {flag.labels[1]}": f"{stem} measured",
            f"how often {flag.name} changes": f"how often {stem} begins or ceases to be measured",
            flag.name: f"whether {stem} was measured",
        }
        text = _replaced(text, sentences)
    text = text.replace(" = <", " <").replace(" = >", " >")
    unit = schema.timestep_unit
    if not unit.isalpha():
        return text
    kept = {each.name: each.name for each in schema.variables if "timestep" in each.name}
    return _replaced(text, kept | {"timesteps": f"{unit}s", "timestep": unit}, whole=True)


def _replaced(text: str, words: dict[str, str], whole: bool = False) -> str:
    """Return a text with each of some words replaced by another, the first that fits; they begin a word."""
    pattern = "|".join(map(re.escape, words))
    return re.sub(rf"(?<!\w)({pattern})" + (r"(?!\w)" if whole else ""), lambda m: words[m[0]], text)


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
