"""A real Slurm for the tests below, started by `make test-slurm` (tests/slurm/cluster.sh)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster; its absence is an error under `make test-slurm` and a reason to skip elsewhere."""
    if not os.environ.get("HEALTHGYM_TEST_SLURM"):
        pytest.skip("needs the real Slurm that `make test-slurm` starts (as root)")
    subprocess.run([HERE / "cluster.sh", "user-signal", "off"], check=True)
    return Cluster(HERE / "cluster.sh")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs import the workload of these tests, one thread each, and no terminal's Slurm variables."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent / "support"), str(HERE.parents[1])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["pytest"])


@pytest.fixture(autouse=True)
def _tidy(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """Cancel whatever a failing test leaves in the queue."""
    yield
    if "cluster" in request.fixturenames and os.environ.get("HEALTHGYM_TEST_SLURM"):
        request.getfixturevalue("cluster").clear()
