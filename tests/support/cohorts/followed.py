"""A small cohort with irregular visits and informative follow-up: the sicker have fewer visits and die."""

from typing import Any

import numpy as np
import pandas as pd

from healthgym.schema import Schema

VARIABLES: list[dict[str, Any]] = [
    {"name": "index", "kind": "real", "unit": "%"},
    {"name": "arm", "kind": "binary", "static": True, "classes": ["control", "treated"]},
    {"name": "futime", "kind": "real", "static": True},
    {"name": "status", "kind": "categorical", "static": True,
     "classes": {0: "censored", 1: "dead", 2: "transplanted"}},
]  # fmt: skip
IRREGULAR = {"column": "time", "kind": "irregular", "unit": "year"}


def schema(time: Any = IRREGULAR, unit: str = "day", **changes: dict[str, Any]) -> Schema:
    """Return the schema of the cohort; `time` is what `keys.timestep` holds, `unit` follow-up's."""
    variables = [{**variable, **changes.get(variable["name"], {})} for variable in VARIABLES]
    return Schema.model_validate(
        {
            "name": "followed",
            "timestep_unit": "visit" if isinstance(time, dict) else "year",
            "keys": {"patient": "id", "timestep": time},
            "variables": variables,
            "follow_up": {"time": "futime", "event": "status", "unit": unit},
        }
    )


def table(num_patients: int = 60, seed: int = 0) -> pd.DataFrame:
    """Return rows with times in years and follow-up in days, both of whole days (of 1/365.25 years)."""
    random = np.random.default_rng(seed)
    parts = []
    for patient in range(num_patients):
        sick = random.random() < 0.5
        visits = int(random.integers(1, 4) if sick else random.integers(4, 9))
        days = np.concatenate([[0], np.cumsum(random.integers(30, 300, visits - 1))])
        parts.append(
            pd.DataFrame(
                {
                    "id": patient,
                    "time": days / 365.25,
                    "index": random.lognormal(4 - sick, 0.3, visits),
                    "arm": random.choice(["control", "treated"]),
                    "futime": days[-1] + random.integers(0, 200),
                    "status": int(random.choice([1, 2]) if sick else random.random() < 0.1),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
