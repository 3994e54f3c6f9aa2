"""The likelihood attack on membership succeeds for a system that has memorised patients, not for others."""

from pathlib import Path

import numpy as np
import pytest
import tiny

from healthgym.release.card import _likelihood_in_words
from healthgym.release.likelihood import likelihood_audit, nats_per_timestep
from healthgym.release.release import release
from healthgym.storage.checkpoint import load_checkpoint
from healthgym.synthesis.source import trained_system
from healthgym.training.run import train

THRESHOLDS = Path(__file__).resolve().parents[2] / "configs" / "report.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an `ar` much too large for its patients, with nothing that keeps it from memorising."""
    folder = tmp_path_factory.mktemp("memorised")
    tiny.cohort(folder, num_patients=60, num_timesteps=8, ragged=True)
    training = {"epochs": 60, "patience": None, "validation": 0.2}
    config = tiny.config(folder, "ar", training=training)
    large = {"width": 32, "hidden_dim": 32, "dropout": 0.0}
    config = config.model_copy(update={"system": config.system.model_copy(update=large)})
    assert train(folder / "run", config)
    return folder


def test_patients_score_alike_alone_and_together(trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "run")
    system, cohort = trained_system(checkpoint, "cpu"), tiny.opened(trained)
    together = nats_per_timestep(system, cohort.train)
    for patient in (0, 7, 20):
        alone = nats_per_timestep(system, cohort.train.only(np.array([patient])))
        np.testing.assert_allclose(alone, together[patient], rtol=1e-5)


def test_a_memorised_cohort_is_found(trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "run")
    system, cohort = trained_system(checkpoint, "cpu"), tiny.opened(trained)
    early = likelihood_audit(system, checkpoint, cohort)
    assert early is not None
    system.load_sampling_state({"best": checkpoint.state["network"]})  # the last weights, not the best
    late = likelihood_audit(system, checkpoint, cohort)
    assert late is not None
    assert late["auc"] > 0.9
    assert late["auc_interval"][0] > 0.7
    assert early["auc"] < late["auc"]
    assert late["nats_per_timestep"]["training"] < late["nats_per_timestep"]["holdout"]


def test_a_release_carries_no_extremes_and_the_card_the_audit(trained: Path) -> None:
    card = release(trained / "run", trained / "out.h5", THRESHOLDS, data=trained / "prepared.h5", effect=None)
    audit = card["membership_by_likelihood"]
    assert audit["holdout_patients"] == tiny.opened(trained).holdout.num_patients == 8
    assert audit["true_positive_rate"] is None  # 1% of 8 is nobody, and chance would be one in 9
    assert "cannot be measured with fewer than 100 held-out patients." in (trained / "out.md").read_text()
    assert "## Membership by likelihood" in (trained / "out.md").read_text()
    released = load_checkpoint(trained / "out.h5")
    raw = tiny.opened(trained).train.raw()[2]
    kept = [np.asarray(released.transform[name]) for name in ("min", "range")]
    kept += [released.cells["variables"][r][name] for r in ("0", "1") for name in ("low_P", "high_P")]
    assert not np.isin(np.concatenate(kept), [raw.min(0), raw.max(0)]).any()
    assert "optimisers" not in released.state
    assert set(released.state) == {"best"}


def test_the_rate_is_given_where_one_percent_are_patients() -> None:
    audit = {
        "training_patients": 400, "holdout_patients": 100, "auc": 0.5, "auc_interval": [0.4, 0.6],
        "true_positive_rate": 0.02, "true_positive_rate_interval": [0.0, 0.05],
        "most_exposed_above_holdout": 0.99, "nats_per_timestep": {"training": 1.0, "holdout": 1.1},
    }  # fmt: skip
    words = " ".join(_likelihood_in_words(audit))
    assert (
        "At 1% false positives 2.0% of them are found (0.0% to 5.0%; 1% is chance). The most exposed" in words
    )
