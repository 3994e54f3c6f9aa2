"""Labels to class indices and back, and the one-hot design matrix.

Legend: N rows, R real variables, K binary and categorical variables, F encoded features.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.schema import Schema, Variable, measured_class
from healthgym.schema.layout import FeatureLayout


def labelled(classes_N: NDArray[Any], variable: Variable) -> "pd.Categorical[Any]":
    """Return class indices (-1: missing) as pandas categories, in the schema's order."""
    categories = pd.Index(variable.labels, dtype=str)
    return pd.Categorical.from_codes(classes_N.astype(np.int64), categories=categories)


def encode_codes(frame: pd.DataFrame, schema: Schema, dtype: Any = np.uint8) -> NDArray[Any]:
    """Return class indices, shape (N, K), of a checked table; -1 where missing, if the type has it."""
    codes_NK = np.empty((len(frame), len(schema.categoricals)), dtype)
    for k, variable in enumerate(schema.categoricals):
        codes_NK[:, k] = frame[variable.name].cat.codes
    return codes_NK


def decode(raw_NR: NDArray[Any], codes_NK: NDArray[np.uint8], schema: Schema) -> pd.DataFrame:
    """Return a frame of raw reals and labels (pandas categories), with modelled missing values.

    A variable with `missing: model` is NaN where its flag says "not measured".
    """
    frame = pd.DataFrame(np.asarray(raw_NR, dtype=np.float64), columns=[v.name for v in schema.reals])
    for k, variable in enumerate(schema.categoricals):
        frame[variable.name] = labelled(codes_NK[:, k], variable)
    for variable in schema.variables:
        if variable.missing == "model" and variable.measured_flag:
            flag = schema[variable.measured_flag]
            measured = frame[flag.name].cat.codes.to_numpy() == measured_class(flag)
            frame[variable.name] = frame[variable.name].where(measured)
    return frame


def design_matrix(
    reals_NR: NDArray[Any], codes_NK: NDArray[np.uint8], layout: FeatureLayout
) -> NDArray[np.float64]:
    """Return [reals | one-hot blocks], shape (N, F), in float64."""
    design_NF = np.zeros((len(reals_NR), layout.num_features))
    design_NF[:, : layout.num_reals] = reals_NR
    rows = np.arange(len(reals_NR))
    for k, span in enumerate(layout.spans):
        design_NF[rows, span.start + codes_NK[:, k].astype(np.int64)] = 1.0
    return design_NF
