"""Releasing a checkpoint: only the data that sampling needs, with a card that describes it."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.data.length_groups import LengthGroup, common_lengths, from_text, reached, summed, to_text
from healthgym.data.sequences import PreparedCohort
from healthgym.errors import ConfigError, FailingReleaseError, HealthgymError, TableError
from healthgym.evaluation.result import Section
from healthgym.evaluation.sections.latent_memory import audit, coarsen
from healthgym.evaluation.settings import ReportConfig, load_report_config
from healthgym.evaluation.statistics.patients import k_nearest
from healthgym.faults import refused
from healthgym.files import require_place, write_json, write_text
from healthgym.release.card import AT_LEAST, in_words, make_card, read_report
from healthgym.release.dossier import refuse_failing
from healthgym.release.effect import Cohorts, measure
from healthgym.release.likelihood import likelihood_audit
from healthgym.release.memory_audit import latents_of, slots_of
from healthgym.release.trained import find_trained, is_release
from healthgym.schema.cells import Cells
from healthgym.storage.checkpoint import Checkpoint, write_checkpoint
from healthgym.synthesis.source import trained_system
from healthgym.systems.base import System
from healthgym.training.trainer import to_arrays

_AUDITED = ("memory.membership_auc", "memory.membership_tpr", "memory.linked")
_NO_DATA = (
    "the patients that it was trained on were not given. With --data, their prepared cohort, the same "
    "command makes a cohort of the checkpoint and one of the release and judges both."
)
_LEFT_OUT = (
    "left out by --no-effect, since two cohorts and two reports take minutes. The same command without that "
    "option measures it."
)

Slots = NDArray[np.float32]
Latents = tuple[Slots, Slots]
"""Of training and of held-out patients, shape (N, Z) each."""


def release(
    checkpoint: Path,
    out: Path,
    config: Path,
    at_least: int = AT_LEAST,
    report: Path | None = None,
    data: Path | None = None,
    effect: Cohorts | None = Cohorts(),  # noqa: B008 - frozen
    despite: str = "",
) -> dict[str, Any]:
    """Write a release of a checkpoint, its card beside it as .json and .md, and two reports; return the card.

    The release comes last, so that none is without its card. What an interrupted call made is kept in a
    hidden folder beside it, and the same call goes on from there.

    Args:
        checkpoint: a checkpoint file or a run folder.
        out: the release, NAME.h5; the reports go to NAME-reports/before and NAME-reports/after.
        config: thresholds of the audit and of the reports (YAML).
        at_least: patients that a centroid of the latent memory, or a length, stands for.
        report: report.json on a cohort that the checkpoint made, for the card.
        data: the prepared cohort it was trained on: tells which patient each slot is nearest to, so that
            patients are counted and not slots, and what the release changes in the audit and the report.
        effect: the cohorts that are judged for it, given `data`; None leaves the report's part out.
        despite: why a system that fails its report is released all the same; the card prints it.

    Raises:
        FailingReleaseError: it fails its report, and no reason is given; what was made is kept.
        ConfigError: too small an `at_least`, too few slots for it, a release, or no report.
        KeyboardInterrupt: asked to stop by a signal; nothing was released.
        TableError: the checkpoint was not trained on `data`, or too few of its patients are there.
        StorageError: a file is missing or damaged.
    """
    file, source = _source(checkpoint, out, at_least)
    judged = read_report(report) if report else None
    settings = load_report_config(config)
    cohort = _trained_on(source, checkpoint, data) if data else None
    if cohort and effect:
        effect.sized(cohort.train.num_patients, settings.min_patients)
    system = trained_system(source, "cpu")
    longest = _longest(source, system, at_least)
    state, memory = _state(system, longest, source, checkpoint, at_least, settings, cohort, data)
    released = _without_training(source, state, longest, at_least, system.real_form == "cells")
    likelihood = likelihood_audit(system, source, cohort) if cohort else None
    work = _work(out)
    with _removed_on_error(work), refused(out, "write"):
        sha256 = write_checkpoint(work / "release.h5", released)
        changed: dict[str, Any] = {"measured": False, "why": _LEFT_OUT if data else _NO_DATA}
        if data and effect:
            files = {"before": file, "after": work / "release.h5"}
            changed = measure(effect, data, settings, files, work / "effect")
        refuse_failing(changed, judged, despite)
        card = make_card(
            source, released, sha256, memory, likelihood, cohort, judged, changed, despite.strip()
        )
        _publish(card, work, out)
    return card


@contextlib.contextmanager
def _removed_on_error(work: Path) -> Iterator[None]:
    """Delete a folder after an error, except that of a failing report: `despite` makes that pass."""
    try:
        yield
    except FailingReleaseError:
        raise
    except HealthgymError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _longest(source: Checkpoint, system: System, at_least: int) -> int:
    """Return the largest number of timesteps of a patient made from the release.

    It is the largest that `at_least` training patients reach, or, if the system generates it, the upper end
    of the cells of lengths: what as many patients reach as the cohort was prepared with. (In checkpoints of
    version 0.1.0 the end may be beyond.)
    """
    if not system.makes_lengths:
        return reached(source.statistics.lengths_2U, at_least)
    cells = Cells.from_tree(source.cells)
    end = max(1, round(float(cells.length.high_P[-1])))
    return min(end, reached(source.statistics.lengths_2U, cells.least_patients))


def common_groups(text: str, longest: int, at_least: int) -> str:
    """Return groups in which no length exceeds `longest`, and each counts at least so many patients.

    A last stage with few patients joins the one before, without their classes.
    """
    groups = [replace(g, lengths=_cut(g.lengths, longest)) for g in from_text(text)]
    last = [group for group in groups if group.stage >= longest]
    if len({group.stage for group in last}) > 1:
        joined = np.concatenate([_as_array(group.lengths) for group in last], axis=1)
        last = [LengthGroup(longest, {}, summed(joined))]
    kept = [group for group in groups if group.stage < longest] + [replace(g, stage=longest) for g in last]
    common = [
        replace(group, lengths=dict(common_lengths(_as_array(group.lengths), at_least).T.tolist()))
        for group in kept
    ]
    return to_text(common) if common else ""


def _cut(lengths: Mapping[int, int], longest: int) -> dict[int, int]:
    known_2U = _as_array(lengths)
    return summed(np.stack([np.minimum(known_2U[0], longest), known_2U[1]]))


def _as_array(lengths: Mapping[int, int]) -> NDArray[np.int64]:
    return np.array([list(lengths), list(lengths.values())], np.int64)


def _distinct(slots_MZ: Slots) -> NDArray[np.int64]:
    """Number the different slots: a full memory draws with replacement, so that some stand twice."""
    return np.asarray(np.unique(slots_MZ, axis=0, return_inverse=True)[1], dtype=np.int64).reshape(-1)


def _source(checkpoint: Path, out: Path, at_least: int) -> tuple[Path, Checkpoint]:
    """Return the checkpoint's file and content after checking the arguments."""
    if at_least < AT_LEAST:
        raise ConfigError(
            f"--coarsen {at_least}: in a release a centroid represents at least {AT_LEAST} patients. Give at "
            f"least {AT_LEAST}."
        )
    if out.suffix != ".h5":
        raise ConfigError(f"--out {out}: give the name of an .h5 file; the card is written beside it.")
    if out.exists() and not is_release(out):
        raise ConfigError(f"--out {out} exists already and is not a release. Give another name.")
    beside = (*_cards(out), _reports(out))
    if not out.exists() and not _work(out).exists() and (other := [path for path in beside if path.exists()]):
        raise ConfigError(
            f"--out {out}: {other[0]}, which goes beside it, exists already, and there is no release that it "
            "belongs to. Give another name, or move it away."
        )
    file, source = find_trained(checkpoint)
    require_place(out, file.stat().st_size)
    if source.released:
        raise ConfigError(f"{checkpoint} is a release already. Give the checkpoint that it was made from.")
    return file, source


def _work(out: Path) -> Path:
    """Return the folder of what an interrupted call made."""
    return out.with_name(f".{out.name}.work")


def _cards(out: Path) -> tuple[Path, Path]:
    """Return the card for people and that for programs."""
    return out.with_name(f"{out.stem}.md"), out.with_name(f"{out.stem}.json")


def _reports(out: Path) -> Path:
    return out.with_name(f"{out.stem}-reports")


def _trained_on(source: Checkpoint, checkpoint: Path, data: Path) -> PreparedCohort:
    cohort = PreparedCohort.open(data)
    if cohort.fingerprint != source.statistics.data_fingerprint:
        raise TableError(f"{checkpoint} was not trained on {data}. Give the cohort that it was trained on.")
    return cohort


def _publish(card: dict[str, Any], work: Path, out: Path) -> None:
    """Move the reports, the card and finally the release to their destination, replacing an earlier release.

    All is written before the first is put there, so that a full disk leaves an earlier release as it was.
    """
    reports, (words, figures) = _reports(out), _cards(out)
    write_text(work / words.name, in_words(card, reports.name))
    write_json(work / figures.name, card)
    shutil.rmtree(reports, ignore_errors=True)
    if card["report_effect"]["measured"]:
        (work / "effect" / "reports").replace(reports)
    for path in (words, figures):
        (work / path.name).replace(path)
    (work / "release.h5").replace(out)
    shutil.rmtree(work)


def _state(
    system: System,
    longest: int,
    source: Checkpoint,
    checkpoint: Path,
    at_least: int,
    settings: ReportConfig,
    cohort: PreparedCohort | None,
    data: Path | None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the state that sampling needs, with a coarse latent memory, and the card's entry on it."""
    state, slots_MZ = to_arrays(system.released_state(longest)), slots_of(system)
    if slots_MZ is None:
        return state, None
    latents = latents_of(system, source, cohort, checkpoint, data, settings) if cohort and data else None
    coarse, memory = _coarse(slots_MZ, latents, at_least, settings)
    return state | coarse, memory


def _coarse(
    slots_MZ: Slots, latents: Latents | None, at_least: int, settings: ReportConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the coarse latent memory as part of a system's state, and the card's entry on it."""
    owners_M = k_nearest(slots_MZ, latents[0], 1)[1][:, 0] if latents else _distinct(slots_MZ)
    centroids_CZ, counts_C = _coarsen(slots_MZ, owners_M, at_least, counted=latents is not None)
    memory: dict[str, Any] = {
        "slots_before": len(slots_MZ),
        "slots_after": len(centroids_CZ),
        "at_least": at_least,
        "counted": "training patients, a slot counting as that of the patient nearest to it"
        if latents
        else "different slots; a patient met in several epochs may have several, and --data counts patients",
        "smallest_centroid_slots": int(counts_C.min()),
    }
    if latents:
        after = audit(centroids_CZ, *latents, settings, coarse=True)
        memory["effect"] = _audit_effect(audit(slots_MZ, *latents, settings), after)
    return {"Mean_Container": centroids_CZ, "Mean_Counts": counts_C}, memory


def _coarsen(
    slots_MZ: Slots, owners_M: NDArray[np.int64], at_least: int, counted: bool
) -> tuple[Slots, NDArray[np.int64]]:
    found = len(np.unique(owners_M))
    if found < at_least:
        raise ConfigError(
            f"The latent memory holds prototypes of {found} different "
            f"{'patients' if counted else 'values'}; too few for a centroid of {at_least}. Train longer, "
            f"or on more patients."
        )
    centroids_CZ, counts_C = coarsen(slots_MZ, at_least, owners_M=owners_M)
    return centroids_CZ.astype(np.float32), counts_C


def _without_training(
    source: Checkpoint, state: dict[str, Any], longest: int, at_least: int, by_cells: bool
) -> Checkpoint:
    """Leave out data that only training needs, or that reveal something about the training data.

    A system that makes values from cells needs no transform, whose ends are single patients' values.
    """
    facts = source.statistics
    lengths_U, counts_U = facts.lengths_2U
    most = min(longest, reached(facts.lengths_2U, at_least))
    statistics = replace(
        facts,
        data_fingerprint="",
        correlation_FF=np.zeros((0, 0)),
        lengths_2U=common_lengths(np.stack([np.minimum(lengths_U, most), counts_U]), at_least),
        length_groups=common_groups(facts.length_groups, longest, at_least),
        stages=np.unique(np.minimum(facts.stages, longest)) if len(facts.stages) else facts.stages,
        decimals=json.dumps(source.decimals),
        class_counts="",
    )
    config = source.config.model_copy(update={"data": Path("withheld")})
    transform = dict(source.transform)
    if by_cells:
        transform |= {name: np.zeros_like(transform[name]) for name in ("min", "lambda")}
        transform["range"] = np.ones_like(transform["range"])
    return replace(
        source,
        config=config,
        statistics=statistics,
        transform=transform,
        cells=source.cells if by_cells else {},
        state=state,
        meter={},
        trainer={},
        released=True,
    )


def _audit_effect(before: Section, after: Section) -> list[dict[str, Any]]:
    """Return the audit's metrics of the slots and of the centroids, side by side."""
    coarse = {result.key.partition(":")[0]: result for result in after.results}
    return [
        {
            "key": result.key,
            "title": result.title,
            "before": result.value,
            "verdict_before": str(result.verdict),
            "after": coarse[result.key].value,
            "verdict_after": str(coarse[result.key].verdict),
            "threshold": result.limit,
        }
        for result in before.results
        if result.key in _AUDITED
    ]
