"""Several trained systems on the same patients: one page that puts their cohorts side by side.

The page shows what each system cost, every figure of the report, how many kinds of patient each cohort
has, all pictures in a row, the course of training, and whether what was published of the systems holds
here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from healthgym.errors import ConfigError
from healthgym.evaluation.collapse import COMMON
from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.figure import Figure, Picture
from healthgym.evaluation.page import environment
from healthgym.evaluation.report import Report, compare, make_report, write_report
from healthgym.evaluation.settings import load_report_config
from healthgym.evaluation.sources import open_real, open_synthetic
from healthgym.files import write_json, write_text
from healthgym.schema import load_schema

PAGE_VERSION = 1


@dataclass(frozen=True)
class Trained:
    """A trained system and its cohort.

    Args:
        name: the run folder's name.
        system: the published system it is a setting of, e.g. "v2".
        parameters: trained numbers.
        steps, minutes: of training.
        acceptance_rate: share of sampled patients that a guardrail kept; 1 where there is none.
        cohort: its synthetic patients, a folder, CSV or Parquet.
        losses: a picture of its training (PNG), if there is one.
        loss_by_third: means of its main loss over the three thirds of training.
    """

    name: str
    system: str
    parameters: int
    steps: int
    minutes: float
    acceptance_rate: float
    cohort: Path
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
    def figures(self) -> dict[str, Figure]:
        """The report's figures by key."""
        return {figure.key: figure for section in self.report.sections for figure in section.figures}

    @property
    def kept_groups(self) -> float:
        """Share of the real active groups that the cohort has too."""
        return sum(each.synthetic for each in self.groups) / max(sum(each.real for each in self.groups), 1)

    def value(self, key: str) -> float | None:
        """Return a figure's value, if it could be taken."""
        figure = self.figures.get(key)
        return figure.value if figure else None


@dataclass(frozen=True)
class Claim:
    """Something published, and whether it showed here: yes, no, or not to be said."""

    text: str
    source: str
    holds: bool | None
    found: str


def compare_systems(
    trained: Sequence[Trained],
    schema: Path,
    real: Path,
    out: Path,
    config: Path,
    holdout: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[Judged]:
    """Judge each cohort against the same real patients; write the reports and the page.

    Args:
        trained: the systems, in the order of the page.
        schema: what the columns mean.
        real: training patients: CSV, Parquet or prepared cohort.
        out: folder for compare.html, compare.json and a report per system.
        config: settings and thresholds of the reports.
        holdout: patients unseen in training; a prepared cohort brings its own.
        overrides: of the settings, as `key.path=value`.

    Raises:
        HealthgymError: a file cannot be used, with the reason.
    """
    names = [each.name for each in trained]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"Two runs have the name '{twice[0]}', which names their reports. Rename a folder.")
    read_schema, settings = load_schema(schema), load_report_config(config, tuple(overrides))
    train = open_real(real, read_schema)
    brought = real if holdout is None and real.suffix.lower() == ".h5" else holdout
    unseen = open_real(brought, read_schema, "holdout") if brought else None
    judged = []
    for each in trained:
        cohort = open_synthetic(each.cohort, read_schema)
        comparison = compare(read_schema, settings, train, unseen, cohort)
        report = make_report(comparison, cohort.facts, f"{each.name} ({each.system})")
        write_report(report, out / "reports" / each.name)
        judged.append(Judged(each, report, count_groups(comparison)))
    write_text(out / "compare.html", _page(judged, read_schema.title or read_schema.name))
    write_json(out / "compare.json", to_json(judged))
    return judged


def count_groups(comparison: Comparison) -> list[Groups]:
    """Count the active combinations of each pair of static variables, real and kept."""
    crossed = [names for names in comparison.combinations if len(names) > 1]
    counted = []
    for names in crossed or list(comparison.combinations):
        real, synthetic = (
            side.tally.coverage[names] / max(side.tally.coverage[names].sum(), 1)
            for side in (comparison.train, comparison.synthetic)
        )
        active = real >= COMMON
        kept = int(np.sum(active & (synthetic >= COMMON)))
        counted.append(Groups(" x ".join(names), int(active.sum()), kept))
    return counted


def to_json(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return the content of compare.json."""
    return {
        "kind": "healthgym comparison",
        "version": PAGE_VERSION,
        "systems": [
            {
                "name": each.trained.name,
                "system": each.trained.system,
                "parameters": each.trained.parameters,
                "steps": each.trained.steps,
                "minutes": each.trained.minutes,
                "acceptance_rate": each.trained.acceptance_rate,
                "verdict": str(each.report.verdict),
                "groups": [vars(group) for group in each.groups],
                "figures": {key: figure.value for key, figure in each.figures.items()},
            }
            for each in judged
        ],
        "claims": [vars(claim) for claim in check_claims(judged)],
    }


# --- what was published --------------------------------------------------------------------------


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


# --- the page ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """A figure of the report across the systems; `best` are the places of the best values."""

    figure: Figure
    cells: Sequence[Figure]
    best: frozenset[int]


def _page(judged: Sequence[Judged], title: str) -> str:
    sections = judged[0].report.sections
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            title=title,
            judged=judged,
            claims=check_claims(judged),
            sections=[(section, _lines(judged, place)) for place, section in enumerate(sections)],
            pictures=[(section.title, _rows(judged, place)) for place, section in enumerate(sections)],
        )
    )


def _lines(judged: Sequence[Judged], place: int) -> list[_Line]:
    lines = []
    for figure in judged[0].report.sections[place].figures:
        cells = [each.figures[figure.key] for each in judged]
        lines.append(_Line(figure, cells, _best(cells, judged[0].report.thresholds)))
    return lines


def _best(cells: Sequence[Figure], thresholds: Mapping[str, Any]) -> frozenset[int]:
    """Return the places of the best values, where a threshold says which way is better."""
    section, _, name = cells[0].key.partition(".")
    threshold = thresholds.get(section, {}).get(name)
    values = {place: cell.value for place, cell in enumerate(cells) if cell.value is not None}
    if threshold is None or len(set(values.values())) < 2:
        return frozenset()
    best = min(values.values()) if threshold.get("at_most") is not None else max(values.values())
    return frozenset(place for place, value in values.items() if value == best)


def _rows(judged: Sequence[Judged], place: int) -> list[list[tuple[str, Picture]]]:
    """Return a row per picture: one for each system, or one alone where all are the same."""
    rows = []
    for picture in judged[0].report.sections[place].pictures:
        row = [
            (each.trained.name, found)
            for each in judged
            for found in each.report.sections[place].pictures
            if found.name == picture.name
        ]
        same = len({found.svg for _, found in row}) == 1
        rows.append([("all", row[0][1])] if same and len(row) > 1 else row)
    return rows
