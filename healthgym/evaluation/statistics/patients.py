"""Whole patients as vectors, and distances between them.

N patients, T timesteps, D numbers per patient.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.panel import Panel
from healthgym.schema import Schema

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]

_BLOCK = 512
_REAL_WORDS = (
    "mean of {}",
    "standard deviation of {} within a patient",
    "lowest {}",
    "highest {}",
    "first {}",
    "last {}",
    "slope of {} over time",
    "size of the steps of {}",
    "share of timesteps at which {} stays the same",
)
_CLASS_WORDS = ("how often {} changes", "{} at the first timestep", "{} at the last timestep")


def sequence_vectors(panel: Panel, num_timesteps: int) -> Vectors:
    """Return each patient's whole course as one vector, shape (N, D).

    Reals on the common scale, missing as 0; classes one-hot with weight 1/sqrt(2), so that another class
    counts as one deviation; all divided by sqrt(T). Euclidean distance is then the root mean square over
    time. What is after a patient's end is 0, so that patients of other lengths differ.
    """
    cut = panel.first(num_timesteps)
    hot = timestep_features(cut)
    hot[:, :, len(panel.schema.reals) :] *= np.float32(np.sqrt(0.5))
    padded = np.pad(hot, [(0, 0), (0, num_timesteps - cut.num_timesteps), (0, 0)])
    return np.asarray(padded.reshape(len(padded), -1) / np.float32(np.sqrt(num_timesteps)))


def timestep_features(panel: Panel) -> NDArray[np.float32]:
    """Return every timestep's reals on the common scale and one-hot classes, shape (N, T, F); absent is 0."""
    reals = np.nan_to_num(panel.scaled_NTR, nan=0.0).astype(np.float32)
    hot = [
        (panel.codes_NTK[:, :, [k]] == np.arange(len(v.classes))).astype(np.float32)
        for k, v in enumerate(panel.schema.categoricals)
    ]
    return np.concatenate([reals, *hot], axis=2)


def summary_features(panel: Panel) -> Floats:
    """Return each patient's features for a classifier, shape (N, D); NaN if there is no value.

    Of each real variable: mean, deviation, least, greatest, first, last, slope, mean step, share unchanged.
    Of each class: its share of timesteps; of each categorical variable: changes per timestep, first and
    last class. And the number of timesteps.
    """
    columns = [panel.lengths_N.astype(np.float64)]
    for position, _ in enumerate(panel.schema.reals):
        columns += _real_features(panel.scaled_NTR[:, :, position])
    for position, variable in enumerate(panel.schema.categoricals):
        codes = panel.codes_NTK[:, :, position]
        present = np.maximum((codes >= 0).sum(axis=1), 1)
        columns += [(codes == k).sum(axis=1) / present for k in range(len(variable.classes))]
        if not variable.static:
            changed = (codes[:, 1:] != codes[:, :-1]) & (codes[:, 1:] >= 0)
            last = np.take_along_axis(codes, panel.lengths_N[:, None] - 1, axis=1)[:, 0]
            columns += [changed.sum(axis=1) / present, codes[:, 0].astype(float), last.astype(float)]
    return np.stack(columns, axis=1)


def summary_names(schema: Schema) -> list[str]:
    """Return the summary features' names in words."""
    return [name for name, _ in _summaries(schema)]


def summary_variables(schema: Schema) -> list[tuple[str, ...]]:
    """Return the variable of each summary feature; none of the number of timesteps."""
    return [about for _, about in _summaries(schema)]


def _summaries(schema: Schema) -> list[tuple[str, tuple[str, ...]]]:
    found: list[tuple[str, tuple[str, ...]]] = [("number of timesteps", ())]
    for variable in schema.reals:
        found += [(word.format(variable.name), (variable.name,)) for word in _REAL_WORDS]
    for variable in schema.categoricals:
        words = [f"share of timesteps with {variable.name} = {label}" for label in variable.labels]
        if not variable.static:
            words += [word.format(variable.name) for word in _CLASS_WORDS]
        found += [(word, (variable.name,)) for word in words]
    return found


def _real_features(values_NT: Floats) -> list[Floats]:
    """Return what describes each patient's course of one real variable; NaN where it has no value."""
    known = np.isfinite(values_NT)
    count = known.sum(axis=1)
    none = count == 0
    shared = np.maximum(count, 1)
    filled = np.where(known, values_NT, 0.0)
    mean = filled.sum(axis=1) / shared
    centred = np.where(known, values_NT - mean[:, None], 0.0)
    time = np.where(known, np.arange(values_NT.shape[1])[None, :], 0.0)
    time = np.where(known, time - (time.sum(axis=1) / shared)[:, None], 0.0)
    rows = np.arange(len(values_NT))
    first = values_NT[rows, known.argmax(axis=1)]
    last = values_NT[rows, values_NT.shape[1] - 1 - known[:, ::-1].argmax(axis=1)]
    steps = np.abs(np.diff(values_NT, axis=1))
    stepped = np.isfinite(steps)
    num_steps = np.maximum(stepped.sum(axis=1), 1)
    features = [
        mean,
        np.sqrt((centred**2).sum(axis=1) / shared),
        np.where(known, values_NT, np.inf).min(axis=1),
        np.where(known, values_NT, -np.inf).max(axis=1),
        first,
        last,
        (centred * time).sum(axis=1) / np.maximum((time**2).sum(axis=1), 1e-9),
        np.where(stepped, steps, 0.0).sum(axis=1) / num_steps,
        (stepped & (steps < 1e-9)).sum(axis=1) / num_steps,
    ]
    return [np.where(none, np.nan, feature) for feature in features]


@dataclass(frozen=True)
class Neighbours:
    """Where some patients lie among others.

    Args:
        nearest_N: distance to the nearest other.
        second_N: distance to the second nearest.
        index_N: which is the nearest.
    """

    nearest_N: Floats
    second_N: Floats
    index_N: NDArray[np.int64]


def neighbours(queries: Vectors, others: Vectors) -> Neighbours:
    """Return the two nearest of `others` for every query; a single one counts for both."""
    distances, indices = k_nearest(queries, others, 2)
    return Neighbours(distances[:, 0], distances[:, -1], indices[:, 0])


def k_nearest(queries: Vectors, others: Vectors, count: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return distances to and positions of the `count` nearest of `others`, shapes (N, count)."""
    count = min(count, len(others))
    norms = np.einsum("nd,nd->n", others, others)
    distances = np.empty((len(queries), count))
    indices = np.empty((len(queries), count), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        squares = norms[None, :] - 2 * (block @ others.T)
        kept = np.argpartition(squares, count - 1, axis=1)[:, :count]
        # The product is accurate for distant patients but leaves rounding errors between equal ones.
        exact = np.stack([np.linalg.norm(block - others[column], axis=1) for column in kept.T], axis=1)
        order = np.argsort(exact, axis=1)
        indices[start : start + len(block)] = np.take_along_axis(kept, order, axis=1)
        distances[start : start + len(block)] = np.take_along_axis(exact, order, axis=1)
    return distances, indices


def squared_distances(queries: Vectors, others: Vectors) -> Floats:
    """Return the squared distances of all pairs, shape (N, len(others)); in float64, so that ties show."""
    one, other = queries.astype(np.float64), others.astype(np.float64)
    squares = np.einsum("nd,nd->n", other, other)[None, :] - 2 * (one @ other.T)
    return np.asarray(squares + np.einsum("nd,nd->n", one, one)[:, None])
