"""Audit of a checkpoint's latent memory: its slots against the patients it was trained on and others."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from healthgym.data.sequences import PreparedCohort, Sequences
from healthgym.errors import ConfigError, TableError
from healthgym.evaluation.report import Report, write_report
from healthgym.evaluation.sections.latent_memory import audit, coarsen
from healthgym.evaluation.settings import ReportConfig, load_report_config
from healthgym.files import REPORT_BYTES, require_place
from healthgym.release.trained import find_trained
from healthgym.storage.checkpoint import Checkpoint
from healthgym.synthesis.source import trained_system
from healthgym.systems.base import Batch, System

_BATCH = 256
_LEAD = (
    "Whether the latent memory that travels with a checkpoint gives away who was in its training data, "
    "measured against patients it never saw."
)


def audit_memory(checkpoint: Path, data: Path, out: Path, config: Path, at_least: int = 0) -> Report:
    """Try to link the latent memory of a checkpoint to patients, and write the report.

    Args:
        checkpoint: a checkpoint file or a run folder.
        data: the prepared cohort it was trained on, with its holdout.
        out: folder for report.html and report.json.
        config: thresholds (YAML).
        at_least: judge beside it a coarse memory whose centroids stand for this many slots each; 0 does not.

    Raises:
        ConfigError: the system has no latent memory.
        TableError: it was trained on another cohort, or there are too few held-out patients.
        StorageError: a file is missing or damaged.
    """
    settings = load_report_config(config)
    require_place(out, REPORT_BYTES, folder=True)
    cohort, trained = PreparedCohort.open(data), find_trained(checkpoint)[1]
    system = trained_system(trained, "cpu")
    slots_MZ = slots_of(system)
    if slots_MZ is None:
        raise ConfigError(f"{checkpoint}: this system has no latent memory, so there is nothing to audit.")
    train, holdout = latents_of(system, trained, cohort, checkpoint, data, settings)
    sections = [audit(slots_MZ, train, holdout, settings)]
    if at_least:
        if at_least > len(slots_MZ):
            raise ConfigError(f"The memory has {len(slots_MZ)} slots, too few for a centroid of {at_least}.")
        sections.append(audit(coarsen(slots_MZ, at_least)[0], train, holdout, settings, coarse=True))
    facts = {
        "checkpoint": trained.sha256[:16],
        "training data": f"{cohort.train.num_patients:,} patients",
        "holdout": f"{cohort.holdout.num_patients:,} patients",
    }
    thresholds = settings.model_dump(mode="json", exclude_none=True)["thresholds"]["memory"]
    report = Report(
        f"{cohort.schema.title or cohort.schema.name}: latent memory", facts, sections, thresholds, _LEAD
    )
    write_report(report, out)
    return report


def slots_of(system: System) -> NDArray[np.float32] | None:
    """Return the filled slots of a system's latent memory, shape (M, Z), or None if it has none."""
    slots_MZ = system.memory_slots()
    return None if slots_MZ is None else np.asarray(slots_MZ.cpu().numpy())


def latents_of(
    system: System,
    trained: Checkpoint,
    cohort: PreparedCohort,
    checkpoint: Path,
    data: Path,
    settings: ReportConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the latents of training and of held-out patients, shape (N, Z) each.

    Raises:
        ConfigError: the checkpoint is a release, which has no autoencoder.
        TableError: it was trained on another cohort, or there are too few held-out patients.
    """
    if trained.released:
        raise ConfigError(
            f"{checkpoint} is a release, without the autoencoder that the audit needs. Give the checkpoint "
            "that it was made from; the release's card has the metrics of its coarsened memory."
        )
    if trained.statistics.data_fingerprint != cohort.fingerprint:
        raise TableError(
            f"{checkpoint} was not trained on {data}. Give the prepared cohort that it was trained on."
        )
    if cohort.holdout.num_patients < settings.min_patients:
        raise TableError(
            f"{data} holds out {cohort.holdout.num_patients} patients; the audit compares with at least "
            f"{settings.min_patients}. Prepare the cohort with a larger holdout."
        )
    return _latents(system, cohort.train), _latents(system, cohort.holdout)


def _latents(system: System, patients: Sequences) -> NDArray[np.float32]:
    """Return the time mean of each patient's latents, as a slot is made of one, shape (N, Z)."""
    slots_MZ = system.memory_slots()
    assert slots_MZ is not None
    found = np.empty((patients.num_patients, slots_MZ.shape[1]), dtype=np.float32)
    for length in np.unique(patients.lengths_N):
        same = np.flatnonzero(patients.lengths_N == length)
        for batch in np.array_split(same, -(-len(same) // _BATCH)):
            reals, codes, lengths = map(torch.from_numpy, patients.gather(batch, int(length)))
            known = Batch(system.layout, reals, codes, lengths)
            found[batch] = system.memory_prototypes(known).numpy()
    return found
