"""What several metrics that do not pass have in common: one variable, or one class of patients."""

from collections import Counter
from collections.abc import Iterable, Sequence

from healthgym.evaluation.result import Result, Row, Section, Verdict
from healthgym.evaluation.statistics.findings import Difference
from healthgym.schema import Schema

_FEWEST = 3  # metrics; two may meet by chance
_MOST_NAMED = 2  # that as many metrics and rows are about
_SINGLES = frozenset(
    {
        "distribution", "mean", "deviation", "tail", "class", "missing",
        "own deviation", "step", "switch", "trend", "transition", "measured",
    }
)  # fmt: skip


def concerned(difference: Difference, schema: Schema) -> tuple[str, ...]:
    """Return the variables that a statistic is about, and the class of patients if it is of one."""
    first, second = difference.name
    if difference.family in _SINGLES:
        return variables_in([first], schema)
    if difference.family == "stratum":
        group, _, first = first.partition(": ")
        return (*variables_in([first, second], schema), group)
    return variables_in([first, second], schema)


def variables_in(names: Iterable[str], schema: Schema) -> tuple[str, ...]:
    """Return the schema's variables among names of columns: "HR", "change of HR", "ward = high"."""
    known = set(schema.names())
    found = []
    for name in names:
        shorter = (name, name.removeprefix("change of "), name.partition(" = ")[0])
        found += [each for each in shorter if each in known][:1]
    return tuple(dict.fromkeys(found))


def shared_concern(sections: Sequence[Section]) -> str:
    """Say which variable or class of patients most of the metrics concern that fail; empty if there is none.

    A metric concerns what half of its rows or more are about. Metrics that ask for caution count where fewer
    than three fail.
    """
    results = [result for section in sections for result in section.results]
    for verdicts, words in (
        ((Verdict.FAIL,), "that fail"),
        ((Verdict.FAIL, Verdict.CAUTION), "that fail or ask for caution"),
    ):
        found = [result for result in results if result.verdict in verdicts]
        if len(found) >= _FEWEST:
            return _said(found, words)
    return ""


def _said(results: Sequence[Result], words: str) -> str:
    concern = [_concern(result) for result in results]
    counts = Counter(name for each in concern for name in each)
    if not counts:
        return ""
    rows = Counter(name for result in results for row in result.rows for name in row.about)
    most = max(counts.values())
    if most < _FEWEST or 2 * most <= len(results):
        return ""
    tied = [name for name, count in counts.items() if count == most]
    first = sorted(name for name in tied if rows[name] == max(rows[each] for each in tied))
    # Of a variable and one of its classes, the class says more.
    named = [name for name in first if not any(each.startswith(f"{name} = ") for each in first)]
    if len(named) > _MOST_NAMED:
        return ""
    all_of = "All" if most == len(results) else f"{most} of the"
    return f"{all_of} {len(results)} metrics {words} concern {' and '.join(named)}."


def _beyond(result: Result) -> Sequence[Row]:
    """Return the rows beyond where the metric passes; all where none is."""
    if result.marks is None:
        return result.rows
    passes, fails = result.marks
    sign = 1 if passes <= fails else -1
    return [row for row in result.rows if row.value is None or sign * (row.value - passes) > 0] or result.rows


def _concern(result: Result) -> set[str]:
    """Return what at least half of a metric's rows are about, of those that do not pass alone."""
    rows = [set(row.about) for row in _beyond(result)]
    return {name for name in set().union(*rows) if 2 * sum(name in row for row in rows) >= len(rows)}
