"""Copies in which some variables were changed: distances that leave out the variables that differ most.

N patients, Q queries, V variables, D numbers per patient.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.patients import Vectors
from healthgym.schema import Schema

Floats = NDArray[np.float64]

KEPT = 0.7
LARGEST_TRIMMED_RATIO = 0.4
_FEWEST_VARIABLES = 4
_EQUAL = 1e-6  # of a squared distance: what single precision leaves between equal patients
_NUMBERS = 30_000_000


class Trimmed:
    """Distances over the 70% of variables in which two patients differ least.

    Every variable is divided by its mean squared difference between training patients. Noise on one skewed
    variable, or other values of a few, then does not hide a copy.

    Args:
        train: training patients as vectors of `sequence_vectors`.
        schema: of the patients.
    """

    def __init__(self, train: Vectors, schema: Schema) -> None:
        self._widths = [1] * len(schema.reals) + [len(v.classes) for v in schema.categoricals]
        scales = [2 * float(part.var(axis=0, dtype=np.float64).sum()) for part in self._parts(train)]
        self._varying = [v for v, scale in enumerate(scales) if scale > _EQUAL]
        self._scales = [scales[v] for v in self._varying]

    @property
    def usable(self) -> bool:
        """Whether enough variables vary for some to be left out."""
        return len(self._varying) >= _FEWEST_VARIABLES

    def nearest(self, queries: Vectors, others: Vectors) -> tuple[Floats, NDArray[np.int64]]:
        """Return each query's distance to the nearest of `others` and which one it is, shape (Q,)."""
        return self._nearest(queries, others, own=False)

    def nearest_other(self, patients: Vectors) -> Floats:
        """Return each patient's distance to the nearest other one of the same set, shape (N,)."""
        return self._nearest(patients, patients, own=True)[0]

    def _nearest(self, queries: Vectors, others: Vectors, own: bool) -> tuple[Floats, NDArray[np.int64]]:
        parts, theirs = ([each[v] for v in self._varying] for each in map(self._parts, (queries, others)))
        block = max(1, _NUMBERS // (len(parts) * len(others)))
        distance_Q, index_Q = np.empty(len(queries)), np.empty(len(queries), np.int64)
        for start in range(0, len(queries), block):
            stop = min(start + block, len(queries))
            squares_QN = self._trimmed([part[start:stop] for part in parts], theirs)
            if own:
                squares_QN[np.arange(stop - start), np.arange(start, stop)] = np.inf
            index_Q[start:stop] = squares_QN.argmin(axis=1)
            distance_Q[start:stop] = np.sqrt(squares_QN.min(axis=1))
        return distance_Q, index_Q

    def _trimmed(self, parts: Sequence[Vectors], theirs: Sequence[Vectors]) -> Floats:
        """Return the sum of the smallest squared differences of variables, shape (Q, N)."""
        squares_VQN = np.empty((len(parts), len(parts[0]), len(theirs[0])), np.float32)
        for part_index, (part, other, scale) in enumerate(zip(parts, theirs, self._scales, strict=True)):
            squares_VQN[part_index] = _squares(part, other) / scale
        squares_VQN[squares_VQN < _EQUAL] = 0.0
        kept = int(np.ceil(KEPT * len(parts)))
        return np.asarray(np.partition(squares_VQN, kept - 1, axis=0)[:kept].sum(axis=0, dtype=np.float64))

    def _parts(self, vectors: Vectors) -> list[Vectors]:
        """Return the numbers of each variable, shape (N, D) each."""
        features = vectors.reshape(len(vectors), -1, sum(self._widths))
        ends = np.cumsum(self._widths)[:-1]
        return [part.reshape(len(vectors), -1) for part in np.split(features, ends, axis=2)]


def _squares(queries: Vectors, others: Vectors) -> NDArray[np.float32]:
    one, other = (np.einsum("nd,nd->n", each, each) for each in (queries, others))
    return np.asarray(one[:, None] + other[None, :] - 2 * (queries @ others.T), np.float32)
