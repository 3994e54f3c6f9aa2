"""The trained system that a path names: a checkpoint, a release, or the best one of a folder."""

import warnings
from pathlib import Path

from healthgym.errors import ConfigError, StorageError, UnreadableError, listed
from healthgym.storage.checkpoint import RELEASE_KIND, Checkpoint, best_first, read_checkpoint
from healthgym.storage.tree import kind_of, read_seal


def find_trained(path: Path) -> tuple[Path, Checkpoint]:
    """Return a trained system's file and its content.

    Args:
        path: a checkpoint file, a release, a run folder or a folder of checkpoints (the best one in
            validation, where that is known, else the newest whole one; each damaged one is named in a
            warning), or a folder that holds one release.

    Raises:
        ConfigError: the folder holds several releases.
        StorageError: nothing is there, or it is damaged.
    """
    if not path.exists():
        raise StorageError(
            f"{path} does not exist: check the path. Give a run folder that training has written to, a "
            f"checkpoint file, or a release."
        )
    if not path.is_dir():
        return path, read_checkpoint(path)
    for file in [*best_first(path / "checkpoints"), *best_first(path)]:
        try:
            return file, read_checkpoint(file)
        except UnreadableError:
            raise  # it may be sound: an older one is no substitute
        except StorageError as error:
            warnings.warn(f"Skipping a checkpoint: {error}", stacklevel=2)
    releases = [file for file in sorted(path.glob("*.h5")) if is_release(file)]
    if len(releases) > 1:
        raise ConfigError(
            f"{path} holds several releases: {listed(file.name for file in releases)}. Give the file of one."
        )
    if not releases:
        raise StorageError(
            f"{path} contains no complete checkpoint and no release. Give a run folder that training has "
            "written to, a checkpoint file, or a release."
        )
    return releases[0], read_checkpoint(releases[0])


def is_release(file: Path) -> bool:
    """Return whether a file is marked as a release."""
    try:
        read_seal(file)
        return kind_of(file) == RELEASE_KIND
    except (StorageError, OSError):
        return False
