"""Running a job in this process, in a process of its own, or on Slurm."""

import argparse
import os
import sys
from pathlib import Path

from healthgym import environment
from healthgym.errors import HealthgymError, LaunchError
from healthgym.launch import records
from healthgym.launch.perform import Job, perform

TARGETS = ("here", "debug", "local")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options --on and --dry-run to a job's program."""
    parser.add_argument(
        "--on",
        default="here",
        metavar="here|debug|local|slurm/NAME.yaml",
        help="where to run: in this process (default; debug: with full tracebacks), in one of its own, "
        "or on Slurm with the resources in that file",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted, and stop")


def launch(job: Job, on: str = "here", dry_run: bool = False) -> int:
    """Run or queue a job and return the program's exit status.

    Errors that a user can correct are printed as one sentence, without a traceback, except with `debug`.
    """
    try:
        return _launch(job, on, dry_run)
    except HealthgymError as error:
        if on == "debug":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def _launch(job: Job, on: str, dry_run: bool) -> int:
    if on in TARGETS:
        if dry_run:
            job.check()
            job.rehearse()
            print(f"Would run {job.kind} for {job.target} on this machine ({on}). Nothing was started.")
            return 0
        if on == "local":
            from healthgym.launch.local import run_local

            return run_local(job)
        return run_here(job, plain_errors=on == "debug")
    settings_path = Path(on)
    if settings_path.suffix not in {".yaml", ".yml"}:
        raise LaunchError(f"--on {on}: expected {', '.join(TARGETS)} or a YAML file of Slurm settings.")
    from healthgym.launch import submission

    if dry_run:
        job.check()
        submission.rehearse(job, settings_path)
        print(submission.show(job, settings_path))
    else:
        submission.submit(job, settings_path)
    return 0


def run_here(job: Job, plain_errors: bool = False) -> int:
    """Run a job in this process; inside a scheduled job, record its state for `status`."""
    job.check()
    if not environment.job(os.environ):
        return perform(job, None, plain_errors)
    return perform(job, records.plain_submission(job.target, job.kind, job.task), plain_errors)
