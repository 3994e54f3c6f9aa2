"""The audit of a latent memory, and coarsening it."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny

from healthgym.errors import ConfigError, TableError
from healthgym.evaluation.result import Verdict
from healthgym.evaluation.sections.latent_memory import audit, coarsen
from healthgym.evaluation.settings import ReportConfig, load_report_config
from healthgym.release.memory_audit import audit_memory

THRESHOLDS = Path(__file__).parents[2] / "configs" / "report.yaml"
RNG_SEED = 0


@cache
def config() -> ReportConfig:
    return load_report_config(THRESHOLDS)


def latents(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def verdicts(slots: np.ndarray, train: np.ndarray, holdout: np.ndarray) -> dict[str, Verdict]:
    section = audit(slots, train, holdout, config())
    return {result.key.partition(".")[2]: result.verdict for result in section.results}


def shares(slots: np.ndarray, train: np.ndarray, holdout: np.ndarray) -> dict[str, float]:
    section = audit(slots, train, holdout, config())
    return {result.key.partition(".")[2]: result.value or 0.0 for result in section.results}


def test_slots_that_are_training_patients_are_linked() -> None:
    train, holdout = latents(400, 1), latents(200, 2)
    found = verdicts(train + 0.01 * latents(400, 3), train, holdout)
    for key in ("membership_auc", "membership_tpr", "linked", "nearer_to_training"):
        assert found[key] is Verdict.FAIL, key
    assert found["coverage"] is found["spread"] is Verdict.PASS


def test_slots_of_other_patients_are_not() -> None:
    found = verdicts(latents(400, 4), latents(400, 1), latents(200, 2))
    assert set(found.values()) <= {Verdict.PASS, Verdict.NOT_JUDGED}


def test_a_collapsed_memory_covers_nobody() -> None:
    found = verdicts(np.zeros((400, 8), np.float32), latents(400, 1), latents(200, 2))
    assert found["coverage"] is found["spread"] is Verdict.FAIL


def test_a_coarse_memory_points_at_nobody() -> None:
    train, holdout = latents(400, 1), latents(200, 2)
    coarse, counts = coarsen(train, 10)
    assert counts.min() >= 10
    assert counts.sum() == 400
    assert coarse.shape == (len(counts), 8)
    np.testing.assert_allclose(counts @ coarse.astype(np.float64) / 400, train.mean(axis=0), atol=1e-5)
    before, after = (shares(slots, train, holdout) for slots in (train, coarse))
    assert before["membership_auc"] > 0.99 > 0.65 > after["membership_auc"]
    assert before["linked"] > 0.99 > 0.1 > after["linked"]


@pytest.mark.parametrize(("count", "at_least"), [(30, 30), (31, 10), (1, 1)])
def test_every_centroid_stands_for_enough_slots(count: int, at_least: int) -> None:
    coarse, counts = coarsen(latents(count, RNG_SEED), at_least)
    assert counts.min() >= at_least
    assert counts.sum() == count
    assert len(coarse) == len(counts)


def test_a_checkpoint_is_audited(trained: Path, tmp_path: Path) -> None:
    report = audit_memory(
        trained / "v2", trained / "prepared.h5", tmp_path, trained / "report.yaml", at_least=5
    )
    assert [section.key for section in report.sections] == ["memory", "memory-coarse"]
    content = json.loads((tmp_path / "report.json").read_text())
    for section in content["sections"]:
        assert len(section["figures"]) == 6
        assert all(result["value"] is not None for result in section["figures"])
        assert all(result["verdict"] != "shown" for result in section["figures"])
    assert f"{tiny.NUM_SLOTS} slots" in (tmp_path / "report.html").read_text()


def test_what_cannot_be_audited_is_an_error(trained: Path, tmp_path: Path) -> None:
    data, few = trained / "prepared.h5", trained / "report.yaml"
    with pytest.raises(ConfigError, match="no latent memory"):
        audit_memory(trained / "v1", data, tmp_path / "out", few)
    with pytest.raises(TableError, match=r"holds out \d+ patients; the audit compares with at least 50"):
        audit_memory(trained / "v2", data, tmp_path / "out", THRESHOLDS)
    with pytest.raises(ConfigError, match="80 slots, too few for a centroid of 90"):
        audit_memory(trained / "v2", data, tmp_path / "out", few, at_least=90)
    tiny.cohort(tmp_path, num_patients=140, seed=1)
    with pytest.raises(TableError, match="was not trained on"):
        audit_memory(trained / "v2", tmp_path / "prepared.h5", tmp_path / "out", few)
    assert not (tmp_path / "out").exists()


def test_too_few_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="5 slots are too few for one centroid of at least 10"):
        coarsen(latents(5, 0), 10)
