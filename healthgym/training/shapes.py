"""The shape contract of a system, from a checkpoint or from settings alone."""

from pathlib import Path

import torch

from healthgym.config import RunConfig
from healthgym.data.sequences import PreparedCohort
from healthgym.errors import ConfigError
from healthgym.schema import load_schema
from healthgym.schema.layout import FeatureLayout
from healthgym.storage.checkpoint import load_checkpoint
from healthgym.strict import load
from healthgym.systems.build import build_system

_SETTINGS = (".yaml", ".yml")


def is_settings(path: Path) -> bool:
    """Return whether a path is a file of settings rather than a checkpoint or a run folder."""
    return path.suffix.lower() in _SETTINGS


def shape_contract(path: Path, schema: Path | None = None, length: int | None = None) -> str:
    """Return each stage's name and shape, and where timesteps are padded or cropped.

    Args:
        path: a checkpoint, a run folder, or a YAML file of settings.
        schema: determines the features; by default that of the checkpoint or of the prepared cohort.
        length: timesteps; by default the longest of the training patients.

    Raises:
        HealthgymError: the files cannot be read, or the system has no stages to list.
    """
    if length is not None and length < 1:
        raise ConfigError(f"--length {length}: a patient has at least 1 timestep. Give a larger number.")
    if is_settings(path):
        config = load(RunConfig, path)
        layout, longest = _of_cohort(config, schema, length)
    else:
        checkpoint = load_checkpoint(path)
        config, layout = checkpoint.config, checkpoint.schema.layout
        longest = int(checkpoint.statistics.lengths_2U[0].max())
    eye_FF = torch.eye(layout.num_features)
    table = build_system(config.system, layout, eye_FF, torch.device("cpu"), seed=0).shapes(length or longest)
    if not table:
        raise ConfigError(f"{path}: a system of kind '{config.system.kind}' has no shape contract; v3 has.")
    return table


def _of_cohort(config: RunConfig, schema: Path | None, length: int | None) -> tuple[FeatureLayout, int]:
    if schema and length:
        return load_schema(schema).layout, length
    if not config.data.exists():
        raise ConfigError(
            f"The prepared cohort {config.data} does not exist, so the features are unknown. Prepare it, or "
            "give --schema and --length."
        )
    cohort = PreparedCohort.open(config.data)
    return cohort.schema.layout, cohort.max_length
