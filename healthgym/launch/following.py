"""The command that usually follows a job, as its program prints it."""

from pathlib import Path

from healthgym.errors import StorageError
from healthgym.files import typed

_FEWEST, _MOST = 200, 2_000  # patients of a first cohort, as `describe` advises


def next_step(kind: str, data: Path, made: Path, patients: int = _MOST) -> str:
    """Return a line with the next command after a job, or a note on why there is none.

    Args:
        kind: `train` or `synthesize`.
        data: the prepared cohort.
        made: the run or the cohort.
        patients: of the cohort.
    """
    if kind == "train":
        command = (
            f"synthesize --run-dir {typed(made)} --patients {_patients(data)} --out {typed(made / 'cohort')}"
        )
    else:
        from healthgym.evaluation.settings import ReportConfig

        least = ReportConfig.model_fields["min_patients"].default
        if patients < least:
            return (
                f"  note  a report needs at least {least} patients: the same command with more --patients "
                "adds to this cohort"
            )
        report = made.with_name("report" if made.name == "cohort" else f"{made.name}-report")
        command = f"evaluate --real {typed(data)} --synthetic {typed(made)} --out {typed(report)}"
    return f"  next  healthgym {command}"


def _patients(data: Path) -> int:
    """Return how many patients to make: as many as were trained on, within what a report needs and takes."""
    from healthgym.data.sequences import PreparedCohort

    try:
        return max(_FEWEST, min(_MOST, PreparedCohort.open(data, verify=False).train.num_patients))
    except StorageError:  # it was needed until now, and training is done
        return _MOST
