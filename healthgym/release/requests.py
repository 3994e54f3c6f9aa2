"""Arguments of `healthgym release` and `healthgym audit`."""

from pathlib import Path
from typing import Annotated

from healthgym.evaluation.settings import Thresholds
from healthgym.options import Option
from healthgym.strict import StrictModel


class ReleaseRequest(StrictModel):
    """A checkpoint that is to be released."""

    run_dir: Annotated[Path, Option("a run folder, or a checkpoint")]
    out: Annotated[Path, Option("release.h5; its card and reports go beside it")]
    coarsen: Annotated[int, Option("patients per centroid", metavar="K")] = 10
    report: Annotated[Path | None, Option("report.json on a cohort of the checkpoint")] = None
    data: Annotated[Path | None, Option("its prepared cohort, to measure what the release changes")] = None
    no_effect: Annotated[bool, Option("with --data, skip the two cohorts and reports")] = False
    patients: Annotated[
        int | None, Option("in each of the two cohorts (2000, or the training patients if fewer)")
    ] = None
    seed: Annotated[int, Option("of the two cohorts")] = 0
    config: Thresholds
    despite: Annotated[str, Option("why it is released although its report fails", metavar="REASON")] = ""


class AuditRequest(StrictModel):
    """A latent memory that is to be linked to patients."""

    run_dir: Annotated[Path, Option("a run folder, or a checkpoint")]
    data: Annotated[Path, Option("the prepared cohort it was trained on")]
    out: Annotated[Path, Option("folder for report.html and report.json")]
    config: Thresholds
    coarsen: Annotated[int, Option("judge centroids of K slots too, if not 0", metavar="K")] = 0
