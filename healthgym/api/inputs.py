"""Tables as users give them: a data frame or a path."""

from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from healthgym.errors import ConfigError, TableError, listed
from healthgym.storage.parquet import in_numpy

AnyPath: TypeAlias = str | PathLike[str]


def table_of(given: Any, name: str) -> pd.DataFrame | Path:
    """Return a data frame, or the path of one.

    Raises:
        ConfigError: it is neither.
        TableError: a data frame has several levels of columns, or keeps keys in its index.
    """
    if not isinstance(given, pd.DataFrame):
        return path_of(given, name, "a data frame, or the path of a file or a folder")
    if given.columns.nlevels > 1:
        raise TableError(
            f"{name}: the data frame has {given.columns.nlevels} levels of column names; one is expected. "
            f"Make one of them, e.g. table.columns = ['_'.join(map(str, names)) for names in table.columns]."
        )
    index = given.index
    # An index of row numbers may have a name; repeated values are those of a key.
    if index.nlevels > 1 or (index.name is not None and not index.is_unique):
        names = [f"level {n}" if each is None else f"'{each}'" for n, each in enumerate(index.names)]
        raise TableError(
            f"{name}: the data frame has {listed(names)} in its index; keys are expected as columns. "
            f"Give table.reset_index()."
        )
    return in_numpy(given)


def path_of(given: Any, name: str, expected: str) -> Path:
    """Return a path.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(given, str | PathLike):
        return Path(given)
    raise ConfigError(f"{name}: expected {expected}, not an object of type {type(given).__name__}.")
