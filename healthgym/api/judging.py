"""Evaluation of synthetic patients."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from healthgym import shipped
from healthgym.api.cohorts import AnySchema, overrides_of, schema_of
from healthgym.api.inputs import AnyPath, table_of
from healthgym.api.wording import python_errors
from healthgym.data.sequences import PreparedCohort
from healthgym.errors import ConfigError
from healthgym.evaluation import report as reports
from healthgym.evaluation.pages.page import render
from healthgym.evaluation.result import Result
from healthgym.evaluation.settings import load_report_config

_FRAME_HEIGHT = 900


class Evaluation:
    """The evaluation of a synthetic cohort: verdicts, metrics and plots.

    A verdict is "pass", "caution", "fail", "not judged" (too few patients to say) or "shown" (no threshold).
    """

    def __init__(self, report: reports.Report) -> None:
        self.report = report

    @property
    def verdict(self) -> str:
        """The worst verdict of all sections."""
        return str(self.report.verdict)

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict of each section, by its title."""
        return {section.title: str(section.verdict) for section in self.report.sections}

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Every metric, one row each.

        Columns: `section`, `key`, `title`, `value`, `low_95` and `high_95` (interval), `noise` (mean value
            between
        samples of real patients), `verdict`, `threshold` and `finding` (text), `note` and `source`.
        """
        rows = [
            {"section": section.title, **_row(result)}
            for section in self.report.sections
            for result in section.results
        ]
        return pd.DataFrame(rows)

    @cached_property
    def plots(self) -> dict[str, str]:
        """The report's plots as SVG, by name."""
        return {each.name: each.svg for section in self.report.sections for each in section.figures}

    @cached_property
    def html(self) -> str:
        """The whole report as one self-contained page."""
        return render(self.report.to_json(), self.report.sections)

    def save(self, folder: AnyPath) -> None:
        """Write report.html, report.json, report.csv and the plots to a folder.

        Raises:
            StorageError: it cannot be written, with the cause.
        """
        reports.write_report(self.report, Path(folder))

    def show(self) -> None:
        """Show the whole report in a notebook; elsewhere, print the verdicts."""
        if not _in_ipython():
            print(f"{self!r}\nThe whole report: .save(folder) writes it to folder/report.html.")
            return
        from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

        page = escape(self.html, quote=True)
        frame = f'<iframe srcdoc="{page}" width="100%" height="{_FRAME_HEIGHT}"></iframe>'
        # As data: an `HTML` object warns that the page is in an iframe.
        display({"text/html": frame, "text/plain": repr(self)}, raw=True)  # type: ignore[no-untyped-call, unused-ignore]

    def __repr__(self) -> str:
        return "\n".join([f"Evaluation of {self.report.title}: {self.verdict}", *self.report.lines()])

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        cells = "".join(
            f"<tr><td {left}>{escape(each.title)}</td><td>{each.verdict}</td><td "
            f"{left}>{escape(each.because)}</td></tr>"
            for each in self.report.sections
        )
        return f"<table><caption>{escape(self.report.title)}: {self.verdict}</caption>{cells}</table>"


@python_errors(data="real", set="settings")
def evaluate(
    real: PreparedCohort | pd.DataFrame | AnyPath,
    synthetic: pd.DataFrame | AnyPath,
    holdout: pd.DataFrame | AnyPath | None = None,
    *,
    schema: AnySchema | None = None,
    config: AnyPath | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
) -> Evaluation:
    """Compare synthetic patients with real ones; a terminal or notebook shows the progress.

    Args:
        real: the training patients: a prepared cohort (open, or its path), a data frame, or the path of a
            CSV or Parquet file or a folder of them.
        synthetic: the cohort to be judged: a data frame, from `sample` or any other program; or the path of a
            cohort's folder, of a CSV or Parquet file or of a folder of them.
        holdout: real patients that training never saw; without them membership inference is
            not judged, and models can fail but not pass. A prepared cohort has its own.
        schema: the meaning of the columns; a prepared cohort has its own.
        config: a YAML file of thresholds; by default that of the package.
        settings: changes of the file's settings, as `{"num_patients": 2000}`.

    Raises:
        HealthgymError: the patients cannot be judged: too few of them, or a table that does not fit.
    """
    known = real if isinstance(real, PreparedCohort) else table_of(real, "real")
    if schema is None and isinstance(known, Path) and known.suffix.lower() == ".h5":
        known = PreparedCohort.open(known)
    if schema is None and isinstance(known, PreparedCohort):
        schema = known.schema
    if schema is None:
        raise ConfigError(
            "evaluate needs `schema`, the schema of the real patients' columns. Only a prepared cohort "
            "contains its own."
        )
    asked = load_report_config(
        Path(config) if config else shipped.thresholds(), tuple(overrides_of(settings))
    )
    made = table_of(synthetic, "synthetic")
    held = None if holdout is None else table_of(holdout, "holdout")
    # A notebook's output is not a terminal, but shows a progress bar.
    progress = True if _in_ipython() else None
    return Evaluation(reports.judge(schema_of(schema), asked, known, made, held, progress))


def _in_ipython() -> bool:
    """Tell whether this runs in IPython, e.g. in a notebook; programs without IPython installed do not."""
    try:
        from IPython import get_ipython  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return False
    return get_ipython() is not None  # type: ignore[no-untyped-call, unused-ignore]


def _row(result: Result) -> dict[str, Any]:
    low, high = result.interval or (None, None)
    return {
        "key": result.key,
        "title": result.title,
        "value": result.value,
        "low_95": low,
        "high_95": high,
        "noise": result.floor,
        "verdict": str(result.verdict),
        "threshold": result.limit,
        "finding": result.finding,
        "note": result.reason,
        "source": result.source,
    }
