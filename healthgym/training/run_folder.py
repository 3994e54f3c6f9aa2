"""A run folder, and the fence that keeps it to one writer.

config.yaml     the resolved settings
owner.json      who writes here now
checkpoints/    step-000001200.h5 ...
metrics.jsonl   a line of losses every so often
losses.png      the same as a picture
finished.json   there once the end was reached, until the run goes on
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from healthgym.config import FREE_ON_RESUME, RunConfig
from healthgym.errors import ConfigError, FencedError, StorageError
from healthgym.faults import sentence
from healthgym.files import read_text, remove_stale, write_json, write_text
from healthgym.identity import Identity, mine
from healthgym.strict import differences, load

_STALE_SECONDS = 3600
FINISHED_FILE = "finished.json"


@contextlib.contextmanager
def saving_to(path: Path) -> Iterator[None]:
    """Turn a refusal of the file system into a sentence."""
    try:
        yield
    except OSError as error:
        said = sentence(error, path, "write to") or f"Cannot write to {path}: {error}."
        raise StorageError(
            f"{said} Then the same command goes on from the last checkpoint. A new run can have another "
            f"--run-dir."
        ) from error


class RunFolder:
    """Paths of a run, and the right to write to them.

    Args:
        path: the folder; made if absent.
        identity: who asks; this process unless a test says otherwise.
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
        """Become the writer; whoever was it before stops at its next save.

        Raises:
            FencedError: a later life of this very job is the writer already.
            StorageError: the folder cannot be written to.
        """
        with saving_to(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            owner = self._owner()
            if self._identity.outlived_by(owner):
                raise FencedError(self._superseded(owner))
            write_json(self._owner_path, self._identity.as_dict())
            remove_stale(self.checkpoints)
            # Another process may be claiming the folder at this moment: leave young files alone.
            remove_stale(self.path, older_than=time.time() - _STALE_SECONDS)

    def check(self) -> None:
        """Make sure that this process is still the writer.

        Raises:
            FencedError: another process has claimed the folder since.
        """
        owner = self._owner()
        if owner.get("token") != self._identity.token:
            raise FencedError(self._superseded(owner))

    def begin(self, config: RunConfig) -> None:
        """Keep the resolved settings beside the checkpoints, for people; the run is not finished."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        with saving_to(self.path):
            write_text(self.config_path, text)
            self.finished_path.unlink(missing_ok=True)

    def finish(self, step: int, why: str) -> None:
        """Leave word that the end was reached, for `status`.

        Args:
            step: steps taken.
            why: that was the end.

        Raises:
            OSError: it cannot be written; the run's last checkpoint is there all the same.
        """
        self.check()
        write_json(self.finished_path, {"step": step, "why": why})

    def refuse_other_config(self, config: RunConfig) -> None:
        """Refuse to go on with settings that would train something else.

        Raises:
            ConfigError: with the settings that differ.
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
                + "\nGo on with the old settings, or choose another --run-dir."
            )

    def _owner(self) -> dict[str, Any]:
        try:
            owner: dict[str, Any] = json.loads(read_text(self._owner_path))
        except FileNotFoundError:
            return {}
        return owner

    def _superseded(self, owner: dict[str, Any]) -> str:
        return (
            f"{self.path} now belongs to process {owner.get('pid')} on {owner.get('host')} "
            f"({owner.get('job') or 'outside a scheduler'}), which started later. This process "
            f"({self._identity.pid} on {self._identity.host}) stops without writing; nothing is lost."
        )
