"""Variables together: correlations, contingency, clusters."""

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.cluster import MiniBatchKMeans

from healthgym.evaluation.comparison import About, Comparison, Side
from healthgym.evaluation.figure import NotJudgedError, Picture, Section
from healthgym.evaluation.pages import pictures
from healthgym.seeds import stream

Floats = NDArray[np.float64]

_KENDALL_ROWS = 4000
_CLUSTER_ROWS = 20_000
_NUM_CLUSTERS = 20
_SOURCE_STATIC = (
    "Pearson over all timesteps, classes as numbers in the schema's order, as in the v1 and v2 papers and "
    "the Health Gym implementation series; real variables on the Box-Cox scale, as in training"
)

PEARSON = About(
    "joint.pearson",
    "Static correlations",
    "How much the Pearson correlation of two variables differs between real and synthetic data, on average "
    "over all pairs.",
    _SOURCE_STATIC,
)
PEARSON_LOST = About(
    "joint.pearson_lost",
    "Correlation structure lost",
    "The size of all differences in Pearson correlations relative to the size of the real correlations: 0% "
    "keeps every one, 100% is what independent columns would lose.",
    "Frobenius norm of the difference over that of the real matrix, off the diagonal; " + _SOURCE_STATIC,
    "percent",
)
KENDALL = About(
    "joint.kendall",
    "Rank correlations",
    "How much Kendall's rank correlation of two variables differs, on average over all pairs.",
    f"Kendall's tau-b (scipy.stats.kendalltau) on at most {_KENDALL_ROWS:,} random timesteps, as in the v1 "
    "paper: "
    "doi 10.1038/s41597-022-01784-7",
)
CRAMER = About(
    "joint.cramer",
    "Association of classes",
    "How much Cramér's V, the association of two variables of which one or both are categorical, differs; "
    "the worst pair counts.",
    "Cramér 1946, with Bergsma's bias correction (J. Korean Stat. Soc. 2013); real variables in fifths of "
    "the training data",
)
CONTINGENCY = About(
    "joint.contingency",
    "Pairwise contingency",
    "The share of timesteps that would have to move for the joint table of two variables to equal the real "
    "one; the worst pair with a categorical variable in it counts.",
    "Total variation of two-way tables; real variables in fifths of the training data",
    "percent",
)
LOG_CLUSTER = About(
    "joint.log_cluster",
    "Log-cluster",
    f"Real and synthetic timesteps are clustered together in {_NUM_CLUSTERS} groups: how unevenly real and "
    "synthetic ones mix in them. The more negative, the better mixed.",
    "Goncalves et al., BMC Med. Res. Methodol. 2020, doi 10.1186/s12874-020-00977-1, as in the v2 paper; "
    f"equally many timesteps of each, at most {_CLUSTER_ROWS:,}",
)
CATEGORY_COVERAGE = About(
    "joint.category_coverage",
    "Category coverage",
    "The share of the classes found in real data that are also found in the synthetic data, on average over "
    "the categorical variables.",
    "Support coverage of Goncalves et al. 2020, as in the v2 paper: doi 10.1016/j.jbi.2023.104514",
    "percent",
)


def section(comparison: Comparison) -> Section:
    """Judge how variables go together."""
    part = Section(
        "joint",
        "Variables together",
        "Do variables go together as they do in real patients, timestep by timestep?",
    )
    part.figures = [
        comparison.measured(PEARSON, pearson_differences, "mean"),
        comparison.measured(PEARSON_LOST, pearson_lost),
        comparison.measured(KENDALL, kendall_differences, "mean", num_splits=2),
        comparison.measured(CRAMER, cramer_differences),
        comparison.measured(CONTINGENCY, contingency_distances),
        comparison.measured(LOG_CLUSTER, log_cluster, num_splits=2),
        comparison.measured(CATEGORY_COVERAGE, category_coverage, "mean"),
    ]
    names = list(comparison.schema.names())
    real, synthetic = comparison.train.tally.pearson_VV, comparison.synthetic.tally.pearson_VV
    part.pictures = triangles("pearson", "Pearson", real, synthetic, names)
    return part


def triangles(key: str, title: str, real_VV: Floats, synthetic_VV: Floats, names: list[str]) -> list[Picture]:
    """Draw a correlation matrix of real and of synthetic data, and their difference."""
    drawn = (
        ("real", real_VV, 1.0),
        ("synthetic", synthetic_VV, 1.0),
        ("difference", synthetic_VV - real_VV, 0.5),
    )
    return [
        pictures.heat_map(
            f"{key}-{what}", f"{title}: {what}", matrix, names, names, limit, triangular=True, group=key
        )
        for what, matrix, limit in drawn
    ]


def pearson_differences(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the absolute difference of each pair's Pearson correlation."""
    return pair_differences(
        real.tally.pearson_VV, synthetic.tally.pearson_VV, list(real.panel.schema.names())
    )


def pearson_lost(real: Side, synthetic: Side) -> dict[str, float]:
    """Return |synthetic - real| / |real| over the off-diagonal correlations."""
    return {"all pairs": structure_lost(real.tally.pearson_VV, synthetic.tally.pearson_VV)}


def pair_differences(real_VV: Floats, synthetic_VV: Floats, names: list[str]) -> dict[str, float]:
    """Return the absolute difference of each pair; a synthetic constant counts as uncorrelated.

    Raises:
        NotJudgedError: no pair of variables varies in the real data.
    """
    filled = np.nan_to_num(synthetic_VV, nan=0.0)
    found = {
        f"{names[i]} – {names[j]}": float(abs(real_VV[i, j] - filled[i, j]))
        for i, j in combinations(range(len(names)), 2)
        if np.isfinite(real_VV[i, j])
    }
    if not found:
        raise NotJudgedError("No two variables vary in the real data.")
    return found


def structure_lost(real_VV: Floats, synthetic_VV: Floats) -> float:
    """Return the Frobenius norm of the difference over that of the real matrix, off the diagonal."""
    upper = np.triu_indices(len(real_VV), 1)
    real, other = real_VV[upper], np.nan_to_num(synthetic_VV[upper], nan=0.0)
    known = np.isfinite(real)
    size = float(np.linalg.norm(real[known]))
    if size < 1e-9:
        raise NotJudgedError("No two variables are correlated in the real data.")
    return float(np.linalg.norm(other[known] - real[known])) / size


def kendall_differences(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the absolute difference of each pair's Kendall tau-b."""
    names = list(real.panel.schema.names())
    return pair_differences(_kendall(real), _kendall(synthetic), names)


def cramer_differences(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the absolute difference of Cramer's V of each pair with a categorical variable."""
    return {name: abs(cramers_v(a) - cramers_v(b)) for name, a, b in _tables(real, synthetic)}


def contingency_distances(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the total variation of each pair's two-way table."""
    return {
        name: float(np.abs(a / a.sum() - b / b.sum()).sum() / 2) if b.sum() else 1.0
        for name, a, b in _tables(real, synthetic)
        if a.sum()
    }


def cramers_v(table: NDArray[np.int64]) -> float:
    """Return Cramer's V with Bergsma's bias correction; 0 where a variable has one class only."""
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(np.float64)
    count, (rows, columns) = table.sum(), table.shape
    if min(rows, columns) < 2 or count < 2:
        return 0.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / count
    phi2 = float(((table - expected) ** 2 / expected).sum() / count)
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (count - 1))
    least = min(rows, columns)
    fewest = float(least - (least - 1) ** 2 / (count - 1)) - 1
    return math.sqrt(phi2 / fewest) if fewest > 0 else 0.0


def log_cluster(real: Side, synthetic: Side) -> dict[str, float]:
    """Return log of the mean squared departure of the real share in each cluster from the overall share.

    U = log( (1/G) sum_g (n_g^real / n_g - c)^2 ), c = n^real / n.
    """
    count = min(_CLUSTER_ROWS, len(real.panel.values_rows), len(synthetic.panel.values_rows))
    rows = np.concatenate([_rows(side, count) for side in (real, synthetic)])
    model = MiniBatchKMeans(_NUM_CLUSTERS, n_init=1, random_state=real.seed, batch_size=4096)
    clusters = model.fit_predict(rows)
    all_rows = np.bincount(clusters, minlength=_NUM_CLUSTERS)
    real_rows = np.bincount(clusters[:count], minlength=_NUM_CLUSTERS)
    filled = all_rows > 0
    departure = real_rows[filled] / all_rows[filled] - 0.5
    return {"all timesteps": math.log(max(float(np.mean(departure**2)), 1e-9))}


def category_coverage(real: Side, synthetic: Side) -> dict[str, float]:
    """Return the share of each variable's real classes that the synthetic data has."""
    shares = {}
    for position, variable in enumerate(real.panel.schema.categoricals):
        present = real.tally.shares(position) > 0
        if present.any():
            shares[variable.name] = float((synthetic.tally.shares(position)[present] > 0).mean())
    return shares


def _kendall(side: Side) -> Floats:
    """Return Kendall's tau-b of every pair on some random timesteps, shape (V, V)."""
    rows = side.panel.values_rows
    if len(rows) > _KENDALL_ROWS:
        rng = stream(side.seed, "kendall", side.name)
        rows = rows[rng.choice(len(rows), _KENDALL_ROWS, replace=False)]
    width = rows.shape[1]
    tau = np.eye(width)
    for i, j in combinations(range(width), 2):
        known = np.isfinite(rows[:, i]) & np.isfinite(rows[:, j])
        a, b = rows[known, i], rows[known, j]
        constant = len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0
        tau[i, j] = tau[j, i] = np.nan if constant else stats.kendalltau(a, b).statistic
    return tau


def _tables(real: Side, synthetic: Side) -> list[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """Return each pair with a categorical variable in it, and its two contingency tables."""
    names = list(real.panel.schema.names())
    num_reals = len(real.panel.schema.reals)
    return [
        (f"{names[i]} – {names[j]}", real.tally.table(i, j), synthetic.tally.table(i, j))
        for i, j in combinations(range(len(names)), 2)
        if j >= num_reals
    ]


def _rows(side: Side, count: int) -> Floats:
    """Return some random timesteps: reals on the common scale (missing as 0), classes one-hot."""
    panel = side.panel
    present = np.argwhere(panel.present_NT)
    rng = stream(side.seed, "clusters", side.name)
    chosen = present[rng.choice(len(present), count, replace=False)]
    reals = np.nan_to_num(panel.scaled_NTR[chosen[:, 0], chosen[:, 1]], nan=0.0)
    codes = panel.codes_NTK[chosen[:, 0], chosen[:, 1]]
    hot = [codes[:, [k]] == np.arange(len(v.classes)) for k, v in enumerate(panel.schema.categoricals)]
    return np.concatenate([reals, *hot], axis=1).astype(np.float64)
