"""Making a cohort of each trained system, and comparing them on one page."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from healthgym.config import RunConfig, preset_of
from healthgym.errors import ConfigError, StorageError
from healthgym.evaluation.comparing.claims import Judged, Trained
from healthgym.evaluation.comparing.systems import check_names, compare_systems
from healthgym.evaluation.settings import load_report_config
from healthgym.files import REPORT_BYTES, require_place
from healthgym.release.trained import find_trained
from healthgym.schema import Schema, load_schema
from healthgym.storage.checkpoint import Checkpoint, Progress
from healthgym.storage.shards import open_cohort
from healthgym.strict import flatten, parse
from healthgym.synthesis.cohort import synthesize
from healthgym.synthesis.request import SynthesisRequest
from healthgym.synthesis.source import resample, trained_system
from healthgym.training.monitoring.metrics import read_metrics
from healthgym.training.monitoring.plots import draw_losses


def compare_runs(
    runs: Sequence[Path],
    schema: Path,
    real: Path,
    out: Path,
    config: Path,
    patients: int,
    holdout: Path | None = None,
    seed: int = 0,
    batch_size: int = 512,
    overrides: Sequence[str] = (),
    sampling: Sequence[str] = (),
) -> list[Judged]:
    """Make a cohort of each run's best checkpoint (the newest if none is known to be best) and compare them.

    Existing results are kept.

    Args:
        runs: run folders, checkpoint files, releases, or folders that hold one release.
        schema, real, out, config, holdout, overrides: see `compare_systems`.
        patients: in each cohort.
        seed: of the cohorts.
        batch_size: patients per call of a system.
        sampling: settings of how systems sample, as `key.path=value`, for those systems that have them.

    Raises:
        ConfigError: a run is given twice, or two have one name or different schemas.
        HealthgymError: a file cannot be used, with the reason.
        KeyboardInterrupt: asked to stop by a signal; what was made is kept.
    """
    require_place(out, len(runs) * REPORT_BYTES, folder=True)
    found = {run: find_trained(run) for run in runs}
    _check(runs, [checkpoint.schema for _, checkpoint in found.values()], load_schema(schema))
    load_report_config(config, tuple(overrides))
    for option, path in (("--real", real), ("--holdout", holdout)):
        if path and not path.exists():
            raise StorageError(f"{option} {path}: there is no such file. Check the path.")
    wanted = {"patients": patients, "seed": seed, "batch_size": batch_size}
    trained = [_trained(run, *found[run], out, wanted, sampling) for run in runs]
    return compare_systems(trained, schema, real, out, config, holdout, overrides)


def _check(runs: Sequence[Path], schemas: Sequence[Schema], given: Schema) -> None:
    """Refuse mistakes that would otherwise show only after minutes of making cohorts."""
    folders = [run.resolve() for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise ConfigError(f"{run} is given twice. Give each run once.")
    check_names([_name(run) for run in runs])
    for run, schema in zip(runs, schemas, strict=True):
        if schema.fingerprint != schemas[0].fingerprint:
            raise ConfigError(
                f"{runs[0]} was trained on the schema '{schemas[0].name}' and {run} on "
                f"{_other(schema, schemas[0])}. Compare runs of one schema."
            )
    if {each.name for each in schemas[0].encoded} != {each.name for each in given.encoded}:
        raise ConfigError(
            f"{runs[0]} was trained on the schema '{schemas[0].name}', which has other variables than "
            f"--schema. Give the schema that it was trained on."
        )


def _other(schema: Schema, first: Schema) -> str:
    return "another form of it" if schema.name == first.name else f"'{schema.name}'"


def _name(run: Path) -> str:
    """Return a run's name on the page: that of its folder or file."""
    return run.resolve().name if run.is_dir() else run.stem


def _trained(
    run: Path,
    file: Path,
    checkpoint: Checkpoint,
    out: Path,
    wanted: Mapping[str, int],
    sampling: Sequence[str],
) -> Trained:
    name = _name(run)
    settings = tuple(each for each in sampling if _has(checkpoint.config, each))
    # A run that was trained further, or that shall sample otherwise, gets a cohort of its own.
    decisive = [name, checkpoint.progress.step, checkpoint.sha256[:8], *wanted.values(), *settings]
    cohort = out / "cohorts" / re.sub(r"[^A-Za-z0-9]+", "-", "-".join(map(str, decisive)))
    values = {"checkpoint": file, "out": cohort, "settings": settings, **wanted}
    print(f"{name}: {wanted['patients']:,} patients", flush=True)
    if synthesize(parse(SynthesisRequest, values, "the command line")).state != "complete":
        raise KeyboardInterrupt
    metrics, losses, progress = run / "metrics.jsonl", out / "losses" / f"{name}.png", checkpoint.progress
    return Trained(
        name=name,
        system=preset_of(checkpoint.config.system),
        parameters=trained_system(checkpoint, "cpu").num_parameters(),
        steps=progress.step,
        seconds=progress.seconds,
        computed_on=_hardware(progress),
        acceptance_rate=open_cohort(cohort).manifest.acceptance_rate
        if _rejects(checkpoint.config, settings)
        else None,
        cohort=cohort,
        released=checkpoint.released,
        losses=losses if draw_losses(metrics, losses) else None,
        loss_by_third=_thirds(read_metrics(metrics)),
    )


def _hardware(progress: Progress) -> str:
    """Return the device that a run was last trained on: "CPU, 2 threads", "4 GPUs"."""
    count = progress.num_processes
    if progress.device == "cuda":
        return f"{count} GPUs" if count > 1 else "GPU"
    threads = f"CPU, {progress.threads} thread{'s' if progress.threads > 1 else ''}"
    return f"{count} processes of {threads}" if count > 1 else threads


def _rejects(config: RunConfig, settings: Sequence[str]) -> bool:
    """Tell whether a system, sampling so, has a guardrail that draws patients anew."""
    values = flatten(resample(config, settings).model_dump(mode="json"))
    return values.get("system.guardrail.kind") == "reject"


def _has(config: RunConfig, setting: str) -> bool:
    """Tell whether a system has the part that a setting such as "system.sampler.kind=ddim" is in."""
    part = setting.partition("=")[0].rpartition(".")[0] + "."
    return any(name.startswith(part) for name in flatten(config.model_dump(mode="json")))


def _thirds(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Return the mean of each loss over the three thirds of the logged steps."""
    if len(records) < 3:
        return {}
    means: dict[str, tuple[float, float, float]] = {}
    for name in records[-1]:
        values = [record[name] for record in records if isinstance(record.get(name), float)]
        if len(values) == len(records):
            first, middle, last = (float(part.mean()) for part in np.array_split(np.asarray(values), 3))
            means[name] = (first, middle, last)
    return means
