"""Arguments of `healthgym train`, `evaluate`, `inspect`, `status` and `pipeline`."""

from pathlib import Path
from typing import Annotated, Any

from healthgym.evaluation.settings import Thresholds
from healthgym.options import Option
from healthgym.strict import StrictModel


class TrainRequest(StrictModel):
    """A user's request, by the command line or as a stage of a pipeline."""

    config: Annotated[
        Path,
        Option("settings: a YAML file, or the name of a preset, e.g. ar", positional=True),
    ]
    run_dir: Annotated[
        Path | None, Option("where checkpoints and metrics go (runs/NAME of the settings)")
    ] = None
    data: Annotated[Path | None, Option("the prepared cohort, if not the one in the settings")] = None
    set: Annotated[tuple[str, ...], Option("change a setting: training.epochs=2", metavar="KEY=VALUE")] = ()


class EvaluateRequest(StrictModel):
    """A user's request, by the command line or as a stage of a pipeline."""

    schema_path: Annotated[
        Path | None, Option("what the columns mean (a prepared.h5 brings its own)", name="schema")
    ] = None
    real: Annotated[Path, Option("training patients: CSV, Parquet or prepared.h5")]
    holdout: Annotated[
        Path | None, Option("real patients unseen in training (prepared.h5 brings its own)")
    ] = None
    synthetic: Annotated[Path, Option("cohort folder, CSV or Parquet to be judged")]
    out: Annotated[Path, Option("folder for report.html, report.json and plots")]
    config: Thresholds
    set: Annotated[tuple[str, ...], Option("change a setting of the report", metavar="KEY=VALUE")] = ()


class InspectRequest(StrictModel):
    """A file whose content is printed."""

    path: Annotated[
        Path, Option("a checkpoint, a run folder for its newest one, or settings", positional=True)
    ]
    shapes: Annotated[bool, Option("print v3's shape contract instead")] = False
    schema_path: Annotated[Path | None, Option("with settings: what the features are", name="schema")] = None
    length: Annotated[int | None, Option("timesteps; the longest training patients if not given")] = None


class StatusRequest(StrictModel):
    """A folder whose jobs are shown."""

    folder: Annotated[Path, Option("a run, cohort or report folder, or a prepared cohort", positional=True)]
    all: Annotated[bool, Option("also jobs that a later submission replaced")] = False
    as_json: Annotated[bool, Option("print JSON", name="json")] = False


class PipelineRequest(StrictModel):
    """Stages that are submitted at once."""

    pipeline: Annotated[Path, Option("what each stage does and where: slurm/pipeline.yaml", positional=True)]
    dry_run: Annotated[bool, Option("show the batch scripts, and stop")] = False


def with_absolute_paths(options: dict[str, Any]) -> dict[str, Any]:
    """Return options whose paths hold wherever the job runs."""
    settled = {
        name: value.absolute() if isinstance(value, Path) else value for name, value in options.items()
    }
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settled.items()}
