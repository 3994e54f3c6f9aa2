"""The release form of a checkpoint: it samples as before, carries nothing of training, and has a card."""

import importlib.util
import io
import json
import shutil
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import tiny
from scipy import special

from healthgym.data.fitting.transform import Transform
from healthgym.errors import ConfigError, StorageError, TableError
from healthgym.release.memory_audit import audit_memory
from healthgym.release.release import release
from healthgym.storage.checkpoint import describe, list_checkpoints, load_checkpoint
from healthgym.storage.shards import open_cohort
from healthgym.synthesis.source import trained_system
from healthgym.training.run import train

ROOT = Path(__file__).parents[2]
THRESHOLDS = ROOT / "configs" / "report.yaml"


def load_program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_program", ROOT / "jobs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words_in(path: Path) -> str:
    """Return every name and every text of an HDF5 file."""
    found: list[str] = []

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        found.extend([name, *(f"{key}={value}" for key, value in node.attrs.items())])

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    return "\n".join(found)


@pytest.mark.parametrize("system", ["v1", "v3"])
def test_a_system_without_memory_samples_the_same_bits(trained: Path, tmp_path: Path, system: str) -> None:
    card = release(trained / system, tmp_path / "r.h5", THRESHOLDS)
    assert card["latent_memory"] is None
    before, after = (
        trained_system(load_checkpoint(path), "cpu").sample_features(6, 3, 0, 5).numpy()
        for path in (trained / system, tmp_path / "r.h5")
    )
    assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("system", ["v2", "v2.5"])
def test_a_memory_is_made_coarse(trained: Path, tmp_path: Path, system: str) -> None:
    card = release(trained / system, tmp_path / "r.h5", THRESHOLDS)
    source, released = load_checkpoint(trained / system), load_checkpoint(tmp_path / "r.h5")
    centroids, counts = released.state["Mean_Container"], released.state["Mean_Counts"]
    assert card["latent_memory"]["slots_before"] == tiny.NUM_SLOTS
    assert card["latent_memory"]["slots_after"] == len(centroids) < tiny.NUM_SLOTS / 10
    assert counts.min() >= 10
    assert counts.sum() == tiny.NUM_SLOTS
    slots = source.state["Mean_Container"].astype(np.float64)
    np.testing.assert_allclose(counts @ centroids / tiny.NUM_SLOTS, slots.mean(0), atol=1e-5)
    kept = {row.tobytes() for row in source.state["Mean_Container"]}
    assert not kept & {row.tobytes() for row in centroids}, "a prototype was released as it is"


@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_nothing_of_the_training_is_in_the_file(trained: Path, tmp_path: Path, system: str) -> None:
    source = load_checkpoint(trained / system)
    assert str(trained) in words_in(list_checkpoints(trained / system / "checkpoints")[0])
    release(trained / system, tmp_path / "r.h5", THRESHOLDS)
    words = words_in(tmp_path / "r.h5")
    names = words.lower().split("\n")
    assert source.statistics.class_counts
    for absent in (
        source.statistics.class_counts,
        "optimisers",
        "exp_avg",
        "prepared.h5",
        str(trained),
        source.statistics.data_fingerprint,
    ):
        assert absent not in words, absent
    assert not [name for name in names if name.split("/")[0] in {"d", "a", "average"}]
    released = load_checkpoint(tmp_path / "r.h5")
    assert released.meter == {}
    assert released.statistics.correlation_FF.size == 0
    assert released.statistics.lengths_2U[1].min() >= 10
    assert released.statistics.lengths_2U[1].sum() == source.statistics.num_patients
    assert "data withheld" in describe(tmp_path / "r.h5")


def test_a_cohort_is_made_from_a_release_and_always_the_same(trained: Path, tmp_path: Path) -> None:
    release(trained / "v2", tmp_path / "r.h5", THRESHOLDS)
    frames = []
    for name in ("one", "two"):
        asked = ["--checkpoint", str(tmp_path / "r.h5"), "--out", str(tmp_path / name), "--patients", "30"]
        assert load_program("synthesize").main([*asked, "--workers", "1"]) == 0
        reader = open_cohort(tmp_path / name)
        assert reader.num_patients == 30
        assert reader.manifest.checkpoint_sha256 == load_checkpoint(tmp_path / "r.h5").sha256
        frames.append(reader.read())
    assert frames[0].equals(frames[1])


def test_a_release_is_not_trained_audited_or_released(trained: Path, tmp_path: Path) -> None:
    release(trained / "v2", tmp_path / "r.h5", THRESHOLDS)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "r.h5", run / "checkpoints" / "step-000000001.h5")
    with pytest.raises(ConfigError, match="is a release, which can generate patients but not be trained"):
        train(run, tiny.epoch_of(trained, "v2"), io.StringIO())
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000000001.h5"]
    with pytest.raises(ConfigError, match="is a release, without the autoencoder"):
        audit_memory(tmp_path / "r.h5", trained / "prepared.h5", tmp_path / "a", trained / "report.yaml")
    with pytest.raises(ConfigError, match="is a release already"):
        release(tmp_path / "r.h5", tmp_path / "s.h5", THRESHOLDS)


def test_what_cannot_be_released_is_an_error(trained: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "r.h5", trained / "prepared.h5"
    with pytest.raises(ConfigError, match=r"--coarsen 9: .* Give at least 10"):
        release(trained / "v2", out, THRESHOLDS, at_least=9)
    with pytest.raises(ConfigError, match="too few for a centroid of 100"):
        release(trained / "v2", out, THRESHOLDS, at_least=100)
    with pytest.raises(ConfigError, match=r"name of an \.h5 file"):
        release(trained / "v2", tmp_path / "r", THRESHOLDS)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not a report"):
        release(trained / "v2", out, THRESHOLDS, report=tmp_path / "x.json")
    with pytest.raises(StorageError, match="does not exist"):
        release(trained / "absent", out, THRESHOLDS)
    tiny.cohort(tmp_path, num_patients=160, seed=1)
    for system in ("v1", "v2"):
        with pytest.raises(TableError, match="was not trained on"):
            release(trained / system, out, trained / "report.yaml", data=tmp_path / "prepared.h5")
    assert data.exists()
    assert not out.exists()


def test_the_card_is_complete(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = load_checkpoint(trained / "v2")
    report = {
        "kind": "healthgym report",
        "title": "tiny",
        "verdict": "caution",
        "facts": {"synthetic from": f"checkpoint {source.sha256[:16]}, seed 0"},
        "sections": [{"title": "Privacy", "verdict": "caution"}],
        "thresholds": {"privacy": {"copies": {"at_most": 0, "fail_above": 0}}},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    asked = ["--run-dir", str(trained / "v2"), "--out", str(tmp_path / "r.h5"), "--data"]
    asked += [str(trained / "prepared.h5"), "--report", str(tmp_path / "report.json")]
    asked += ["--config", str(trained / "report.yaml"), "--no-effect"]
    assert load_program("release").main(asked) == 0
    assert "r.md" in capsys.readouterr().out
    card, text = json.loads((tmp_path / "r.json").read_text()), (tmp_path / "r.md").read_text()
    released = load_checkpoint(tmp_path / "r.h5")
    assert card["sha256"] == {"source checkpoint": source.sha256, "release": released.sha256}
    assert card["data"]["schema"] == "tiny"
    assert card["data"]["training_patients"] == source.statistics.num_patients
    assert card["configuration"]["data"] == "withheld"
    assert card["configuration"]["system"]["latent"]["num_slots"] == tiny.NUM_SLOTS
    assert {"healthgym", "python", "torch"} <= card["versions"]["released with"].keys()
    assert card["report"]["verdict"] == "caution"
    assert card["report"]["judged_a_cohort_of_the_source"]
    assert card["report"]["thresholds"] == report["thresholds"]
    memory = card["latent_memory"]
    assert (
        memory["slots_before"] == tiny.NUM_SLOTS > memory["slots_after"] == len(released.state["Mean_Counts"])
    )
    effect = {row["key"]: row for row in memory["effect"]}
    assert effect.keys() == {"memory.membership_auc", "memory.membership_tpr", "memory.linked"}
    assert all(0 <= row[when] <= 1 for row in effect.values() for when in ("before", "after"))
    assert effect["memory.membership_auc"]["before"] > effect["memory.membership_auc"]["after"]
    for part in (
        source.sha256,
        released.sha256,
        "80 slots became",
        "| Membership by memory |",
        "**caution**",
    ):
        assert part in text, part
    for secret in (str(trained), source.statistics.data_fingerprint):
        assert secret not in text + json.dumps(card)


@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_no_value_in_a_release_belongs_to_fewer_than_ten_patients(
    trained: Path, tmp_path: Path, system: str
) -> None:
    release(trained / system, tmp_path / "r.h5", THRESHOLDS)
    released, cohort = load_checkpoint(tmp_path / "r.h5"), tiny.opened(trained)
    raw = cohort.frame("train", 0, cohort.train.num_patients)
    for name in ("x", "y"):
        by_patient = raw.groupby("PatientID", observed=True)[name]
        for extremes in (by_patient.min().nsmallest(10), by_patient.max().nlargest(10)):
            single = np.array([extremes.iloc[0], special.boxcox(extremes.iloc[0], 0.0)])
            for found in numbers_in(tmp_path / "r.h5"):
                assert not np.isclose(found[:, None], single, rtol=1e-6).any(), name
    if released.cells:
        return
    assert int(released.transform["patients"]) == 10
    transform = Transform.from_tree(released.transform)
    ends = np.stack([transform.inverse_reals(np.full(2, end)) for end in (0.0, 1.0)])
    for column, name in enumerate(("x", "y")):
        by_patient = raw.groupby("PatientID", observed=True)[name]
        lowest, highest = by_patient.min().nsmallest(10), by_patient.max().nlargest(10)
        np.testing.assert_allclose(ends[:, column], [lowest.mean(), highest.mean()], rtol=1e-4)


def numbers_in(path: Path) -> list[np.ndarray]:
    """Return every array of real numbers in an HDF5 file."""
    found: list[np.ndarray] = []

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "f":
            found.append(np.asarray(node[()], np.float64).ravel())

    with h5py.File(path) as file:
        file.visititems(visit)
    return found
