"""What became of each job submitted for a target: the scheduler's word joined with the job's own."""

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
        place: its part of a dealt job, e.g. "3/16"; empty for the whole.
        state: queued, preempted (saved or stopped, waits for its next life), running, finished,
            interrupted (saved, and nobody will go on), failed, fenced, cancelled, lost, unknown.
        detail: why, or where.
        life: how often it was started before.
        folder: where its logs are.
    """

    kind: str
    number: str
    place: str
    state: str
    detail: str
    life: int
    folder: Path

    @property
    def live(self) -> bool:
        """Whether it will go on by itself."""
        return self.state in {"queued", "preempted", "running"}


def track(target: Path) -> list[Tracked]:
    """Return every job ever submitted for a target, oldest first."""
    known = records.submissions(target)
    queued = queue.look_up(said["name"] for _, said in known if "name" in said)
    found = []
    for folder, said in known:
        own = records.states(folder)
        for number, place in said.get("places", {}).items():
            mine = own.get(number, {})
            state, detail = judge(queued.get((said.get("name", ""), number)), mine)
            life = int(mine.get("life", 0))
            found.append(Tracked(said.get("kind", "?"), number, place, state, detail, life, folder))
    return found


def judge(queued: Queued | None, own: Mapping[str, Any]) -> tuple[str, str]:
    """Return (state, detail) from what the scheduler says, if anything, and the job's last word.

    A job that finished says so itself, and that stands. Otherwise the scheduler, if it still knows
    the job, is right about whether it lives.
    """
    word = str(own.get("state", ""))
    message = str(own.get("message", "")).partition("\n")[0]
    if queued and queued.live:
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
        return ("running", f"on {own['host']}") if _alive_here(own) else ("lost", "it ended without a word")
    return "unknown", "neither the scheduler nor the job itself says anything"


def _alive_here(own: Mapping[str, Any]) -> bool:
    """Tell whether a job of this very machine still runs; a Slurm job would be known to Slurm."""
    if own.get("job") or own.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(own["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return False
    return True
