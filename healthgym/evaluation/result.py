"""What a report is made of: metrics with a verdict, in sections, with plots."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from healthgym.evaluation.settings import Threshold


class Verdict(StrEnum):
    """The result of comparing a metric with its threshold; `worst` has the order of severity."""

    PASS = "pass"
    CAUTION = "caution"
    FAIL = "fail"
    NOT_JUDGED = "not judged"
    SHOWN = "shown"


_SEVERITY = (Verdict.FAIL, Verdict.CAUTION, Verdict.PASS, Verdict.NOT_JUDGED, Verdict.SHOWN)
_SEVERITY_OF_SECTIONS = (Verdict.FAIL, Verdict.CAUTION, Verdict.NOT_JUDGED, Verdict.PASS, Verdict.SHOWN)


_OBTAINABLE = 10  # times the real patients at hand, as the sentence says


class NotJudgedError(Exception):
    """Raised if a metric cannot be computed; the message says why in a sentence."""


@dataclass(frozen=True)
class Row:
    """A metric for one variable (or pair, or class): value, mean noise, and what each side has.

    `about` names the variables and groups of patients that it concerns; report.json has them in the name.
    """

    name: str
    value: float | None
    floor: float | None = None
    real: float | None = None
    synthetic: float | None = None
    about: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the row's part of report.json."""
        return {name: content for name, content in vars(self).items() if name != "about"}


@dataclass(frozen=True)
class Noise:
    """The two anchors of a metric.

    Args:
        mean: the noise floor, that is, what the metric is on average between samples of real patients of
            these sizes.
        limit: what one sample of real patients in a thousand reaches.
        independent: what it is for a cohort of independent variables; None where that says nothing.
    """

    mean: float
    limit: float
    independent: float | None = None


@dataclass(frozen=True)
class Result:
    """One number of the report.

    Args:
        key: "section.metric", as in the thresholds.
        title: two or three words.
        what: one to three plain sentences that say what it is.
        source: where the definition comes from.
        value: synthetic against training data; None where it could not be judged, or would disclose how
            many of a few real patients there are.
        noise: the two anchors; None where the metric has none.
        interval: 95% interval of the value.
        verdict: against `threshold`.
        limit: the threshold in words.
        marks: up to (or from) where it passes, and beyond where it fails.
        style: how numbers are written: "number", "percent" or "count".
        reason: why it could not be judged, or what to know about the value.
        rows: the metric per variable, worst first.
        finding: what was found, in words and units, for people who read no more than that.
        shown: what the page shows instead of the value; empty where the value itself does.
        counts_all: whether all patients are counted where other metrics see a sample.
    """

    key: str
    title: str
    what: str
    source: str
    value: float | None = None
    noise: Noise | None = None
    interval: tuple[float, float] | None = None
    verdict: Verdict = Verdict.SHOWN
    limit: str = ""
    marks: tuple[float, float] | None = None
    style: str = "number"
    reason: str = ""
    rows: Sequence[Row] = ()
    finding: str = ""
    shown: str = ""
    counts_all: bool = False

    @property
    def floor(self) -> float | None:
        """The noise floor: the difference expected between two samples of real patients of this size."""
        return self.noise.mean if self.noise else None

    def __post_init__(self) -> None:
        rows = [number for row in self.rows for number in (row.value, row.floor, row.real, row.synthetic)]
        anchors = (self.noise.mean, self.noise.limit, self.noise.independent) if self.noise else ()
        for number in (self.value, *anchors, *(self.interval or ()), *rows):
            assert number is None or math.isfinite(number), f"{self.key}: {number} is no finite number"

    def to_json(self) -> dict[str, Any]:
        """Return the metric's part of report.json."""
        return {
            "key": self.key,
            "title": self.title,
            "what": self.what,
            "value": self.value,
            "interval_95": list(self.interval) if self.interval else None,
            "noise_floor": self.floor,
            "noise_limit": self.noise.limit if self.noise else None,
            "independent": self.noise.independent if self.noise else None,
            "verdict": str(self.verdict),
            "threshold": self.limit,
            "finding": self.finding,
            "note": self.reason,
            "source": self.source,
            "rows": [row.to_json() for row in self.rows],
        }


@dataclass(frozen=True)
class Figure:
    """A drawing: the name of its file, the file's content, a caption, and what stands in one row with it."""

    name: str
    svg: str
    caption: str
    group: str = ""


@dataclass
class Section:
    """A part of the report; `essential` are the keys of metrics without which it cannot pass."""

    key: str
    title: str
    intro: str
    results: list[Result] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    essential: frozenset[str] = frozenset()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its metrics; it passes only if the essential ones could be judged."""
        found = worst([result.verdict for result in self.results])
        unjudged = {result.key for result in self.results if result.verdict is Verdict.NOT_JUDGED}
        return Verdict.NOT_JUDGED if found is Verdict.PASS and unjudged & self.essential else found

    @property
    def because(self) -> str:
        """The first metric that its verdict rests on, and how many more; empty if it passes."""
        if self.verdict in (Verdict.PASS, Verdict.SHOWN):
            return ""
        found = [result for result in self.results if result.verdict is self.verdict]
        if self.verdict is Verdict.NOT_JUDGED:
            found = [result for result in found if result.key in self.essential] or found
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return found[0].title + more if found else ""

    def to_json(self) -> dict[str, Any]:
        """Return the section's part of report.json."""
        return {
            "key": self.key,
            "title": self.title,
            "verdict": str(self.verdict),
            "notes": self.notes,
            "figures": [result.to_json() for result in self.results],
            "pictures": [figure.name for figure in self.figures],
        }


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst of some verdicts; "not judged" only where nothing was judged."""
    present = set(verdicts)
    return next((verdict for verdict in _SEVERITY if verdict in present), Verdict.NOT_JUDGED)


def worst_section(sections: Sequence[Section]) -> Verdict:
    """Return the verdict on a whole report, which passes only if every section is judged."""
    present = {section.verdict for section in sections}
    return next((verdict for verdict in _SEVERITY_OF_SECTIONS if verdict in present), Verdict.NOT_JUDGED)


def judge(
    value: float | None,
    noise: Noise | None,
    threshold: Threshold | None,
    interval: tuple[float, float] | None = None,
    style: str = "number",
) -> Verdict:
    """Compare a value, or its interval, with its limits.

    It passes only if the end of the interval that is nearer to failing passes, and fails only if the other
    end fails; it asks for caution if the whole interval lies beyond passing. What is none of these is not
    judged: more patients would decide. Nor is what independent variables, or every value, would pass.
    """
    if value is None:
        return Verdict.NOT_JUDGED
    if threshold is None:
        return Verdict.SHOWN
    if indistinct(threshold, noise) or unfailing(threshold, noise, style):
        return Verdict.NOT_JUDGED
    passes, fails = limits(threshold, noise)
    low, high = interval or (value, value)
    if threshold.at_most is None:
        passes, fails, low, high = -passes, -fails, -high, -low
    if high <= passes:
        return Verdict.PASS
    if low > fails:
        return Verdict.FAIL
    return Verdict.CAUTION if low > passes else Verdict.NOT_JUDGED


def indistinct(threshold: Threshold, noise: Noise | None) -> bool:
    """Return whether even a cohort of independent variables would pass: real patients vary as much."""
    if noise is None or noise.independent is None:
        return False
    passes, _ = limits(threshold, noise)
    return noise.independent <= passes if threshold.at_most is not None else noise.independent >= passes


def unfailing(threshold: Threshold, noise: Noise | None, style: str = "number") -> bool:
    """Return whether the noise floor lets every value pass: a share is at most 1, a ratio at least 0."""
    if noise is None:
        return False
    if threshold.at_least is not None:
        return noise.limit <= 0 < threshold.at_least
    return style == "percent" and threshold.at_most is not None and noise.limit >= 1 > threshold.at_most


def limits(threshold: Threshold, noise: Noise | None) -> tuple[float, float]:
    """Return up to (or from) where a value passes, and beyond where it fails.

    The noise between samples of real patients passes. A value fails beyond the limit of the threshold, or
    beyond the midpoint of noise and independent variables if that is stricter.
    """
    small_is_good = threshold.at_most is not None
    passes, fails = (
        (threshold.at_most, threshold.fail_above)
        if small_is_good
        else (threshold.at_least, threshold.fail_below)
    )
    assert passes is not None
    assert fails is not None
    if noise is None:
        return passes, fails
    looser, stricter = (max, min) if small_is_good else (min, max)
    passes = looser(passes, noise.limit)
    if noise.independent is not None:
        fails = stricter(fails, (noise.mean + noise.independent) / 2)
    return passes, looser(fails, passes)


def in_words(threshold: Threshold | None, noise: Noise | None, style: str = "number") -> str:
    """Say a threshold in a sentence: "passes up to 0.05, fails above 0.1"."""
    if threshold is None:
        return "no threshold: shown for information"
    if unfailing(threshold, noise, style):
        return "no value could fail: the noise floor is too uncertain"
    passes, fails = limits(threshold, noise)
    if threshold.at_most is None:
        text = f"passes from {show(passes, style)}, fails below {show(fails, style)}"
    else:
        beyond = "it" if fails == passes else show(fails, style)
        text = f"passes up to {show(passes, style)}, fails above {beyond}"
        if style == "percent" and fails >= 1 > passes:  # no share is larger
            text = f"passes up to {show(passes, style)}, asks for caution above it and never fails"
    if noise is not None:
        end = "least" if threshold.at_most is None else "most"
        text += f"; between samples of real patients at {end} {show(noise.limit, style)}"
        if noise.independent is not None:
            text += f", with independent variables {show(noise.independent, style)}"
    return text


def undecided(
    value: float,
    interval: tuple[float, float],
    passes: float,
    num_patients: int,
    num_real: int,
    style: str = "number",
) -> str:
    """Say that an interval holds the limit, and about how many patients would decide.

    The width of an interval falls with the root of the number of patients. No more are named than ten times
    the real patients at hand, which could hardly be obtained.
    """
    width = max(abs(value - end) for end in interval)
    wanted = num_patients * (width / max(abs(value - passes), 1e-9)) ** 2
    amount = (
        f"about {int(float(f'{wanted:.2g}')):,} patients would decide"
        if wanted <= _OBTAINABLE * num_real
        else "more than ten times the real patients at hand would be needed to decide"
    )
    low, high = (show(end, style) for end in interval)
    return (
        f"Inconclusive: from {low} to {high}, the 95% interval lies on both sides of {show(passes, style)}, "
        f"the limit for a pass; {amount}."
    )


def show(number: float | None, style: str = "number") -> str:
    """Write a number for people: three significant digits; percent with one decimal, or one digit if tiny."""
    if number is None:
        return "–"
    if style == "percent":
        if 0 < abs(number) < 0.0005:
            return f"{100 * number:.1g}%"
        return f"{round(100 * number, 1) + 0.0:.1f}%"
    if style == "count":
        return f"{number:,.0f}"
    if number != 0 and abs(number) < 0.001:
        return f"{number:.1e}"
    return f"{number:,.3g}" if abs(number) < 1000 else f"{number:,.0f}"


def rows_of(
    value: Mapping[str, float],
    floor: Mapping[str, float],
    worst_high: bool = True,
) -> list[Row]:
    """Line up a metric's values per variable, the worst first."""
    order = sorted(value, key=lambda name: -value[name] if worst_high else value[name])
    return [Row(name, value[name], floor.get(name)) for name in order]
