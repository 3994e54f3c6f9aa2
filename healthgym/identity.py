"""Who is writing: which job, which life of it, which process.

A scheduler that loses touch with a node starts the job again elsewhere while the old process lives on
(measured with Slurm 22.05: about half a minute after the node's daemon died). Two writers of one folder
are told apart by the job's id and by how often the job has been started; Slurm gives both.
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
        life: how often the job was started before (see `healthgym.environment.life`).
        token: new in each process.
        host: where it runs, for messages.
        pid: its number there, for messages.
    """

    job: str
    life: int
    token: str
    host: str
    pid: int

    def outlived_by(self, owner: Mapping[str, Any]) -> bool:
        """Tell whether `owner` is a later life of this very job, so that this one must never claim."""
        return bool(self.job) and owner.get("job") == self.job and int(owner.get("life", 0)) > self.life

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, fit for JSON."""
        return asdict(self)


@cache
def mine() -> Identity:
    """Return this process's identity, the same at each call."""
    job, life = environment.job(os.environ), environment.life(os.environ)
    return Identity(job, life, uuid4().hex, socket.gethostname(), os.getpid())
