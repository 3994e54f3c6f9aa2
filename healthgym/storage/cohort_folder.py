"""Where the parts of a synthetic cohort lie in its folder; see `healthgym.storage.shards`."""

from pathlib import Path

PLAN_FILE = "_plan.json"
MANIFEST_FILE = "_manifest.json"
COLUMNS_FILE = "_columns.csv"
RECEIPTS = "_receipts"


def _named(folder: Path, name: str) -> Path:
    """Return a file of a cohort, by the name that version 0.1.0 gave it if it is there under that one."""
    older = folder / name.removeprefix("_")
    return older if older.exists() and not (folder / name).exists() else folder / name


def plan_path(folder: Path) -> Path:
    """Return where a cohort's plan lies, or would."""
    return _named(folder, PLAN_FILE)


def manifest_path(folder: Path) -> Path:
    """Return where a cohort's manifest lies, or would."""
    return _named(folder, MANIFEST_FILE)


def is_cohort(folder: Path) -> bool:
    """Tell whether a cohort of shards was begun or finished in a folder."""
    return plan_path(folder).exists() or manifest_path(folder).exists()


def count_receipts(folder: Path) -> int:
    """Return how many shards of a cohort are finished."""
    return len(list(_named(folder, RECEIPTS).glob("shard-*.json")))
