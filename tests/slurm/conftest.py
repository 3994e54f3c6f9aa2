"""A real Slurm for the tests below, started by `make test-slurm` (tests/slurm/cluster.sh)."""

import os
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder; each wait of a test has a bound of its own (`Cluster.until`)."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(1500))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """This process's cluster; without one it is an error under `make test-slurm` and a skip elsewhere."""
    if not os.environ.get("HEALTHGYM_TEST_SLURM"):
        pytest.skip("needs the real Slurm that `make test-slurm` starts (as root)")
    folder = os.environ.get("HEALTHGYM_SLURM_DIR", "/var/tmp/healthgym-slurm")
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.environ["SLURM_CONF"] = f"{folder}/{number}/slurm.conf"
    found = Cluster(HERE / "cluster.sh", number)
    found.control("user-signal", "off")
    return found


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
