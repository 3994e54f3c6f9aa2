"""The command that usually follows a job, as its program prints it."""

import shlex
from pathlib import Path

from healthgym.data.sequences import PreparedCohort
from healthgym.errors import StorageError

_FEWEST, _MOST = 200, 2_000  # patients of a first cohort, as `describe` advises


def next_step(kind: str, data: Path, made: Path) -> str:
    """Return a line with the command that goes on from what a job made.

    Args:
        kind: `train` or `synthesize`.
        data: the prepared cohort.
        made: the run or the cohort.
    """
    if kind == "train":
        command = f"synthesize --run-dir {_q(made)} --patients {_patients(data)} --out {_q(made / 'cohort')}"
    else:
        report = made.with_name("report" if made.name == "cohort" else f"{made.name}-report")
        command = f"evaluate --real {_q(data)} --synthetic {_q(made)} --out {_q(report)}"
    return f"  next  healthgym {command}"


def _patients(data: Path) -> int:
    """Return how many patients to make: as many as were trained on, within what a report needs and takes."""
    try:
        return max(_FEWEST, min(_MOST, PreparedCohort.open(data, verify=False).train.num_patients))
    except StorageError:  # it was needed until now, and training is done
        return _MOST


def _q(path: Path) -> str:
    """Return a path as it is typed in the current folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
