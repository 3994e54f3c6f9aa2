"""The joint distribution of gender, ethnicity and antiretroviral regimen, and changes of regimen.

The published cross-tables of the public ART-for-HIV cohort name pairs of variables only. The joint law
here is the one nearest to a plausible regimen (`_plausibility`) that has those pairs, found by iterative
proportional fitting (Deming & Stephan, *Annals of Mathematical Statistics*, 1940).
"""

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

AXES = ("Gender", "Ethnic", "Base Drug Combo", "Comp. INI", "Comp. NNRTI", "Extra PI", "Extra pk-En")
_TABLES = (
    "Gender | Ethnic",
    *(f"{of} | {given}" for of in ("Ethnic", "Gender") for given in AXES[2:]),
    *(f"Base Drug Combo | {given}" for given in AXES[3:]),
)
_SWEEPS = 60
_FLOOR = 0.0005  # a share published as 0 is rare, not impossible
_KEEP_BACKBONE = 0.6  # assumed: most changes replace the third agent only


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """Return the published statistics of the cohort; see `about` and `sources` in them."""
    facts: dict[str, Any] = json.loads(
        files("healthgym.data.simulation").joinpath("art_hiv_statistics.json").read_text()
    )
    return facts


def shares(name: str) -> NDArray[np.float64]:
    """Return the published share of each class of a variable, shape (K,), summing to 1."""
    share_K = np.array(list(published()["shares"][name].values()))
    return np.asarray(share_K / share_K.sum())


def joint(table: str) -> NDArray[np.float64]:
    """Return a published table "of | given" as a joint distribution, shape (K_given, K_of)."""
    of, given = table.split(" | ")
    law = np.maximum(np.array(published()["tables"][table]), _FLOOR)
    for _ in range(_SWEEPS):
        law = law * (shares(given) / law.sum(axis=1))[:, None]
        law = law * (shares(of) / law.sum(axis=0))
    return np.asarray(law)


@lru_cache(maxsize=1)
def regimen_law() -> NDArray[np.float64]:
    """Return P(gender, ethnicity, base, INI, NNRTI, PI, enhancer), shape (2, 4, 6, 4, 4, 6, 2)."""
    law = np.broadcast_to(_plausibility(), tuple(len(shares(name)) for name in AXES)).copy()
    targets = []
    for table in _TABLES:
        of, given = (AXES.index(name) for name in table.split(" | "))
        target = joint(table) if given < of else joint(table).T
        kept = sorted((of, given))
        shape = [law.shape[axis] if axis in kept else 1 for axis in range(law.ndim)]
        targets.append((tuple(set(range(law.ndim)) - set(kept)), target.reshape(shape)))
    for _ in range(_SWEEPS):
        for others, target in targets:
            law *= target / law.sum(axis=others, keepdims=True)
    return np.asarray(law / law.sum())


def _plausibility() -> NDArray[np.float64]:
    """Return how usual a combination of drugs is, before the published shares; shape (1, 1, 6, 4, 4, 6, 2).

    A regimen is a backbone with one third agent: an integrase inhibitor, an NNRTI or a boosted protease
    inhibitor. Ritonavir alone is a booster, elvitegravir needs one, and hardly anything else takes
    cobicistat (EACS and DHHS treatment guidelines).
    """
    base, ini, nnrti, pi, enhancer = np.ogrid[:6, :4, :4, :6, :2]
    darunavir_base, boosted_base = base == 3, base == 4
    protease = np.isin(pi, (0, 2, 4)) | darunavir_base
    third_agents = (ini < 3).astype(int) + (nnrti < 3) + protease
    weight = np.choose(np.minimum(third_agents, 3), (0.05, 1.0, 0.04, 0.001))
    lone_booster = np.isin(pi, (1, 3)) & ~(darunavir_base | boosted_base)
    weight = weight * np.where(lone_booster, 0.05, 1.0)
    wants_enhancer = (ini == 2) | np.isin(pi, (0, 4))
    usual = np.where(ini == 2, enhancer == 1, (enhancer == 0) | wants_enhancer)
    return np.asarray(weight * np.where(usual, 1.0, 0.03))[None, None]


def draw_groups(u_N: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the class of Gender and of Ethnic for uniform draws, both shape (N,)."""
    law = regimen_law().sum(axis=tuple(range(2, 7)))
    cell_N = np.searchsorted(np.cumsum(law)[:-1], u_N, side="right")
    gender_N, ethnic_N = np.unravel_index(cell_N, law.shape)
    return gender_N, ethnic_N


def draw_regimens(
    gender_N: NDArray[np.intp], ethnic_N: NDArray[np.intp], u_NS2: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the regimens of S successive spells, as classes (base, INI, NNRTI, PI, enhancer).

    A change keeps the backbone and draws the rest anew given it, or draws all anew. Both steps leave the
    law of regimens given gender and ethnicity as it is, and so does reading the chain backwards.

    Args:
        gender_N, ethnic_N: class of each patient.
        u_NS2: uniform draws, the first for what changes, the second for the regimen.

    Returns:
        Shape (5, N, S).
    """
    law = regimen_law()
    num_cells, num_backbones = int(np.prod(law.shape[2:])), law.shape[2]
    cumulative = np.cumsum(law.reshape(-1, num_cells), axis=1)
    cumulative /= cumulative[:, -1:]
    group_N = gender_N * law.shape[1] + ethnic_N
    flat = (cumulative + np.arange(len(cumulative))[:, None]).ravel()
    edges = np.concatenate([np.zeros((len(cumulative), 1)), cumulative], axis=1)
    edges = edges[:, :: num_cells // num_backbones]
    cell_NS = np.empty(u_NS2.shape[:2], dtype=np.intp)
    low_N, high_N = np.zeros(len(group_N)), np.ones(len(group_N))
    for spell in range(u_NS2.shape[1]):
        if spell:
            backbone_N = cell_NS[:, spell - 1] // (num_cells // num_backbones)
            keep_N = u_NS2[:, spell, 0] < _KEEP_BACKBONE
            low_N = np.where(keep_N, edges[group_N, backbone_N], 0.0)
            high_N = np.where(keep_N, edges[group_N, backbone_N + 1], 1.0)
        point_N = low_N + (high_N - low_N) * u_NS2[:, spell, 1]
        cell_NS[:, spell] = np.searchsorted(flat, point_N + group_N, side="right") - group_N * num_cells
    return np.stack(np.unravel_index(cell_NS, law.shape[2:]))
