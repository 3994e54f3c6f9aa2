"""The text of the batch scripts for given settings.

The expected texts are tests/data/sbatch/NAME.sh. After a wanted change, look at the difference and
write them anew: python tests/launch/slurm/test_sbatch_text.py
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from healthgym.launch.slurm.resources import SlurmSettings
from healthgym.launch.slurm.sbatch import REQUEUE_LINES, make_executor
from healthgym.strict import parse

EXPECTED = Path(__file__).parents[2] / "data" / "sbatch"
SLURM = Path(__file__).parents[3] / "slurm"
FOLDER = Path("/scratch/u/run a/submissions/20260101-000000-abcdef")
DATA = Path("/projects/p/data")

CASES: dict[str, dict[str, Any]] = {
    "plain": {"partition": "cpu", "python": "/home/u/.venv/bin/python", "time": "1:30:00"},
    "gpu": {
        "partition": "gpu",
        "account": "a",
        "qos": "q",
        "constraint": "a100|h100",
        "gpus_per_node": 2,
        "gpu_type": "a100",
        "nodes": 2,
        "tasks_per_node": 2,
        "cpus_per_task": 8,
        "memory_gb": 0.5,
        "exclusive": True,
        "reservation": "r",
        "time": "2-00:00:00",
        "warning_seconds": 300,
        "mail": {"to": "me@site.example"},
        "setup": ["module load cuda"],
        "extra": {"licenses": "matlab:1", "spread-job": True},
        "python": "python3",
    },
    "apptainer": {
        "gpus_per_node": 1,
        "container": {
            "kind": "apptainer",
            "image": "/i/h.sif",
            "binds": ["/a:/b"],
            "options": ["--cleanenv"],
        },
    },
    "charliecloud": {"container": {"kind": "charliecloud", "image": "/i/h", "python": "/venv/python"}},
    "pyxis": {"container": {"kind": "pyxis", "image": "/i/h.sqsh"}},
    "array": {"array": {"tasks": 5, "at_once": 2}, "python": "python3"},
}


def text(name: str) -> str:
    settings = parse(SlurmSettings, CASES[name], name)
    after = ["7", "8"] if name == "plain" else []
    # pyxis cannot show a folder with a space.
    folder = Path(str(FOLDER).replace(" ", "-")) if name == "pyxis" else FOLDER
    return make_executor(settings, f"healthgym-{name}", folder, [DATA], after).text(settings.array.tasks)


@pytest.mark.parametrize("name", CASES)
def test_text(name: str) -> None:
    assert text(name) == (EXPECTED / f"{name}.sh").read_text()


@pytest.mark.parametrize("name", CASES)
def test_it_is_a_shell_script(name: str) -> None:
    subprocess.run(["bash", "-n"], input=text(name), text=True, check=True)


@pytest.mark.parametrize("path", sorted(SLURM.glob("*.sbatch")), ids=lambda path: path.name)
def test_plain_scripts_end_with_the_same_lines(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[-len(REQUEUE_LINES) :] == REQUEUE_LINES


def test_shell_scripts_are_clean() -> None:
    scripts = [*SLURM.glob("*.sbatch"), *Path(__file__).parents[2].glob("slurm/*.sh")]
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", script], check=True)


if __name__ == "__main__":
    EXPECTED.mkdir(exist_ok=True)
    for case in CASES:
        (EXPECTED / f"{case}.sh").write_text(text(case))
