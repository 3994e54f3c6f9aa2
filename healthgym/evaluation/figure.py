"""What a report is made of: figures with a verdict, in sections, with pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from healthgym.evaluation.settings import Threshold


class Verdict(StrEnum):
    """From best to worst; a section's verdict is the worst of its figures."""

    PASS = "pass"
    CAUTION = "caution"
    FAIL = "fail"
    NOT_JUDGED = "not judged"
    SHOWN = "shown"


_SEVERITY = (Verdict.FAIL, Verdict.CAUTION, Verdict.PASS, Verdict.NOT_JUDGED, Verdict.SHOWN)
_SEVERITY_OF_SECTIONS = (Verdict.FAIL, Verdict.CAUTION, Verdict.NOT_JUDGED, Verdict.PASS, Verdict.SHOWN)


class NotJudgedError(Exception):
    """Raised by a measure that cannot be taken here; its message says why, as a sentence."""


@dataclass(frozen=True)
class Row:
    """A figure for one variable (or pair, or class): value, noise floor and holdout."""

    name: str
    value: float | None
    floor: float | None = None
    holdout: float | None = None


@dataclass(frozen=True)
class Figure:
    """One number of the report.

    Args:
        key: "section.figure", as in the thresholds.
        title: two or three words.
        what: one plain sentence that says what it is.
        source: where the definition comes from.
        value: synthetic against training data; None where it could not be judged.
        floor: the same between two halves of the training data.
        holdout: the same between synthetic data and the holdout.
        interval: 95% interval of the value.
        verdict: against `threshold`.
        limit: the threshold in words.
        marks: up to (or from) where it passes, and beyond where it fails.
        style: how numbers are written: "number", "percent" or "count".
        reason: why it could not be judged, or what to know about the value.
        rows: the figure per variable, worst first.
    """

    key: str
    title: str
    what: str
    source: str
    value: float | None = None
    floor: float | None = None
    holdout: float | None = None
    interval: tuple[float, float] | None = None
    verdict: Verdict = Verdict.SHOWN
    limit: str = ""
    marks: tuple[float, float] | None = None
    style: str = "number"
    reason: str = ""
    rows: Sequence[Row] = ()

    def __post_init__(self) -> None:
        rows = [number for row in self.rows for number in (row.value, row.floor, row.holdout)]
        for number in (self.value, self.floor, self.holdout, *(self.interval or ()), *rows):
            assert number is None or math.isfinite(number), f"{self.key}: {number} is no finite number"

    def to_json(self) -> dict[str, Any]:
        """Return what report.json says about the figure."""
        return {
            "key": self.key,
            "title": self.title,
            "what": self.what,
            "value": self.value,
            "interval_95": list(self.interval) if self.interval else None,
            "noise_floor": self.floor,
            "holdout": self.holdout,
            "verdict": str(self.verdict),
            "threshold": self.limit,
            "note": self.reason,
            "source": self.source,
            "rows": [vars(row) for row in self.rows],
        }


@dataclass(frozen=True)
class Picture:
    """A drawing: the name of its file, the file's content, a caption, and what stands in one row with it."""

    name: str
    svg: str
    caption: str
    group: str = ""


@dataclass
class Section:
    """A part of the report; `essential` are the keys of figures without which it cannot pass."""

    key: str
    title: str
    intro: str
    figures: list[Figure] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    essential: frozenset[str] = frozenset()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its figures; it passes only if the essential ones could be judged."""
        found = worst([figure.verdict for figure in self.figures])
        unjudged = {figure.key for figure in self.figures if figure.verdict is Verdict.NOT_JUDGED}
        return Verdict.NOT_JUDGED if found is Verdict.PASS and unjudged & self.essential else found

    def to_json(self) -> dict[str, Any]:
        """Return what report.json says about the section."""
        return {
            "key": self.key,
            "title": self.title,
            "verdict": str(self.verdict),
            "notes": self.notes,
            "figures": [figure.to_json() for figure in self.figures],
            "pictures": [picture.name for picture in self.pictures],
        }


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst of some verdicts; "not judged" only where nothing was judged."""
    present = set(verdicts)
    return next((verdict for verdict in _SEVERITY if verdict in present), Verdict.NOT_JUDGED)


def worst_section(sections: Sequence[Section]) -> Verdict:
    """Return the verdict on a whole report, which passes only if every section could be judged."""
    present = {section.verdict for section in sections}
    return next((verdict for verdict in _SEVERITY_OF_SECTIONS if verdict in present), Verdict.NOT_JUDGED)


def judge(value: float | None, floor: float | None, threshold: Threshold | None) -> Verdict:
    """Compare a value with its threshold.

    A value passes up to max(at_most, noise) and fails above max(fail_above, noise), where noise is floors x
    floor or floor + margin; from `at_least` up it passes, below `fail_below` it fails.
    """
    if value is None:
        return Verdict.NOT_JUDGED
    if threshold is None:
        return Verdict.SHOWN
    passes, fails = limits(threshold, floor)
    if threshold.at_most is not None:
        return Verdict.PASS if value <= passes else Verdict.FAIL if value > fails else Verdict.CAUTION
    return Verdict.PASS if value >= passes else Verdict.FAIL if value < fails else Verdict.CAUTION


def limits(threshold: Threshold, floor: float | None) -> tuple[float, float]:
    """Return up to (or from) where a value passes, and beyond where it fails."""
    if threshold.at_most is None:
        assert threshold.at_least is not None
        assert threshold.fail_below is not None
        return threshold.at_least, threshold.fail_below
    assert threshold.fail_above is not None
    if floor is None or not (threshold.floors or threshold.margin):
        return threshold.at_most, threshold.fail_above
    noise = threshold.floors * floor if threshold.floors else floor + threshold.margin
    return max(threshold.at_most, noise), max(threshold.fail_above, noise)


def in_words(threshold: Threshold | None, floor: float | None, style: str = "number") -> str:
    """Say a threshold in a sentence: "passes up to 0.05, fails above 0.1"."""
    if threshold is None:
        return "no threshold: shown for information"
    passes, fails = limits(threshold, floor)
    if threshold.at_most is None:
        return f"passes from {show(passes, style)}, fails below {show(fails, style)}"
    beyond = "it" if fails == passes else show(fails, style)
    text = f"passes up to {show(passes, style)}, fails above {beyond}"
    if passes > threshold.at_most:
        noise = f"{threshold.floors:g} times the noise floor"
        if threshold.margin:
            noise = f"the noise floor and {threshold.margin:g}"
        text += f" ({noise}; {show(threshold.at_most, style)} without noise)"
    return text


def show(number: float | None, style: str = "number") -> str:
    """Write a number for people: three significant digits, percent with one decimal."""
    if number is None:
        return "–"
    if style == "percent":
        return f"{100 * number:.1f}%"
    if style == "count":
        return f"{number:,.0f}"
    if number != 0 and abs(number) < 0.001:
        return f"{number:.1e}"
    return f"{number:,.3g}" if abs(number) < 1000 else f"{number:,.0f}"


def rows_of(
    value: Mapping[str, float],
    floor: Mapping[str, float],
    holdout: Mapping[str, float],
    worst_high: bool = True,
) -> list[Row]:
    """Line up a measure's values per variable, the worst first."""
    order = sorted(value, key=lambda name: -value[name] if worst_high else value[name])
    return [Row(name, value[name], floor.get(name), holdout.get(name)) for name in order]
