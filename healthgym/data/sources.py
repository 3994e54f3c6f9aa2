"""Where a table comes from: a file, a public data set, or the simulator."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from healthgym import __version__
from healthgym.data.fetch import DATASETS, check_counts, fetch
from healthgym.data.reading import read_table
from healthgym.errors import ConfigError, nearest
from healthgym.files import sha256_of
from healthgym.schema import Schema

SIMULATED = "simulated_art_hiv"
_SIMULATED_PATIENTS = 8_916
_IN_MEMORY_PATIENTS = 50_000


@dataclass(frozen=True)
class Source:
    """Where a table comes from: its name in messages, what identifies it, and how to get it.

    One that is too large for memory comes in `parts` of whole patients instead, at each call from the
    beginning.
    """

    name: str
    identity: str
    read: Callable[[], pd.DataFrame]
    parts: Callable[[], Iterator[pd.DataFrame]] | None = None


def check_named(table: Path | None, dataset: str | None) -> None:
    """Refuse to go on without exactly one table that is there, or is known.

    Raises:
        ConfigError: with what to give.
    """
    if (table is None) == (dataset is None):
        raise ConfigError("Give either --table FILE or --dataset NAME.")
    if table is not None and not table.is_file():
        raise ConfigError(f"--table {table}: there is no such file. Check the path.")
    known = [*DATASETS, SIMULATED]
    if dataset is not None and dataset not in known:
        raise ConfigError(
            f"--dataset {dataset}: unknown{nearest(dataset, known)}; known are {', '.join(known)}."
        )


def find_source(
    schema: Schema,
    table: Path | None,
    dataset: str | None,
    seed: int,
    max_patients: int | None,
    cache: Path | None,
) -> Source:
    """Return where the table comes from, fetched if need be."""
    check_named(table, dataset)
    if table is not None:
        return Source(str(table), f"sha256:{sha256_of(table)}", lambda: read_table(table, schema))
    assert dataset is not None
    if dataset == SIMULATED:
        from healthgym.data.simulate import simulate_art_hiv, simulate_chunks

        number = max_patients or _SIMULATED_PATIENTS
        name = f"{number:,} simulated patients"
        identity = f"{SIMULATED}:{number} patients, seed {seed}, healthgym {__version__}"
        parts = (lambda: simulate_chunks(number, seed)) if number > _IN_MEMORY_PATIENTS else None
        return Source(name, identity, lambda: simulate_art_hiv(number, seed), parts)
    path = fetch(DATASETS[dataset], cache)

    def read_fetched() -> pd.DataFrame:
        frame = read_table(path, schema)
        check_counts(frame, DATASETS[dataset], schema, str(path))
        return frame

    return Source(str(path), f"sha256:{sha256_of(path)}", read_fetched)
