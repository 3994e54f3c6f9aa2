"""Advice for a first run on a table: settings, expected time on this machine, and commands."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from healthgym.data.describe.draft import Draft
from healthgym.environment import usable_cores

_SECONDS_PER_VALUE = 12e-6
"""Of ar, for each value and epoch on one core (benchmarks/AUTOREGRESSIVE.md: 30 s for 2,852 x 48 x 18)."""
_SECONDS_PER_STEP = 0.04  # minimal time of a step with any batch size, measured on two cores
_HELD_OUT = 50  # patients that a report needs
_MARGIN = 1.1  # who is held out is drawn: of 260 patients a share of 0.2 was 49 and not 52


@dataclass(frozen=True)
class Advice:
    """Settings for a first run.

    Args:
        batch_size: patients in a batch.
        minutes: expected training time, rounded up.
        limit: for training.minutes.
        holdout: share of the patients to hold out.
        cores: number of cores of this machine, for the estimate.
        notes: expectations, in sentences.
    """

    batch_size: int
    minutes: int
    limit: int
    holdout: float
    cores: int
    notes: tuple[str, ...]


def advise(found: Draft) -> Advice:
    """Return settings for a first run of `ar` on a table."""
    patients, notes = found.keys.num_patients, []
    holdout = 0.2
    if patients * holdout < _MARGIN * _HELD_OUT and 0.4 * patients >= _HELD_OUT:
        holdout = math.ceil(20 * _MARGIN * _HELD_OUT / patients) / 20
    elif patients * 0.2 < _HELD_OUT:
        notes.append(
            f"{patients:,} patients are few: a report needs {_HELD_OUT} for training and {_HELD_OUT} held out"
        )
    trained = max(1, round(patients * (1 - holdout) * 0.9))
    batch_size = batch_for(trained)
    epochs = min(max(20 * (3500 / trained) ** 0.45, 3), 60)  # as healthgym.training.whole has it
    columns = len(found.used) + len({v.flag for v in found.used if v.flag})
    values = trained * float(found.keys.lengths_P.mean()) * columns
    cores = usable_cores()
    seconds = epochs * (values * _SECONDS_PER_VALUE + trained / batch_size * _SECONDS_PER_STEP) / cores**0.5
    minutes = max(1, math.ceil(seconds / 60))
    return Advice(batch_size, minutes, max(5, math.ceil(1.5 * minutes)), holdout, cores, tuple(notes))


def batch_for(trained: int) -> int:
    """Return the batch size of ar for this number of training patients (`healthgym.training.whole`)."""
    return min(64, max(trained // 22, 8), trained)


def commands(advice: Advice, found: Draft, schema: Path, table: str, given: str) -> list[str]:
    """Return the commands from the table to the report."""
    stem = schema.with_suffix("")
    prepared, run = f"{stem}.h5", f"runs/{stem.name}"
    prepare = f"healthgym prepare {_q(schema)} --table {_q(table)}{given} --out {_q(prepared)}"
    prepare += f" --holdout {advice.holdout:g}" if advice.holdout != 0.2 else ""
    prepare += "" if found.keys.sorted else " --sort"
    patients = max(200, min(2000, found.keys.num_patients))
    return [
        prepare,
        f"healthgym train ar --data {_q(prepared)} --run-dir {_q(run)} --set training.minutes={advice.limit}",
        f"healthgym synthesize --run-dir {_q(run)} --patients {patients} --out {_q(f'{run}/cohort')}",
        f"healthgym evaluate --real {_q(prepared)} --synthetic {_q(f'{run}/cohort')} --out "
        f"{_q(f'{run}/report')}",
    ]


def _q(path: object) -> str:
    return shlex.quote(str(path))
