"""The jobs that can be launched: frozen dataclasses of plain values, each with a call that does the work.

Only these values are sent to a cluster, so that a job which is restarted days later needs nothing else.
Heavy imports are deferred until the work begins.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from healthgym import environment, shipped
from healthgym.config import RunConfig
from healthgym.data.request import PrepareRequest
from healthgym.errors import StorageError
from healthgym.files import REPORT_BYTES, require_place
from healthgym.launch.following import next_step
from healthgym.launch.perform import LEAST_GIGABYTES, Job, Outcome, require_memory
from healthgym.launch.requests import EvaluateRequest, TrainRequest, with_absolute_paths
from healthgym.synthesis.request import SynthesisRequest


@dataclass(frozen=True)
class TrainJob:
    """Train in a run folder, or resume the training there.

    Args:
        run_dir: the run folder, absolute.
        config_json: the resolved settings.
    """

    run_dir: Path
    config_json: str

    kind = "train"
    task = ""
    saves = True
    ranks = True

    @classmethod
    def of(cls, run_dir: Path, config: RunConfig) -> "TrainJob":
        """Make the job, with paths that hold wherever it runs."""
        settled = config.model_copy(update={"data": config.data.absolute()})
        return cls(run_dir.absolute(), settled.model_dump_json())

    @classmethod
    def asked(cls, request: TrainRequest) -> "TrainJob":
        """Make the job that was asked for.

        Raises:
            ConfigError: there are no such settings, or they cannot be.
        """
        from healthgym.strict import load

        settings = shipped.settings(request.config)
        config = load(RunConfig, settings, request.set)
        if request.data:
            config = config.model_copy(update={"data": request.data})
        return cls.of(request.run_dir or Path("runs") / settings.stem, config)

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

    def check(self, awaited: bool = False) -> None:
        """Refuse invalid settings and missing data."""
        from healthgym.storage.prepared import read_head
        from healthgym.training.run_folder import RunFolder

        require_place(self.run_dir, folder=True)
        if not awaited:
            read_head(self.config.data)
        RunFolder(self.run_dir).refuse_other_config(self.config)

    def rehearse(self, processes: int = 1, gigabytes: float | None = None) -> None:
        """Refuse data and settings that do not fit, such as a batch larger than the cohort."""
        from healthgym.training.run import rehearse

        least = rehearse(self.run_dir, self.config, processes) / 1e9 + LEAST_GIGABYTES
        require_memory(gigabytes, least, "training this system")

    def split(self, num_tasks: int) -> Sequence[Job]:
        """Return the job itself: training cannot be divided."""
        return [self]

    def __call__(self) -> Outcome:
        """Train."""
        from healthgym.training.run import train

        finished = train(self.run_dir, self.config)
        if not finished:
            return Outcome(False, f"training stopped and saved: {self.run_dir}; the same command resumes")
        return Outcome(
            True, f"trained: {self.run_dir}\n{next_step(self.kind, self.config.data, self.run_dir)}"
        )


@dataclass(frozen=True)
class SynthesizeJob:
    """Make a cohort, or one task's share of its shards.

    Args:
        out: the cohort's folder, absolute.
        request_json: a `SynthesisRequest`, with absolute paths.
        task: "i/n", the i-th of n tasks; empty for the whole.
    """

    out: Path
    request_json: str
    task: str = ""

    kind = "synthesize"
    saves = True
    ranks = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the values of a job that was queued; earlier versions call the task "place"."""
        self.__dict__.update({"task" if name == "place" else name: value for name, value in state.items()})

    @classmethod
    def of(cls, **request: Any) -> "SynthesizeJob":
        """Make the job from the fields of a `SynthesisRequest`; in a Slurm array the task is taken from it.

        Raises:
            ConfigError: the fields are invalid.
        """
        from healthgym.strict import parse

        request = with_absolute_paths(request)
        if "task" not in request:
            request["task"] = environment.task(os.environ)
        settled = parse(SynthesisRequest, request, "the command line")
        task = "" if settled.task.endswith("/1") else settled.task
        return cls(settled.out, settled.model_dump_json(), task)

    @property
    def target(self) -> Path:
        """The cohort's folder."""
        return self.out

    @property
    def reads(self) -> Sequence[Path]:
        """The trained system."""
        request = self._request
        return [path for path in (request.run_dir, request.checkpoint) if isinstance(path, Path)]

    @property
    def _request(self) -> SynthesisRequest:
        return SynthesisRequest.model_validate_json(self.request_json)

    def check(self, awaited: bool = False) -> None:
        """Refuse a trained system that is not there, and what contradicts the cohort begun in the folder."""
        from healthgym.storage.formats.one_file import refuse_to_replace
        from healthgym.synthesis.cohort import make_plan, named_system
        from healthgym.synthesis.plan import read_plan, settle

        require_place(self.out, folder=True)
        if self._request.one_file:
            require_place(self._request.one_file)
            refuse_to_replace(self._request.one_file, self.out)
        if not awaited:
            named_system(self._request)
        begun = read_plan(self.out)
        if begun:
            settle(self.out, make_plan(self._request, begun.checkpoint_sha256, begun.device))

    def rehearse(self, processes: int = 1, gigabytes: float | None = None) -> None:
        """Refuse conditions and settings that the trained system does not support."""
        from healthgym.synthesis.cohort import rehearse

        require_memory(gigabytes, LEAST_GIGABYTES, "making patients")
        rehearse(self._request)

    def split(self, num_tasks: int) -> Sequence[Job]:
        """Return the tasks with unfinished shards; if there are none, one task that writes the manifest."""
        from healthgym.synthesis.cohort import find_receipt, make_plan
        from healthgym.synthesis.plan import read_plan, settle, shards_of_task

        if self.task:
            return [self]
        request, begun = self._request, read_plan(self.out)
        num_shards = -(-request.patients // request.patients_per_shard)
        missing = set(range(num_shards))
        if begun:
            plan = settle(self.out, make_plan(request, begun.checkpoint_sha256, begun.device))
            num_shards = plan.num_shards
            missing = {shard for shard in range(num_shards) if find_receipt(self.out, plan, shard) is None}
        left = [
            f"{task}/{num_tasks}"
            for task in range(num_tasks)
            if missing.intersection(shards_of_task(num_shards, task, num_tasks))
        ]
        if num_tasks == 1 or not missing:
            return [self]
        return [replace(self, task=task) for task in left]

    def __call__(self) -> Outcome:
        """Make the shards."""
        from healthgym.synthesis.cohort import synthesize

        made = synthesize(self._request.model_copy(update={"task": self.task or "0/1"}))
        said = str(made)
        if made.state == "complete" and made.data and made.data.exists():
            said += f"\n{next_step(self.kind, made.data, self.out, self._request.patients)}"
        return Outcome(made.state != "interrupted", said)


@dataclass(frozen=True)
class PrepareJob:
    """Turn a clinical table into a prepared cohort.

    Args:
        out: the prepared cohort, absolute.
        request_json: a `PrepareRequest`, with absolute paths.
    """

    out: Path
    request_json: str

    kind = "prepare"
    task = ""
    saves = False
    ranks = False

    @classmethod
    def of(cls, **options: Any) -> "PrepareJob":
        """Make the job from the fields of a `PrepareRequest`, with paths that hold wherever it runs.

        Raises:
            ConfigError: they make no request.
        """
        from healthgym.data import command
        from healthgym.strict import parse

        found = options | {"schema_path": shipped.schema(options["schema_path"])}
        settled = parse(PrepareRequest, with_absolute_paths(found), "the command line")
        # Here already: JSON has no nan.
        command.check(settled.holdout, settled.max_patients, settled.least_patients)
        return cls(settled.out, settled.model_dump_json())

    @property
    def target(self) -> Path:
        """The prepared cohort."""
        return self.out

    @property
    def reads(self) -> Sequence[Path]:
        """Schema and table."""
        request = self._request
        return [path for path in (request.schema_path, request.table, request.cache) if path]

    @property
    def _request(self) -> PrepareRequest:
        return PrepareRequest.model_validate_json(self.request_json)

    def check(self, awaited: bool = False) -> None:
        """Refuse an unreadable schema, a missing table, and invalid numbers."""
        from healthgym.data.tables import sources
        from healthgym.schema import load_schema

        request = self._request
        load_schema(request.schema_path)
        require_place(request.out)
        if request.tables:
            require_place(request.tables, folder=True)
        if not awaited:
            sources.check_named(request.table, request.dataset)

    def rehearse(self, processes: int = 1, gigabytes: float | None = None) -> None:
        """Refuse a table that lacks columns of the schema, by its first rows."""
        from healthgym.data.tables.dialect import Given
        from healthgym.data.tables.sources import read_files
        from healthgym.data.tables.table import check_columns
        from healthgym.schema import load_schema

        require_memory(gigabytes, LEAST_GIGABYTES, "preparing a table")
        request = self._request
        if request.table:
            schema = load_schema(request.schema_path)
            given = Given(request.separator, request.decimal, request.encoding)
            file, part = next(read_files(request.table, schema, given))
            check_columns(part, schema, str(file))

    def split(self, num_tasks: int) -> Sequence[Job]:
        """Return the job itself: preparing cannot be divided."""
        return [self]

    def __call__(self) -> Outcome:
        """Prepare."""
        from healthgym.data.command import run

        return Outcome(True, run(self._request))


@dataclass(frozen=True)
class EvaluateJob:
    """Judge a cohort.

    Args:
        out: the report's folder, absolute.
        request_json: an `EvaluateRequest`, with absolute paths.
    """

    out: Path
    request_json: str

    kind = "evaluate"
    task = ""
    saves = False
    ranks = False

    @classmethod
    def of(cls, **options: Any) -> "EvaluateJob":
        """Make the job from the fields of an `EvaluateRequest`, with paths that hold wherever it runs.

        Raises:
            ConfigError: they make no request.
        """
        from healthgym.strict import parse

        named, config = options.get("schema_path"), options.get("config", shipped.thresholds())
        found = {"schema_path": named and shipped.schema(named), "config": shipped.report_settings(config)}
        settled = parse(EvaluateRequest, with_absolute_paths(options | found), "the command line")
        return cls(settled.out, settled.model_dump_json())

    @property
    def target(self) -> Path:
        """The report's folder."""
        return self.out

    @property
    def reads(self) -> Sequence[Path]:
        """Schema, real and synthetic patients, thresholds."""
        asked = self._request
        named = (asked.schema_path, asked.real, asked.synthetic, asked.config, asked.holdout)
        return [path for path in named if path]

    @property
    def _request(self) -> EvaluateRequest:
        return EvaluateRequest.model_validate_json(self.request_json)

    def check(self, awaited: bool = False) -> None:
        """Refuse an unreadable schema or settings, and missing files of patients."""
        from healthgym.evaluation.settings import load_report_config
        from healthgym.evaluation.sources import schema_for

        require_place(self.out, REPORT_BYTES, folder=True)
        request = self._request
        load_report_config(request.config, request.set)
        for name in () if awaited else ("real", "holdout", "synthetic"):
            path = getattr(request, name)
            if path and not path.exists():
                raise StorageError(f"--{name} {path}: there is no such file or folder. Check the path.")
        if request.schema_path or not awaited:
            schema_for(request.schema_path, request.real)

    def rehearse(self, processes: int = 1, gigabytes: float | None = None) -> None:
        """Refuse sets of too few patients, if their files have the number."""
        from healthgym.evaluation.report import rehearse

        require_memory(gigabytes, LEAST_GIGABYTES, "a report")
        request = self._request
        rehearse(request.real, request.synthetic, request.config, request.set)

    def split(self, num_tasks: int) -> Sequence[Job]:
        """Return the job itself: a report cannot be divided."""
        return [self]

    def __call__(self) -> Outcome:
        """Judge."""
        from healthgym.evaluation.report import evaluate

        request = self._request
        report = evaluate(
            real=request.real,
            synthetic=request.synthetic,
            out=request.out,
            config=request.config,
            schema=request.schema_path,
            holdout=request.holdout,
            overrides=request.set,
        )
        return Outcome(True, "\n".join([*report.lines(), f"{report.verdict}: {self.out / 'report.html'}"]))
