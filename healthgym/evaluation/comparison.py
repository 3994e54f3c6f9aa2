"""A synthetic cohort with its training data and holdout, and how metrics are computed from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from healthgym.evaluation.concerns import variables_in
from healthgym.evaluation.metric import Metric
from healthgym.evaluation.result import (
    Noise,
    NotJudgedError,
    Result,
    Row,
    Verdict,
    in_words,
    indistinct,
    judge,
    limits,
    rows_of,
    show,
    undecided,
    unfailing,
)
from healthgym.evaluation.settings import ReportConfig, Threshold
from healthgym.evaluation.statistics.anchors import Anchors
from healthgym.evaluation.statistics.findings import Compared
from healthgym.evaluation.statistics.hashes import groups_of, hash_patients
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.sufficient import Combination, SufficientStatistics, statistics_of
from healthgym.schema import Schema
from healthgym.seeds import permutation

_LEVEL = 0.001
TOO_FEW = (
    "Not judged: too few patients. Samples of real patients this small differ from each other as much as a "
    "faulty cohort would."
)
_UNFAILING = (
    "Not judged: the noise floor is so uncertain that no value could fail. More patients, or more splits of "
    "the real ones (num_splits in the report's settings), would make it more certain."
)


class Side:
    """One set of patients: a sample as a panel, sums over all, and a seed for smaller samples."""

    def __init__(
        self,
        name: str,
        panel: Panel,
        combinations: Sequence[Combination],
        statistics: SufficientStatistics | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.panel = panel
        self.combinations = combinations
        self.seed = seed
        self._statistics = statistics

    @cached_property
    def statistics(self) -> SufficientStatistics:
        """Sums over all patients, not only the sampled ones."""
        return self._statistics or statistics_of(self.panel, self.combinations)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Patients per number of timesteps, shape (longest + 1,)."""
        return (
            self._statistics.lengths
            if self._statistics
            else np.bincount(self.panel.lengths_N).astype(np.int64)
        )

    @cached_property
    def hashes_N(self) -> NDArray[np.uint64]:
        """One number per patient, equal for identical patients."""
        return self._statistics.hashes_N if self._statistics else hash_patients(self.panel)

    @cached_property
    def groups_N(self) -> NDArray[np.int8]:
        """Each patient's group by how many values are recorded, from `groups_of`."""
        return self._statistics.groups_N if self._statistics else groups_of(self.panel)

    @property
    def num_patients(self) -> int:
        """All patients, not only the sampled ones."""
        return self._statistics.num_patients if self._statistics else self.panel.num_patients


Compute = Callable[[Side, Side], Mapping[str, float]]
"""Of a metric: (real, synthetic) -> {variable: value}; raises NotJudgedError with the reason."""


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
        shared_anchors: those of another comparison with the same real patients and as many synthetic ones.
        drawn: whether sections have plots.
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
    shared_anchors: Anchors | None = None
    drawn: bool = True

    @cached_property
    def anchors(self) -> Anchors:
        """The noise between samples of real patients of these sizes, and independent variables."""
        if self.shared_anchors:
            return self.shared_anchors
        return anchors_of(self.config, self.train, self.holdout, self.synthetic.panel.num_patients)

    @cached_property
    def compared(self) -> Mapping[str, Compared]:
        """Every statistic of the cohort beside that of the training data."""
        return self.anchors.compared(self.synthetic.panel)

    @cached_property
    def halves(self) -> tuple[Side, Side]:
        """Two disjoint sets of training patients, the second no larger than the synthetic cohort."""
        panel = self.train.panel
        half = panel.num_patients // 2
        second = min(half, self.synthetic.num_patients)
        seed = self.config.seed
        order = permutation(panel.num_patients, seed, "noise floor", 0)
        first = Side("one half", panel.take(np.sort(order[:half])), self.combinations, seed=seed)
        other = panel.take(np.sort(order[half : half + second]))
        return first, Side("other half", other, self.combinations, seed=seed)

    def metric_result(
        self, about: Metric, compute: Compute, counts: Literal["largest", "smallest"] = "largest"
    ) -> Result:
        """Compute a metric of synthetic and training patients, and its noise floor.

        Args:
            about: what the metric is.
            compute: (real, synthetic) -> {variable: value}; 0 is perfect unless the smallest value counts.
            counts: which of the variables' values is the metric.
        """
        small_is_good = counts == "largest"
        reduce = max if small_is_good else min
        try:
            value = dict(compute(self.train, self.synthetic))
            splits = self.anchors.once(f"{about.key} noise", lambda: self._noise(compute, small_is_good))
        except NotJudgedError as reason:
            return self.not_judged(about, str(reason))
        if not value:
            return self.not_judged(
                about, "The schema has no variable, or the patients no values, that this applies to."
            )
        per_variable = {
            name: float(np.mean([numbers[name] for numbers in splits if name in numbers]))
            for name in value
            if any(name in numbers for numbers in splits)
        }
        noise = noise_of(
            [reduce(numbers.values()) for numbers in splits if numbers], None, small_is_good=small_is_good
        )
        rows = [
            replace(row, about=variables_in([row.name], self.schema))
            for row in rows_of(value, per_variable, worst_high=small_is_good)
        ]
        finding = _said(rows, noise, small_is_good, about.style)
        return self.result(about, reduce(value.values()), noise, rows=rows, finding=finding)

    def result(
        self,
        about: Metric,
        value: float,
        noise: Noise | None = None,
        interval: tuple[float, float] | None = None,
        rows: Sequence[Row] = (),
        finding: str = "",
    ) -> Result:
        """Judge a value, or its interval, against the threshold of its key and its anchors."""
        threshold = self.config.threshold(about.key)
        verdict = judge(value, noise, threshold, interval, about.style)
        return Result(
            key=about.key,
            title=about.title,
            what=about.what,
            source=about.source,
            value=value,
            noise=noise,
            interval=interval,
            verdict=verdict,
            limit=in_words(threshold, noise, about.style),
            marks=None
            if threshold is None or unfailing(threshold, noise, about.style)
            else limits(threshold, noise),
            style=about.style,
            reason=" ".join(
                filter(None, [self._why(verdict, value, noise, interval, threshold, about.style), about.note])
            ),
            rows=rows,
            finding=finding,
            counts_all=about.counts_all,
        )

    def not_judged(self, about: Metric, reason: str) -> Result:
        """Return the metric without a value, with the reason."""
        return Result(
            key=about.key,
            title=about.title,
            what=about.what,
            source=about.source,
            verdict=Verdict.NOT_JUDGED,
            limit=in_words(self.config.threshold(about.key), None, about.style),
            style=about.style,
            reason=reason,
        )

    def _why(
        self,
        verdict: Verdict,
        value: float,
        noise: Noise | None,
        interval: tuple[float, float] | None,
        threshold: Threshold | None,
        style: str,
    ) -> str:
        """Say why a metric with a value is not judged."""
        if verdict is not Verdict.NOT_JUDGED or threshold is None:
            return ""
        if indistinct(threshold, noise):
            return TOO_FEW
        if unfailing(threshold, noise, style):
            return _UNFAILING
        if interval is None:
            return TOO_FEW
        num_real = self.train.num_patients + (self.holdout.num_patients if self.holdout else 0)
        passes = limits(threshold, noise)[0]
        return undecided(value, interval, passes, self.synthetic.num_patients, num_real, style)

    def _side(self, panel: Panel) -> Side:
        return Side("real patients", panel, self.combinations, seed=self.config.seed)

    def _noise(self, compute: Compute, small_is_good: bool) -> list[dict[str, float]]:
        """Return the metric between sets of real patients, scaled to the sample sizes compared."""
        found = []
        for number in range(self.config.num_splits):
            first, other = self.anchors.once(f"sides {number}", partial(self._split, number))
            widening = self.anchors.widening(first.num_patients, other.num_patients)
            factor = widening if small_is_good else 1.0
            found.append({name: x / factor for name, x in compute(first, other).items()})
        return found

    def _split(self, number: int) -> tuple[Side, Side]:
        first, other = self.anchors.split(number)
        return self._side(first), self._side(other)


def anchors_of(config: ReportConfig, train: Side, holdout: Side | None, num_synthetic: int) -> Anchors:
    """Return the anchors of cohorts of which `num_synthetic` patients are compared."""
    return Anchors(
        train.panel, holdout.panel if holdout else None, num_synthetic, config.num_splits, config.seed
    )


def noise_of(values: Sequence[float], independent: float | None, small_is_good: bool = True) -> Noise | None:
    """Return the anchors of a metric, given its values among real patients."""
    if len(values) < 2:
        return None
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    # The limit of one more draw of a normal distribution known from so few (Student's t).
    quantile = float(stats.t.isf(_LEVEL, len(values) - 1)) * np.sqrt(1 + 1 / len(values))
    return Noise(mean, mean + (1 if small_is_good else -1) * quantile * deviation, independent)


def _said(rows: Sequence[Row], noise: Noise | None, small_is_good: bool, style: str) -> str:
    """Say the worst variable's value, and what samples of real patients reach."""
    name = f"{rows[0].name}: " if len(rows) > 1 else ""
    end = "most" if small_is_good else "least"
    real = f" (between samples of real patients at {end} {show(noise.limit, style)})" if noise else ""
    return f"{name}{show(rows[0].value, style)}{real}"
