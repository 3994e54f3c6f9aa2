"""Train generators of synthetic longitudinal patients, make cohorts with them, and evaluate the cohorts.

    import healthgym as hg

    schema = hg.describe(table)
    cohort = hg.prepare(table, schema, "prepared.h5")
    run = hg.train(cohort, "ar", "runs/a", minutes=10)
    patients = hg.sample(run, 1000)
    hg.evaluate(cohort, patients).show()

These functions do the same as the command-line programs, with the same code. Each is imported when it is
first used, so that `import healthgym` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from healthgym.api.cohorts import describe, prepare
    from healthgym.api.judging import Evaluation, evaluate
    from healthgym.api.runs import Run, sample, train
    from healthgym.data.describe.command import Description
    from healthgym.data.sequences import PreparedCohort
    from healthgym.errors import HealthgymError
    from healthgym.schema import Schema, load_schema

__version__ = "0.1.0"

__all__ = [
    "Description",
    "Evaluation",
    "HealthgymError",
    "PreparedCohort",
    "Run",
    "Schema",
    "describe",
    "evaluate",
    "load_schema",
    "prepare",
    "sample",
    "train",
]

_HOMES = {
    "Description": "data.describe.command",
    "Evaluation": "api.judging",
    "HealthgymError": "errors",
    "PreparedCohort": "data.sequences",
    "Run": "api.runs",
    "Schema": "schema",
    "describe": "api.cohorts",
    "evaluate": "api.judging",
    "load_schema": "schema",
    "prepare": "api.cohorts",
    "sample": "api.runs",
    "train": "api.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'healthgym' has no attribute '{name}'")
    value = getattr(import_module(f"healthgym.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
