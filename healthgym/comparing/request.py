"""Arguments of `healthgym compare`."""

from pathlib import Path
from typing import Annotated

from healthgym.evaluation.settings import Thresholds
from healthgym.options import Option
from healthgym.strict import Positive, StrictModel


class CompareRequest(StrictModel):
    """Several trained systems that are compared on one page."""

    runs: Annotated[
        tuple[Path, ...],
        Option("run folders, checkpoints or releases; each gets a column", positional=True),
    ]
    schema_path: Annotated[Path, Option("YAML file: what the columns mean", name="schema")]
    real: Annotated[Path, Option("training patients: CSV, Parquet or prepared.h5")]
    holdout: Annotated[
        Path | None, Option("real patients unseen in training (prepared.h5 brings its own)")
    ] = None
    out: Annotated[Path, Option("folder for compare.html, cohorts and reports")]
    patients: Annotated[Positive, Option("patients in each synthetic cohort")] = 2000
    seed: Annotated[int, Option("of the cohorts")] = 0
    batch_size: Annotated[Positive, Option("patients sampled at once")] = 512
    config: Thresholds
    sampling: Annotated[tuple[str, ...], Option("e.g. system.sampler.kind=dpmpp", metavar="KEY=VALUE")] = ()
    set: Annotated[tuple[str, ...], Option("change a setting of the report", metavar="KEY=VALUE")] = ()
