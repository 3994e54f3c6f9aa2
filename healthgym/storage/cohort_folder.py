"""Paths inside the folder of a synthetic cohort; see `healthgym.storage.shards`."""

from pathlib import Path

PLAN_FILE = "_plan.json"
MANIFEST_FILE = "_manifest.json"
COLUMNS_FILE = "_columns.csv"
RECEIPTS = "_receipts"
ONE_FILES = "_one_files.json"
"""The paths of files with all patients that were written from the cohort."""


def _named(folder: Path, name: str) -> Path:
    """Return the path of a cohort's file; before version 0.1.0 its name had no underscore."""
    older = folder / name.removeprefix("_")
    return older if older.exists() and not (folder / name).exists() else folder / name


def plan_path(folder: Path) -> Path:
    """Return the path of a cohort's plan, which may not exist."""
    return _named(folder, PLAN_FILE)


def manifest_path(folder: Path) -> Path:
    """Return the path of a cohort's manifest, which may not exist."""
    return _named(folder, MANIFEST_FILE)


def is_cohort(folder: Path) -> bool:
    """Return whether a cohort of shards was begun or finished in a folder."""
    return plan_path(folder).exists() or manifest_path(folder).exists()


def count_receipts(folder: Path) -> int:
    """Return the number of finished shards of a cohort."""
    return len(list(_named(folder, RECEIPTS).glob("shard-*.json")))
