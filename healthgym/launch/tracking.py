"""The state of each job submitted for a target, from the scheduler and from the job's own record."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from healthgym.launch import records
from healthgym.launch.slurm import queue
from healthgym.launch.slurm.queue import Queued


@dataclass(frozen=True)
class Tracked:
    """One job or array task.

    Args:
        kind: prepare, train, synthesize or evaluate.
        number: the scheduler's, e.g. "12", "12_3", "local-345".
        task: of an array job, e.g. "3/16"; empty for the whole job.
        state: queued, preempted (saved or stopped, waits to be restarted), running, finished, interrupted
            (saved, and not requeued), failed, fenced, cancelled, lost, unknown.
        detail: the reason, or the node.
        life: number of restarts.
        folder: of its logs.
    """

    kind: str
    number: str
    task: str
    state: str
    detail: str
    life: int
    folder: Path

    @property
    def live(self) -> bool:
        """Whether it is queued, running or will be restarted."""
        return self.state in {"queued", "preempted", "running"}


def track(target: Path) -> list[Tracked]:
    """Return every job ever submitted for a target, oldest first."""
    known = records.submissions(target)
    queued = queue.look_up(said["name"] for _, said in known if "name" in said)
    found = []
    for folder, said in known:
        own = records.states(folder)
        for number, task in said.get("places", {}).items():
            mine = own.get(number, {})
            state, detail = judge(queued.get((said.get("name", ""), number)), mine)
            life = int(mine.get("life", 0))
            found.append(Tracked(said.get("kind", "?"), number, task, state, detail, life, folder))
    return found


def judge(queued: Queued | None, own: Mapping[str, Any]) -> tuple[str, str]:
    """Return (state, detail) from the scheduler's state, if known, and the job's last record.

    The scheduler decides whether the job is live, if it still knows it, except that a job that has recorded
    "finished" is not live while the scheduler cleans up after it.
    """
    word = str(own.get("state", ""))
    message = str(own.get("message", "")).partition("\n")[0]
    if queued and queued.live and not (word == "finished" and queued.phase == "changing"):
        if queued.phase == "running" and word == "running":
            return "running", f"on {own.get('host', queued.detail)}"
        if queued.phase == "waiting":
            return ("preempted" if own else "queued"), queued.detail
        return "running" if queued.phase == "running" else "queued", f"{queued.state} {queued.detail}".strip()
    if word in {"finished", "fenced"}:
        return word, message
    if queued and queued.phase == "cancelled":
        return "cancelled", "its work up to the last save is kept"
    if word in {"interrupted", "failed"}:
        return word, message
    if queued:
        return "failed", f"Slurm says {queued.state}"
    if word == "running":
        return (
            ("running", f"on {own['host']}")
            if _alive_here(own)
            else ("lost", "it ended without recording an outcome")
        )
    return "unknown", "neither Slurm nor the job has recorded a state"


def _alive_here(own: Mapping[str, Any]) -> bool:
    """Return whether a job on this machine is still running; Slurm would know a Slurm job."""
    if own.get("job") or own.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(own["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return False
    return True
