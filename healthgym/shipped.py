"""Presets, schemas and thresholds that come with the package, found by name from any folder.

They are the files of `configs/` at the top of a checkout. The package has a link to that folder, or the files
themselves if it was installed from a wheel.
"""

from collections.abc import Iterable
from pathlib import Path

from healthgym.errors import ConfigError, listed, nearest

_HERE = Path(__file__).resolve().parent
_YAML = (".yaml", ".yml")


def folder() -> Path:
    """Return the folder of the shipped files."""
    inside = _HERE / "configs"
    # Some tools that copy a checkout omit links.
    return inside if inside.is_dir() else _HERE.parent / "configs"


def thresholds() -> Path:
    """Return the report's default settings."""
    return folder() / "report.yaml"


def settings(given: Path) -> Path:
    """Return a file of training settings: the given path, or the preset of that name, e.g. `ar`.

    Raises:
        ConfigError: it is a plain name and not one of a preset.
    """
    return _found(given, "", sorted(_names(path for path in folder().glob("*.yaml")) - {"report"}))


def schema(given: Path) -> Path:
    """Return a schema's file: the given path, or the shipped schema of that name, e.g. `art_hiv`.

    Raises:
        ConfigError: it is a plain name and not one of a schema.
    """
    return _found(given, "schemas", sorted(_names((folder() / "schemas").glob("*.yaml"))))


def report_settings(given: Path) -> Path:
    """Return a file of report settings; `configs/report.yaml` is found from any folder."""
    return _found(given, "", ["report"])


def is_name(given: Path) -> bool:
    """Return whether a path is a plain name, such as a preset's: no folder and no YAML suffix."""
    return len(given.parts) == 1 and given.suffix not in _YAML


def _names(paths: Iterable[Path]) -> set[str]:
    return {path.stem for path in paths}


def _found(given: Path, where: str, names: list[str]) -> Path:
    if not is_name(given):
        shipped = folder() / Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
        return given if given.exists() or not shipped.exists() else shipped
    name = given.name.replace(".", "_")
    if name in names:
        return folder() / where / f"{name}.yaml"
    if given.is_file():
        return given
    raise ConfigError(
        f"'{given}' is not a file, and healthgym ships nothing of that name{nearest(name, names)}; it ships "
        f"{listed(names, 20)}. Give one of these names, or the path of a YAML file."
    )
