"""The release form of a checkpoint: what sampling needs and no more, with a card that says what it is."""

import json
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.data.sequences import PreparedCohort
from healthgym.errors import ConfigError
from healthgym.evaluation.figure import Section
from healthgym.evaluation.memory import audit, coarsen
from healthgym.evaluation.patients import k_nearest
from healthgym.evaluation.settings import load_report_config
from healthgym.files import write_json, write_text
from healthgym.launch.memory import latents_of, slots_of
from healthgym.storage.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from healthgym.synthesis.source import trained_system
from healthgym.training.trainer import to_arrays

AT_LEAST = 10
CARD_VERSION = 1
_PACKAGES = ("healthgym", "torch", "numpy", "h5py", "scikit-learn")
_EFFECT = ("memory.membership_auc", "memory.membership_tpr", "memory.linked")
_RECIPE = ("holdout", "seed", "max_patients")
_REMOVED = (
    "optimisers",
    "networks that sampling does not need (critic, autoencoder)",
    "losses not yet logged",
    "the training data's path, fingerprint and correlations",
)
_REMAINS = (
    "the smallest and the largest value of each real variable among the training patients, in its transform",
    "how many training patients have each length",
    "the weights, which may have learned single patients: judge a cohort made from this file with "
    "jobs/evaluate.py",
)

Slots = NDArray[np.float32]


def release(
    checkpoint: Path,
    out: Path,
    config: Path,
    at_least: int = AT_LEAST,
    report: Path | None = None,
    data: Path | None = None,
) -> dict[str, Any]:
    """Write a release of a checkpoint, and its card beside it as .json and .md; return the card.

    Args:
        checkpoint: a checkpoint file or a run folder.
        out: the release, an .h5 file.
        config: thresholds of the audit (YAML).
        at_least: patients that a centroid of the latent memory, or a length, stands for.
        report: report.json on a cohort that the checkpoint made, for the card.
        data: the prepared cohort it was trained on: tells which patient each slot is nearest to, so that
            patients are counted and not slots, and what the coarsening does to the audit.

    Raises:
        ConfigError: too small an `at_least`, too few slots for it, a release, or no report.
        TableError: the checkpoint was not trained on `data`, or too few of its patients are held out.
        StorageError: a file is missing or damaged.
    """
    if at_least < AT_LEAST:
        raise ConfigError(
            f"--coarsen {at_least}: in a release a centroid stands for {AT_LEAST} patients or more. Give at "
            f"least {AT_LEAST}."
        )
    if out.suffix != ".h5":
        raise ConfigError(f"--out {out}: give the name of an .h5 file; the card is written beside it.")
    judged = _read_report(report) if report else None
    source = load_checkpoint(checkpoint)
    if source.released:
        raise ConfigError(f"{checkpoint} is a release already. Give the checkpoint that it was made of.")
    cohort = PreparedCohort.open(data) if data else None
    system = trained_system(source, "cpu")
    state, slots_MZ = to_arrays(system.sampling_state()), slots_of(system)
    memory: dict[str, Any] | None = None
    if slots_MZ is not None:
        owners, patients = _distinct(slots_MZ), None
        if cohort and data:
            settings = load_report_config(config)
            patients = latents_of(system, source, cohort, checkpoint, data, settings)
            owners = k_nearest(slots_MZ, patients[0], 1)[1][:, 0]
        centroids_CZ, counts_C = _coarsen(slots_MZ, owners, at_least, counted=patients is not None)
        state |= {"Mean_Container": centroids_CZ, "Mean_Counts": counts_C}
        memory = {
            "slots_before": len(slots_MZ),
            "slots_after": len(centroids_CZ),
            "at_least": at_least,
            "counted": "training patients, each slot taken for the nearest one's"
            if patients
            else "different prototypes; a patient met in several epochs may have several (--data counts "
            "patients)",
            "smallest_centroid_slots": int(counts_C.min()),
        }
        if patients:
            before = audit(slots_MZ, *patients, settings)
            memory["effect"] = _effect(before, audit(centroids_CZ, *patients, settings, coarse=True))
    elif cohort and cohort.fingerprint != source.statistics.data_fingerprint:
        raise ConfigError(f"{checkpoint} was not trained on {data}. Give the cohort that it was trained on.")
    released = _without_training(source, state, at_least)
    card = _card(source, released, write_checkpoint(out, released), memory, cohort, judged)
    write_text(out.with_suffix(".md"), in_words(card))
    write_json(out.with_suffix(".json"), card)
    return card


def common_lengths(lengths_2U: NDArray[np.int64], at_least: int) -> NDArray[np.int64]:
    """Give each length that few patients have to the nearest other one, until none is left."""
    counts = {int(length): int(count) for length, count in lengths_2U.T}
    while len(counts) > 1 and min(counts.values()) < at_least:
        rare = min(counts, key=lambda length: (counts[length], length))
        count = counts.pop(rare)
        counts[min(counts, key=lambda length: (abs(length - rare), length))] += count
    return np.array([list(counts), list(counts.values())], dtype=np.int64)


def _distinct(slots_MZ: Slots) -> NDArray[np.int64]:
    """Number the different slots: a full memory draws with replacement, so that some stand twice."""
    return np.asarray(np.unique(slots_MZ, axis=0, return_inverse=True)[1], dtype=np.int64).reshape(-1)


def _coarsen(
    slots_MZ: Slots, owners_M: NDArray[np.int64], at_least: int, counted: bool
) -> tuple[Slots, NDArray[np.int64]]:
    found = len(np.unique(owners_M))
    if found < at_least:
        raise ConfigError(
            f"The latent memory holds prototypes of {found} different "
            f"{'patients' if counted else 'values'}; a centroid cannot stand for {at_least}. Train longer, "
            f"or on more patients."
        )
    centroids_CZ, counts_C = coarsen(slots_MZ, at_least, owners_M=owners_M)
    return centroids_CZ.astype(np.float32), counts_C


def _without_training(source: Checkpoint, state: dict[str, Any], at_least: int) -> Checkpoint:
    """Leave out what only training needs or what tells of the training data."""
    statistics = replace(
        source.statistics,
        data_fingerprint="",
        correlation_FF=np.zeros((0, 0)),
        lengths_2U=common_lengths(source.statistics.lengths_2U, at_least),
    )
    config = source.config.model_copy(update={"data": Path("withheld")})
    return replace(source, config=config, statistics=statistics, state=state, meter={}, released=True)


def _read_report(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read {path}: {error}. Give the report.json of jobs/evaluate.py.") from None
    if not isinstance(content, dict) or content.get("kind") != "healthgym report":
        raise ConfigError(f"{path} is not a report. Give the report.json of jobs/evaluate.py.")
    return content


def _effect(before: Section, after: Section) -> list[dict[str, Any]]:
    """Return the audit's figures of the slots and of the centroids, side by side."""
    coarse = {figure.key.partition(":")[0]: figure for figure in after.figures}
    return [
        {
            "key": figure.key,
            "title": figure.title,
            "before": figure.value,
            "verdict_before": str(figure.verdict),
            "after": coarse[figure.key].value,
            "verdict_after": str(coarse[figure.key].verdict),
            "threshold": figure.limit,
        }
        for figure in before.figures
        if figure.key in _EFFECT
    ]


def _card(
    source: Checkpoint,
    released: Checkpoint,
    sha256: str,
    memory: dict[str, Any] | None,
    cohort: PreparedCohort | None,
    report: dict[str, Any] | None,
) -> dict[str, Any]:
    recipe = {name: cohort.recipe[name] for name in _RECIPE if name in cohort.recipe} if cohort else {}
    return {
        "kind": "healthgym release card",
        "version": CARD_VERSION,
        "sha256": {"source checkpoint": source.sha256, "release": sha256},
        "data": {
            "schema": source.schema.name,
            "title": source.schema.title,
            "source": source.schema.source,
            "training_patients": source.statistics.num_patients,
            "split": recipe or None,
        },
        "training": {"steps": source.progress.step, "seconds": round(source.progress.seconds, 1)},
        "configuration": released.config.model_dump(mode="json"),
        "versions": {
            "trained with": source.versions,
            "released with": {"python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
        },
        "removed": list(_REMOVED),
        "latent_memory": memory,
        "still_in_it": list(_REMAINS),
        "report": {
            "title": report["title"],
            "verdict": report["verdict"],
            "judged_a_cohort_of_the_source": f"checkpoint {source.sha256[:16]}"
            in str(report["facts"].get("synthetic from", "")),
            "sections": {section["title"]: section["verdict"] for section in report["sections"]},
            "thresholds": report["thresholds"],
        }
        if report
        else None,
    }


def in_words(card: dict[str, Any]) -> str:
    """Return a card as Markdown."""
    data, memory, report = card["data"], card["latent_memory"], card["report"]
    split = ", ".join(f"{name} {value}" for name, value in (data["split"] or {}).items()) or "not given"
    lines = [
        f"# Release: {data['title'] or data['schema']}",
        "",
        f"- schema: {data['schema']}; {data['training_patients']:,} training patients; split: {split}",
        f"- trained for {card['training']['steps']:,} steps",
        *(f"- sha256 of the {name}: `{value}`" for name, value in card["sha256"].items()),
        *(
            f"- {when}: {', '.join(f'{name} {value}' for name, value in versions.items())}"
            for when, versions in card["versions"].items()
        ),
        *("", "## Left out", "", *(f"- {item}" for item in card["removed"])),
        *("", "## Latent memory", "", *_memory_in_words(memory)),
        *("", "## What it still tells", "", *(f"- {item}" for item in card["still_in_it"])),
        *("", "## Report", ""),
    ]
    if report:
        whose = "a cohort of the source checkpoint" if report["judged_a_cohort_of_the_source"] else "ANOTHER"
        lines += [f"{report['title']}: **{report['verdict']}** (judged: {whose})", ""]
        lines += [f"- {title}: {verdict}" for title, verdict in report["sections"].items()]
        lines += ["", "```json", json.dumps(report["thresholds"], indent=1), "```"]
    else:
        lines += ["None was given."]
    lines += ["", "## Configuration", "", "```json", json.dumps(card["configuration"], indent=1), "```", ""]
    return "\n".join(lines)


def _memory_in_words(memory: dict[str, Any] | None) -> list[str]:
    if memory is None:
        return ["This system has none."]
    lines = [
        f"{memory['slots_before']:,} slots became {memory['slots_after']:,} centroids (k-means) of at least "
        f"{memory['at_least']} each, counted as {memory['counted']}."
    ]
    if "effect" not in memory:
        return [
            *lines,
            "",
            "The effect was not measured: give --data, the prepared cohort it was trained on.",
        ]
    lines += ["", "| figure | before | after | passes |", "| --- | --- | --- | --- |"]
    return lines + [
        f"| {row['title']} | {row['before']:.1%} {row['verdict_before']} | "
        f"{row['after']:.1%} {row['verdict_after']} | {row['threshold']} |"
        for row in memory["effect"]
    ]
