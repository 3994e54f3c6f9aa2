"""A synthetic cohort beside its training data and its holdout, and how a figure is taken from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from healthgym.evaluation.figure import Figure, NotJudgedError, Row, Verdict, in_words, judge, limits, rows_of
from healthgym.evaluation.settings import ReportConfig
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.tally import Combination, Tally, tally_of
from healthgym.schema import Schema
from healthgym.seeds import permutation


class Side:
    """One set of patients: a sample of them as a panel, the tally of all, and a seed for smaller samples."""

    def __init__(
        self,
        name: str,
        panel: Panel,
        combinations: Sequence[Combination],
        tally: Tally | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.panel = panel
        self.combinations = combinations
        self.seed = seed
        self._tally = tally

    @cached_property
    def tally(self) -> Tally:
        """Sums over all patients, not only the sampled ones."""
        return self._tally or tally_of(self.panel, self.combinations)

    @property
    def num_patients(self) -> int:
        """All patients, not only the sampled ones."""
        return self._tally.num_patients if self._tally else self.panel.num_patients


Measure = Callable[[Side, Side], Mapping[str, float]]
"""(real, synthetic) -> {variable: value}; raises NotJudgedError with the reason."""


@dataclass(frozen=True)
class About:
    """What a figure is, in words."""

    key: str
    title: str
    what: str
    source: str
    style: str = "number"
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that a section may look at.

    Args:
        schema: what the columns mean.
        config: thresholds and amounts.
        train: the real patients that the cohort was made from.
        holdout: real patients that its maker never saw, if there are any.
        synthetic: the cohort.
        combinations: static variables crossed in the collapse section.
        raw_static: share of timesteps at which the generator's raw output for a static variable differed.
        identifiers: variables by which an attacker may know a person.
        all_synthetic: called, walks through all synthetic patients where `synthetic` has a sample of them.
        unused: what was given and could not be used, and why, in sentences.
        unfit: share of the cohort's rows, by column and what does not fit the schema there.
        remarks: what does not fit, in sentences.
    """

    schema: Schema
    config: ReportConfig
    train: Side
    holdout: Side | None
    synthetic: Side
    combinations: Sequence[Combination]
    raw_static: Mapping[str, float] = field(default_factory=dict)
    identifiers: Combination = ()
    all_synthetic: Callable[[], Iterator[Panel]] | None = None
    unused: Sequence[str] = ()
    unfit: Mapping[str, float] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @cached_property
    def halves(self) -> list[tuple[Side, Side]]:
        """Training patients against other training patients: two disjoint sets, drawn several times.

        The second is no larger than the synthetic cohort, so that a small cohort is measured against the
        noise of a small cohort.
        """
        panel = self.train.panel
        half = panel.num_patients // 2
        second = min(half, self.synthetic.num_patients)
        splits = []
        for split in range(self.config.num_splits):
            seed = self.config.seed
            order = permutation(panel.num_patients, seed, "noise floor", split)
            first = Side("one half", panel.take(np.sort(order[:half])), self.combinations, seed=seed)
            other = panel.take(np.sort(order[half : half + second]))
            splits.append((first, Side("other half", other, self.combinations, seed=seed)))
        return splits

    def measured(
        self,
        about: About,
        measure: Measure,
        summary: Literal["mean", "largest", "smallest"] = "largest",
        num_splits: int | None = None,
    ) -> Figure:
        """Take a figure: synthetic against training data, between halves, and against the holdout."""
        try:
            value = dict(measure(self.train, self.synthetic))
            floors = [dict(measure(first, second)) for first, second in self.halves[:num_splits]]
            holdout = self._against_holdout(measure)
        except NotJudgedError as reason:
            return self.not_judged(about, str(reason))
        reduce = {"mean": _mean, "largest": _largest, "smallest": _smallest}[summary]
        if not value:
            return self.not_judged(
                about, "The schema has no variable, or the patients no values, that this applies to."
            )
        floor = _mean_of([reduce(numbers) for numbers in floors if numbers])
        per_variable = {
            name: _mean_of([numbers[name] for numbers in floors if name in numbers]) for name in value
        }
        return self.figure(
            about,
            reduce(value),
            floor,
            reduce(holdout) if holdout else None,
            rows=rows_of(
                value,
                {name: number for name, number in per_variable.items() if number is not None},
                holdout,
                worst_high=summary != "smallest",
            ),
        )

    def figure(
        self,
        about: About,
        value: float,
        floor: float | None = None,
        holdout: float | None = None,
        interval: tuple[float, float] | None = None,
        rows: Sequence[Row] = (),
    ) -> Figure:
        """Judge a value against the threshold of its key."""
        threshold = self.config.threshold(about.key)
        return Figure(
            key=about.key,
            title=about.title,
            what=about.what,
            source=about.source,
            value=value,
            floor=floor,
            holdout=holdout,
            interval=interval,
            verdict=judge(value, floor, threshold),
            limit=in_words(threshold, floor, about.style),
            marks=limits(threshold, floor) if threshold else None,
            style=about.style,
            reason=about.note,
            rows=rows,
        )

    def not_judged(self, about: About, reason: str) -> Figure:
        """Return the figure without a value, and why."""
        return Figure(
            key=about.key,
            title=about.title,
            what=about.what,
            source=about.source,
            verdict=Verdict.NOT_JUDGED,
            limit=in_words(self.config.threshold(about.key), None, about.style),
            style=about.style,
            reason=reason,
        )

    def _against_holdout(self, measure: Measure) -> dict[str, float]:
        """Take a measure between holdout and synthetic data, or nothing where there is no holdout."""
        return dict(measure(self.holdout, self.synthetic)) if self.holdout else {}


def _mean(numbers: Mapping[str, float]) -> float:
    return float(np.mean(list(numbers.values())))


def _largest(numbers: Mapping[str, float]) -> float:
    return max(numbers.values())


def _smallest(numbers: Mapping[str, float]) -> float:
    return min(numbers.values())


def _mean_of(numbers: Sequence[float]) -> float | None:
    return float(np.mean(numbers)) if numbers else None
