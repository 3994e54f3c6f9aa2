"""The jobs that can be launched: small frozen values, each with a call that does the work.

Only these values travel to a cluster, so a job that is started again days later needs nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from healthgym.config import RunConfig
from healthgym.launch.perform import Job, Outcome


@dataclass(frozen=True)
class TrainJob:
    """Train in a run folder, or go on training there.

    Args:
        run_dir: the run folder, absolute.
        config_json: the resolved settings.
    """

    run_dir: Path
    config_json: str

    kind = "train"
    place = ""

    @classmethod
    def of(cls, run_dir: Path, config: RunConfig) -> "TrainJob":
        """Make the job, with paths that hold wherever it runs."""
        settled = config.model_copy(update={"data": config.data.absolute()})
        return cls(run_dir.absolute(), settled.model_dump_json())

    @property
    def target(self) -> Path:
        """The run folder."""
        return self.run_dir

    @property
    def reads(self) -> Sequence[Path]:
        """The prepared cohort."""
        return (self.config.data,)

    @property
    def config(self) -> RunConfig:
        """The settings."""
        return RunConfig.model_validate_json(self.config_json)

    def check(self) -> None:
        """Refuse settings or data that could not be trained with."""
        from healthgym.storage.prepared import read_head
        from healthgym.training.run_folder import RunFolder

        read_head(self.config.data)
        RunFolder(self.run_dir).refuse_other_config(self.config)

    def deal(self, num_tasks: int) -> Sequence[Job]:
        """Return the job itself: training is one piece."""
        return [self]

    def __call__(self) -> Outcome:
        """Train."""
        from healthgym.training.run import train

        finished = train(self.run_dir, self.config)
        return Outcome(finished, f"{'trained' if finished else 'training stopped and saved'}: {self.run_dir}")
