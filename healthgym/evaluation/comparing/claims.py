"""What was published of the four systems, and whether it shows in the systems that are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from healthgym.evaluation.report import Report
from healthgym.evaluation.result import Result


@dataclass(frozen=True)
class Trained:
    """A trained system and its cohort.

    Args:
        name: the run folder's name.
        system: the published system it is a setting of, e.g. "v2".
        parameters: trained numbers.
        steps, seconds: of training, over all starts.
        computed_on: hardware of the last start, in a few words.
        acceptance_rate: share of sampled patients that a guardrail kept; None without rejection.
        cohort: its synthetic patients, a folder, CSV or Parquet.
        released: whether it is a release, which carries no record of training.
        losses: a plot of its training (PNG), if there is one.
        loss_by_third: means of its main loss over the three thirds of training.
    """

    name: str
    system: str
    parameters: int
    steps: int
    seconds: float
    computed_on: str
    acceptance_rate: float | None
    cohort: Path
    released: bool = False
    losses: Path | None = None
    loss_by_third: Mapping[str, tuple[float, float, float]] | None = None


@dataclass(frozen=True)
class Groups:
    """Active kinds of patient for two crossed static variables: those of at least 0.5% of patients."""

    name: str
    real: int
    synthetic: int


@dataclass(frozen=True)
class Judged:
    """A trained system with the report on its cohort."""

    trained: Trained
    report: Report
    groups: Sequence[Groups]

    @property
    def results(self) -> dict[str, Result]:
        """The report's metrics by key."""
        return {result.key: result for section in self.report.sections for result in section.results}

    @property
    def kept_groups(self) -> float:
        """Share of the real active groups that the cohort has too."""
        return sum(each.synthetic for each in self.groups) / max(sum(each.real for each in self.groups), 1)

    def value(self, key: str) -> float | None:
        """Return a metric's value, if it could be taken."""
        result = self.results.get(key)
        return result.value if result else None


@dataclass(frozen=True)
class Claim:
    """Something published, and whether it showed here: yes, no, or undecided (None)."""

    text: str
    source: str
    holds: bool | None
    found: str


def check_claims(judged: Sequence[Judged]) -> list[Claim]:
    """Return the published story of the four systems and whether it shows in these runs."""
    first: dict[str, Judged] = {}
    for each in judged:
        first.setdefault(each.trained.system, each)
    closest = _is_closest(judged)
    return [
        Claim("v1 collapses: it loses groups of patients", _V1, *_when(first, ("v1",), _collapses)),
        Claim("v2 recovers groups that v1 loses", _V2, *_when(first, ("v1", "v2"), _recovers)),
        Claim("v2.5 recovers groups that v1 loses", _SERIES, *_when(first, ("v1", "v2.5"), _recovers)),
        Claim("v3 learns slowly: its loss still falls", _V3, *_when(first, ("v3",), _still_learns)),
        Claim("v3 is faithful: its marginals are closest", _V3, *_when(first, ("v3",), closest)),
    ]


_V1 = "Kuo et al. 2022, and the implementation series (2025) for a lightly trained v1"
_V2 = "Kuo et al. 2023, J. Biomedical Informatics"
_SERIES = "Health Gym implementation series (2025)"
_V3 = "Kuo et al. 2023, arXiv 2303.12281"
_NO_GROUPS = "the schema has no static categorical variables"
_FELL = 0.01  # of the middle third's mean
_CLOSENESS = "marginals.ks"

_Test = Callable[..., tuple[bool | None, str]]


def _when(first: Mapping[str, Judged], needed: Sequence[str], test: _Test) -> tuple[bool | None, str]:
    """Apply a test to the systems that it needs, if they are all here."""
    absent = [system for system in needed if system not in first]
    if absent:
        return None, f"no run of {' and '.join(absent)} was given"
    return test(*(first[system] for system in needed))


def _groups(each: Judged) -> str:
    kept, real = (sum(getattr(group, side) for group in each.groups) for side in ("synthetic", "real"))
    return f"{each.trained.system} keeps {kept} of {real} groups"


def _collapses(v1: Judged) -> tuple[bool | None, str]:
    if not v1.groups:
        return None, _NO_GROUPS
    return v1.kept_groups < 1, _groups(v1)


def _recovers(v1: Judged, other: Judged) -> tuple[bool | None, str]:
    if not v1.groups:
        return None, _NO_GROUPS
    return other.kept_groups > v1.kept_groups, f"{_groups(other)}, {_groups(v1)}"


def _still_learns(v3: Judged) -> tuple[bool | None, str]:
    thirds = (v3.trained.loss_by_third or {}).get("loss")
    if not thirds:
        return None, "there is no record of its training"
    _, middle, last = thirds
    return last < (1 - _FELL) * middle, f"mean loss {middle:.3g} in the second third, {last:.3g} in the last"


def _is_closest(judged: Sequence[Judged]) -> _Test:
    def test(v3: Judged) -> tuple[bool | None, str]:
        values = {each.trained.name: each.value(_CLOSENESS) for each in judged}
        known = {name: value for name, value in values.items() if value is not None}
        if v3.trained.name not in known or len(known) < 2:
            return None, "there is nothing to compare it with"
        shown = ", ".join(f"{name} {value:.3g}" for name, value in known.items())
        return min(known, key=lambda name: known[name]) == v3.trained.name, f"largest KS distance: {shown}"

    return test
