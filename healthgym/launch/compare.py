"""Trained systems on one page: a cohort of each, then `healthgym.evaluation.compare`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from healthgym.config import RunConfig, flatten, preset_of
from healthgym.errors import CohortError
from healthgym.evaluation.compare import Judged, Trained, compare_systems
from healthgym.storage.checkpoint import Checkpoint, read_checkpoint
from healthgym.storage.shards import open_cohort
from healthgym.synthesis.cohort import SynthesisRequest, find_checkpoint, synthesize
from healthgym.training.metrics import read_metrics
from healthgym.training.plots import draw_losses


def compare_runs(
    runs: Sequence[Path],
    schema: Path,
    real: Path,
    out: Path,
    config: Path,
    patients: int,
    holdout: Path | None = None,
    seed: int = 0,
    batch_size: int = 256,
    overrides: Sequence[str] = (),
    sampling: Sequence[str] = (),
) -> list[Judged]:
    """Make a cohort of each run's newest checkpoint and compare them; what is there already is kept.

    Args:
        runs: run folders.
        schema, real, out, config, holdout, overrides: see `compare_systems`.
        patients: in each cohort.
        seed: of the cohorts.
        batch_size: patients per call of a system.
        sampling: settings of how systems sample, as `key.path=value`, for those systems that have them.

    Raises:
        HealthgymError: a file cannot be used, with the reason.
    """
    wanted = {"patients": patients, "seed": seed, "batch_size": batch_size}
    trained = [_trained(run, out, wanted, sampling) for run in runs]
    return compare_systems(trained, schema, real, out, config, holdout, overrides)


def _trained(run: Path, out: Path, wanted: Mapping[str, int], sampling: Sequence[str]) -> Trained:
    name = run.resolve().name
    path = find_checkpoint(SynthesisRequest(run_dir=run, out=out, patients=wanted["patients"]), None)
    checkpoint = read_checkpoint(path)
    settings = tuple(each for each in sampling if _has(checkpoint.config, each))
    # A run that was trained further, or that shall sample otherwise, gets a cohort of its own.
    decisive = [name, checkpoint.progress.step, *wanted.values(), *settings]
    cohort = out / "cohorts" / re.sub(r"[^A-Za-z0-9]+", "-", "-".join(map(str, decisive)))
    request = SynthesisRequest.model_validate(
        {"checkpoint": path, "out": cohort, "settings": settings, **wanted}
    )
    outcome = synthesize(request)
    if outcome.state != "complete":
        raise CohortError(f"{outcome} The comparison needs all cohorts.")
    records, losses = read_metrics(run / "metrics.jsonl"), out / "losses" / f"{name}.png"
    return Trained(
        name=name,
        system=preset_of(checkpoint.config.system),
        parameters=_num_trained(checkpoint),
        steps=checkpoint.progress.step,
        minutes=checkpoint.progress.seconds / 60,
        acceptance_rate=open_cohort(cohort).manifest.acceptance_rate,
        cohort=cohort,
        losses=losses if draw_losses(run / "metrics.jsonl", losses) else None,
        loss_by_third=_thirds(records),
    )


def _has(config: RunConfig, setting: str) -> bool:
    """Tell whether a system has the part that a setting such as "system.sampler.kind=ddim" is in."""
    part = setting.partition("=")[0].rpartition(".")[0] + "."
    return any(name.startswith(part) for name in flatten(config.model_dump(mode="json")))


def _num_trained(checkpoint: Checkpoint) -> int:
    """Count the numbers that an optimiser moves."""
    moments = [
        parameter["exp_avg"]
        for optimiser in checkpoint.state["optimisers"].values()
        for parameter in optimiser.values()
    ]
    return sum(int(np.size(moment)) for moment in moments)


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
