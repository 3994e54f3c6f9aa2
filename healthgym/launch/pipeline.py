"""Prepare, train, synthesize and evaluate as one submission: each stage waits for the previous one.

Submitting again resumes: finished stages are skipped, queued or running ones are waited for, and the rest is
submitted.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from healthgym.data.request import PrepareRequest
from healthgym.errors import ConfigError
from healthgym.launch import records, submission
from healthgym.launch.jobs import EvaluateJob, PrepareJob, SynthesizeJob, TrainJob
from healthgym.launch.perform import Job
from healthgym.launch.requests import EvaluateRequest, TrainRequest
from healthgym.launch.tracking import Tracked, track
from healthgym.strict import StrictModel, load
from healthgym.synthesis.request import SynthesisRequest

# The end of a job's record in earlier versions, which call the task "place".
_OLD_TASK = re.compile(r", place='([^']*)'\)$")


class PrepareStage(PrepareRequest):
    """The options of healthgym prepare; `resources` is its Slurm settings."""

    resources: Path


class TrainStage(TrainRequest):
    """The options of healthgym train; `resources` is its Slurm settings."""

    resources: Path


class SynthesizeStage(SynthesisRequest):
    """The options of healthgym synthesize; `resources` is its Slurm settings."""

    resources: Path


class EvaluateStage(EvaluateRequest):
    """The options of healthgym evaluate; `resources` is its Slurm settings."""

    resources: Path


class Pipeline(StrictModel):
    """The stages in order; any may be left out."""

    prepare: PrepareStage | None = None
    train: TrainStage | None = None
    synthesize: SynthesizeStage | None = None
    evaluate: EvaluateStage | None = None

    def jobs(self) -> list[tuple[Job, Path]]:
        """Return each stage's job and its Slurm settings.

        Raises:
            ConfigError: the training settings are wrong, or there is no stage.
        """
        found: list[tuple[Job, Path]] = []
        for stage, of in (
            (self.prepare, PrepareJob.of),
            (self.train, _train_job),
            (self.synthesize, SynthesizeJob.of),
            (self.evaluate, EvaluateJob.of),
        ):
            if stage is not None:
                asked = stage.model_dump(exclude={"resources"}, exclude_unset=True)
                found.append((of(**asked), stage.resources))
        if not found:
            raise ConfigError("The pipeline has no stage: name prepare, train, synthesize or evaluate.")
        return found


def _train_job(**asked: Any) -> TrainJob:
    return TrainJob.asked(TrainRequest(**asked))


def submit_pipeline(path: Path) -> list[str]:
    """Submit the unfinished stages and return the jobs' numbers; nothing is queued if any stage is invalid.

    Raises:
        HealthgymError: see `healthgym.launch.submission.submit`.
    """
    stages = load(Pipeline, path).jobs()
    state = _state(stages)
    for (job, on), word in zip(stages, state, strict=True):
        if word == "to do":
            submission.vet(job, on, awaited=job is not stages[0][0])
    after: list[str] = []
    submitted: list[str] = []
    for (job, on), word in zip(stages, state, strict=True):
        if word == "done":
            print(f"{job.kind}: done already ({job.target})")
            after = []
        elif word == "live":
            after = sorted({found.number.partition("_")[0] for found in track(job.target) if found.live})
            print(f"{job.kind}: job {', '.join(after)} is queued or running already")
        else:
            after = [submission.submit(job, on, after)]
            submitted += after
    return submitted


def show_pipeline(path: Path) -> str:
    """Return the batch scripts of all stages; nothing is written or queued."""
    texts, before = [], ""
    for job, on in load(Pipeline, path).jobs():
        job.check(awaited=bool(before))
        if not before:
            submission.rehearse(job, on)
        texts.append(submission.show(job, on, [before] if before else []))
        before = f"NUMBER_OF_{job.kind.upper()}"
    return "\n\n".join(texts)


def _state(stages: Iterable[tuple[Job, Path]]) -> list[str]:
    """Return "done", "live" or "to do" for each stage; after an unfinished stage none counts as done."""
    words: list[str] = []
    for job, _ in stages:
        found = track(job.target)
        if any(one.live for one in found):
            words.append("live")
        elif all(word == "done" for word in words) and _done(job, found):
            words.append("done")
        else:
            words.append("to do")
    return words


def _done(job: Job, found: list[Tracked]) -> bool:
    """Return whether the last submission for the target was of the same job, and all its tasks finished.

    What it made must still be there: the records of a single file lie beside it.
    """
    last = {one.task: one for one in found}
    work = [str(said.get("work")) for _, said in records.submissions(job.target)]
    if not last or not job.target.exists() or _OLD_TASK.sub(r", task='\1')", work[-1]) != repr(job):
        return False
    return all(one.state == "finished" for one in last.values())
