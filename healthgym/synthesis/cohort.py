"""Make a cohort, or one task's part of it; the same command starts and resumes."""

import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from healthgym import __version__, stopping
from healthgym.distributed.parallel import granted_cores
from healthgym.errors import CohortError, ConfigError, StorageError
from healthgym.storage.checkpoint import best_first, list_checkpoints
from healthgym.storage.cohort_folder import MANIFEST_FILE
from healthgym.storage.formats.one_file import refuse_to_replace, write_one_file
from healthgym.storage.forms import COMPRESSIONS
from healthgym.storage.shards import (
    Manifest,
    Receipt,
    finished_shard,
    open_cohort,
    read_receipt,
    remove_left_overs,
    write_manifest,
)
from healthgym.storage.tree import verify_seal
from healthgym.strict import StrictModel, parse
from healthgym.synthesis.conditions import ranges_in_words, read_conditions, refuse_rare_groups
from healthgym.synthesis.plan import SynthesisPlan, agree, parse_task, read_plan, shards_of_task
from healthgym.synthesis.progress import Progress
from healthgym.synthesis.request import SynthesisRequest
from healthgym.synthesis.source import Opener, Source, open_source
from healthgym.synthesis.work import Finished, Made, Task, work_here, work_in_processes, work_with_packers
from healthgym.systems.base import System
from healthgym.systems.conditions import Conditions, with_length

_LEFT_OVER_SECONDS = 600.0
_SOFTWARE = ("torch", "numpy", "scipy", "h5py", "pyarrow")


class Outcome(StrictModel):
    """The state of a cohort after one task's work.

    Args:
        folder: the cohort's.
        state: `complete`: the manifest is written; `waiting`: shards of other tasks are missing;
            `interrupted`: stopped by a signal.
        shards_finished: number of finished shards of all tasks.
        shards_total: number of shards of the cohort.
        patients_made: number of patients made in this call.
        seconds: duration of this call.
        one_file: the file with all patients, if requested and the cohort is complete.
        data: the prepared cohort that the system was trained on, if the checkpoint has it.
    """

    folder: Path
    state: Literal["complete", "waiting", "interrupted"]
    shards_finished: int
    shards_total: int
    patients_made: int
    seconds: float
    one_file: Path | None = None
    data: Path | None = None

    @property
    def exit_status(self) -> int:
        """Exit status of the program: 85 means that the same command resumes."""
        return stopping.INTERRUPTED if self.state == "interrupted" else 0

    def __str__(self) -> str:
        so_far = f"{self.shards_finished:,} of {self.shards_total:,} shards of {self.folder} are finished"
        return {
            "complete": f"Cohort complete: {self.folder / MANIFEST_FILE}"
            + (f"\nAll patients in one file: {self.one_file}" if self.one_file else ""),
            "waiting": f"This task is done; {so_far}. The last task writes the manifest.",
            "interrupted": f"Stopped on a signal; {so_far}. Give the same command to resume.",
        }[self.state]


def synthesize(request: SynthesisRequest, opener: Opener = open_source) -> Outcome:
    """Make one task's shards of a cohort, skip finished ones, and write the manifest of a complete cohort.

    Args:
        request: of the cohort.
        opener: reads the checkpoint; worker processes import it by name.

    Raises:
        CohortError: the folder holds another cohort, cannot be written, or a worker died.
        ConfigError: the request contradicts itself.
        StorageError: the checkpoint is missing or damaged.
    """
    start = time.monotonic()
    if request.one_file:
        refuse_to_replace(request.one_file, request.out)
    with stopping.listening():
        begun = read_plan(request.out)
        checkpoint = find_checkpoint(request, begun)
        source = opener(checkpoint)
        plan = make_plan(request, source.sha256, find_device(request, begun))
        if _is_changed(plan):  # refuse bad settings before anything is written
            _check_conditions(source.build("cpu", plan.settings), source, plan)
        number, num_tasks = parse_task(request.task)
        plan = agree(request.out, plan)
        shards = shards_of_task(plan.num_shards, number, num_tasks)
        patients_made = _make(Task(request.out, plan, checkpoint, opener), source, shards, request.workers)
        receipts = _receipts(request.out, plan)
        complete = len(receipts) == plan.num_shards
        if complete:
            write_manifest(request.out, _manifest(plan, source, receipts))
            remove_left_overs(request.out, time.time() - _LEFT_OVER_SECONDS)
        if complete and request.one_file:
            write_one_file(open_cohort(request.out), request.one_file)
    return Outcome(
        folder=request.out,
        state=_state(plan, shards, {receipt.shard for receipt in receipts}),
        shards_finished=len(receipts),
        shards_total=plan.num_shards,
        patients_made=patients_made,
        seconds=time.monotonic() - start,
        one_file=request.one_file if complete else None,
        data=source.data,
    )


def rehearse(request: SynthesisRequest, opener: Opener = open_source) -> None:
    """Check without making anything whether a cohort can be made with these settings.

    Raises:
        HealthgymError: errors that `synthesize` would raise before its first shard, except those of the
            device.
    """
    begun = read_plan(request.out)
    source = opener(find_checkpoint(request, begun))
    device = begun.device if begun else "cpu" if request.device == "auto" else request.device
    plan = make_plan(request, source.sha256, device)
    _check_conditions(source.build("cpu", plan.settings), source, plan)


def _is_changed(plan: SynthesisPlan) -> bool:
    """Return whether other patients are asked for than the training patients were."""
    return bool(plan.settings or plan.where or plan.shares or plan.timesteps != "training")


def _check_conditions(system: System, source: Source, plan: SynthesisPlan) -> None:
    """Refuse conditions that are invalid, that the system does not support, or that only few patients met."""
    conditions = read_conditions(plan.where, plan.shares, source.schema)
    timesteps = None if plan.timesteps == "training" else plan.timesteps
    if timesteps is not None:
        system.check_length(timesteps)
        _refuse_contradiction(conditions, timesteps)
    if conditions and not system.takes_conditions:
        raise ConfigError(
            "--where and --shares: this system cannot generate patients under conditions; ar can "
            "(configs/ar.yaml). Leave them out, and select patients from a larger cohort."
        )
    if system.takes_conditions and (conditions or timesteps is not None):
        system.check_conditions(conditions, timesteps, _counted(conditions, timesteps, source))


def _counted(conditions: Conditions, timesteps: int | None, source: Source) -> bool:
    """Return whether it is known that enough training patients met the conditions; refuse too few."""
    counts, cells = source.class_counts, source.cells
    if counts is None or cells is None:
        return False
    conditions, _ = with_length(conditions, timesteps, cells)
    return refuse_rare_groups(conditions, counts, source.schema, cells.least_patients, cells)


def _refuse_contradiction(conditions: Conditions, timesteps: int) -> None:
    try:
        conditions.of_length(timesteps)
    except ValueError:
        ranges = ranges_in_words(conditions.timesteps)
        raise ConfigError(
            f"--timesteps {timesteps} contradicts --where timesteps={ranges}: no patient can meet both. "
            f"Leave one of them out."
        ) from None


def make_plan(
    request: SynthesisRequest, checkpoint_sha256: str, device: Literal["cpu", "cuda"]
) -> SynthesisPlan:
    """Return the plan of the requested cohort: everything that determines its bytes."""
    values = request.model_dump(include=set(SynthesisPlan.model_fields) & set(SynthesisRequest.model_fields))
    values["compression"] = request.compression or COMPRESSIONS[request.file_format][0]
    # v2 on a CPU: 349, 335, 341 and 352 us a patient at 256, 512, 1,024 and 2,048.
    values["batch_size"] = request.batch_size or {"cpu": 512, "cuda": request.patients_per_shard}[device]
    fixed = {"checkpoint_sha256": checkpoint_sha256, "num_patients": request.patients, "device": device}
    return parse(SynthesisPlan, values | fixed, "synthesis")


def named_system(request: SynthesisRequest) -> Path:
    """Return the run folder or checkpoint file of a request.

    Raises:
        ConfigError: neither is given.
        StorageError: it does not exist, or is a folder without any checkpoint.
    """
    file = request.checkpoint if request.checkpoint != "newest" else None
    given = file or request.run_dir
    if given is None:
        raise ConfigError("No trained system is given: give --run-dir FOLDER or --checkpoint FILE.")
    option = "--checkpoint" if file else "--run-dir"
    if not given.exists():
        raise StorageError(f"{given} does not exist: check {option}, or train it first with healthgym train.")
    if given.is_dir() and not list_checkpoints(given / "checkpoints"):
        raise StorageError(
            f"{given} holds no checkpoint: check {option}. Give a run folder that training has written to, "
            f"or a file with --checkpoint."
        )
    return given


def find_checkpoint(request: SynthesisRequest, begun: SynthesisPlan | None) -> Path:
    """Return the checkpoint the cohort was begun with if it still exists, else the best intact one.

    Without validation, or with `--checkpoint newest`, that is the newest.

    Raises:
        StorageError: there is none.
    """
    given = named_system(request)
    if not given.is_dir():
        return given
    choose = list_checkpoints if request.checkpoint == "newest" else best_first
    whole = {path: seal for path in choose(given / "checkpoints") if (seal := _seal(path))}
    if not whole:
        raise StorageError(
            f"{given} contains no complete checkpoint. Give a run folder that training has written to, or a "
            "file with --checkpoint."
        )
    wanted = begun.checkpoint_sha256 if begun else ""
    return next((path for path, seal in whole.items() if seal == wanted), next(iter(whole)))


def find_device(request: SynthesisRequest, begun: SynthesisPlan | None) -> Literal["cpu", "cuda"]:
    """Return the device: the requested one, else that of the cohort begun, else CUDA if available."""
    present = torch.cuda.is_available()
    automatic = begun.device if begun else "cuda" if present else "cpu"
    device = automatic if request.device == "auto" else request.device
    if device == "cuda" and not present:
        raise CohortError(
            f"{request.out} is to be made on a CUDA device and there is none here. Run on a machine that has "
            f"one, or make the cohort in another folder with --device cpu."
        )
    return device


def _seal(path: Path) -> str | None:
    try:
        return verify_seal(path)
    except StorageError as error:
        warnings.warn(f"Skipping a checkpoint: {error}", stacklevel=2)
        return None


def _make(task: Task, source: Source, shards: range, workers: int | None) -> int:
    """Make shards in the granted number of processes; return the number of patients made."""
    plan, made = task.plan, 0
    remove_left_overs(task.folder, shards=shards)
    unfinished = sum(find_receipt(task.folder, plan, index) is None for index in shards)
    on_gpu = plan.device == "cuda"  # this process then computes, which keeps a core busy
    wanted = workers or max(granted_cores() - on_gpu, 1)
    num_workers = min(wanted, max(unfinished, 1))
    with Progress(sum(len(plan.patients(index)) for index in shards), len(shards)) as progress:

        def tell(news: Made | Finished) -> None:
            nonlocal made
            if isinstance(news, Made):
                made += news.patients
                progress.made(news.patients)
            else:
                progress.finished(news.receipt.record.patients, news.made)

        if on_gpu:
            work_with_packers(task, source, shards, num_workers, tell)
        elif num_workers == 1:
            work_here(task, source, shards, tell)
        else:
            work_in_processes(task, shards, num_workers, tell)
    return made


def find_receipt(folder: Path, plan: SynthesisPlan, index: int) -> Receipt | None:
    """Return a shard's receipt if there is a valid one; the shard itself is not read."""
    return read_receipt(folder, index, plan.name(index), len(plan.patients(index)))


def _receipts(folder: Path, plan: SynthesisPlan) -> list[Receipt]:
    """Return the receipts of all tasks' shards; if all are present, only those whose file agrees.

    At least one of the tasks that finish last finds every receipt, since each looks after it wrote its own.
    """
    receipts = [find_receipt(folder, plan, index) for index in range(plan.num_shards)]
    if None in receipts:
        return [receipt for receipt in receipts if receipt]
    agreeing = (
        finished_shard(folder, index, plan.name(index), len(plan.patients(index)))
        for index in range(plan.num_shards)
    )
    return [receipt for receipt in agreeing if receipt]


def _state(
    plan: SynthesisPlan, shards: range, finished: set[int]
) -> Literal["complete", "waiting", "interrupted"]:
    if len(finished) == plan.num_shards:
        return "complete"
    return "interrupted" if stopping.requested() and not finished.issuperset(shards) else "waiting"


def _manifest(plan: SynthesisPlan, source: Source, receipts: list[Receipt]) -> Manifest:
    schema = source.schema
    records = tuple(receipt.record for receipt in receipts)
    patients, rows = sum(record.patients for record in records), sum(record.rows for record in records)
    return Manifest(
        description=(
            f"{patients:,} synthetic patients ({rows:,} rows) in the form of {schema.title or schema.name}, "
            f"drawn from noise by healthgym {__version__} through a trained generator. Whether one is a copy "
            f"of a real patient was not looked for: healthgym evaluate does, given the training data."
        ),
        num_patients=patients,
        num_rows=rows,
        checkpoint_sha256=plan.checkpoint_sha256,
        seed=plan.seed,
        plan_sha256=plan.sha256,
        plan=plan.model_dump(),
        software={"healthgym": __version__, "python": platform.python_version()}
        | {name: version(name) for name in _SOFTWARE},
        acceptance_rate=patients / sum(receipt.candidates for receipt in receipts),
        static_disagreement={
            name: {
                "timestep_rate": sum(r.static_disagreement[name].timesteps for r in receipts) / rows,
                "patient_rate": sum(r.static_disagreement[name].patients for r in receipts) / patients,
            }
            for name in receipts[0].static_disagreement
        },
        training_patients=dict(source.usage),
        decimals=source.written_decimals,
        dates=source.dates,
        cohort_schema=schema.to_json(),
        shards=records,
    )
