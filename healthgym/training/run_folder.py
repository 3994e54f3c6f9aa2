"""A run folder, and the fence that keeps it to one writer.

config.yaml     the resolved settings
owner.json      who writes here now
checkpoints/    step-000001200.h5 ...
metrics.jsonl   a line of losses every so often
losses.png      the same as a picture
"""

import json
from pathlib import Path
from typing import Any

import yaml

from healthgym.config import FREE_ON_RESUME, RunConfig, differences, load
from healthgym.errors import ConfigError, FencedError
from healthgym.files import remove_stale, write_json, write_text
from healthgym.identity import Identity, mine


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
        self._owner_path = path / "owner.json"
        self._identity = identity or mine()

    def claim(self) -> None:
        """Become the writer; whoever was it before stops at its next save.

        Raises:
            FencedError: a later life of this very job is the writer already.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        owner = self._owner()
        if self._identity.outlived_by(owner):
            raise FencedError(self._superseded(owner))
        write_json(self._owner_path, self._identity.as_dict())
        for folder in (self.path, self.checkpoints):
            remove_stale(folder)

    def check(self) -> None:
        """Make sure that this process is still the writer.

        Raises:
            FencedError: another process has claimed the folder since.
        """
        owner = self._owner()
        if owner.get("token") != self._identity.token:
            raise FencedError(self._superseded(owner))

    def write_config(self, config: RunConfig) -> None:
        """Keep the resolved settings beside the checkpoints, for people."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_text(self.config_path, text)

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
            owner: dict[str, Any] = json.loads(self._owner_path.read_text())
        except FileNotFoundError:
            return {}
        return owner

    def _superseded(self, owner: dict[str, Any]) -> str:
        return (
            f"{self.path} now belongs to process {owner.get('pid')} on {owner.get('host')} "
            f"({owner.get('job') or 'outside a scheduler'}), which started later. This process "
            f"({self._identity.pid} on {self._identity.host}) stops without writing; nothing is lost."
        )
