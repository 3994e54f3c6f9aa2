"""Resources of a Slurm job: strict settings, read from slurm/NAME.yaml.

They do not affect results, so that a run can move to another cluster.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from healthgym.strict import Positive, PositiveFloat, StrictModel

_WORD = r"^[^\s,;'\"`$\\]+$"
Word = Annotated[str, Field(pattern=_WORD)]
"""A name without spaces, as of a partition, an account or a feature."""


def _one_line(text: str) -> str:
    """Refuse characters that an #SBATCH line cannot have: sbatch drops backslashes, even in quotes."""
    if "\\" in text or any(sign < " " or sign == "\x7f" for sign in text):
        raise ValueError("must be one line without a backslash, a tab or another control character")
    return text


Line = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
"""A value in one line of the batch script."""

_TIME = re.compile(r"^(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?$")


def parse_minutes(text: str) -> int:
    """Return whole minutes (rounded up) of Slurm's "M", "M:S", "H:M:S", "D-H", "D-H:M" or "D-H:M:S".

    Raises:
        ValueError: the text is none of these.
    """
    found = _TIME.match(text.strip())
    if not found:
        raise ValueError('must read like "90" (minutes), "12:30:00" or "2-00:00:00"')
    days, *rest = found.groups()
    numbers = [int(part) for part in rest if part is not None]
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    seconds = 86400 * int(days or 0) + sum(n * unit for n, unit in zip(numbers, units, strict=False))
    if seconds < 60:
        raise ValueError("must be at least a minute")
    return -(-seconds // 60)


class MailSettings(StrictModel):
    """Recipient and occasions of Slurm's mails."""

    to: Annotated[Line, Field(pattern=r"^[^\s@]+@[^\s@]+$")]
    when: tuple[Literal["BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "TIME_LIMIT_80", "ALL"], ...] = (
        "END",
        "FAIL",
    )


class ArraySettings(StrictModel):
    """The number of tasks of an array job, and how many of them run at a time."""

    tasks: Positive = 1
    at_once: Positive = 256


class ContainerSettings(StrictModel):
    """The image a job runs in. Folders of the job are mounted under the same path.

    Args:
        kind: the runtime on the nodes; pyxis is srun's --container-image (enroot).
        image: a .sif file or folder on a shared path, or for pyxis any image that enroot imports.
        binds: further folders to mount, as "/outside" or "/outside:/inside".
        options: further options of the runtime.
        python: the interpreter inside the image.
    """

    kind: Literal["apptainer", "charliecloud", "pyxis"]
    image: Line
    binds: tuple[Line, ...] = ()
    options: tuple[str, ...] = ()
    python: str = "/opt/venv/bin/python"

    @field_validator("binds")
    @classmethod
    def _one_bind_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for bind in value:
            if "," in bind or bind.count(":") > 2 or not bind.startswith("/"):
                raise ValueError(
                    f"each entry is one folder, as /outside, /outside:/inside or /outside:/inside:ro "
                    f"(given: {bind!r})"
                )
        return value


class SlurmSettings(StrictModel):
    """The resources of one job, from slurm/NAME.yaml.

    Args:
        partition, account, qos, constraint, exclude, nodelist, reservation: options of sbatch.
        time: the time limit, in sbatch's format.
        nodes, tasks_per_node: one task is one process (one rank of a training).
        cpus_per_task, memory_gb: of each task, of each node.
        gpus_per_node, gpu_type: e.g. 1 and a100.
        exclusive: whole nodes.
        warning_seconds: time before the limit at which the job is signalled to save. Slurm is up to a minute
            late, so: 60 plus the duration of a save.
        restarts_after_crash: how often in a row a killed job (node failure, out of memory) is requeued;
            preemptions and time limits do not count.
        array: for synthesize only.
        setup: shell lines before the job, e.g. "module load python/3.11".
        python: the interpreter on the nodes; by default the submitting one.
        node_local: folders that compute nodes do not share; a job there is refused.
        extra: further sbatch options, {name without dashes: value, or true for a bare one}.
    """

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Line | None = None
    exclude: Line | None = None
    nodelist: Line | None = None
    reservation: Word | None = None
    time: str = "60"
    nodes: Positive = 1
    tasks_per_node: Positive = 1
    cpus_per_task: Positive = 1
    memory_gb: PositiveFloat | None = None
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    gpu_type: Word | None = None
    exclusive: bool = False
    warning_seconds: Annotated[int, Field(ge=60)] = 120
    restarts_after_crash: Annotated[int, Field(ge=0)] = 3
    array: ArraySettings = ArraySettings()
    setup: tuple[str, ...] = ()
    python: str | None = None
    container: ContainerSettings | None = None
    mail: MailSettings | None = None
    node_local: tuple[Path, ...] = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run"))
    extra: dict[str, Line | int | Literal[True]] = Field(default_factory=dict)

    @field_validator("time", mode="before")
    @classmethod
    def _readable_time(cls, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError('must be text, such as "90" (minutes) or 12:00:00; put a bare number in quotes')
        parse_minutes(value)
        return value

    @field_validator("extra")
    @classmethod
    def _bare_names(cls, value: dict[str, str | int | Literal[True]]) -> dict[str, str | int | Literal[True]]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(
                    f"an option is named without dashes in front, such as licenses (given: {name!r})"
                )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "SlurmSettings":
        if self.gpu_type and not self.gpus_per_node:
            raise ValueError("gpu_type needs gpus_per_node of 1 or more")
        if self.warning_seconds >= 60 * self.minutes:
            raise ValueError("warning_seconds must be less than time")
        if self.container and self.python:
            raise ValueError("with a container, the interpreter is container.python; leave python out")
        return self

    @property
    def minutes(self) -> int:
        """The time limit in whole minutes."""
        return parse_minutes(self.time)
