"""Several evaluations at the same time do not affect each other."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from evaluation_cohort import SCHEMA, cohort
from fake_slurm import FakeSlurm

from healthgym.errors import LaunchError
from healthgym.launch import submission
from healthgym.launch.jobs import EvaluateJob

ROOT = Path(__file__).parents[2]
QUICK = ("--set", "num_splits=3", "--set", "num_patients=100", "--set", "min_patients=20")


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Return files of a schema, of real and of synthetic patients."""
    paths = {name: tmp_path / f"{name}.csv" for name in ("real", "synthetic")}
    for seed, path in enumerate(paths.values()):
        cohort(100, seed).to_csv(path, index=False)
    schema = tmp_path / "schema.yaml"
    schema.write_text(yaml.safe_dump(SCHEMA.model_dump(mode="json", exclude_defaults=True)))
    return {"schema": schema, **paths}


@pytest.mark.slow
def test_two_in_one_folder_leave_whole_files_and_disturb_no_other(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    given = [part for name, path in inputs.items() for part in (f"--{name}", str(path))]

    def start(out: str, seed: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "jobs" / "evaluate.py"), *given, "--out", str(tmp_path / out)]
        settings = [*QUICK, "--set", f"seed={seed}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*command, *settings], stderr=subprocess.PIPE, text=True, env=environment)

    started = [start("both", 1), start("both", 2), start("one", 1), start("two", 2)]
    ended = [(process.communicate(timeout=280)[1], process.returncode) for process in started]
    assert [status for _, status in ended] == [0] * 4, ended
    both, *alone = (content_of(tmp_path / out) for out in ("both", "one", "two"))
    assert alone[0] != alone[1]
    assert both in alone
    assert sorted(path.name for path in files_of(tmp_path / "both")) == sorted(
        path.name for path in files_of(tmp_path / "one")
    )
    for figure in (tmp_path / "both" / "pictures").iterdir():
        ElementTree.parse(figure)
    assert (tmp_path / "both" / "report.html").read_text().rstrip().endswith("</html>")


def content_of(out: Path) -> Any:
    """Return a report's metrics."""
    return json.loads((out / "report.json").read_text())["sections"]


def files_of(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.is_file()]


def test_each_is_a_job_of_its_own_and_one_folder_has_one_at_a_time(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    slurm = FakeSlurm(tmp_path / "bin", monkeypatch)
    for name in ("srun", "scontrol", "squeue"):
        slurm.says(name)
    slurm.says("sacct", status=1, error="Slurm accounting storage is disabled")
    site = tmp_path / "site.yaml"
    site.write_text('time: "60"\nnode_local: []\n')
    config = ROOT / "configs" / "report.yaml"
    inputs["schema_path"] = inputs.pop("schema")
    jobs = [EvaluateJob.of(**inputs, out=tmp_path / out, config=config) for out in ("a", "b")]
    for number, job in enumerate(jobs):
        slurm.says("sbatch", f"Submitted batch job {number + 1}\n")
        submission.submit(job, site)
    [said] = (tmp_path / "a").glob("submissions/*/submission.json")
    slurm.says("squeue", f"{json.loads(said.read_text())['name']}|1|RUNNING|n1\n")
    with pytest.raises(LaunchError, match="Job 1 is queued or running"):
        submission.submit(jobs[0], site)
