"""Conditions on a variable, and events made of them."""

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.result import NotJudgedError
from healthgym.evaluation.settings import Endpoint
from healthgym.evaluation.statistics.panel import Panel
from healthgym.schema import Condition


def holds(panel: Panel, condition: Condition) -> NDArray[np.bool_]:
    """Return at which timesteps a condition holds, shape (N, T); not where the value is absent.

    Raises:
        NotJudgedError: the schema has no such variable or label.
    """
    reals = [variable.name for variable in panel.schema.reals]
    categoricals = [variable.name for variable in panel.schema.categoricals]
    if condition.is_ is not None and condition.variable in categoricals:
        position = categoricals.index(condition.variable)
        labels = panel.schema.categoricals[position].labels
        if condition.is_ in labels:
            return np.asarray(panel.codes_NTK[:, :, position] == labels.index(condition.is_))
    elif condition.is_ is None and condition.variable in reals:
        values = panel.reals_NTR[:, :, reals.index(condition.variable)]
        with np.errstate(invalid="ignore"):
            if condition.below is not None:
                return np.asarray(values < condition.below)
            assert condition.above is not None
            return np.asarray(values > condition.above)
    raise NotJudgedError(
        f"The report's settings ask for '{condition.variable}'"
        + (f" being '{condition.is_}'" if condition.is_ is not None else " as a number")
        + f", which the schema '{panel.schema.name}' does not have."
    )


def event(panel: Panel, endpoint: Endpoint) -> NDArray[np.bool_]:
    """Return which patients have an endpoint's event, shape (N,)."""
    first, last = endpoint.window
    return np.asarray(holds(panel, endpoint.event)[:, first : last + 1].sum(axis=1) >= endpoint.num_steps)
