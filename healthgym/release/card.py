"""The card of a release: its origin, what was removed, what it still discloses, its effect on a cohort."""

import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from healthgym.data.sequences import PreparedCohort
from healthgym.data.stages import in_a_sentence
from healthgym.errors import ConfigError, listed
from healthgym.evaluation.result import show
from healthgym.release.dossier import (
    attacks_in_rows,
    failing_sections,
    uses_in_words,
    uses_of,
    variables_in_rows,
    variables_of,
)
from healthgym.release.effect import SIDES
from healthgym.schema.cells import Cells
from healthgym.storage.checkpoint import Checkpoint

CARD_VERSION = 2
AT_LEAST = 10
# Between letters, an underscore is none.
_MARKS = re.compile(r"[\\`*{}\[\]<>#|~$&!^]|(?<![^\W_])_|_(?![^\W_])")
_PACKAGES = ("healthgym", "torch", "numpy", "h5py", "scikit-learn")
_RECIPE = ("holdout", "seed", "max_patients")
_REMOVED = (
    "optimisers",
    "networks that sampling does not need (critic, autoencoder)",
    "losses not yet logged",
    "the training data's path, fingerprint and correlations",
)
_REMAINS = (
    "a low and a high end of each real variable, in its transform: the means of the lowest and of the "
    "highest values of {patients} training patients each",
    "how many training patients have each length, among those of a static class too (10 or more of each; the "
    "longest patients count as having the length that 10 or more reach)",
    "the weights, which may have learned single patients: judge a cohort made from this file with "
    "healthgym evaluate",
)
_EXTREMES_REMAIN = (
    "THE SMALLEST AND THE LARGEST VALUE of each real variable among the training patients, in its transform: "
    "the table was prepared by an older version, with --least-patients below 10, or has fewer than 20 "
    "training patients with a value. Prepare it again and train again to release a system without them",
    *_REMAINS[1:],
)
_CELLS_REMAIN = (
    "for each real variable the single values and intervals that its values were pooled into, each of "
    "several training patients (at least {least}), and how many rows each has"
)
_UNKNOWN = "10, unless it was prepared otherwise"  # by version 0.1.0
_FEWER = "{least}, BY --least-patients; {usual} is usual"
_FEW_REMAIN = (
    "THE CELLS OF VARIABLES THAT FEWER TRAINING PATIENTS HAVE: {few}. Remove these from the schema, or use "
    "more patients, prepare the table again and train again to release a system without them"
)
_FLOOR = "The noise floor is the difference expected between two samples of real patients of this size."


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json.

    Raises:
        ConfigError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot read {path}: {error}. Give the report.json of healthgym evaluate."
        ) from None
    if not isinstance(content, dict) or content.get("kind") != "healthgym report":
        raise ConfigError(f"{path} is not a report of healthgym. Give the report.json of healthgym evaluate.")
    return content


def make_card(
    source: Checkpoint,
    released: Checkpoint,
    sha256: str,
    memory: dict[str, Any] | None,
    likelihood: dict[str, Any] | None,
    cohort: PreparedCohort | None,
    report: dict[str, Any] | None,
    effect: dict[str, Any],
    despite: str = "",
) -> dict[str, Any]:
    """Return the content of a card.

    Args:
        source: the checkpoint.
        released: its release, without a path or a fingerprint of the training data.
        sha256: the release's.
        memory: what became of the latent memory, None where the system has none.
        likelihood: membership by likelihood (`healthgym.release.likelihood`), None where it was not asked.
        cohort: the training data, if given.
        report: report.json on a cohort of the checkpoint, if that was given.
        effect: `effect.measure`'s finding, or {"measured": False, "why": reason}.
        despite: why it is released although its report fails, if it does.
    """
    recipe = {name: cohort.recipe[name] for name in _RECIPE if name in cohort.recipe} if cohort else {}
    failing = failing_sections(effect, report)
    return {
        "kind": "healthgym release card",
        "version": CARD_VERSION,
        "sha256": {"source checkpoint": source.sha256, "release": sha256},
        "data": {
            "schema": source.schema.name,
            "title": source.schema.title,
            "source": source.schema.source,
            "training_patients": source.statistics.num_patients,
            "training_use": json.loads(source.statistics.usage or "null"),
            "split": recipe or None,
        },
        "variables": variables_of(source.schema),
        "uses": uses_of(effect),
        "released_despite": {"sections": failing, "reason": despite} if failing else None,
        "training": {"steps": source.progress.step, "seconds": round(source.progress.seconds, 1)},
        "configuration": released.config.model_dump(mode="json"),
        "versions": {
            "trained with": source.versions,
            "released with": {"python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
        },
        "removed": list(_REMOVED),
        "latent_memory": memory,
        "membership_by_likelihood": likelihood,
        "report_effect": effect,
        "still_in_it": remains(released),
        "report": _report_part(report, source) if report else None,
    }


def remains(released: Checkpoint) -> list[str]:
    """Return what a release still discloses about its training patients."""
    if released.cells:
        return [*_cells_remain(released), *_REMAINS[1:]]
    patients = int(released.transform.get("patients", 1))
    said = _REMAINS if patients >= AT_LEAST else _EXTREMES_REMAIN
    return [line.format(patients=patients) for line in said]


def _cells_remain(released: Checkpoint) -> list[str]:
    """Return what the cells of a release disclose."""
    cells, known = Cells.from_tree(released.cells), "least_patients" in released.cells
    least = str(cells.least_patients) if known else _UNKNOWN
    if cells.least_patients < AT_LEAST:
        least = _FEWER.format(least=cells.least_patients, usual=AT_LEAST)
    lines = [_CELLS_REMAIN.format(least=least)]
    if few := cells.too_few([v.name for v in released.schema.reals]):
        lines.append(_FEW_REMAIN.format(few=listed(f"'{name}' ({count})" for name, count in few.items())))
    return lines


def _report_part(report: dict[str, Any], source: Checkpoint) -> dict[str, Any]:
    """Return the parts of a report that the card quotes."""
    judged = str(report["facts"].get("synthetic from", ""))
    return {
        "title": report["title"],
        "verdict": report["verdict"],
        "judged_a_cohort_of_the_source": f"checkpoint {source.sha256[:16]}" in judged,
        "sections": {section["title"]: section["verdict"] for section in report["sections"]},
        "thresholds": report["thresholds"],
    }


def in_words(card: dict[str, Any], reports: str) -> str:
    """Return a card as Markdown; `reports` is the name of the folder beside it that has the two reports."""
    data = card["data"]
    split = ", ".join(f"{name} {value}" for name, value in (data["split"] or {}).items()) or "not given"
    effect = card["report_effect"]
    verdict = f"**{effect['verdict']['after']}**" if effect["measured"] else "not measured"
    lines = [
        f"# Release: {plain(data['title'] or data['schema'])}",
        "",
        "A trained generator of synthetic patients, without what only its training needed.",
        "",
        *_despite_in_words(card.get("released_despite")),
        f"- report on a cohort made from it: {verdict}, see below",
        f"- schema: {plain(data['schema'])}; {data['training_patients']:,} training patients; split: {split}",
        *([f"- training patients: {in_a_sentence(use)}"] if (use := data.get("training_use")) else []),
        f"- trained for {card['training']['steps']:,} steps",
        *(f"- sha256 of the {name}: `{value}`" for name, value in card["sha256"].items()),
        *(
            f"- {when}: {', '.join(f'{name} {value}' for name, value in versions.items())}"
            for when, versions in card["versions"].items()
        ),
        *("", "## What it may be used for", "", *uses_in_words(card["uses"])),
        *("", "## Attacks that were tried", "", *_attacks_in_words(effect)),
        *("", "## Left out", "", *(f"- {item}" for item in card["removed"])),
        *("", "## Latent memory", "", *_memory_in_words(card["latent_memory"])),
        *("", "## Membership by likelihood", "", *_likelihood_in_words(card["membership_by_likelihood"])),
        *("", "## Effect on the report", "", *_effect_in_words(effect, reports)),
        *("", "## What it still discloses", "", *(f"- {item}" for item in card["still_in_it"])),
        *("", "## Report on the checkpoint", "", *_report_in_words(card["report"], effect)),
        *("", "## Variables", "", *_variables_in_words(card["variables"])),
        *("", "## Configuration", "", *_json(card["configuration"])),
        *("", "## Thresholds", "", *_thresholds_in_words(card)),
        *("## Approval", "", *_table(("name", "role", "date", "signature"), [(" ",) * 4] * 2), ""),
    ]
    return "\n".join(lines)


def plain(text: str) -> str:
    """Return a text in one line, in which Markdown and HTML see no marks of theirs."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split()))


def _despite_in_words(despite: Mapping[str, Any] | None) -> list[str]:
    if not despite:
        return []
    failing = ", ".join(plain(title) for title in despite["sections"])
    return [
        f"**Its report fails ({failing}). It is released despite that, because:** {plain(despite['reason'])}",
        "",
    ]


def _attacks_in_words(effect: dict[str, Any]) -> list[str]:
    rows = [(plain(title), *others) for title, *others in attacks_in_rows(effect)]
    if not rows:
        return ["None on a cohort made from it; those on the latent memory and by likelihood are below."]
    return _table(("attack on a cohort made from it", "result", "verdict"), rows)


def _variables_in_words(variables: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [tuple(plain(cell) for cell in row) for row in variables_in_rows(variables)]
    return _table(("variable", "kind", "unit or classes"), rows)


def _memory_in_words(memory: dict[str, Any] | None) -> list[str]:
    if memory is None:
        return ["This system has none."]
    lines = [
        f"{memory['slots_before']:,} slots became {memory['slots_after']:,} centroids (k-means), each for at "
        f"least {memory['at_least']} {memory['counted']}."
    ]
    if "effect" not in memory:
        return [*lines, "", "The audit was not run: give --data, the prepared cohort it was trained on."]
    rows = [
        (
            row["title"],
            f"{row['before']:.1%}, {row['verdict_before']}",
            f"{row['after']:.1%}, {row['verdict_after']}",
            row["threshold"],
        )
        for row in memory["effect"]
    ]
    return [*lines, "", *_table(("metric of the audit", "before", "after", "threshold"), rows)]


def _likelihood_in_words(audit: dict[str, Any] | None) -> list[str]:
    if audit is None:
        return [
            "Not computed: this system gives no likelihoods, or --data, the prepared cohort it was trained "
            "on with a holdout, was not given."
        ]
    low, high = audit["auc_interval"]
    nats = audit["nats_per_timestep"]
    return [
        "Anyone who has the weights can compute the likelihood of any patient. By that score, the "
        f"{audit['training_patients']:,} training patients are told from the "
        f"{audit['holdout_patients']:,} held-out ones with AUC "
        f"{audit['auc']:.3f} (95% interval {low:.3f} to {high:.3f}; 0.5 is chance). {_rate_in_words(audit)} "
        f"The most exposed 1% are likelier than {audit['most_exposed_above_holdout']:.1%} of the held-out "
        f"ones. Median nats per timestep: {nats['training']:.2f} and {nats['holdout']:.2f}."
    ]


def _rate_in_words(audit: dict[str, Any]) -> str:
    rate = audit["true_positive_rate"]
    if rate is None:
        return (
            "How many are found at 1% false positives cannot be measured with fewer than 100 held-out "
            "patients."
        )
    least, most = audit["true_positive_rate_interval"]
    return f"At 1% false positives {rate:.1%} of them are found ({least:.1%} to {most:.1%}; 1% is chance)."


def _effect_in_words(effect: dict[str, Any], reports: str) -> list[str]:
    if not effect["measured"]:
        return [f"Not measured: {effect['why']}"]
    holdout = effect["holdout_patients"]
    unseen = f"{holdout:,} patients it never saw" if holdout else "no others, since none were held out"
    changed = [row for row in effect["figures"] if row["verdict"]["before"] != row["verdict"]["after"]]
    others = [row for row in effect["figures"] if row not in changed]
    sections = [
        (row["title"], row["verdict"]["before"], row["verdict"]["after"]) for row in effect["sections"]
    ]
    lines = [
        f"{effect['patients']:,} patients were made from the checkpoint (before) and as many from this "
        f"release (after), with the same seed ({effect['seed']}). Both cohorts were judged against the "
        f"{effect['training_patients']:,} training patients and {unseen}: "
        + ", ".join(f"[{side}]({reports}/{side}/report.html)" for side in SIDES)
        + ".",
        "",
        *_table(
            ("section", *SIDES),
            [("**The whole report**", *(effect["verdict"][side] for side in SIDES)), *sections],
        ),
        "",
        f"{len(changed) or 'None'} of the {len(effect['figures'])} metrics changed {_what_changed(effect)}.",
        "",
    ]
    if changed:
        lines += [*_metrics(changed, with_threshold=True), "", "Metrics that kept their verdict:", ""]
    return [*lines, *_metrics(others), "", _FLOOR]


def _what_changed(effect: dict[str, Any]) -> str:
    same = all(row["value"]["before"] == row["value"]["after"] for row in effect["figures"])
    return "in any digit: the release makes the same patients" if same else "verdict"


def _metrics(rows: Sequence[Mapping[str, Any]], with_threshold: bool = False) -> list[str]:
    """Return metrics before and after as a table; a value stands with its verdict."""
    lines = []
    for row in rows:
        cells = [f"{show(row['value'][side], row['style'])}, {row['verdict'][side]}" for side in SIDES]
        lines.append((row["section"], plain(row["title"]), *cells, show(row["noise_floor"], row["style"])))
    head: tuple[str, ...] = ("section", "metric", *SIDES, "noise floor")
    if with_threshold:
        head += ("threshold",)
        lines = [(*line, row["threshold"]) for line, row in zip(lines, rows, strict=True)]
    return _table(head, lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _report_in_words(report: dict[str, Any] | None, effect: dict[str, Any]) -> list[str]:
    if report is None:
        return ["The one before, above." if effect["measured"] else "None was given."]
    whose = "a cohort of the source checkpoint" if report["judged_a_cohort_of_the_source"] else "ANOTHER"
    return [
        f"{plain(report['title'])}: **{report['verdict']}** (judged: {whose})",
        "",
        *(f"- {title}: {verdict}" for title, verdict in report["sections"].items()),
    ]


def _thresholds_in_words(card: dict[str, Any]) -> list[str]:
    judged = {
        "The two reports on the effect": card["report_effect"].get("thresholds"),
        "The report on the checkpoint": (card["report"] or {}).get("thresholds"),
    }
    given = [(whose, thresholds) for whose, thresholds in judged.items() if thresholds]
    blocks = [[f"{whose}:", "", *_json(thresholds), ""] for whose, thresholds in given]
    return [line for block in blocks for line in block] or ["Nothing was judged."]


def _json(content: Any) -> list[str]:
    return ["```json", json.dumps(content, indent=1), "```"]
