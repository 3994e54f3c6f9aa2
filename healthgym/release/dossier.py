"""The pages that a board signs: uses, attacks and variables of a release, and why it is released."""

from collections.abc import Mapping, Sequence
from typing import Any

from healthgym.errors import FailingReleaseError, listed
from healthgym.evaluation.pages.summary import uses_by_verdict
from healthgym.evaluation.result import Verdict, show
from healthgym.schema import Schema

NEVER = (
    "finding out who the training patients were, or anything about one of them",
    "decisions on single patients",
    "medical findings that were not confirmed on real patients",
)
_ORDER = (Verdict.PASS, Verdict.CAUTION, Verdict.FAIL)


def refuse_failing(effect: Mapping[str, Any], report: Mapping[str, Any] | None, despite: str) -> None:
    """Refuse to release a system whose cohort fails its report, unless a reason is given.

    Args:
        effect: `effect.measure`'s finding.
        report: the part of report.json that was given, if any.
        despite: the reason.

    Raises:
        FailingReleaseError: with the sections that fail and what to do.
    """
    failing = failing_sections(effect, report)
    if failing and not despite.strip():
        raise FailingReleaseError(
            f"Nothing was released: a cohort made from it fails {listed(failing)} of its report. Train "
            f'another system, or give a reason to release it nevertheless by --despite "REASON", which the '
            f"card prints. Finished work is kept: the same command with the reason takes seconds."
        )


def failing_sections(effect: Mapping[str, Any], report: Mapping[str, Any] | None) -> list[str]:
    """Return the titles of the sections that fail: of the release if it was judged, else of the report."""
    if effect["measured"]:
        return [row["title"] for row in effect["sections"] if row["verdict"]["after"] == Verdict.FAIL]
    sections = (report or {}).get("sections", [])
    return [section["title"] for section in sections if section["verdict"] == Verdict.FAIL]


def worse(effect: Mapping[str, Any]) -> list[str]:
    """Return, in words, the metrics whose verdict is worse after the release than before."""
    if not effect["measured"]:
        return []
    changed = []
    for row in effect["figures"]:
        before, after = (Verdict(row["verdict"][side]) for side in ("before", "after"))
        if before in _ORDER and after in _ORDER and _ORDER.index(after) > _ORDER.index(before):
            values = [show(row["value"][side], row["style"]) for side in ("before", "after")]
            changed.append(f"{row['title']}: {values[0]}, {before}; of the release {values[1]}, {after}")
    return changed


def variables_of(schema: Schema) -> list[dict[str, Any]]:
    """Return the data dictionary: name, kind, unit and classes of each column, whether it may be empty."""
    return [
        {
            "name": variable.name,
            "kind": variable.kind,
            "unit": variable.unit,
            "classes": list(variable.labels) if variable.kind != "real" else [],
            "static": variable.static,
            "may_be_missing": variable.missing == "model",
        }
        for variable in schema.variables
    ]


def uses_of(effect: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the permitted and excluded uses of a cohort of the release, by the sections' verdicts."""
    if not effect["measured"]:
        return []
    verdicts = {row["key"]: Verdict(row["verdict"]["after"]) for row in effect["sections"]}
    return [{"words": use.words, "purpose": use.purpose} for use in uses_by_verdict(verdicts)]


def uses_in_words(uses: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the uses as lines of Markdown."""
    judged = [f"- {use['words'].lower()} {use['purpose']}" for use in uses]
    return [
        *(judged or ["No cohort of it was judged: nothing is known of what it is fit for."]),
        *(f"- never for {purpose}" for purpose in NEVER),
    ]


def attacks_in_rows(effect: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (attack, result, verdict) of the section on privacy of the release's report."""
    if not effect["measured"]:
        return []
    return [
        (row["title"], show(row["value"]["after"], row["style"]), row["verdict"]["after"])
        for row in effect["figures"]
        if row["key"].startswith("privacy.")
    ]


def variables_in_rows(variables: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (name, kind, values) of each variable."""
    rows = []
    for variable in variables:
        kind = f"{variable['kind']}, constant" if variable["static"] else variable["kind"]
        values = ", ".join(variable["classes"]) or variable["unit"] or "no unit"
        rows.append((variable["name"], kind, values + (", or empty" if variable["may_be_missing"] else "")))
    return rows
