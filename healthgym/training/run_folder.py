"""A run folder, with fencing so that it has one writer.

config.yaml     the resolved settings
owner.json      the process that may write here
checkpoints/    step-000001200.h5 ...
metrics.jsonl   a line of losses per logging interval
losses.png      plot of the losses
finished.json   written at the end, deleted if the run is continued
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from healthgym.config import FREE_ON_RESUME, RunConfig
from healthgym.distributed.identity import Identity, mine
from healthgym.errors import ConfigError, FencedError, StorageError
from healthgym.faults import sentence
from healthgym.files import read_text, remove_stale, write_json, write_text
from healthgym.strict import differences, load

_STALE_SECONDS = 3600
FINISHED_FILE = "finished.json"


@contextlib.contextmanager
def saving_to(path: Path) -> Iterator[None]:
    """Turn file system errors into a sentence."""
    try:
        yield
    except OSError as error:
        said = sentence(error, path, "write to") or f"Cannot write to {path}: {error}."
        raise StorageError(
            f"{said} Then the same command resumes from the last checkpoint. A new run can have another "
            f"--run-dir."
        ) from error


class RunFolder:
    """The paths of a run, and the ownership of the folder.

    Args:
        path: the folder; made if absent.
        identity: of the writer; by default this process.
    """

    def __init__(self, path: Path, identity: Identity | None = None) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.losses_path = path / "losses.png"
        self.finished_path = path / FINISHED_FILE
        self._owner_path = path / "owner.json"
        self._identity = identity or mine()

    def claim(self) -> None:
        """Become the writer; the previous one stops at its next save.

        Raises:
            FencedError: a later start of the same job is already the writer.
            StorageError: the folder cannot be written to.
        """
        with saving_to(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            owner = self._owner()
            if self._identity.outlived_by(owner):
                raise FencedError(self._superseded(owner))
            write_json(self._owner_path, self._identity.as_dict())
            remove_stale(self.checkpoints)
            # Another process may be claiming the folder at this moment: do not delete recent files.
            remove_stale(self.path, older_than=time.time() - _STALE_SECONDS)

    def check(self) -> None:
        """Check that this process is still the writer.

        Raises:
            FencedError: another process has claimed the folder since, or the folder was moved or deleted.
        """
        owner = self._owner()
        if owner.get("token") != self._identity.token:
            raise FencedError(self._superseded(owner))

    def begin(self, config: RunConfig) -> None:
        """Write the resolved settings beside the checkpoints, and delete the record of an earlier end."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        with saving_to(self.path):
            write_text(self.config_path, text)
            self.finished_path.unlink(missing_ok=True)

    def finish(self, step: int, why: str) -> None:
        """Record the end of the run, for `status`.

        Args:
            step: number of steps taken.
            why: the reason for the end, if it came early.

        Raises:
            OSError: it cannot be written; the last checkpoint is not affected.
        """
        self.check()
        write_json(self.finished_path, {"step": step, "why": why})

    def refuse_other_config(self, config: RunConfig) -> None:
        """Refuse to resume with settings that would change the training.

        Raises:
            ConfigError: lists the settings that differ.
        """
        if not self.config_path.exists():
            return
        changed = [
            line
            for line in differences(load(RunConfig, self.config_path), config)
            if line.split(":")[0] not in FREE_ON_RESUME
        ]
        if changed:
            raise ConfigError(
                f"{self.path} was started with other settings:\n"
                + "\n".join(f"  - {line}" for line in changed)
                + "\nResume with the old settings, or choose another --run-dir."
            )

    def _owner(self) -> dict[str, Any]:
        """Return the writer's identity; empty if the file is missing or damaged."""
        try:
            owner = json.loads(read_text(self._owner_path))
        except (FileNotFoundError, ValueError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _superseded(self, owner: dict[str, Any]) -> str:
        if not owner:
            return (
                f"{self._owner_path} is missing or damaged: {self.path} was moved, deleted or unmounted "
                f"while this process was training there. It stops without writing; what it has done since "
                f"its last checkpoint is lost. Give the same command with the folder's new name as --run-dir."
            )
        return (
            f"{self.path} now belongs to process {owner.get('pid')} on {owner.get('host')} "
            f"({owner.get('job') or 'outside a scheduler'}), which started later. This process "
            f"({self._identity.pid} on {self._identity.host}) stops without writing; nothing is lost."
        )
