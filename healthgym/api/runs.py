"""Training a system, and sampling patients from it."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd

from healthgym import shipped, stopping
from healthgym.api.cohorts import overrides_of
from healthgym.api.inputs import AnyPath, path_of
from healthgym.api.wording import python_errors
from healthgym.config import RunConfig
from healthgym.data.sequences import PreparedCohort
from healthgym.errors import ConfigError, StorageError
from healthgym.storage.checkpoint import list_checkpoints
from healthgym.storage.shards import open_cohort
from healthgym.strict import load, parse
from healthgym.synthesis.cohort import synthesize
from healthgym.synthesis.request import SynthesisRequest
from healthgym.training import run as training
from healthgym.training.monitoring.metrics import read_metrics

Wanted: TypeAlias = str | float | tuple[float, float] | Sequence[str | float | tuple[float, float]]


class Run:
    """A run folder: settings, checkpoints and losses of one training.

    Args:
        path: a folder written by `train` or `healthgym train`.

    Raises:
        HealthgymError: it is not a run folder.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path_of(path, "path", "a run folder")
        if not self.path.is_dir():
            raise StorageError(
                f"{self.path} is not a run folder: it contains no training run. Check the path, or train "
                "there first."
            )

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoint files, newest first."""
        return list_checkpoints(self.path / "checkpoints")

    @property
    def metrics(self) -> pd.DataFrame:
        """Losses, a row per logged step: `step`, `epoch`, `length` (timesteps), `seconds`, and each loss."""
        return pd.DataFrame(read_metrics(self.path / "metrics.jsonl"))

    def __repr__(self) -> str:
        saved = self.checkpoints
        said = f"saved at step {int(saved[0].stem.removeprefix('step-')):,}" if saved else "nothing saved yet"
        return f"Run({str(self.path)!r}: {said})"


@python_errors(run_dir="run", set="settings")
def train(
    data: PreparedCohort | AnyPath,
    system: str = "ar",
    run: AnyPath = "run",
    *,
    minutes: float | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
) -> Run:
    """Train a system in a run folder, or resume the training there.

    An interrupt (Ctrl-C, or a notebook's stop button) saves and returns; the same call resumes.

    Args:
        data: the prepared cohort, or its path.
        system: a preset (`ar`, `v1`, `v2`, `v2_5`, `v3`), or the path of a YAML file of settings.
        run: the run folder; made if absent.
        minutes: an upper bound of the training time, summed over all starts.
        settings: changes of the preset, as `{"curriculum.batch_size": 32}` or `["training.epochs=9"]`.

    Returns:
        The run, finished or interrupted.

    Raises:
        HealthgymError: settings are invalid or differ from those of the run; a loss is not finite.
    """
    overrides = overrides_of(settings)
    if minutes is not None:
        overrides.append(f"training.minutes={minutes}")
    config = load(RunConfig, shipped.settings(Path(system)), overrides)
    expected = "a prepared cohort (of hg.prepare) or its path"
    path = data.path if isinstance(data, PreparedCohort) else path_of(data, "data", expected)
    stopping.clear()
    training.train(Path(run), config.model_copy(update={"data": path.absolute()}))
    stopping.clear()
    return Run(run)


# A cohort is written to a temporary folder before it is returned.
@python_errors(patients="n", run_dir="run", checkpoint="run", set="settings", out="TMPDIR")
def sample(
    run: Run | AnyPath,
    n: int,
    *,
    where: Mapping[str, Wanted] | Sequence[str] | None = (),
    shares: str = "",
    timesteps: int | Literal["training"] = "training",
    seed: int = 0,
    checkpoint: Literal["best", "newest"] = "best",
    settings: Mapping[str, Any] | Sequence[str] = (),
    workers: int = 1,
) -> pd.DataFrame:
    """Sample patients from a trained system.

    The same arguments give the same patients. For larger cohorts use `healthgym synthesize`, which writes
    shards and can be resumed.

    Args:
        run: a run, its folder, or a checkpoint or release file.
        n: number of patients.
        where: conditions on static variables or on `timesteps` (`ar` only): `{"Gender": "Female", "Age": (60,
            80), "timesteps": (24, 48)}`; a list of classes, numbers or ranges means any of them.
        shares: classes and their shares (`ar` only), as "Gender=Female:0.5,Male:0.5".
        timesteps: of each patient; `training` draws them from the lengths of the training patients. `ar`
            samples patients of that length; a length that it hardly ever makes is refused.
        seed: of the patients.
        checkpoint: of a run: the best in validation, if it was validated, or the newest.
        settings: sampling settings, as `{"system.guardrail.kind": "clamp"}`.
        workers: processes; more than one needs a script with its code under `if __name__ == "__main__":`.

    Returns:
        A long table with a row per patient and time: the keys, and the variables as in the training table
        (labels as categories, whole numbers as integers, decimals as recorded, in the schema's units), NaN
        where missing.

    Raises:
        HealthgymError: the run has no checkpoint, or cannot sample such patients.
        KeyboardInterrupt: it was interrupted.
    """
    given = _trained(run, checkpoint)
    given |= {"patients": n, "where": tuple(_conditions(where)), "shares": shares, "timesteps": timesteps}
    given |= {"seed": seed, "settings": tuple(overrides_of(settings)), "workers": workers}
    with tempfile.TemporaryDirectory(prefix="healthgym-") as folder:
        given |= {"out": Path(folder) / "cohort", "compression": "none"}
        request = parse(SynthesisRequest, given, "sample")
        stopping.clear()
        outcome = synthesize(request)
        stopping.clear()
        if outcome.state != "complete":
            raise KeyboardInterrupt
        return open_cohort(request.out).table()


def _trained(run: Run | AnyPath, checkpoint: str) -> dict[str, Any]:
    """Return the fields of a request that name the trained system."""
    if checkpoint not in ("best", "newest"):
        raise ConfigError(
            f"checkpoint {checkpoint!r}: expected 'best' or 'newest'; for a file, give it as run."
        )
    given = run.path if isinstance(run, Run) else path_of(run, "run", "a run (of hg.train) or its path")
    if not given.is_dir():
        return {"checkpoint": given}
    return {"run_dir": given} | ({"checkpoint": "newest"} if checkpoint == "newest" else {})


def _conditions(where: Any) -> list[str]:
    """Return conditions in the form of `--where`: a text for each alternative.

    Raises:
        ConfigError: they are of another type, or a variable has none.
    """
    if where is None:
        return []
    if isinstance(where, str):
        return [where]
    if isinstance(where, Mapping):
        return [f"{name}={each}" for name, wanted in where.items() for each in _alternatives(name, wanted)]
    if isinstance(where, Sequence) and all(isinstance(each, str) for each in where):
        return list(where)
    raise ConfigError(
        f"where: expected a dictionary such as {{'Gender': 'Female', 'Age': (60, 80)}}, not {where!r}."
    )


def _alternatives(name: str, wanted: Any) -> list[str]:
    if isinstance(wanted, tuple) and len(wanted) == 2 and not isinstance(wanted[0], str | tuple):
        return [f"{wanted[0]}..{wanted[1]}"]
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        return [str(wanted)]
    found = [text for each in wanted for text in _alternatives(name, each)]
    if not found:
        raise ConfigError(f"where: '{name}' has no value. Give one, or leave the variable out.")
    return found
