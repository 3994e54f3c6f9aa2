"""Options and fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

DATA = Path(__file__).parent / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=DATA / "goldens",
        metavar="DIR",
        help="folder of recorded numbers to match (default: those shipped in tests/data/goldens)",
    )
    parser.addoption(
        "--cohorts",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of real cohorts for the optional tests that need them",
    )


@pytest.fixture(scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """The folder of recorded numbers."""
    folder: Path = request.config.getoption("--goldens")
    assert folder.is_dir(), f"--goldens {folder}: no such folder"
    return folder


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Keep results independent of the cores at hand."""
    torch.set_num_threads(1)
