"""Queueing a job on Slurm: check, submit, record, and print how to follow, cancel and resume it."""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from healthgym.errors import LaunchError
from healthgym.faults import sentence
from healthgym.files import write_json
from healthgym.launch import records
from healthgym.launch.perform import Job, perform
from healthgym.launch.slurm import queue
from healthgym.launch.slurm.resources import SlurmSettings
from healthgym.launch.slurm.sbatch import make_executor, make_mount_points, send
from healthgym.launch.tracking import track
from healthgym.strict import load


class Submitted:
    """The pickled object: a job's plain values and the folder of its records."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self.folder = folder

    def __call__(self) -> None:
        """Run the job; exit with SystemExit unless it is done, so that submitit records no result."""
        for torn in self.folder.glob("*.save_tmp"):
            torn.unlink(missing_ok=True)  # an incomplete file would block each later write
        status = perform(self.job, self.folder)
        if status:
            sys.exit(status)


def vet(job: Job, settings_path: Path, awaited: bool = False) -> None:
    """Check whether a job could be submitted, without writing or queueing anything.

    Args:
        job: the work.
        settings_path: the resources.
        awaited: its inputs are still to be made by a job before it.

    Raises:
        HealthgymError: invalid settings, an unshared folder, a failed check of the job, or a refusal by
            Slurm.
    """
    settings = load(SlurmSettings, settings_path)
    queue.require_slurm()
    _require_shared([job.target, *job.reads], settings, settings_path)
    _require_one_rank(job, settings, settings_path)
    job.check(awaited)
    if not awaited:
        rehearse(job, settings_path)
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
        script.write(show(job, settings_path))
        script.flush()
        queue.try_out(Path(script.name), settings_path)


def rehearse(job: Job, settings_path: Path) -> None:
    """Find out whether data, settings and the resources of a job fit together, without Slurm.

    Raises:
        HealthgymError: they do not.
    """
    settings = load(SlurmSettings, settings_path)
    memory = settings.memory_gb
    job.rehearse(settings.nodes * settings.tasks_per_node, memory and memory / settings.tasks_per_node)


def submit(job: Job, settings_path: Path, after: Sequence[str] = ()) -> str:
    """Queue a job and return its number immediately.

    Args:
        job: the work.
        settings_path: the resources.
        after: numbers of jobs that must succeed before.

    Raises:
        HealthgymError: an error found by `vet`, a queued or running job for the same target, or a folder that
            cannot be written.
    """
    vet(job, settings_path, awaited=bool(after))
    settings = load(SlurmSettings, settings_path)
    tasks = _tasks_not_live(job, settings.array.tasks)
    if not tasks:
        raise LaunchError(
            f"Nothing to submit for {job.target}: everything that is missing is queued or running already."
        )
    folder = records.new_submission(job.target)
    executor = make_executor(settings, _name(job, folder), folder, _shown(job), after)
    number = ""
    try:
        make_mount_points(settings, folder, _shown(job))
        number = send(executor, [Submitted(task, folder) for task in tasks], settings_path)
        _record(job, tasks, folder, number, settings_path)
    except BaseException as error:
        # The next call would queue a job without record a second time.
        if number and not queue.cancel(number):
            raise LaunchError(
                f"{sentence(error) or error} Job {number} is queued for {job.target} and could not be "
                f"cancelled: cancel it by scancel {number} before you submit again."
            ) from error
        shutil.rmtree(folder, ignore_errors=True)  # nothing is queued
        raise
    _explain(job, tasks, folder, number, settings_path)
    return number


def show(job: Job, settings_path: Path, after: Sequence[str] = ()) -> str:
    """Return the batch script that `submit` would send; nothing is written or queued."""
    settings = load(SlurmSettings, settings_path)
    folder = records.submissions_folder(job.target) / "TIME-AND-RANDOM"
    executor = make_executor(settings, _name(job, folder), folder, _shown(job), after)
    return executor.text(len(job.split(settings.array.tasks)))


def _tasks_not_live(job: Job, num_tasks: int) -> list[Job]:
    """Return the tasks to submit: unfinished ones without those of an earlier submission that are live."""
    live = [tracked for tracked in track(job.target) if tracked.live]
    of_as_many = f"/{num_tasks}"
    if any(not tracked.task.endswith(of_as_many) for tracked in live):
        numbers = sorted({tracked.number.partition("_")[0] for tracked in live})
        raise LaunchError(
            f"Job {', '.join(numbers)} is queued or running for {job.target}. Wait for it (python -m "
            f"healthgym status {shlex.quote(str(job.target))}) or cancel it (scancel {' '.join(numbers)})."
        )
    busy = {tracked.task for tracked in live}
    return [task for task in job.split(num_tasks) if task.task not in busy]


def _record(job: Job, tasks: Sequence[Job], folder: Path, number: str, settings_path: Path) -> None:
    numbers = [number] if len(tasks) == 1 else [f"{number}_{index}" for index in range(len(tasks))]
    write_json(
        folder / "submission.json",
        {
            "kind": job.kind,
            "name": _name(job, folder),
            "target": str(job.target.absolute()),
            "settings": str(settings_path.absolute()),
            "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
            "work": repr(job),
            "places": dict(zip(numbers, (task.task for task in tasks), strict=True)),
        },
    )


def _explain(job: Job, tasks: Sequence[Job], folder: Path, number: str, settings_path: Path) -> None:
    array = len(tasks) > 1
    log = folder / (f"{number}_0_0_log.out" if array else f"{number}_0_log.out")
    count = f", an array of {len(tasks)} tasks" if array else ""
    print(
        f"Submitted {job.kind} as job {number}{count} ({settings_path})\n"
        f"  logs    {folder}\n"
        f"  follow  tail -F {shlex.quote(str(log))} {shlex.quote(str(log.with_suffix('.err')))}\n"
        f"  status  python -m healthgym status {shlex.quote(str(job.target))}\n"
        f"  cancel  scancel {number}\n"
        f"  resume  a preempted job resumes by itself; after a failure or cancel, repeat the command"
    )


def _name(job: Job, folder: Path) -> str:
    """Return a unique job name: numbers can repeat on a rebuilt cluster."""
    return f"healthgym-{job.kind}-{folder.name[-6:]}"


def _shown(job: Job) -> list[Path]:
    """Return the folders of the job that a container must mount."""
    paths = [job.target, *job.reads]
    return [path if path.is_dir() else path.parent for path in (p.absolute() for p in paths)]


def _require_shared(paths: Sequence[Path], settings: SlurmSettings, settings_path: Path) -> None:
    for path in paths:
        for local in settings.node_local:
            if path.resolve().is_relative_to(local):
                raise LaunchError(
                    f"{path} lies in {local}, which compute nodes do not share with this machine. Choose a "
                    f"folder on a shared file system, or correct node_local in {settings_path}."
                )


def _require_one_rank(job: Job, settings: SlurmSettings, settings_path: Path) -> None:
    ranks = settings.nodes * settings.tasks_per_node
    if ranks > 1 and not job.ranks:
        raise LaunchError(
            f"{settings_path} asks for {ranks} processes (nodes times tasks_per_node), but {job.kind} "
            f"runs in one. Set both to 1; for bulk synthesis set array.tasks."
        )
