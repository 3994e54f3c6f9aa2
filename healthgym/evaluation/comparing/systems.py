"""Several trained systems on the same patients: one page that puts their cohorts side by side.

The page shows what each system cost, every metric of the report, how many kinds of patient each cohort
has, all plots in a row, the course of training, and whether what was published of the systems holds
here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from healthgym.errors import ConfigError
from healthgym.evaluation.build import compare
from healthgym.evaluation.comparing.claims import Groups, Judged, Trained, check_claims
from healthgym.evaluation.comparing.page import render_comparison
from healthgym.evaluation.comparison import Comparison
from healthgym.evaluation.report import make_report, write_report
from healthgym.evaluation.sections.collapse import COMMON
from healthgym.evaluation.settings import load_report_config
from healthgym.evaluation.sources import open_real, open_synthetic, title_of
from healthgym.files import write_json, write_text
from healthgym.schema import load_schema

PAGE_VERSION = 2


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
    check_names([each.name for each in trained])
    read_schema, settings = load_schema(schema), load_report_config(config, tuple(overrides))
    train = open_real(real, read_schema)
    brought = real if holdout is None and real.suffix.lower() == ".h5" else holdout
    unseen = open_real(brought, read_schema, "holdout") if brought else None
    if unseen and not unseen.num_patients:
        unseen = None  # a prepared cohort may hold nobody out
    judged = []
    for each in trained:
        cohort = open_synthetic(each.cohort, read_schema)
        comparison = compare(read_schema, settings, train, unseen, cohort)
        report = make_report(comparison, train.facts | cohort.facts, f"{each.name} ({each.system})")
        write_report(report, out / "reports" / each.name)
        judged.append(Judged(each, report, count_groups(comparison)))
    write_text(out / "compare.html", render_comparison(judged, title_of(read_schema, train)))
    write_json(out / "compare.json", to_json(judged))
    return judged


def check_names(names: Sequence[str]) -> None:
    """Refuse two systems of one name, which names column and report.

    Raises:
        ConfigError: there are two.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"Two runs have the name '{twice[0]}', which names their reports. Rename one.")


def count_groups(comparison: Comparison) -> list[Groups]:
    """Count the active combinations of each pair of static variables, real and kept."""
    crossed = [names for names in comparison.combinations if len(names) > 1]
    counted = []
    for names in crossed or list(comparison.combinations):
        real, synthetic = (
            side.statistics.coverage[names] / max(side.statistics.coverage[names].sum(), 1)
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
                "seconds": each.trained.seconds,
                "computed_on": each.trained.computed_on,
                "released": each.trained.released,
                "acceptance_rate": each.trained.acceptance_rate,
                "verdict": str(each.report.verdict),
                "groups": [vars(group) for group in each.groups],
                "figures": {key: result.value for key, result in each.results.items()},
            }
            for each in judged
        ],
        "claims": [vars(claim) for claim in check_claims(judged)],
    }
