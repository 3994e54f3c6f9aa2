"""The identity of a writer: job, number of restarts, process.

A scheduler that loses contact with a node restarts the job elsewhere while the old process may still be
running (measured with Slurm 22.05: about half a minute after the node's daemon died). Two writers of one
folder are distinguished by the job's id and by how often the job has been started; Slurm provides both.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any
from uuid import uuid4

from healthgym import environment


@dataclass(frozen=True)
class Identity:
    """One process's claim to a folder.

    Args:
        job: the scheduler's name of the job, e.g. "slurm:prod:1234_7"; empty outside a scheduler.
        life: how often the job was restarted (see `healthgym.environment.life`).
        token: a random token of this process.
        host: of the process, for messages.
        pid: of the process, for messages.
    """

    job: str
    life: int
    token: str
    host: str
    pid: int

    def outlived_by(self, owner: Mapping[str, Any]) -> bool:
        """Return whether `owner` is a later start of the same job: this process must not claim then."""
        return bool(self.job) and owner.get("job") == self.job and int(owner.get("life", 0)) > self.life

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


@cache
def mine() -> Identity:
    """Return this process's identity, the same at each call."""
    job, life = environment.job(os.environ), environment.life(os.environ)
    return Identity(job, life, uuid4().hex, socket.gethostname(), os.getpid())
