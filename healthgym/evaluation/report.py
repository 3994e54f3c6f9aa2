"""Judge a cohort and write the report: report.json, report.html and its plots."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from healthgym.data.sequences import PreparedCohort
from healthgym.evaluation.build import compare, refuse_few
from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.metric import metrics
from healthgym.evaluation.pages.page import render
from healthgym.evaluation.pages.summary import small_groups, table
from healthgym.evaluation.result import Section, Verdict, show, worst_section
from healthgym.evaluation.sections import (
    collapse,
    discriminability,
    dynamics,
    followup,
    joint,
    marginals,
    privacy,
    validity,
)
from healthgym.evaluation.sections.use import utility
from healthgym.evaluation.settings import ReportConfig, load_report_config
from healthgym.evaluation.sources import (
    open_real,
    open_synthetic,
    schema_for,
    stated_patients,
    title_of,
)
from healthgym.evaluation.words import reword
from healthgym.faults import refused
from healthgym.files import write_json, write_text
from healthgym.schema import Schema

REPORT_VERSION = 2
_LONGEST_NAME = 80
_LEAD = (
    "Compares a synthetic cohort with the real patients it was made from and with held-out patients, "
    "relative to the differences between samples of real patients."
)

SECTIONS: dict[str, Callable[[Comparison], Section]] = {
    "privacy": privacy.section,
    "validity": validity.section,
    "marginals": marginals.section,
    "joint": joint.section,
    "dynamics": dynamics.section,
    "follow_up": followup.section,
    "collapse": collapse.section,
    "discriminability": discriminability.section,
    "utility": utility.section,
}


@dataclass(frozen=True)
class Report:
    """All sections of what was judged, and what it was; `lead` says in a sentence what the page is."""

    title: str
    facts: dict[str, str]
    sections: Sequence[Section]
    thresholds: dict[str, Any]
    lead: str = _LEAD
    small_groups: str = ""
    resembles_nobody: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its sections."""
        return worst_section(self.sections)

    def lines(self) -> list[str]:
        """Return a line for each section: its title, its verdict, and what that rests on."""
        width = max(len(section.title) for section in self.sections)
        return [
            f"  {section.title:<{width}}  {section.verdict:<10}  {section.because}".rstrip()
            for section in self.sections
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the content of report.json."""
        return {
            "kind": "healthgym report",
            "version": REPORT_VERSION,
            "title": self.title,
            "lead": self.lead,
            "verdict": str(self.verdict),
            "facts": self.facts,
            "small_groups": self.small_groups,
            "resembles_nobody": self.resembles_nobody,
            "sections": [section.to_json() for section in self.sections],
            "thresholds": self.thresholds,
        }


def evaluate(
    schema: Path | None,
    real: Path,
    synthetic: Path,
    out: Path,
    config: Path,
    holdout: Path | None = None,
    overrides: Sequence[str] = (),
) -> Report:
    """Judge a cohort in files and write the report; `healthgym evaluate` says what the files are.

    Without a schema, that of a prepared cohort of real patients is taken.

    Raises:
        HealthgymError: a file cannot be used, with the reason.
    """
    settings = load_report_config(config, tuple(overrides))
    report = judge(schema_for(schema, real), settings, real, synthetic, holdout)
    write_report(report, out)
    return report


def judge(
    schema: Schema,
    settings: ReportConfig,
    real: Path | pd.DataFrame | PreparedCohort,
    synthetic: Path | pd.DataFrame,
    holdout: Path | pd.DataFrame | None = None,
    progress: bool | None = None,
) -> Report:
    """Judge a cohort in files or in memory.

    Args:
        schema: the meaning of the columns.
        settings: of the report.
        real, synthetic, holdout: the patients; a prepared cohort has its own holdout.
        progress: whether to show a progress bar; by default, on a terminal only.

    Raises:
        HealthgymError: it cannot be judged, with the reason.
    """
    cohort = open_synthetic(synthetic, schema)
    compared = cohort.schema or schema
    train = open_real(real, schema, "train", compared)
    both = isinstance(real, PreparedCohort) or (isinstance(real, Path) and real.suffix.lower() == ".h5")
    held = real if holdout is None and both else holdout
    unseen = None if held is None else open_real(held, schema, "holdout", compared)
    settings = settings.without({v.name for v in schema.encoded} - set(compared.names()))
    comparison = compare(compared, settings, train, unseen, cohort)
    return make_report(comparison, train.facts | cohort.facts, title_of(schema, train), progress)


def rehearse(real: Path, synthetic: Path, config: Path, overrides: Sequence[str] = ()) -> None:
    """Refuse sets of too few patients before they are read, where files say how many they hold.

    Raises:
        TableError: with how many are needed.
    """
    least = load_report_config(config, tuple(overrides)).min_patients
    for path in (real, synthetic):
        number = stated_patients(path)
        if number is not None:
            refuse_few(str(path), number, least)


def make_report(
    comparison: Comparison, facts: dict[str, str], title: str = "", progress: bool | None = None
) -> Report:
    """Compute every section, with a progress bar: always, never, or (None) on a terminal only."""
    sections = []
    hidden = None if progress is None else not progress
    bar = tqdm(SECTIONS.items(), desc="report", unit="section", disable=hidden)
    # The models fitted here are small: OpenMP threads wait for each other more than they work, on a busy
    # machine very much more.
    with threadpool_limits(limits=1, user_api="openmp"):
        for name, section in bar:
            bar.set_postfix_str(name)
            sections.append(section(comparison))
            sections[-1].notes += _sampled(comparison, sections[-1])
            reword(sections[-1], comparison.schema)
    nobody = resembles_nobody(sections)
    return Report(
        title or comparison.schema.title or comparison.schema.name,
        _facts(comparison) | facts,
        sections,
        comparison.config.model_dump(mode="json", exclude_none=True)["thresholds"],
        small_groups=small_groups(
            {
                " x ".join(names): comparison.train.statistics.coverage[names].ravel().tolist()
                for names in comparison.combinations
            }
        ),
        resembles_nobody=nobody,
    )


def resembles_nobody(sections: Sequence[Section]) -> str:
    """Mark passing privacy metrics as not judged if the synthetic patients resemble no real ones.

    Distances to such patients are large, so attacks fail without being evidence of privacy. Returns that in a
    sentence, empty if they do resemble real patients.
    """
    keys = {each.key for section in metrics().values() for each in section.values() if each.gross}
    results = [result for section in sections for result in section.results if result.key in keys]
    gross = [result for result in results if result.verdict is Verdict.FAIL]
    if not gross:
        return ""
    said = (
        f"The cohort resembles hardly any real patient ({gross[0].title.lower()}: "
        f"{show(gross[0].value, gross[0].style)}, which fails): failed attacks are therefore no evidence "
        "of privacy."
    )
    for section in sections:
        if section.key == "privacy":
            section.results = [
                replace(result, verdict=Verdict.NOT_JUDGED, reason=said, finding="")
                if result.verdict is Verdict.PASS
                else result
                for result in section.results
            ]
    return said


def _sampled(comparison: Comparison, section: Section) -> list[str]:
    """Say what of a section was taken from a sample of a large set."""
    sampled = [
        f"{side.panel.num_patients:,} of {side.num_patients:,} patients ({side.name})"
        for side in (comparison.train, comparison.synthetic)
        if side.panel.num_patients < side.num_patients
    ]
    if not sampled:
        return []
    chosen = f"{' and '.join(sampled)}, chosen at random"
    counted = [result.title for result in section.results if result.counts_all]
    if not counted:
        return [f"The metrics use {chosen}."]
    others = f"Unless a note says otherwise, the other metrics use {chosen}."
    return [f"All patients are counted for: {', '.join(counted).lower()}. {others}"]


def write_report(report: Report, folder: Path) -> None:
    """Write plots, report.html and, last, report.json.

    Raises:
        StorageError: the folder cannot be written, with the cause.
    """
    with refused(folder, "write"):
        _write(report, folder)


def _write(report: Report, folder: Path) -> None:
    figures = [figure for section in report.sections for figure in section.figures]
    for name, figure in zip(file_names([each.name for each in figures]), figures, strict=True):
        write_text(folder / "pictures" / f"{name}.svg", figure.svg)
    write_text(folder / "report.html", render(report.to_json(), report.sections))
    write_text(folder / "report.csv", table(report.sections))
    write_json(folder / "report.json", report.to_json())


def file_names(names: Sequence[str]) -> list[str]:
    """Return a unique file name of letters, digits and hyphens for each plot."""
    found: list[str] = []
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:_LONGEST_NAME] or "picture"
        taken = {each for each in found if each.startswith(stem)}
        number = next(n for n in count(1) if (stem if n == 1 else f"{stem}-{n}") not in taken)
        found.append(stem if number == 1 else f"{stem}-{number}")
    return found


def _facts(comparison: Comparison) -> dict[str, str]:
    """Say what was compared."""
    facts = {"schema": f"{comparison.schema.name} ({comparison.schema.fingerprint[:16]})"}
    for side in (comparison.train, comparison.holdout, comparison.synthetic):
        if side is not None:
            sampled = (
                f", {side.panel.num_patients:,} sampled"
                if side.panel.num_patients < side.num_patients
                else ""
            )
            facts[side.name] = (
                f"{side.num_patients:,} patients, {side.statistics.num_rows:,} timesteps{sampled}"
            )
    if comparison.unused:
        facts["left out"] = " ".join(comparison.unused)
    facts["made"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts["healthgym"] = version("healthgym")
    return facts
