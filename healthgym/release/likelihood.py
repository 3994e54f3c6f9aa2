"""Membership by likelihood: whether a trained system finds its own training patients likelier than others.

A system that gives exact likelihoods allows the strongest honest attack: anyone with its weights can score
any patient. The score is the log-likelihood per timestep.

Source: Yeom et al., *Privacy risk in machine learning*, CSF 2018 (the loss as the score); Carlini et al.,
*Membership inference attacks from first principles*, S&P 2022 (the rate at few false positives).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from healthgym.data.sequences import PreparedCohort, Sequences
from healthgym.evaluation.statistics.models.ranking import (
    auc,
    auc_interval,
    rate_interval,
    true_positive_rate,
)
from healthgym.storage.checkpoint import Checkpoint
from healthgym.systems.base import Batch, System
from healthgym.training.monitoring.validation import split

_BATCH = 256
_EXPOSED = 0.01
FALSE_POSITIVES = 0.01


def likelihood_audit(system: System, trained: Checkpoint, cohort: PreparedCohort) -> dict[str, Any] | None:
    """Return how well training patients are told from held-out ones; None if that cannot be computed.

    Args:
        system: the trained system.
        trained: its checkpoint.
        cohort: the one it was trained on, with its holdout.

    Returns:
        AUC and true-positive rate at 1% false positives, each with its 95% interval; for the most exposed
        1% of the training patients, the share of held-out patients who are less likely than the least exposed
        of them; the median nats per timestep of both groups. The rate is None for fewer than 100 held-out
        patients, of whom 1% is nobody.
    """
    if not system.scores_patients or not cohort.holdout.num_patients:
        return None
    settings = trained.config.training
    learned_N, _ = split(cohort.train.num_patients, settings.validation, settings.seed)
    members = -nats_per_timestep(system, cohort.train.only(learned_N))
    others = -nats_per_timestep(system, cohort.holdout)
    enough = len(others) * FALSE_POSITIVES >= 1
    exposed = np.sort(members)[::-1][: max(1, round(_EXPOSED * len(members)))]
    return {
        "training_patients": len(members),
        "holdout_patients": len(others),
        "auc": auc(members, others),
        "auc_interval": list(auc_interval(members, others)),
        "true_positive_rate": true_positive_rate(members, others, FALSE_POSITIVES) if enough else None,
        "true_positive_rate_interval": list(rate_interval(members, others, settings.seed))
        if enough
        else None,
        "most_exposed_above_holdout": float(np.mean(others < exposed[-1])),
        # Not means: a held-out patient with a class that no training patient has is as good as impossible.
        "nats_per_timestep": {
            "training": float(np.median(-members)),
            "holdout": float(np.median(-others)),
        },
    }


def nats_per_timestep(system: System, patients: Sequences) -> NDArray[np.float64]:
    """Return minus each patient's log-likelihood, divided by its timesteps, nats (N,)."""
    found = np.empty(patients.num_patients)
    order = np.argsort(patients.lengths_N, kind="stable")
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        length = int(patients.lengths_N[chosen].max())
        reals, codes, lengths_B = map(torch.from_numpy, patients.gather(chosen, length, system.real_form))
        batch = Batch(system.layout, reals, codes, lengths_B)
        nats_B = system.nats_by_patient(batch).double().cpu().numpy()
        found[chosen] = nats_B / patients.lengths_N[chosen]
    return found
