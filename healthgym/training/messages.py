"""Messages of a run at its start and end."""

import os
from pathlib import Path

from healthgym import stopping
from healthgym.config import RunConfig
from healthgym.data.stages import Usage
from healthgym.distributed.parallel import granted_cores
from healthgym.environment import threads_asked
from healthgym.storage.checkpoint import Checkpoint, Progress
from healthgym.training.course import Course
from healthgym.training.trainer import Trainer
from healthgym.words import counted


def greeting(
    run_dir: Path,
    num_parameters: int,
    usage: Usage,
    start: Checkpoint | None,
    here: Progress,
    course: Course,
    config: RunConfig,
    how: str,
) -> str:
    """Return the message at the start: data, device, and the step that the run resumes from.

    Args:
        run_dir: the run folder.
        num_parameters: of the system.
        usage: of the training patients.
        start: the checkpoint that it resumes from, if any.
        here: where and with what it runs now.
        course: curriculum, number of steps, validation.
        config: the settings.
        how: how steps are taken, where there is a choice.
    """
    pace = course.pace
    lines = [
        f"run {run_dir} on {_resources(here)}{_why(config)}, process {os.getpid()}: {num_parameters:,} "
        f"parameters, {pace.total:,} steps"
        + (f", or as many as fit into {pace.minutes:g} min" if pace.minutes else "")
        + (f"; {how}" if how else ""),
        course.description(),
    ]
    lines += usage.lines()
    if start is not None:
        lines.append(f"resuming from step {here.step:,}")
        micro = (start.config.training.micro_batch_size, config.training.micro_batch_size)
        if _resources(start.progress) != _resources(here) or micro[0] != micro[1]:
            lines.append(
                f"note: so far it ran on {_resources(start.progress)}; the last bits of sums, and on another "
                f"device the noise, may differ from an uninterrupted run"
            )
    return "\n".join(lines)


def _why(config: RunConfig) -> str:
    """Return the origin of the number of threads, if it is not the number of granted cores."""
    asked = threads_asked(os.environ) if config.training.threads == "auto" else None
    return " (OMP_NUM_THREADS)" if asked and asked != granted_cores() else ""


def _resources(progress: Progress) -> str:
    processes = f"{progress.num_processes} processes of " if progress.num_processes > 1 else ""
    return f"{progress.device} with {processes}{counted(progress.threads, 'thread')}"


def farewell(run_dir: Path, finished: bool, trainer: Trainer) -> str:
    """Return how a run ended, and what synthesis will use."""
    if not finished:
        return (
            f"stopped by {stopping.requested()} at step {trainer.step:,} and saved; the same command or call "
            f"resumes it: {run_dir}"
        )
    said, validation = f"finished at step {trainer.step:,}: {run_dir}", trainer.validation
    if validation is None or validation.newest is None:
        return said
    if trainer.exhausted:
        said += f"; ended early, after {validation.since:,} validations without improvement"
    return f"{said}; {validation.verdict(trainer.pace.total)}"
