"""Mode collapse: does the cohort have every kind of patient, and the rare ones as often?"""

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.comparison import About, Comparison, Side
from healthgym.evaluation.figure import NotJudgedError, Picture, Section
from healthgym.evaluation.pages import pictures
from healthgym.evaluation.statistics.patients import Vectors, k_nearest, neighbours, sequence_vectors
from healthgym.evaluation.statistics.tally import Combination
from healthgym.seeds import permutation

COMMON = 0.005
_RARE = 0.05
_VANISHED = 0.1
_NEIGHBOURS = 5
_MOST_PATIENTS = 2000

ACTIVE_MODES = About(
    "collapse.active_modes",
    "Active modes",
    "Of the combinations of static variables that at least 0.5% of real patients have, the share that at "
    "least 0.5% of synthetic patients have too; the worst pair of variables counts.",
    "Mode counting of the Health Gym implementation series (2025)",
    "percent",
)
VANISHED = About(
    "collapse.vanished",
    "Vanished combinations",
    "Of the combinations of static variables that at least 0.5% of real patients have, the share that the "
    "synthetic cohort has less than a tenth as often, or not at all; the worst pair of variables counts.",
    "Own definition, after the collapse of v1's published cohort (43 of 8,916 patients female, none Asian)",
    "percent",
)
RARE_GROUPS = About(
    "collapse.rare_groups",
    "Rare groups",
    "The share of synthetic patients in rare groups (combinations that 0.5% to 5% of real patients have) "
    "relative to their real share: 1 keeps them, 0 loses them; the worst pair of variables counts.",
    "Own definition",
)
SHARES = About(
    "collapse.shares",
    "Combination shares",
    "The share of patients that would have to change group for the table of two static variables to equal "
    "the real one; the worst pair counts.",
    "Total variation of the patient-level table, as the Sex x Ethnicity tables of the v2 paper",
    "percent",
)
KNN_COVERAGE = About(
    "collapse.knn_coverage",
    "Real patients with a synthetic neighbour",
    "The share of real patients who have a synthetic patient at least as near as their fifth nearest real "
    "one: low where a kind of patient is missing, whatever the variables that make it.",
    "Coverage of Naeem et al., ICML 2020, arXiv 2002.09797, with k = 5, between whole patients; equally many "
    f"of each, at most {_MOST_PATIENTS:,}",
    "percent",
)
DIVERSITY = About(
    "collapse.diversity",
    "Diversity",
    "The median distance of a synthetic patient to the nearest other synthetic one, relative to the same "
    "among real patients: 1 is as diverse, near 0 is the same patient again and again.",
    f"Own definition, on equally many patients of each, at most {_MOST_PATIENTS:,}",
)
DUPLICATES = About(
    "collapse.duplicates",
    "Repeated patients",
    "The share of synthetic patients who repeat an earlier synthetic patient in every value.",
    "All synthetic patients, values as float32",
    "percent",
)


def section(comparison: Comparison) -> Section:
    """Judge the coverage of patient groups."""
    part = Section(
        "collapse",
        "Mode collapse",
        "Does the cohort have every kind of patient, the rare ones as well? A collapsed generator makes the "
        "same few patients again and again.",
    )
    part.figures = [
        comparison.measured(ACTIVE_MODES, active_modes, "smallest"),
        comparison.measured(VANISHED, vanished),
        comparison.measured(RARE_GROUPS, rare_group_ratios, "smallest"),
        comparison.measured(SHARES, share_distances),
        comparison.measured(KNN_COVERAGE, knn_coverage, num_splits=1),
        comparison.measured(DIVERSITY, diversity, num_splits=1),
        comparison.measured(DUPLICATES, duplicates),
    ]
    for names in _crossed(comparison.train):
        part.pictures += _heat_maps(comparison, names)
    return part


def active_modes(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of common real combinations that are common in the synthetic data too."""
    return {name: float((other >= COMMON).mean()) for name, _, other in _common(real, synthetic)}


def vanished(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of common real combinations that have (almost) gone."""
    return {
        name: float((other < _VANISHED * shares).mean()) for name, shares, other in _common(real, synthetic)
    }


def rare_group_ratios(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the synthetic over the real share of patients in rare combinations.

    Raises:
        NotJudgedError: there are no rare combinations.
    """
    ratios = {}
    for name, shares, other in _shares(real, synthetic):
        rare = (shares >= COMMON) & (shares < _RARE)
        if rare.any():
            ratios[name] = float(other[rare].sum() / shares[rare].sum())
    if not ratios:
        raise NotJudgedError("No combination of static variables is rare (0.5% to 5%) in the real data.")
    return ratios


def share_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the total variation of each combination table."""
    return {name: float(np.abs(a - b).sum() / 2) for name, a, b in _shares(real, synthetic)}


def knn_coverage(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of real patients with a synthetic one within the radius of their fifth real "
    "neighbour."""
    one, other = _vectors(real, synthetic)
    if len(one) <= _NEIGHBOURS:
        raise NotJudgedError(f"{len(one)} patients are too few for {_NEIGHBOURS} neighbours each.")
    radius = k_nearest(one, one, _NEIGHBOURS + 1)[0][:, -1]
    return {"patients": float(np.mean(neighbours(one, other).nearest_N <= radius))}


def diversity(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the median distance to the nearest neighbour among synthetic over that among real patients."""
    medians = [float(np.median(k_nearest(each, each, 2)[0][:, 1])) for each in _vectors(real, synthetic)]
    if medians[0] <= 0:
        raise NotJudgedError("Most real patients equal another real patient.")
    return {"patients": medians[1] / medians[0]}


def duplicates(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of synthetic patients that repeat another."""
    hashes = synthetic.tally.hashes_N
    return {"patients": 1 - len(np.unique(hashes)) / len(hashes)}


def _vectors(real: Side, synthetic: Side) -> list[Vectors]:
    """Return equally many patients of both sides as vectors."""
    count = min(real.panel.num_patients, synthetic.panel.num_patients, _MOST_PATIENTS)
    steps = max(real.panel.num_timesteps, synthetic.panel.num_timesteps)
    return [
        sequence_vectors(
            side.panel.take(
                np.sort(permutation(side.panel.num_patients, side.seed, "neighbours", side.name)[:count])
            ),
            steps,
        )
        for side in (real, synthetic)
    ]


def _shares(real: Side, synthetic: Side) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Return the patient shares of each combination table, real and synthetic.

    Raises:
        NotJudgedError: there is nothing to cross.
    """
    names = _crossed(real)
    if not names:
        raise NotJudgedError("The schema has no static categorical variables to cross.")
    tables = []
    for crossed in names:
        a, b = real.tally.coverage[crossed], synthetic.tally.coverage[crossed]
        tables.append((" x ".join(crossed), a / max(a.sum(), 1), b / max(b.sum(), 1)))
    return tables


def _common(real: Side, synthetic: Side) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Return, of each combination table, the real and synthetic shares of the cells common in real data.

    Raises:
        NotJudgedError: no cell of any table is.
    """
    tables = [(name, a[a >= COMMON], b[a >= COMMON]) for name, a, b in _shares(real, synthetic)]
    found = [table for table in tables if len(table[1])]
    if not found:
        raise NotJudgedError(f"No combination of static variables is had by {COMMON:.1%} of real patients.")
    return found


def _crossed(side: Side) -> list[Combination]:
    """Return the combinations to look at: those of several variables, else single ones."""
    several = [names for names in side.combinations if len(names) > 1]
    return several or list(side.combinations)


def _heat_maps(comparison: Comparison, names: Combination) -> list[Picture]:
    """Draw the shares of two crossed variables; the first two of a triple are put in the rows."""
    title, key = " x ".join(names), "-".join(names)
    labels = [comparison.schema[name].labels for name in names]
    if len(names) == 1:
        labels, names = [("all",), *labels], ("", *names)
    rows = labels[0] if len(names) == 2 else [f"{a}, {b}" for a in labels[0] for b in labels[1]]
    drawn = []
    for what, side in (("real", comparison.train), ("synthetic", comparison.synthetic)):
        counts = side.tally.coverage[tuple(name for name in names if name)].reshape(
            len(rows), len(labels[-1])
        )
        shares = counts / max(counts.sum(), 1)
        drawn.append(
            pictures.heat_map(
                f"coverage-{key}-{what}", f"{title}: {what}, % of patients", shares, rows, labels[-1],
                as_percent=True, group=key,
            )
        )  # fmt: skip
    return drawn
