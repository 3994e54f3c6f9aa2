"""Options and fixtures shared by all tests."""

from pathlib import Path

import pytest
import tiny
import torch

DATA = Path(__file__).parent / "data"
CONFIGS = Path(__file__).parents[1] / "configs"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=DATA / "goldens",
        metavar="DIR",
        help="folder of recorded numbers to match (default: those shipped in tests/data/goldens)",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=5,
        metavar="N",
        help="kills in each test that kills at random moments (default: 5; `make test-nightly`: 50)",
    )
    parser.addoption(
        "--cohorts",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of real cohorts for the optional tests that need them",
    )


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """How often the kill tests kill (and the real Slurm preempts): few at each change, many at night."""
    number: int = request.config.getoption("--kills")
    return number


@pytest.fixture(scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """The folder of recorded numbers."""
    folder: Path = request.config.getoption("--goldens")
    assert folder.is_dir(), f"--goldens {folder}: no such folder"
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared cohort, a short run of each system, and a report's settings for few patients; for reading.

    `report.yaml` has the noise floor of the usual number of splits, `quick.yaml` of three splits.
    """
    folder = tmp_path_factory.mktemp("trained")
    tiny.train_each(folder)
    few = (CONFIGS / "report.yaml").read_text().replace("min_patients: 50", "min_patients: 20")
    (folder / "report.yaml").write_text(few)
    (folder / "quick.yaml").write_text(few.replace("num_splits: 8", "num_splits: 3"))
    return folder


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Keep results independent of the cores at hand."""
    torch.set_num_threads(1)
