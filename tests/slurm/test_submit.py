"""Submitting to the real scheduler: its refusals, and all four stages at once."""

import json
from pathlib import Path

import pytest
import tiny
import yaml
from counting import CountJob
from slurm_cluster import Cluster

from healthgym.errors import LaunchError
from healthgym.launch.pipeline import submit_pipeline
from healthgym.launch.tracking import track
from healthgym.storage.shards import open_cohort

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("partition", "more", "said"),
    [
        ("nope", {}, r"invalid partition specified: nope.*\nLook at the key partition in .*nope\.yaml"),
        ("grace", {"nodes": 5}, r"(?s)Look at the key (nodes|constraint).* in .*grace\.yaml"),
        ("grace", {"memory_gb": 900}, r"(?s)Look at the key .*memory_gb.* in .*grace\.yaml"),
        ("grace", {"constraint": "h900"}, r"(?s)Look at the key constraint.* in .*grace\.yaml"),
        ("grace", {"nodelist": "hg9"}, r"(?s)Invalid node name.*Look at the key nodelist"),
    ],
)
def test_refused(
    cluster: Cluster, tmp_path: Path, partition: str, more: dict[str, object], said: str
) -> None:
    with pytest.raises(LaunchError, match=said):
        cluster.submit(CountJob(tmp_path / "run"), cluster.settings(tmp_path, partition, **more))
    assert not cluster.run("squeue", "--noheader")
    assert not (tmp_path / "run").exists()


def test_pipeline(cluster: Cluster, tmp_path: Path) -> None:
    one = cluster.settings(tmp_path)
    (tmp_path / "two").mkdir()
    two = cluster.settings(tmp_path / "two", array="{tasks: 2}")
    work, schema = tmp_path / "work", str(ROOT / "configs" / "schemas" / "art_hiv.yaml")
    config = tiny.config(tmp_path, "v1", curriculum={"lengths": [10]}, checkpoint={"every_steps": 5})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    prepared = str(work / "prepared.h5")
    stages = {
        "prepare": {
            "schema_path": schema,
            "dataset": "simulated_art_hiv",
            "max_patients": 300,
            "out": prepared,
        },
        "train": {
            "config": str(tmp_path / "tiny.yaml"),
            "run_dir": str(work / "run"),
            "set": [f"data={prepared}"],
        },
        "synthesize": {
            "run_dir": str(work / "run"),
            "out": str(work / "cohort"),
            "patients": 400,
            "patients_per_shard": 200,
        },
        "evaluate": {
            "schema_path": schema,
            "real": prepared,
            "synthetic": str(work / "cohort"),
            "out": str(work / "report"),
            "config": str(ROOT / "configs" / "report.yaml"),
        },
    }
    where = {"synthesize": two}
    said = {name: {"resources": str(where.get(name, one)), **stage} for name, stage in stages.items()}
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(said))
    prepare, train, _, evaluate = submit_pipeline(path)
    assert cluster.state(evaluate) == "PENDING"
    cluster.until("the training", lambda: list(work.glob("run/checkpoints/*.h5")))
    cluster.run("scancel", train)
    assert cluster.until_over(prepare) == "COMPLETED"
    cluster.until("the end of those behind", lambda: cluster.state(evaluate) == "CANCELLED")
    assert not (work / "cohort").exists() or not list((work / "cohort").glob("shards/*"))
    again = submit_pipeline(path)
    assert len(again) == 3, "what is done is left out"
    for number in again:
        assert cluster.until_over(number, seconds=600) == "COMPLETED"
    open_cohort(work / "cohort").verify()
    assert json.loads((work / "report" / "report.json").read_text())
    assert [job.state for job in track(work / "report")][-1] == "finished"
    assert submit_pipeline(path) == []
