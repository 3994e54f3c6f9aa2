"""The page that puts several systems side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from healthgym.evaluation.comparing.claims import Judged, Trained, check_claims
from healthgym.evaluation.pages.page import environment
from healthgym.evaluation.pages.summary import summarise
from healthgym.evaluation.result import Figure, Result, show

_AT_A_GLANCE = frozenset(
    {
        "marginals.ks",
        "marginals.classes",
        "joint.lost",
        "dynamics.lost",
        "discriminability.boosting",
    }
)


@dataclass(frozen=True)
class _Line:
    """A metric of the report across the systems; `best` are the positions of the best values."""

    result: Result
    cells: Sequence[Result]
    best: frozenset[int]


def render_comparison(judged: Sequence[Judged], title: str) -> str:
    sections = judged[0].report.sections
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            title=title,
            judged=judged,
            summaries=[summarise(each.report.sections, each.report.resembles_nobody) for each in judged],
            claims=check_claims(judged),
            facts=judged[0].report.facts,
            distances=_distances(judged),
            costs=_costs([each.trained for each in judged]),
            sections=[(section, _lines(judged, position)) for position, section in enumerate(sections)],
            figures=[(section.title, _rows(judged, position)) for position, section in enumerate(sections)],
        )
    )


def _lines(judged: Sequence[Judged], position: int) -> list[_Line]:
    """Return a line per metric that any of the systems has; some metrics are of one kind of system."""
    results = {result.key: result for each in judged for result in each.report.sections[position].results}
    lines = []
    for key, result in results.items():
        none = Result(key, result.title, result.what, result.source, reason="Does not apply to this system.")
        cells = [each.results.get(key, none) for each in judged]
        lines.append(_Line(result, cells, best_of(cells, judged[0].report.thresholds)))
    return lines


def _costs(trained: Sequence[Trained]) -> list[tuple[str, list[str]]]:
    """Return what each system took, a row per kind of cost."""
    rows = [
        ("Trained parameters", [show(each.parameters, "count") for each in trained]),
        ("Training time, wall clock", [duration(each.seconds) for each in trained]),
        ("Training steps", [show(each.steps, "count") for each in trained]),
        ("Time per step", [duration(each.seconds / max(each.steps, 1)) for each in trained]),
        ("Trained on", [each.computed_on for each in trained]),
    ]
    kept = [each.acceptance_rate for each in trained]
    if any(rate is not None for rate in kept):
        shown = ["no rejection" if rate is None else show(rate, "percent") for rate in kept]
        rows.append(("Sampled patients accepted by the guardrail", shown))
    return rows


def duration(seconds: float) -> str:
    """Write a time for people: "0.0123 s", "42.0 s", "12.3 min", "2.5 h"."""
    if seconds < 1:
        return f"{seconds:.3g} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _distances(judged: Sequence[Judged]) -> list[_Line]:
    """Return the metrics of the short table."""
    lines = [line for position in range(len(judged[0].report.sections)) for line in _lines(judged, position)]
    return [line for line in lines if line.result.key in _AT_A_GLANCE]


def best_of(cells: Sequence[Result], thresholds: Mapping[str, Any]) -> frozenset[int]:
    """Return the positions of the best values, where a threshold says which way is better.

    What is as good as real patients among themselves is no better for being better still.
    """
    section, _, name = cells[0].key.partition(".")
    threshold = thresholds.get(section, {}).get(name)
    if threshold is None:
        return frozenset()
    small_is_good = threshold.get("at_most") is not None
    enough, better = (max, min) if small_is_good else (min, max)
    values = {
        position: cell.value if cell.floor is None else enough(cell.value, cell.floor)
        for position, cell in enumerate(cells)
        if cell.value is not None
    }
    if len(set(values.values())) < 2:
        return frozenset()
    best = better(values.values())
    return frozenset(position for position, value in values.items() if value == best)


def _rows(judged: Sequence[Judged], position: int) -> list[list[tuple[str, Figure]]]:
    """Return a row per plot: one for each system, or one alone where all are the same."""
    rows = []
    for figure in judged[0].report.sections[position].figures:
        row = [
            (each.trained.name, found)
            for each in judged
            for found in each.report.sections[position].figures
            if found.name == figure.name
        ]
        same = len({found.svg for _, found in row}) == 1
        rows.append([("all", row[0][1])] if same and len(row) > 1 else row)
    return rows
