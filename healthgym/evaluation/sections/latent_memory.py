"""Audit of a latent memory: it holds mean latents of real patients and travels with the model.

M slots, N patients, H latent dimensions.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from healthgym.evaluation.metric import Metric, metric
from healthgym.evaluation.result import Noise, Result, Section, in_words, judge, limits
from healthgym.evaluation.settings import ReportConfig
from healthgym.evaluation.statistics.attacks.membership import membership_scores, nearer_share
from healthgym.evaluation.statistics.models.ranking import (
    auc,
    auc_interval,
    rate_interval,
    true_positive_rate,
)
from healthgym.evaluation.statistics.patients import Vectors, k_nearest, neighbours

Floats = NDArray[np.float64]

_NEIGHBOURS = 5
_SINGLED_OUT = 0.5
_INTRO = (
    "The checkpoint carries {:,} slots, each the mean latent of a real patient at some moment of training. "
    "Can they be linked back to the patients?"
)
_INTRO_COARSE = (
    "The same questions where {:,} centroids, each of several slots, replace the slots: what a "
    "released checkpoint would disclose."
)

MEMBERSHIP = metric(
    "memory.membership_auc",
    "Membership by memory",
    "How well somebody who holds the checkpoint and a patient's record can tell, from the slot closest "
    "to the patient's latent, whether the patient was in the training data. 50% is guessing.",
    "AUC of training against holdout patients by distance to the nearest slot",
    "percent",
)
MEMBERSHIP_TPR = metric(
    "memory.membership_tpr",
    "Membership of the most exposed",
    "The share of training patients who are recognised as such if no more than 1% of patients outside "
    "the training data may be taken for training patients.",
    "True-positive rate at 1% false positives (Carlini et al., IEEE S&P 2022)",
    "percent",
)
LINKED = metric(
    "memory.linked",
    "Slots that point at one patient",
    "The share of slots that lie less than half as far from one training patient as from the next: each is a "
    "trace of that patient.",
    "Nearest-neighbour distance ratio below 0.5; twice what holdout patients, taken for training ones, "
    "show passes",
    "percent",
)
NEARER = metric(
    "memory.nearer_to_training",
    "Nearer to training than to holdout",
    "The share of slots whose closest patient is a training rather than a holdout patient, corrected "
    "for the sizes of the two sets. 50% is ideal.",
    "As in the privacy section",
    "percent",
)
COVERAGE = metric(
    "memory.coverage",
    "Patients near a slot",
    "The share of training patients with a slot at least as close as their fifth closest other patient."
    " It is low where the memory has lost a kind of patient.",
    "Coverage of Naeem et al., ICML 2020, arXiv 2002.09797",
    "percent",
)
SPREAD = metric(
    "memory.spread",
    "Standard deviation of the slots",
    "The standard deviation of the slots divided by that of the patients' latents. 1 means equally "
    "wide; near 0, the memory has collapsed.",
    "Square root of the ratio of total variances",
)


def audit(
    slots_MH: Vectors, train_NH: Vectors, holdout_NH: Vectors, config: ReportConfig, coarse: bool = False
) -> Section:
    """Try to link the slots of a latent memory to the patients they came from.

    Args:
        slots_MH: the latent memory of a checkpoint, or a coarse form of it.
        train_NH: time means of the training patients' latents, by the checkpoint's autoencoder.
        holdout_NH: the same of patients unseen in training.
        config: thresholds, under `memory`.
        coarse: whether the slots come from `coarsen`, for the words.
    """
    slots, train, holdout = (
        np.ascontiguousarray(x, dtype=np.float32) for x in (slots_MH, train_NH, holdout_NH)
    )
    members, outsiders = membership_scores(train, slots), membership_scores(holdout, slots)
    rate = true_positive_rate(members, outsiders)
    linked = float(np.mean(_ratios(slots, train) < _SINGLED_OUT))
    by_chance = float(np.mean(_ratios(slots, holdout) < _SINGLED_OUT))
    radius = k_nearest(train, train, _NEIGHBOURS + 1)[0][:, -1]
    deviation = np.sqrt(slots.var(axis=0).sum() / max(float(train.var(axis=0).sum()), 1e-12))
    part = Section("memory", "Latent memory", _INTRO.format(len(slots)))
    if coarse:
        part = Section("memory-coarse", "The memory made coarse", _INTRO_COARSE.format(len(slots)))
    part.results = [
        _result(
            MEMBERSHIP, config, coarse, auc(members, outsiders), interval=auc_interval(members, outsiders)
        ),
        _result(
            MEMBERSHIP_TPR, config, coarse, rate, interval=rate_interval(members, outsiders, config.seed)
        ),
        _result(LINKED, config, coarse, linked, Noise(by_chance, 2 * by_chance)),
        _result(NEARER, config, coarse, nearer_share(slots, train, holdout)),
        _result(COVERAGE, config, coarse, float(np.mean(neighbours(train, slots).nearest_N <= radius))),
        _result(SPREAD, config, coarse, float(deviation)),
    ]
    return part


def coarsen(
    slots_MH: Vectors, at_least: int, seed: int = 0, owners_M: NDArray[np.int64] | None = None
) -> tuple[Vectors, NDArray[np.int64]]:
    """Return centroids that stand for at least `at_least` slots each, and for how many each stands.

    k-means, then the smallest cluster is given to its neighbours until all are large enough.

    Args:
        slots_MH: the latent memory.
        at_least: slots, or owners, that each centroid shall stand for.
        seed: of k-means.
        owners_M: whom each slot comes from, if several may come from one: then owners are counted.

    Raises:
        ValueError: there are fewer slots or owners than that.
    """
    owners = np.arange(len(slots_MH)) if owners_M is None else owners_M
    found, noun = len(np.unique(owners)), "slots" if owners_M is None else "owners of slots"
    if not 1 <= at_least <= found:
        raise ValueError(f"{found} {noun} are too few for one centroid of at least {at_least}.")
    centres = (
        KMeans(max(1, found // (2 * at_least)), n_init=1, random_state=seed).fit(slots_MH).cluster_centers_
    )
    while True:
        nearest = k_nearest(slots_MH.astype(np.float32), centres.astype(np.float32), 1)[1][:, 0]
        counts = np.bincount(nearest, minlength=len(centres))
        pairs = np.unique(np.stack([nearest, owners]), axis=1)
        num_owners = np.bincount(pairs[0], minlength=len(centres))
        if num_owners.min() >= at_least:
            break
        centres = np.delete(centres, num_owners.argmin(), axis=0)
    means = np.stack([slots_MH[nearest == k].mean(axis=0) for k in range(len(centres))])
    return means.astype(slots_MH.dtype), counts.astype(np.int64)


def _ratios(queries: Vectors, others: Vectors) -> Floats:
    """Return the distance to the nearest over that to the second nearest."""
    near = neighbours(queries, others)
    return np.asarray(near.nearest_N / np.maximum(near.second_N, 1e-12))


def _result(
    about: Metric,
    config: ReportConfig,
    coarse: bool,
    value: float,
    noise: Noise | None = None,
    interval: tuple[float, float] | None = None,
) -> Result:
    threshold = config.threshold(about.key)
    return Result(
        f"{about.key}:coarse" if coarse else about.key,
        about.title,
        about.what,
        about.source,
        value,
        noise,
        interval=interval,
        verdict=judge(value, noise, threshold, interval, about.style),
        limit=in_words(threshold, noise, about.style),
        marks=limits(threshold, noise) if threshold else None,
        style=about.style,
    )
