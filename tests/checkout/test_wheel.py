"""The wheel and the source archive are complete, and name the packages that they need."""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BUILD = (
    "from setuptools.build_meta import build_sdist, build_wheel\nbuild_sdist('dist')\nbuild_wheel('dist')\n"
)

OPTIONAL = {"triton", "IPython"}  # the extra "kernels"; used only within IPython


def imported(folder: Path) -> Iterator[str]:
    """Yield the top-level modules that a package's modules import, also within functions."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def test_every_imported_package_is_a_dependency() -> None:
    """The environment of the tests below has all packages of this one, so it would not notice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    modules = set(imported(ROOT / "healthgym")) - sys.stdlib_module_names - OPTIONAL - {"healthgym"}
    distributions = packages_distributions()
    needed = {name: {canonicalize_name(each) for each in distributions[name]} for name in modules}
    assert {name for name, providers in needed.items() if not providers & named} == set()
    assert named == {each for providers in needed.values() for each in providers & named}  # and no other


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


@pytest.fixture(params=["*.whl", "*.tar.gz"], ids=["wheel", "source archive"])
def environment(request: pytest.FixtureRequest, dist: Path, tmp_path: Path) -> Path:
    """A new virtual environment with healthgym, from the wheel or from one built from the source archive.

    Its other packages are those that the tests run with: torch alone would take minutes to install.
    """
    (given,) = dist.glob(request.param)
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    pip = (sys.executable, "-m", "pip")
    if request.param != "*.whl":
        run(*pip, "wheel", *quiet, "--no-build-isolation", "-w", str(tmp_path), str(given), cwd=tmp_path)
        (given,) = tmp_path.glob("*.whl")
    made = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", str(made), cwd=tmp_path)
    python = str(made / "bin" / "python")
    run(*pip, "--python", python, "install", *quiet, str(given), cwd=tmp_path)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", where, cwd=tmp_path).strip())
    (packages / "others.pth").write_text(run(sys.executable, "-c", where, cwd=tmp_path))
    return made


@pytest.mark.slow
def test_it_works_in_an_environment_of_its_own(environment: Path, tmp_path: Path) -> None:
    program, threads = str(environment / "bin" / "healthgym"), {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    python, where = str(environment / "bin" / "python"), "import healthgym; print(healthgym.__file__)"
    assert Path(run(python, "-c", where, cwd=tmp_path, **threads).strip()).is_relative_to(environment)
    simulated = ("--dataset", "simulated_art_hiv", "--max-patients", "60")
    run(program, "prepare", "art_hiv", *simulated, "--out", "p.h5", cwd=tmp_path, **threads)
    said = run(program, "train", "ar", "--data", "p.h5", "--dry-run", cwd=tmp_path, **threads)
    assert "ar" in said


@pytest.mark.slow
def test_the_source_archive_has_what_the_wheel_is_built_from(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {Path(name).relative_to(Path(name).parts[0]).as_posix() for name in files.getnames()}
    assert {"pyproject.toml", "README.md", "healthgym/commands/main.py", "healthgym/configs/ar.yaml"} <= names
    assert {"healthgym/evaluation/pages/report.html.j2", "healthgym/configs/schemas/art_hiv.yaml"} <= names
