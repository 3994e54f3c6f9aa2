"""The number of timesteps given a patient's static classes, for systems that do not generate it.

The patients of each stage of a curriculum are divided recursively by the static variable that explains most
of the variance of the length, as long as every group has at least 10 patients. A synthetic patient's length
is that of a random member of its group.

Legend: N patients, S static variables.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AT_LEAST = 10
"""Least number of training patients in each group."""


@dataclass(frozen=True)
class LengthGroup:
    """Training patients of one stage who share some static classes.

    Args:
        stage: length of the stage.
        classes: {static variable: class indices of its members}; other variables do not matter.
        lengths: {timesteps: patients}.
    """

    stage: int
    classes: Mapping[str, tuple[int, ...]]
    lengths: Mapping[int, int]


def fit_groups(
    codes_NS: NDArray[np.uint8],
    names: Sequence[str],
    num_classes: Sequence[int],
    lengths_N: NDArray[Any],
    stages: Sequence[int],
) -> tuple[LengthGroup, ...]:
    """Divide the patients of each stage.

    Args:
        codes_NS: static classes of each patient.
        names, num_classes: of the S variables.
        lengths_N: timesteps, at most the last stage's.
        stages: lengths of the stages; a patient belongs to the first that is long enough.
    """
    stage_N = np.searchsorted(np.array(stages), lengths_N)
    groups: list[LengthGroup] = []
    for index, stage in enumerate(stages):
        members = np.flatnonzero(stage_N == index)
        if len(members):
            everything = [frozenset(range(count)) for count in num_classes]
            for allowed, part in _divide(members, codes_NS, lengths_N, everything):
                classes = {
                    name: tuple(sorted(kept))
                    for name, kept, count in zip(names, allowed, num_classes, strict=True)
                    if len(kept) < count
                }
                found, counts = np.unique(lengths_N[part], return_counts=True)
                known = dict(zip(found.tolist(), counts.tolist(), strict=True))
                groups.append(LengthGroup(stage, classes, known))
    return tuple(groups)


_Allowed = list[frozenset[int]]


def _divide(
    members: NDArray[np.int64], codes_NS: NDArray[np.uint8], lengths_N: NDArray[Any], allowed: _Allowed
) -> Iterator[tuple[_Allowed, NDArray[np.int64]]]:
    """Yield the groups of some patients, with the classes of each."""
    best: tuple[float, int, list[frozenset[int]]] | None = None
    lengths_M = lengths_N[members].astype(np.float64)
    if np.ptp(lengths_M):
        for variable, classes in enumerate(allowed):
            parts = _class_sets(codes_NS[members, variable], lengths_M, classes)
            told = _explained(codes_NS[members, variable], lengths_M, parts)
            if len(parts) > 1 and (best is None or told > best[0]):
                best = told, variable, parts
    if best is None:
        yield allowed, members
        return
    _, variable, parts = best
    for part in parts:
        inside = np.isin(codes_NS[members, variable], list(part))
        narrowed = [*allowed[:variable], part, *allowed[variable + 1 :]]
        yield from _divide(members[inside], codes_NS, lengths_N, narrowed)


def _class_sets(
    code_M: NDArray[np.uint8], lengths_M: NDArray[np.float64], classes: frozenset[int]
) -> list[frozenset[int]]:
    """Return sets of classes of a variable, merged by nearest mean length until each set is large enough."""
    counts = np.bincount(code_M, minlength=max(classes) + 1)
    sums = np.bincount(code_M, weights=lengths_M, minlength=max(classes) + 1)
    present = sorted((k for k in classes if counts[k]), key=lambda k: sums[k] / counts[k])
    sets = [([k], int(counts[k]), float(sums[k])) for k in present]
    while len(sets) > 1 and min(count for _, count, _ in sets) < AT_LEAST:
        small = min(range(len(sets)), key=lambda i: sets[i][1])
        beside = [i for i in (small - 1, small + 1) if 0 <= i < len(sets)]
        mean = sets[small][2] / sets[small][1]
        near = min(beside, key=lambda i: abs(sets[i][2] / sets[i][1] - mean))
        low, high = sorted((small, near))
        (ours, count, total), (theirs, more, added) = sets[low], sets[high]
        sets[low : high + 1] = [(ours + theirs, count + more, total + added)]
    largest = max(range(len(sets)), key=lambda i: sets[i][1])
    absent = [k for k in classes if not counts[k]]  # a class without members joins the largest set
    return [
        frozenset([*kept, *absent] if index == largest else kept) for index, (kept, _, _) in enumerate(sets)
    ]


def _explained(
    code_M: NDArray[np.uint8], lengths_M: NDArray[np.float64], parts: Sequence[frozenset[int]]
) -> float:
    """Return the sum of squares between the mean lengths of the parts."""
    mean, total = lengths_M.mean(), 0.0
    for part in parts:
        inside = lengths_M[np.isin(code_M, list(part))]
        total += len(inside) * float(inside.mean() - mean) ** 2
    return total


def draw_lengths(
    groups: Sequence[LengthGroup], stage: int, codes: Mapping[str, NDArray[Any]], u_N: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Return the numbers of timesteps of patients of a stage.

    Args:
        groups: of all stages.
        stage: length of the patients' stage.
        codes: their static classes by variable.
        u_N: U(0,1) numbers, one per patient.
    """
    lengths_N = np.full(len(u_N), stage, np.int32)
    for group in groups:
        if group.stage != stage:
            continue
        inside = np.ones(len(u_N), bool)
        for name, kept in group.classes.items():
            inside &= np.isin(codes[name], kept)
        known = np.array(sorted(group.lengths), np.int32)
        up_to = np.cumsum([group.lengths[int(length)] for length in known])
        lengths_N[inside] = known[np.searchsorted(up_to, u_N[inside] * up_to[-1], side="right")]
    return lengths_N


def to_text(groups: Sequence[LengthGroup]) -> str:
    """Return groups as JSON."""
    return json.dumps(
        [
            {
                "stage": group.stage,
                "classes": {name: list(kept) for name, kept in group.classes.items()},
                "lengths": [[length, count] for length, count in group.lengths.items()],
            }
            for group in groups
        ]
    )


def from_text(text: str) -> tuple[LengthGroup, ...]:
    """Read groups from `to_text`; an empty text gives no groups."""
    return tuple(
        LengthGroup(
            group["stage"],
            {name: tuple(kept) for name, kept in group["classes"].items()},
            dict(group["lengths"]),
        )
        for group in json.loads(text or "[]")
    )


def reached(lengths_2U: NDArray[np.int64], at_least: int) -> int:
    """Return the largest length that this many patients have or exceed; the smallest if there are fewer.

    Args:
        lengths_2U: lengths (row 0) and how many patients have each (row 1).
        at_least: number of patients.
    """
    lengths_N = np.sort(np.repeat(*lengths_2U))
    return int(lengths_N[-min(at_least, len(lengths_N))])


def summed(lengths_2U: NDArray[np.int64]) -> dict[int, int]:
    """Return {length: patients} of lengths that may occur several times."""
    return {int(n): int(lengths_2U[1, lengths_2U[0] == n].sum()) for n in np.unique(lengths_2U[0])}


def common_lengths(lengths_2U: NDArray[np.int64], at_least: int) -> NDArray[np.int64]:
    """Give each length that few patients have to the nearest other one, until none is left."""
    counts = summed(lengths_2U)
    while len(counts) > 1 and min(counts.values()) < at_least:
        rare = min(counts, key=lambda length: (counts[length], length))
        count = counts.pop(rare)
        counts[min(counts, key=lambda length: (abs(length - rare), length))] += count
    return np.array([list(counts), list(counts.values())], dtype=np.int64)
