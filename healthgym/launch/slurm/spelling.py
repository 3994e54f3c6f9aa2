"""Names that a batch script, Slurm's patterns or a container's binds would read as something else.

Such a job would fail on the node, hours after it was queued. It is refused before.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from healthgym.errors import LaunchError
from healthgym.launch.slurm.resources import ContainerSettings

# submitit puts a job's numbers in the place of these, in every part of a path.
_TAGS = re.compile(r"%[jtAa]")
# What ends or splits a bind, by runtime: apptainer reads a line of CSV of SRC:DEST:OPTIONS, charliecloud
# SRC:DEST, and pyxis writes "SRC DEST OPTIONS" into a table of mounts.
_SPLITS_BIND = {"apptainer": ':,"', "charliecloud": ":", "pyxis": ":, \t"}
_SHOWN = {" ": "a space", "\t": "a tab", ",": "a comma", ":": "a colon", '"': "a double quote"}


def require_log_folder(folder: Path, on_slurm: bool) -> None:
    """Refuse a submission's folder in which Slurm or submitit would replace or drop characters.

    Slurm reads `%` in --output as the start of a pattern and takes a backslash for an escape, and the path
    stands in a line that begins with #SBATCH.

    Raises:
        LaunchError: with the character.
    """
    text = str(folder)
    if on_slurm:
        found = next((sign for sign in "%\\" if sign in text), None)
    else:
        tag = _TAGS.search(text)
        found = tag[0] if tag else None
    if found:
        raise LaunchError(
            f"{folder}, where the job's logs go, has {found} in its path, which Slurm or submitit would "
            f"replace: the job could not find its files. Choose a path without it."
        )


def require_plain(paths: Iterable[Path]) -> None:
    """Refuse paths that cannot stand in one line of a text: they have control characters.

    Raises:
        LaunchError: with the path.
    """
    for path in paths:
        text = str(path)
        if any(sign < " " or sign == "\x7f" for sign in text):
            raise LaunchError(
                f"The path {text!r} has a line end or another control character in it, which a batch script "
                f"cannot hold. Rename it."
            )


def require_bindable(container: ContainerSettings | None, folders: Iterable[Path]) -> None:
    """Refuse folders that a container cannot show under their own path.

    Raises:
        LaunchError: with the folder and the character.
    """
    signs = _SPLITS_BIND[container.kind] if container else ""
    for folder in folders:
        found = next((sign for sign in signs if sign in str(folder)), None)
        if found and container:
            raise LaunchError(
                f"{folder} has {_SHOWN[found]} in its path, at which {container.kind} would split it: the "
                f"folder could not be shown inside the container. Choose a path without it."
            )
