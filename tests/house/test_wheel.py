"""The wheel and the source archive are complete."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = (
    "from setuptools.build_meta import build_sdist, build_wheel\nbuild_sdist('dist')\nbuild_wheel('dist')\n"
)


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both, built from a copy of the checkout."""
    copy = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("healthgym", "configs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    run(sys.executable, "-c", BUILD, cwd=copy)
    return copy / "dist"


@pytest.mark.slow
def test_the_wheel_works_in_another_folder(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    place, elsewhere = tmp_path / "packages", tmp_path / "elsewhere"
    elsewhere.mkdir()
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    run(sys.executable, "-m", "pip", "install", *quiet, "--target", str(place), str(wheel), cwd=elsewhere)
    python = {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    where = run(sys.executable, "-c", "import healthgym; print(healthgym.__file__)", cwd=elsewhere, **python)
    assert Path(where.strip()).is_relative_to(place)
    program = (sys.executable, "-m", "healthgym")
    simulated = ("--dataset", "simulated_art_hiv", "--max-patients", "60")
    run(*program, "prepare", "art_hiv", *simulated, "--out", "p.h5", cwd=elsewhere, **python)
    said = run(*program, "train", "ar", "--data", "p.h5", "--dry-run", cwd=elsewhere, **python)
    assert "ar" in said


@pytest.mark.slow
def test_the_source_archive_has_what_the_wheel_is_built_from(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {Path(name).relative_to(Path(name).parts[0]).as_posix() for name in files.getnames()}
    assert {"pyproject.toml", "README.md", "healthgym/commands/main.py", "healthgym/configs/ar.yaml"} <= names
    assert {"healthgym/evaluation/pages/report.html.j2", "healthgym/configs/schemas/art_hiv.yaml"} <= names
