"""Progress of the work in a folder, from the files that the work writes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from healthgym.errors import HealthgymError
from healthgym.launch import records
from healthgym.storage.cohort_folder import count_receipts, is_cohort, manifest_path, plan_path
from healthgym.words import counted


def progress(target: Path) -> str:
    """Return a sentence about a run folder, a cohort folder, a report folder or a prepared cohort."""
    if target.is_file():
        return f"done: a file of {target.stat().st_size:,} bytes"
    if is_cohort(target):
        return _cohort(target)
    if (target / "config.yaml").exists() or (target / "checkpoints").is_dir():
        return _run(target)
    if (target / "report.html").exists():
        return f"done: {target / 'report.html'}"
    return "nothing made yet"


def _run(run_dir: Path) -> str:
    from healthgym.config import RunConfig
    from healthgym.storage.checkpoint import list_checkpoints
    from healthgym.strict import load
    from healthgym.training.monitoring.metrics import read_metrics
    from healthgym.training.run_folder import FINISHED_FILE

    saved = list_checkpoints(run_dir / "checkpoints")
    said = f"training, saved as {saved[0].name}" if saved else "training, nothing saved yet"
    ended = records.read_json(run_dir / FINISHED_FILE)
    if ended and saved:
        why = f" ({ended['why']})" if ended.get("why") else ""
        return f"done: trained {counted(int(ended['step']), 'step')}{why}, saved as {saved[0].name}"
    logged = read_metrics(run_dir / "metrics.jsonl")
    if not logged:
        return said
    last = logged[-1]
    try:
        wanted = load(RunConfig, run_dir / "config.yaml").training.epochs
        epochs = f" of {wanted:,}" if isinstance(wanted, int) else ""
    except HealthgymError:
        epochs = ""
    return f"{said}; step {last['step']:,}, epoch {last['epoch'] + 1:,}{epochs}, length {last['length']}"


def _cohort(folder: Path) -> str:
    plan = records.read_json(plan_path(folder))
    finished = f"{count_receipts(folder):,}{_of_shards(plan)} shards finished"
    if not manifest_path(folder).exists():
        return f"synthesis, {finished}; not complete: the manifest is written last"
    wanted = plan.get("num_patients")
    complete = records.read_json(manifest_path(folder)).get("num_patients", wanted)
    if complete != wanted:
        return f"synthesis, {finished}; the cohort of the first {complete:,} patients is complete"
    return f"done: {finished}"


def _of_shards(plan: dict[str, Any]) -> str:
    """Return " of N" for a plan's number of shards, or nothing if it is unknown."""
    size, ends = plan.get("patients_per_shard"), [0, *plan.get("earlier", []), plan.get("num_patients")]
    if not isinstance(size, int) or not all(isinstance(end, int) for end in ends):
        return ""
    return f" of {sum(-(-(end - start) // size) for start, end in pairwise(ends)):,}"
