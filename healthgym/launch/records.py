"""Records of submissions and their states, as small JSON files: `status` does not need accounting.

A submission's folder has `submission.json`, written when the job has a number, and per job (or array
task) a `state-NUMBER.json` that the job itself writes when it starts and when it exits. "places" in the
former has the task of each number.
"""

import contextlib
import grp
import json
import os
import pwd
import re
import secrets
import shlex
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from healthgym import environment as scheduled
from healthgym.distributed import identity
from healthgym.errors import LaunchError
from healthgym.files import write_json

SUBMISSIONS = "submissions"


def submissions_folder(target: Path) -> Path:
    """Return the folder of the submissions of a run, cohort, report folder or a single file."""
    if target.suffix in {".h5", ".parquet"}:
        return target.with_name(f"{target.name}.{SUBMISSIONS}")
    return target / SUBMISSIONS


def new_submission(target: Path) -> Path:
    """Make a new folder, private to the user.

    Job numbers restart on a rebuilt cluster, so a folder is never used twice. submitit stores pickles in
    it, which execute code when loaded: no other user may be able to write there.

    Raises:
        LaunchError: the folder cannot be written, or others can write to it.
    """
    parent = submissions_folder(target)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            parent.parent.mkdir(mode=0o700)
        parent.mkdir(mode=0o700, exist_ok=True)
        require_private(parent)
        folder = parent / name
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise LaunchError(
            f"Cannot make a submission folder in {parent}: {error.strerror}. Choose a folder that you can "
            "write to and that the compute nodes share."
        ) from error
    return folder


def plain_submission(target: Path, kind: str, task: str) -> Path:
    """Return the folder for the records of a job queued by plain sbatch, the same after each restart.

    Args:
        target: the job's folder or file.
        kind: of the job.
        task: of an array job, as "3/16"; empty for the whole job.
    """
    number = job_number(os.environ)
    first = number.partition("_")[0]
    folder = submissions_folder(target) / f"sbatch-{first}"
    folder.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if scheduled.rank(os.environ) == 0:
        write_json(
            folder / f"submission-{number}.json",
            {
                "kind": kind,
                "name": scheduled.job_name(os.environ),
                "target": str(target.absolute()),
                "places": {number: task},
            },
        )
    return folder


def require_private(folder: Path) -> None:
    """Refuse a folder that others could write to or replace.

    Raises:
        LaunchError: it or its parent belongs to another user or is writable for others, or any folder above
            is writable for all without the sticky bit.
    """
    folder = folder.resolve()
    for each in (folder, folder.parent):
        found = each.stat()
        others = stat.S_IWOTH if _group_of_one(found.st_gid) else stat.S_IWGRP | stat.S_IWOTH
        if found.st_uid != os.getuid() or found.st_mode & others:
            raise LaunchError(
                f"{each} can be written by other users (mode {stat.S_IMODE(found.st_mode):03o}, owner "
                f"{found.st_uid}). Job files there run as you: chmod go-w {shlex.quote(str(each))}, or "
                "choose a folder of yours."
            )
    for each in folder.parents:
        mode = each.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise LaunchError(f"{each}, above {folder}, can be written by everybody. Choose another folder.")


def _group_of_one(number: int) -> bool:
    """Return whether a group is the user's private group, which many systems create with the user's name."""
    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return number == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def job_number(environment: Mapping[str, str]) -> str:
    """Return the number in the name of this process's state file: "12", "12_3" or "local-345"."""
    local = environment.get("SUBMITIT_LOCAL_JOB_ID", os.getpid())
    return scheduled.job_number(environment) or f"local-{local}"


def write_state(folder: Path, state: str, message: str = "") -> None:
    """Record the state of this job: running, finished, interrupted, failed or fenced.

    A process of an earlier start of the same job does not overwrite the state of a later one.
    """
    me = identity.mine()
    path = folder / f"state-{job_number(os.environ)}.json"
    before = read_json(path)
    if before.get("life", 0) > me.life:
        return
    started = before.get("started") if before.get("life") == me.life else None
    now = time.time()
    write_json(
        path,
        {"state": state, **me.as_dict(), "started": started or now, "updated": now, "message": message},
    )


def forgive_crashes(folder: Path) -> None:
    """Reset the count of crashes of this job after a start without a crash."""
    (folder / f"crashes-{job_number(os.environ)}").unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's mapping; empty if it is missing or not a mapping."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def submissions(target: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return (folder, record) of each submission for a target, oldest first.

    In a copy of a folder the records of its original's jobs are left out.
    """
    parent = submissions_folder(target)
    found = sorted(parent.glob("*/submission*.json"), key=lambda path: path.stat().st_mtime_ns)
    known = [(path.parent, said) for path in found if (said := read_json(path))]
    return [(folder, said) for folder, said in known if not _of_another(target, said)]


def _of_another(target: Path, said: Mapping[str, Any]) -> bool:
    """Return whether a record is of a job for another target, which still exists."""
    try:
        return not Path(said.get("target") or target).samefile(target)
    except OSError:  # it was moved, or has another name on this machine
        return False


def states(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {job number: last recorded state} of one submission."""
    found = {}
    for path in folder.glob("state-*.json"):
        number = re.fullmatch(r"state-(.+)\.json", path.name)
        if number and (said := read_json(path)):
            found[number[1]] = said
    return found
