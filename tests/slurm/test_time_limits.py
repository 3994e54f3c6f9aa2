"""Time limits: what can save is queued again, what cannot is not. Both at once, since each takes minutes.

Slurm counts limits in minutes and looks at them every half minute: the shortest job to reach one takes 60 to
95 seconds, and one that is warned a minute before it needs a limit of two.
"""

import sys
from pathlib import Path

import pytest
from counting import CountJob
from slurm_cluster import Cluster
from test_faults import assert_right, saved

ROOT = Path(__file__).parent.parent.parent
STEPS = 1300  # about 70 seconds
WARNING = 10  # seconds; Slurm warns up to 30 earlier, and then the program must have started
WAIT = """
import time
from healthgym import stopping
with stopping.without_saving():
    time.sleep(600)
"""


def submit_what_saves_nothing(cluster: Cluster, folder: Path) -> str:
    """Submit the plain script of an evaluation that never ends, with a limit of one minute."""
    (folder / "wait.py").write_text(WAIT)
    script = (ROOT / "slurm" / "evaluate.sbatch").read_text()
    (folder / "evaluate.sbatch").write_text(script.replace('"jobs/$program"', f'"{folder}/wait.py"'))
    words = ["--parsable", "--partition=grace", "--time=1", "--mem=500M", "--cpus-per-task=1"]
    words += [f"--signal=USR2@{WARNING}", f"--output={folder}/log", str(folder / "evaluate.sbatch")]
    return cluster.run("sbatch", *words, str(folder / "report"), "s", "r", "c").strip()


def test_what_saves_goes_on_after_its_limit_and_what_does_not_ends(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON", sys.executable)
    run = tmp_path / "run"
    unsaved = submit_what_saves_nothing(cluster, tmp_path)
    job = CountJob(run, steps=STEPS, save_every=10_000)
    number = cluster.submit(job, cluster.settings(tmp_path, time='"2"'))
    cluster.until("a save before the limit", lambda: saved(run)["step"], seconds=150)
    assert cluster.until_over(number, seconds=240) == "COMPLETED"
    assert_right(run, STEPS, sorted(saved(run)["lives"]))  # type: ignore[type-var]
    assert len(saved(run)["lives"]) > 1  # type: ignore[arg-type]
    assert cluster.until_over(unsaved, seconds=180) == "TIMEOUT"
    assert cluster.restarts(unsaved) == 0
