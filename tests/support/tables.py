"""Small clinical tables for the tests of data."""

from typing import Any

import numpy as np
import pandas as pd

from healthgym.schema import Schema

VARIABLES: list[dict[str, Any]] = [
    {"name": "dose", "kind": "real", "unit": "mg"},
    {"name": "drug", "kind": "categorical", "classes": {0: "none", 1: "A", 2: "B + C"}},
    {"name": "sex", "kind": "binary", "static": True, "classes": {"m": "male", "f": "female"}},
]


def small_schema(**changes: dict[str, Any]) -> Schema:
    """A schema of a real, a categorical and a static binary variable, some of them changed."""
    variables = [{**variable, **changes.get(variable["name"], {})} for variable in VARIABLES]
    return Schema.model_validate({"name": "small", "variables": variables})


def small_table(num_patients: int = 6, num_timesteps: int = 4, seed: int = 0) -> pd.DataFrame:
    """A table that fits `small_schema()`, in raw codes."""
    rng = np.random.default_rng(seed)
    rows = num_patients * num_timesteps
    return pd.DataFrame(
        {
            "PatientID": np.repeat(np.arange(num_patients), num_timesteps),
            "Timestep": np.tile(np.arange(num_timesteps), num_patients),
            "dose": rng.lognormal(3, 1, rows),
            "drug": rng.integers(0, 3, rows),
            "sex": np.repeat(np.array(["m", "f"])[rng.integers(0, 2, num_patients)], num_timesteps),
        }
    )
