"""Checkpoints: one sealed HDF5 file with everything that the next step, or a synthesis, depends on.

Groups: the system's G, D, A, Mean_Container, T_SD and optimisers, as far as it has them; progress, meter,
    config,
schema, transform, cells, statistics and versions.
"""

import json
import platform
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import healthgym
from healthgym.config import RunConfig
from healthgym.errors import StorageError, UnreadableError
from healthgym.files import write_json
from healthgym.schema import Schema
from healthgym.schema.cells import Cells
from healthgym.schema.timing import TimeForm
from healthgym.storage.tree import Tree, kind_of, read_tree, verify_seal, write_tree
from healthgym.strict import parse

KIND, RELEASE_KIND, VERSION = "checkpoint", "release", 1
_OWN = ("progress", "meter", "config", "schema", "transform", "statistics", "versions")
_BEST_FILE = "best.json"
_LATER = ("cells", "trainer")  # not in checkpoints from before version 0.1.0


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Args:
        step: steps taken.
        seconds: time spent in training, over all starts.
        threads: number of threads of the last step.
        device: device of the last step, "cpu" or "cuda".
        num_processes: number of processes of the last step.
    """

    step: int
    seconds: float
    threads: int
    device: str
    num_processes: int = 1


@dataclass(frozen=True)
class Statistics:
    """Facts about the training patients for training and synthesis.

    Args:
        data_fingerprint: SHA-256 of the prepared cohort.
        correlation_FF: Pearson correlations of the features, float64.
        lengths_2U: the lengths of patients (row 0) and their counts (row 1), limited to the longest stage.
            Of a system that generates lengths, rare ones count as the nearest that is not.
        num_patients: training patients.
        first_timestep: number of each patient's first timestep in the table.
        time: facts that turn generated gaps into visit times, from `TimeForm.to_tree`.
        stages: lengths of the curriculum's stages, at most the longest of the patients that are counted.
        usage: number of training patients used at full length, shortened and left out, as JSON.
        length_groups: the lengths of patients by static classes, in the form of `data.length_groups`.
        decimals: number of decimals of real variables, as JSON, if the file has no cells.
        class_counts: training patients by static classes, from `ClassCounts.to_text`; not in a release.
    """

    data_fingerprint: str
    correlation_FF: NDArray[np.float64]
    lengths_2U: NDArray[np.int64]
    num_patients: int
    first_timestep: int = 0
    time: Tree = field(default_factory=lambda: TimeForm().to_tree())
    stages: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    usage: str = ""
    length_groups: str = ""
    decimals: str = ""
    class_counts: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Args:
        config: the resolved settings.
        schema: of the cohort.
        transform: the fitted transform's tree.
        statistics: of the training patients.
        progress: of the run.
        state: the system's groups: nested mappings of arrays.
        meter: losses of steps not yet logged.
        trainer: the plan of steps and the state of validation; absent in older files.
        versions: of the software that wrote it.
        sha256: of the file's content, when read from one.
        cells: the fitted cells' tree; empty if the cohort was prepared before version 0.1.0.
        released: whether it is a release: `state` has only what sampling needs, and facts about the training
            data are left out.
    """

    config: RunConfig
    schema: Schema
    transform: Tree
    statistics: Statistics
    progress: Progress
    state: Tree
    meter: Tree = field(default_factory=dict)
    trainer: Tree = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sha256: str = ""
    released: bool = False
    cells: Tree = field(default_factory=dict)

    @property
    def decimals(self) -> dict[str, int]:
        """Number of decimals of each real variable; empty if unknown."""
        if not self.cells:
            return dict(json.loads(self.statistics.decimals or "{}"))
        cells = Cells.from_tree(self.cells).variables
        return {v.name: each.decimals for v, each in zip(self.schema.reals, cells, strict=True) if each.exact}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> str:
    """Write a checkpoint atomically; return its SHA-256."""
    clash = sorted(set(checkpoint.state) & {*_OWN, *_LATER})
    if clash:
        raise ValueError(f"a system's state may not use the name {clash[0]}")
    own: Tree = {
        "progress": vars(checkpoint.progress),
        "meter": checkpoint.meter,
        "trainer": checkpoint.trainer,
        "config": checkpoint.config.model_dump_json(),
        "schema": checkpoint.schema.to_json(),
        "transform": checkpoint.transform,
        "statistics": vars(checkpoint.statistics),
        "versions": _versions(),
    }
    if checkpoint.cells:
        own["cells"] = checkpoint.cells
    kind = RELEASE_KIND if checkpoint.released else KIND
    return write_tree(path, checkpoint.state | own, kind, VERSION)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file, or a release of one.

    Raises:
        StorageError: it is missing, truncated, altered, or not a checkpoint.
    """
    sha256 = verify_seal(path)
    released = kind_of(path) == RELEASE_KIND
    tree = read_tree(path, RELEASE_KIND if released else KIND, (VERSION,))
    own = {name: tree.pop(name) for name in _OWN} | {name: tree.pop(name, {}) for name in _LATER}
    statistics = own["statistics"]
    statistics["correlation_FF"] = np.asarray(statistics["correlation_FF"])
    return Checkpoint(
        config=parse(RunConfig, json.loads(own["config"]), str(path)),
        schema=Schema.from_json(own["schema"]),
        transform=own["transform"],
        statistics=Statistics(**statistics),
        progress=Progress(**own["progress"]),
        state=tree,
        meter=own["meter"],
        trainer=own["trainer"],
        versions=own["versions"],
        sha256=sha256,
        released=released,
        cells=own["cells"],
    )


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the name of a step's checkpoint."""
    return folder / f"step-{step:09d}.h5"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return a folder's checkpoint files, newest first."""
    found = [path for path in folder.glob("step-*.h5") if re.fullmatch(r"step-[0-9]{9,}\.h5", path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(path.stem.removeprefix("step-"))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None; a warning names each damaged one.

    Raises:
        UnreadableError: a file that may be intact cannot be read; an older checkpoint must not replace it.
    """
    for path in list_checkpoints(folder):
        try:
            return read_checkpoint(path)
        except UnreadableError:
            raise
        except StorageError as error:
            warnings.warn(f"Skipping a checkpoint: {error}", stacklevel=2)
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file, or the newest intact one of a run folder.

    Raises:
        StorageError: there is no checkpoint.
    """
    if not path.exists():
        raise StorageError(
            f"{path} does not exist: check the path. Give a run folder that training has written to, or a "
            f"checkpoint file."
        )
    if not path.is_dir():
        return read_checkpoint(path)
    found = newest_checkpoint(path / "checkpoints") or newest_checkpoint(path)
    if found is None:
        raise StorageError(
            f"{path} contains no complete checkpoint. Give a run folder that training has written to, or a "
            f"checkpoint file."
        )
    return found


def set_aside_newer(folder: Path, step: int) -> None:
    """Rename checkpoints newer than the one a run resumes from: they are damaged and must not be counted."""
    for path in list_checkpoints(folder):
        if step_of(path) > step:
            path.replace(path.with_name(f"{path.name}.damaged"))


def prune_checkpoints(folder: Path, keep: int, best: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints and that of step `best`."""
    for path in list_checkpoints(folder)[keep:]:
        if step_of(path) != best:
            path.unlink(missing_ok=True)


def write_best(folder: Path, step: int) -> None:
    """Record the step of the checkpoint that is best in validation."""
    write_json(folder / _BEST_FILE, {"step": step})


def best_first(folder: Path) -> list[Path]:
    """Return a folder's checkpoint files: the one that did best first, if that is known, then by age."""
    found = list_checkpoints(folder)
    try:
        best = json.loads((folder / _BEST_FILE).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, TypeError, KeyError):
        return found
    return sorted(found, key=lambda path: step_of(path) != best)  # which keeps the order of the others


def describe(path: Path) -> str:
    """Return a description of a checkpoint: progress, settings and every array with its shape."""
    checkpoint = load_checkpoint(path)
    progress, statistics = checkpoint.progress, checkpoint.statistics
    data = statistics.data_fingerprint[:12] or "withheld"
    lines = [
        f"sha256      {checkpoint.sha256}",
        f"step        {progress.step:,} after {progress.seconds / 60:.1f} min ({progress.device}, "
        f"{progress.num_processes} processes of {progress.threads} threads)",
        f"cohort      {checkpoint.schema.name}: {statistics.num_patients:,} training patients, "
        f"{checkpoint.schema.layout.num_features} features, data {data}",
        f"versions    {', '.join(f'{name} {version}' for name, version in checkpoint.versions.items())}",
        *_cells_in_words(checkpoint),
        "settings",
        *(f"  {name}: {value}" for name, value in _flat(checkpoint.config.model_dump(mode="json"))),
        "arrays",
        *(f"  {name}: {value.dtype} {value.shape}" for name, value in _flat(checkpoint.state)),
    ]
    return "\n".join(lines)


def _cells_in_words(checkpoint: Checkpoint) -> list[str]:
    """Return a line for each real variable's cells, and for those of the number of timesteps."""
    if not checkpoint.cells:
        return []
    cells = Cells.from_tree(checkpoint.cells)
    names = [variable.name for variable in checkpoint.schema.reals]
    named = zip([*names, "timesteps"], [*cells.variables, cells.length], strict=True)
    return ["cells", *(f"  {name}: {each}" for name, each in named)]


def _flat(tree: Tree, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in tree.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return rows


def _versions() -> dict[str, str]:
    return {
        "healthgym": healthgym.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }
