"""The batch script of a job's resources, made with submitit."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm import slurm

from healthgym.errors import LaunchError
from healthgym.launch.slurm.queue import refusal
from healthgym.launch.slurm.resources import ContainerSettings, SlurmSettings
from healthgym.launch.slurm.spelling import require_bindable, require_log_folder, require_plain

REQUEUE_LINES = (
    files("healthgym.launch.slurm").joinpath("requeue.sh").read_text(encoding="utf-8").splitlines()
)

_FIRST_NODE = 'HEALTHGYM_FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'


class Executor(submitit.SlurmExecutor):  # type: ignore[misc]
    """submitit's executor, which can also return its batch script without Slurm."""

    @classmethod
    def affinity(cls) -> int:
        """Report that Slurm is available; the real check is `require_slurm`."""
        return 2

    def text(self, num_tasks: int) -> str:
        """Return the batch script that a submission of `num_tasks` would send."""
        array = {"map_count": num_tasks} if num_tasks > 1 else {}
        parameters: dict[str, Any] = self.parameters
        made: str = slurm._make_sbatch_string(self._submitit_command_str, self.folder, **array, **parameters)
        return made


def make_executor(
    settings: SlurmSettings, name: str, folder: Path, shown: Sequence[Path], after: Sequence[str] = ()
) -> Executor:
    """Return an executor whose jobs survive preemption.

    Args:
        settings: the resources.
        name: of the job, as squeue shows it.
        folder: of the submission.
        shown: folders that a container must mount under the same path.
        after: numbers of jobs that must succeed before this one starts.

    Raises:
        LaunchError: a path would be read as something else by Slurm or by the container's runtime.
    """
    require_plain([folder, *shown])
    require_log_folder(folder, on_slurm=True)
    require_bindable(settings.container, _outermost([folder, *shown]))
    # A late preemption counts as a timeout for submitit; the requeueing here is not its own.
    executor = Executor(folder, max_num_timeout=1_000_000, python=_python(settings, [folder, *shown]))
    executor.update_parameters(**_parameters(settings, name, folder, shown, after))
    return executor


def send(executor: Executor, calls: Sequence[Callable[[], None]], settings_path: Path) -> str:
    """Queue one call, or several as an array, and return the job's number.

    Args:
        executor: see `make_executor`.
        calls: the functions that are pickled and run.
        settings_path: the resources' file, for a refusal.

    Raises:
        LaunchError: Slurm refuses; the message has its own words.
    """
    try:
        if len(calls) == 1:
            jobs = [executor.submit(calls[0])]
        else:
            with executor.batch():
                jobs = [executor.submit(call) for call in calls]
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        raise refusal(str(error), settings_path) from error
    return str(jobs[0].job_id).partition("_")[0]


def _parameters(
    settings: SlurmSettings, name: str, folder: Path, shown: Sequence[Path], after: Sequence[str]
) -> dict[str, Any]:
    """Return sbatch's options in submitit's words; those not asked for are left to the site."""
    gpus = f"{settings.gpu_type}:{settings.gpus_per_node}" if settings.gpu_type else settings.gpus_per_node
    memory = f"{round(settings.memory_gb * 1024)}MB" if settings.memory_gb else None
    extra: dict[str, Any] = {"requeue": True, "reservation": settings.reservation}
    if settings.mail:
        extra |= {"mail-user": settings.mail.to, "mail-type": ",".join(settings.mail.when)}
    if after:
        extra |= {"dependency": "afterok:" + ":".join(after), "kill-on-invalid-dep": "yes"}
    asked = {
        "job_name": name,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "exclude": settings.exclude,
        "nodelist": settings.nodelist,
        "time": settings.minutes,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.tasks_per_node,
        "cpus_per_task": settings.cpus_per_task,
        "gpus_per_node": gpus or None,
        "mem": memory,
        "exclusive": settings.exclusive or None,
        "array_parallelism": settings.array.at_once,
        "signal_delay_s": settings.warning_seconds,
        "srun_args": _srun_words(settings, [folder, *shown]),
        "setup": [*settings.setup, f"export {_FIRST_NODE}", *_for_runtime(settings)],
        "teardown": _teardown(settings, folder),
        "additional_parameters": {k: v for k, v in extra.items() if v is not None} | dict(settings.extra),
    }
    # submitit sets a wckey of its own, which sites that keep track of them refuse.
    return {name: value for name, value in asked.items() if value is not None} | {"wckey": None}


def _teardown(settings: SlurmSettings, folder: Path) -> list[str]:
    """Return the lines after srun; the first must see its exit status."""
    return [
        "status=$?",
        f"submission={shlex.quote(str(folder))}",
        f"restarts={settings.restarts_after_crash}",
        *REQUEUE_LINES,
        "",
    ]


def _srun_words(settings: SlurmSettings, shown: Sequence[Path]) -> list[str]:
    """Return srun's options: it does not inherit --cpus-per-task in Slurm 22.05 to 23.02."""
    words = ["--kill-on-bad-exit=1", f"--cpus-per-task={settings.cpus_per_task}"]
    container = settings.container
    if container and container.kind == "pyxis":
        mounts = ",".join(_as_pair(bind) for bind in _binds(container, shown))
        words += [f"--container-image={container.image}", f"--container-mounts={mounts}", *container.options]
    return words


def _python(settings: SlurmSettings, shown: Sequence[Path]) -> str:
    """Return the shell words that start the interpreter, through the container's runtime if any."""
    container = settings.container
    if not container:
        return shlex.quote(settings.python or sys.executable)
    binds = [_as_pair(bind) for bind in _binds(container, shown)]
    if container.kind == "apptainer":
        words = ["apptainer", "exec", *(["--nv"] if settings.gpus_per_node else [])]
        words += [word for bind in binds for word in ("--bind", bind)]
        words += [*container.options, container.image, container.python]
    elif container.kind == "charliecloud":
        words = ["ch-run", *[word for bind in binds for word in ("-b", bind)]]
        words += [*container.options, container.image, "--", container.python]
    else:
        words = [container.python]
    return shlex.join(words)


def _binds(container: ContainerSettings, shown: Sequence[Path]) -> list[str]:
    """Return the folders that a container sees: the job's, none twice or below another, and the user's."""
    return [*(str(folder) for folder in _outermost(shown)), *container.binds]


def _outermost(shown: Sequence[Path]) -> list[Path]:
    folders = sorted({path.absolute() for path in shown})
    return [folder for folder in folders if not any(other in folder.parents for other in folders)]


def make_mount_points(settings: SlurmSettings, folder: Path, shown: Sequence[Path]) -> None:
    """Make the folders that Charliecloud mounts on: it shows an unpacked image read-only.

    Raises:
        LaunchError: one is missing and cannot be made.
    """
    container = settings.container
    if not container or container.kind != "charliecloud" or not Path(container.image).is_dir():
        return
    for bind in _binds(container, [folder, *shown]):
        inside = Path(container.image) / _as_pair(bind).partition(":")[2].lstrip("/")
        try:
            inside.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchError(
                f"The image {container.image} lacks the folder {inside} to show {bind} at, and it cannot be "
                f"made: {error.strerror}. Ask the image's owner for: mkdir -p {shlex.quote(str(inside))}"
            ) from error


def _for_runtime(settings: SlurmSettings) -> list[str]:
    """Return shell lines that a container's runtime needs: ch-run refuses to start without $USER."""
    charliecloud = settings.container and settings.container.kind == "charliecloud"
    return ['export USER="${USER:-$(id -un)}"'] if charliecloud else []


def _as_pair(bind: str) -> str:
    return bind if ":" in bind else f"{bind}:{bind}"
