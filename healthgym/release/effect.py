"""The effect of a release on the report: cohorts of the checkpoint and of the release are compared."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from healthgym.data.sequences import PreparedCohort
from healthgym.errors import ConfigError, TableError
from healthgym.evaluation.build import compare
from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.report import Report, make_report, write_report
from healthgym.evaluation.result import Verdict
from healthgym.evaluation.settings import ReportConfig
from healthgym.evaluation.sources import Source, open_real, open_synthetic
from healthgym.files import sha256_of, write_json, write_text
from healthgym.storage.tree import read_seal
from healthgym.strict import parse
from healthgym.synthesis.cohort import synthesize
from healthgym.synthesis.request import SynthesisRequest

PATIENTS = 2000
SIDES = {"before": "checkpoint", "after": "release"}
_PAIRED = ("value", "verdict")
_SHARD = 256
_ORDER = (Verdict.PASS, Verdict.CAUTION, Verdict.FAIL, Verdict.NOT_JUDGED, Verdict.SHOWN)


@dataclass(frozen=True)
class Cohorts:
    """The two cohorts that are compared.

    Args:
        patients: in each; None takes 2,000, or as many as were trained on if fewer.
        seed: of both.
    """

    patients: int | None = None
    seed: int = 0

    def sized(self, num_trained: int, least: int) -> "Cohorts":
        """Return them with a number of patients.

        Raises:
            ConfigError, TableError: a report needs at least `least` synthetic, and as many real, patients.
        """
        if num_trained < least:
            raise TableError(
                f"--data has {num_trained} training patients; a report needs at least {least} (min_patients "
                f"in its settings). Leave the reports out with --no-effect."
            )
        patients = min(PATIENTS, num_trained) if self.patients is None else self.patients
        if patients < least:
            raise ConfigError(f"--patients {patients}: give at least {least}, which a report needs.")
        return Cohorts(patients, self.seed)


def measure(
    asked: Cohorts, data: Path, settings: ReportConfig, files: Mapping[str, Path], work: Path
) -> dict[str, Any]:
    """Make a cohort of each file, judge both, and return the results of the two reports side by side.

    Args:
        asked: the cohorts' size and seed.
        data: the prepared cohort that the system was trained on.
        settings: of both reports.
        files: the checkpoint as "before" and the release as "after".
        work: folder for cohorts and, in `work`/reports/before and .../after, reports. What an earlier call
            finished there is kept, if it was asked the same.

    Raises:
        KeyboardInterrupt: a signal asked to stop; what is finished is kept.
        HealthgymError: patients cannot be made or judged, with the reason.
    """
    cohort = PreparedCohort.open(data)
    sized = asked.sized(cohort.train.num_patients, settings.min_patients)
    seals = {side: read_seal(file)[0] for side, file in files.items()}
    _keep_same(work, [seals, cohort.fingerprint, settings.model_dump(mode="json"), vars(sized)])
    train = open_real(data, cohort.schema)
    holdout = open_real(data, cohort.schema, "holdout") if cohort.holdout.num_patients else None
    against = partial(compare, cohort.schema, settings, train, holdout)
    found = {}
    for side, whose in SIDES.items():
        print(f"{side}: {sized.patients:,} patients of the {whose}, and their report", flush=True)
        made = _make(files[side], work / f"cohort-{side}", sized)
        synthetic = open_synthetic(made, cohort.schema)
        title = f"{cohort.schema.title or cohort.schema.name}: a cohort of the {whose}"
        found[side] = _judge(synthetic, work, side, title, against)
    written = {side: work / "reports" / side / "report.json" for side in SIDES}
    return {
        "measured": True,
        **vars(sized),
        "training_patients": train.num_patients,
        "holdout_patients": holdout.num_patients if holdout else 0,
        "verdict": {side: content["verdict"] for side, content in found.items()},
        "sections": side_by_side(found["before"]["sections"], found["after"]["sections"]),
        "figures": changed_first(side_by_side(found["before"]["figures"], found["after"]["figures"])),
        "thresholds": settings.model_dump(mode="json", exclude_none=True)["thresholds"],
        "sha256": {side: sha256_of(path) for side, path in written.items()},
    }


def _keep_same(work: Path, asked: list[Any]) -> None:
    """Keep the files of an earlier call with the same arguments in a folder; otherwise empty it."""
    text = json.dumps(asked, indent=1)
    note = work / "asked.json"
    if not note.exists() or note.read_text(encoding="utf-8") != text:
        shutil.rmtree(work, ignore_errors=True)
        write_text(note, text)


def side_by_side(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join two reports' metrics by key: `value` and `verdict` become pairs."""
    others = {row["key"]: row for row in after}
    return [
        row
        | {name: {"before": row[name], "after": others[row["key"]][name]} for name in _PAIRED if name in row}
        for row in before
        if row["key"] in others
    ]


def changed_first(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the metrics whose verdict got worse first, then other changes; the rest as in the report."""

    def order(metric: dict[str, Any]) -> int:
        before, after = (_ORDER.index(Verdict(metric["verdict"][side])) for side in SIDES)
        return 0 if after > before else 1 if after < before else 2

    return sorted(metrics, key=order)


def _make(file: Path, folder: Path, asked: Cohorts) -> Path:
    """Make a cohort, or go on with it: shards keep all cores busy, and each is kept once made."""
    amounts = {"patients_per_shard": _SHARD, "batch_size": _SHARD, **vars(asked)}
    request = parse(SynthesisRequest, {"checkpoint": file, "out": folder} | amounts, "the command line")
    if synthesize(request).state != "complete":
        raise KeyboardInterrupt
    return folder


def _judge(
    synthetic: Source, work: Path, side: str, title: str, against: Callable[[Source], Comparison]
) -> dict[str, Any]:
    """Judge a cohort and write its report unless it exists; return the card's part of it."""
    done = work / f"judged-{side}.json"  # written last
    if not done.exists():
        report = make_report(against(synthetic), synthetic.facts, title)
        write_report(report, work / "reports" / side)
        write_json(done, summary(report))
    content: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return content


def summary(report: Report) -> dict[str, Any]:
    """Return a report's verdicts and values."""
    return {
        "verdict": str(report.verdict),
        "sections": [
            {"key": section.key, "title": section.title, "verdict": str(section.verdict)}
            for section in report.sections
        ],
        "figures": [
            {
                "key": result.key,
                "section": section.title,
                "title": result.title,
                "value": result.value,
                "noise_floor": result.floor,
                "verdict": str(result.verdict),
                "threshold": result.limit,
                "style": result.style,
            }
            for section in report.sections
            for result in section.results
        ],
    }
