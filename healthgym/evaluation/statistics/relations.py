"""Relations between variables, each with the standard error that patients (not timesteps) give it.

A correlation r = P_ab / sqrt(P_aa P_bb) of means P over all timesteps of all patients moves, if patient i
is given a little more weight, by

    IF_i = (Q_ab,i - r (Q_aa,i + Q_bb,i) / 2),   Q_ab,i = (S_ab,i - P_ab n_ab,i) / (mean n_ab sqrt(P_aa P_bb))

where S_ab,i and n_ab,i are the patient's own sum and number of timesteps; its variance over N patients is
the mean of IF^2 / N (Huber, *Robust Statistics*, 1981, section 3.2). Of few patients that is too small (a
correlation of one patient's two timesteps is 1 or -1, and its influence is 0), so that 2 / n is added in
quadrature for the n patients who make up a correlation: all that there can be for n = 1, and next to nothing
beside 1 / sqrt(n) for many.

N patients, T timesteps, A and B columns of the two sides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.columns import Column, Columns
from healthgym.evaluation.statistics.panel import Panel

Floats = NDArray[np.float64]
Pairs = NDArray[np.int64]

LAGS = (1, 3, 6)
CHANGE_LAGS = (0, 1, 3)
_FEW = 2.0
_FEWEST_IN_STRATUM = 40
_MOST_STRATA = 12
_MOST_STRATUM_COLUMNS = 24
_TINY = 1e-9
_ALONE = 1e-6  # of leverage, below 1
_UNKNOWN = 1e6  # standard deviations: nothing differs by so much


@dataclass(frozen=True)
class Family:
    """Statistics of one kind, each estimated with a standard error.

    Args:
        names: K pairs of names.
        estimate_K, error_K: value and standard error of each; NaN where there is nothing to estimate.
        phrase: makes a sentence part of two names, e.g. "HR and MAP at the same hour".
        is_relation: whether 0 means that two variables have nothing to do with each other.
    """

    names: Sequence[tuple[str, str]]
    estimate_K: Floats
    error_K: Floats
    phrase: Callable[[str, str], str]
    is_relation: bool = True


Families = dict[str, Family]


def relations(panel: Panel, columns: Columns) -> Families:
    """Return every family of relations that the patients are long enough for."""
    varying_NTV, static_NS = columns.of(panel)
    names = [column.name for column in columns.varying]
    same_variable = _same_variable(columns)
    repeated = np.broadcast_to(static_NS[:, None], (*varying_NTV.shape[:2], static_NS.shape[1]))
    repeated = np.where(panel.present_NT[:, :, None], repeated, np.nan)
    everything = np.concatenate([varying_NTV, repeated], axis=2)
    every_name = names + columns.static_names
    pairs = _upper(len(every_name), same_variable)
    found: Families = {}

    def put(
        key: str, a: Floats, b: Floats, kept: Pairs, named: Sequence[str], phrase: Callable[[str, str], str]
    ) -> None:
        if len(kept) and a.shape[1]:
            r, error = correlations(a, b)
            both = kept[:, 0], kept[:, 1]
            found[key] = Family([(named[i], named[j]) for i, j in kept], r[both], error[both], phrase)

    whole = _centred(everything, (0, 1))
    put("same time", whole, whole, pairs, every_name, "{} and {} at the same timestep".format)
    own = _centred(varying_NTV, 1)
    put("within", own, own, _upper(len(names), same_variable), names, "{} and {} within a patient".format)
    every_pair = np.argwhere(np.ones((len(names), len(names)), bool))
    steps = varying_NTV.shape[1]
    for lag in (lag for lag in LAGS if 2 * lag < steps):
        phrase = ("{} and {} " + _later(lag)).format
        put(f"lag {lag}", own[:, :-lag], own[:, lag:], every_pair, names, phrase)
    moving = [i for i, column in enumerate(columns.varying) if column.kind == "score"]
    moved = [names[i] for i in moving]
    change = np.diff(varying_NTV[:, :, moving], axis=1)
    for lag in (lag for lag in CHANGE_LAGS if 2 * lag + 1 < steps):
        kept = np.argwhere(np.ones((len(moved),) * 2, bool)) if lag else _upper(len(moved), set())
        phrase = ("the change of {} and that of {} " + (_later(lag) if lag else "at the same time")).format
        put(f"changes {lag}", change[:, : change.shape[1] - lag], change[:, lag:], kept, moved, phrase)
    means = np.concatenate([_mean(varying_NTV), static_NS], axis=1)[:, None]
    between = _centred(means, (0, 1))
    put("between", between, between, pairs, every_name, "{} and {}, averaged over each patient".format)
    if steps > 2:
        start = max(1, steps // 8)
        first, later = (
            _centred(x[:, None], (0, 1)) for x in (varying_NTV[:, 0], _mean(varying_NTV[:, start:]))
        )
        put("baseline", first, later, every_pair, names, "{} at the start and the later mean of {}".format)
    if len(columns.static) and len(names):
        found["effect"] = _effects(means[:, 0], static_NS, names, columns)
        found.update(_by_stratum(varying_NTV, static_NS, names, columns))
    return found


def correlations(a_NTA: Floats, b_NTB: Floats) -> tuple[Floats, Floats]:
    """Return the correlations of centred columns and their standard errors, shapes (A, B); NaN is absent."""
    a, b = np.nan_to_num(a_NTA).astype(np.float32), np.nan_to_num(b_NTB).astype(np.float32)
    known_a, known_b = np.isfinite(a_NTA), np.isfinite(b_NTB)
    sums = _products(a, b)
    # A column counts where the other is known too; where all columns are known together, that is a count.
    if _same_everywhere(known_a) and _same_everywhere(known_b):
        count = (known_a[:, :, 0] & known_b[:, :, 0]).sum(axis=1)[:, None, None].astype(np.float32)
        squares_a, squares_b = (a**2).sum(axis=1)[:, :, None], (b**2).sum(axis=1)[:, None, :]
        if a_NTA is not b_NTB:  # of two stretches of time, what is known in both
            both = (known_a[:, :, :1] & known_b[:, :, :1]).astype(np.float32)
            squares_a, squares_b = ((a**2) * both).sum(1)[:, :, None], ((b**2) * both).sum(1)[:, None, :]
    else:
        mask_a, mask_b = known_a.astype(np.float32), known_b.astype(np.float32)
        count = _products(mask_a, mask_b)
        squares_a, squares_b = _products(a**2, mask_b), _products(mask_a, b**2)
    number = np.maximum(count.mean(axis=0, dtype=np.float64), _TINY)
    p_ab, p_aa, p_bb = (x.mean(axis=0, dtype=np.float64) / number for x in (sums, squares_a, squares_b))
    scale = np.sqrt(np.maximum(p_aa * p_bb, 0))
    usable = (p_aa > _TINY) & (p_bb > _TINY)
    safe = np.where(usable, scale, 1.0)
    r = p_ab / safe
    with np.errstate(invalid="ignore", divide="ignore"):
        scale_a, scale_b = (np.where(usable, p, 1.0) for p in (p_aa, p_bb))
        # Q_ab - r (Q_aa + Q_bb) / 2: the terms in n cancel, as P_ab = r sqrt(P_aa P_bb).
        moved = sums / safe - 0.5 * r * (squares_a / scale_a + squares_b / scale_b)
    error = np.sqrt(np.mean(moved.astype(np.float64) ** 2, axis=0) / len(a)) / number
    error = np.hypot(error, _FEW / np.maximum(_effective_number(squares_a, squares_b), 1.0))
    known = np.broadcast_to(usable & (number > _TINY * 10), r.shape)
    return np.where(known, r, np.nan), np.where(known, error, np.nan)


def _effective_number(squares_a: NDArray[np.float32], squares_b: NDArray[np.float32]) -> Floats:
    """Return how many patients make up the correlations, (A, B): (sum w)^2 / sum w^2, w_i^2 = S_aa,i S_bb,i.

    That is Kish's effective sample size (*Survey Sampling*, 1965, section 11.7).
    """
    w2 = squares_a * squares_b
    total, squares = (x.sum(axis=0, dtype=np.float64) for x in (np.sqrt(w2), w2))
    return np.asarray(total**2 / np.maximum(squares, np.finfo(np.float64).tiny))


def _products(a_NTA: NDArray[np.float32], b_NTB: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return every patient's sums of products, shape (N, A, B)."""
    return np.asarray(np.matmul(a_NTA.transpose(0, 2, 1), b_NTB))


def _same_everywhere(known_NTV: NDArray[np.bool_]) -> bool:
    return bool((known_NTV == known_NTV[:, :, :1]).all())


def _centred(x: Floats, axis: int | tuple[int, ...]) -> Floats:
    """Return values less their mean over some axes; NaN stays."""
    known = np.isfinite(x)
    count = np.maximum(known.sum(axis=axis, keepdims=True), 1)
    return np.asarray(x - np.where(known, x, 0.0).sum(axis=axis, keepdims=True) / count)


def _mean(x_NTV: Floats) -> Floats:
    """Return patients' means, shape (N, V); NaN of no value."""
    known = np.isfinite(x_NTV)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, x_NTV, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _same_variable(columns: Columns) -> set[tuple[int, int]]:
    """Return the pairs of columns of one variable, whose relation is arithmetic: a class and its score."""
    every = [*columns.varying, *columns.static]
    return {
        (i, j)
        for i, j in combinations(range(len(every)), 2)
        if every[i].position == every[j].position and "changed" not in (every[i].kind, every[j].kind)
    }


def _upper(count: int, left_out: set[tuple[int, int]]) -> Pairs:
    kept = [pair for pair in combinations(range(count), 2) if pair not in left_out]
    return np.array(kept, dtype=np.int64).reshape(-1, 2)


def _later(lag: int) -> str:
    return "one timestep later" if lag == 1 else f"{lag} timesteps later"


def _effects(means_NV: Floats, static_NS: Floats, names: Sequence[str], columns: Columns) -> Family:
    """Return the effect of each static column on each patient's mean, the other statics held.

    Least squares on standardised means; errors by the estimator HC3 (MacKinnon and White, Journal of
    Econometrics 1985): of a class of one patient, whom the regression fits exactly, nothing is known. Of
    each static variable all classes but the commonest are in the design; scores enter one at a time in its
    place.
    """
    labels, estimates, errors = [], [], []
    outcomes = means_NV[:, : len(names)]
    centred = np.nan_to_num(_centred(outcomes, 0))
    deviation = np.sqrt((centred**2).sum(axis=0) / np.maximum(np.isfinite(outcomes).sum(axis=0), 1))
    filled = centred / np.where(deviation > _TINY, deviation, 1.0)
    statics = np.nan_to_num(static_NS)
    for scored in (None, *dict.fromkeys(c.position for c in columns.static if c.kind == "score")):
        chosen = _design(columns, statics, scored)
        wanted = [s for s in chosen if scored is None or _is(columns, s, scored)]
        design = np.column_stack([np.ones(len(statics)), statics[:, chosen]])
        inverse = np.linalg.pinv(design.T @ design)
        slopes = inverse @ design.T @ filled
        leverage_N = np.einsum("np,pq,nq->n", design, inverse, design)
        left = (filled - design @ slopes) / np.maximum(1 - leverage_N, _TINY)[:, None]
        alone_N = leverage_N > 1 - _ALONE
        for s in wanted:
            row = 1 + chosen.index(s)
            weight = design @ inverse[row]
            estimates.append(slopes[row])
            unknown = bool((alone_N & (np.abs(weight) > _ALONE)).any())
            error = np.sqrt((weight[:, None] ** 2 * left**2).sum(axis=0))
            errors.append(np.full_like(error, _UNKNOWN) if unknown else error)
            labels += [(columns.static_names[s], name) for name in names]
    return Family(labels, np.concatenate(estimates), np.concatenate(errors), "the effect of {} on {}".format)


def _design(columns: Columns, statics_NS: Floats, scored: int | None) -> list[int]:
    """Return static columns for a regression; the variable at `scored` enters by its score."""
    chosen = []
    for position in dict.fromkeys(column.position for column in columns.static):
        own = [i for i, column in enumerate(columns.static) if column.position == position]
        classes = [i for i in own if columns.static[i].kind == "class"]
        if position == scored or not classes:
            chosen += [i for i in own if columns.static[i].kind == "score"]
        elif len(classes) == 1:
            chosen += classes
        else:
            commonest = _commonest(columns, position)
            chosen += [i for i in classes if columns.static[i].code != commonest]
    return chosen + ([len(columns.static)] if columns.with_length else [])


def _is(columns: Columns, static: int, position: int) -> bool:
    return static < len(columns.static) and columns.static[static].position == position


def _commonest(columns: Columns, position: int) -> int:
    """Return the first kept class: the reference, the same whatever the cohort."""
    return min(c.code for c in columns.static if c.position == position and c.kind == "class")


def _other_class(columns: Columns, column: Column) -> str:
    """Return "variable = label" of the other class of a binary variable."""
    variable = columns.schema.encoded[column.position]
    return f"{variable.name} = {variable.labels[1 - column.code]}"


def _by_stratum(varying_NTV: Floats, static_NS: Floats, names: Sequence[str], columns: Columns) -> Families:
    """Return the relations at the same timestep within each class of each static variable."""
    kept = [i for i, column in enumerate(columns.varying) if column.kind == "score"][:_MOST_STRATUM_COLUMNS]
    chosen = [names[i] for i in kept]
    pairs = _upper(len(kept), set())
    labels: list[tuple[str, str]] = []
    estimates, errors = [], []
    strata = [(i, c) for i, c in enumerate(columns.static) if c.kind == "class"]
    halves = [(f"{c.name}", static_NS[:, i] == 1) for i, c in strata]
    binary = [c for _, c in strata if sum(o.position == c.position for _, o in strata) == 1]
    halves += [(_other_class(columns, c), static_NS[:, i] == 0) for i, c in strata if c in binary]
    for name, rows in halves[:_MOST_STRATA]:
        labels += [(f"{name}: {chosen[i]}", chosen[j]) for i, j in pairs]
        if rows.sum() < _FEWEST_IN_STRATUM:
            estimates.append(np.full(len(pairs), np.nan))
            errors.append(np.full(len(pairs), np.nan))
            continue
        part = _centred(varying_NTV[rows][:, :, kept], (0, 1))
        r, error = correlations(part, part)
        estimates.append(r[pairs[:, 0], pairs[:, 1]])
        errors.append(error[pairs[:, 0], pairs[:, 1]])
    if not labels:
        return {}
    return {"stratum": Family(labels, np.concatenate(estimates), np.concatenate(errors), "{} and {}".format)}
