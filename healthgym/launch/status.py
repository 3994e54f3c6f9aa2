"""State of the jobs of a folder (queued, running, preempted, done, failed), and their progress."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from healthgym.errors import LaunchError
from healthgym.launch.progress import progress
from healthgym.launch.tracking import Tracked, track

_SHOWN_TASKS = 8


def report(target: Path, everything: bool = False) -> dict[str, Any]:
    """Return the state of a folder as plain values.

    Args:
        target: a run, cohort or report folder, or a prepared cohort.
        everything: include jobs that a later submission has replaced.

    Raises:
        LaunchError: the folder does not exist, and nothing was submitted for it.
    """
    target = target.absolute()
    jobs = track(target)
    if not jobs and not target.exists():
        raise LaunchError(f"{target} does not exist, and no job was ever submitted for it.")
    shown = jobs if everything else _latest(jobs)
    return {
        "folder": str(target),
        "progress": progress(target),
        # "place" is the task's name in earlier versions; programs may read it.
        "jobs": [dataclasses.asdict(job) | {"place": job.task, "folder": str(job.folder)} for job in shown],
    }


def _latest(jobs: list[Tracked]) -> list[Tracked]:
    """Return the last job of each task, and those that are queued or running."""
    last = {job.task: job for job in jobs}
    return [job for job in jobs if job.live or last[job.task] is job]


def as_text(said: dict[str, Any]) -> str:
    """Return the report as text: one line about the work, then a line per job or a count per array."""
    lines = [f"{said['folder']}: {said['progress']}"]
    jobs = said["jobs"]
    if not jobs and not said["progress"].startswith("done"):
        lines.append("  no job was submitted for it, or its records were deleted")
    if len(jobs) > _SHOWN_TASKS:
        counts = Counter(job["state"] for job in jobs)
        lines.append("  " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
        jobs = [job for job in jobs if job["state"] not in {"finished", "queued"}]
    lines += [_line(job) for job in jobs]
    return "\n".join(lines)


def _line(job: dict[str, Any]) -> str:
    task = f" (task {job['task']})" if job["place"] else ""
    lives = f", started {job['life'] + 1} times" if job["life"] else ""
    detail = f": {job['detail']}" if job["detail"] else ""
    logs = f"\n      logs {job['folder']}" if job["state"] in {"failed", "lost", "unknown", "fenced"} else ""
    return f"  {job['kind']} job {job['number']}{task} {job['state']}{lives}{detail}{logs}"


def main(folder: Path, everything: bool, as_json: bool) -> int:
    """Print the report and return the exit status."""
    said = report(folder, everything)
    print(json.dumps(said, indent=1) if as_json else as_text(said))
    return 0
