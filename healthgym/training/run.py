"""Starting or resuming a run by the same call, in one process or in each of several."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from healthgym import stopping
from healthgym.config import RunConfig
from healthgym.data.class_counts import ClassCounts
from healthgym.data.length_groups import LengthGroup, common_lengths, fit_groups, reached, to_text
from healthgym.data.sequences import PreparedCohort
from healthgym.data.stages import Usage, refuse_left_out, static_codes, static_pieces, usage_of
from healthgym.distributed.parallel import Process, granted_cores, process_from
from healthgym.distributed.ranks import Ranks, joined
from healthgym.distributed.share import Share
from healthgym.environment import threads_asked
from healthgym.errors import ConfigError, StorageError
from healthgym.faults import sentence
from healthgym.files import require_place
from healthgym.nn.precision import set_precision
from healthgym.nn.subnormals import start_workers
from healthgym.storage.checkpoint import (
    Checkpoint,
    Progress,
    Statistics,
    checkpoint_path,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    set_aside_newer,
    step_of,
    write_best,
    write_checkpoint,
)
from healthgym.systems.base import State, System
from healthgym.systems.build import build_system
from healthgym.systems.patients import CohortFacts
from healthgym.training.batches import Batches
from healthgym.training.course import set_course
from healthgym.training.curriculum import Curriculum
from healthgym.training.gpu import out_of_memory, refuse_shared_gpu
from healthgym.training.graphs import choose_steps
from healthgym.training.messages import farewell, greeting
from healthgym.training.monitoring.metrics import Meter, MetricsFile
from healthgym.training.monitoring.plots import draw_losses
from healthgym.training.monitoring.progress import ProgressReport
from healthgym.training.run_folder import RunFolder, saving_to
from healthgym.training.saving import Saving, Snapshot
from healthgym.training.trainer import Trainer
from healthgym.training.whole import WholeCurriculum


def train(run_dir: Path, config: RunConfig, stream: TextIO | None = None) -> bool:
    """Train in a run folder until done or stopped, from its newest checkpoint if there is one.

    Args:
        run_dir: the folder; made if absent.
        config: the settings, the same at each start except those in `FREE_ON_RESUME`.
        stream: where progress goes; standard error if not given.

    Returns:
        Whether the run is finished; if not, the same call resumes it.

    Raises:
        ConfigError: other settings or other data than the run was started with.
        StorageError: the prepared cohort cannot be read.
        FencedError: another process has taken over the folder.
        DivergenceError: a loss is not a finite number.
        RankError: another process of this job was lost, or failed and reports the error itself.
    """
    device, threads = choose_device(config), choose_threads(config)
    torch.set_num_threads(threads)
    set_precision(config.training.matmul_precision)
    start_workers()
    with joined(device, config.training.collective_seconds) as ranks:
        refuse_shared_gpu(device, ranks)
        try:
            return _train(run_dir, config, stream if ranks.first else io.StringIO(), device, ranks)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, config, ranks.process.num_processes) from error


def _train(
    run_dir: Path, config: RunConfig, stream: TextIO | None, device: torch.device, ranks: Ranks
) -> bool:
    # On each node the first process reads the whole file to check its seal.
    cohort = PreparedCohort.open(config.data, verify=ranks.process.local_rank == 0)
    system = _built(cohort, config, device)
    course = set_course(cohort.train, system, config)
    curriculum = course.curriculum
    usage = usage_of(curriculum.stage_patients, cohort.train, cohort.schema)
    folder = RunFolder(run_dir)
    if not list_checkpoints(folder.checkpoints):  # a run that was begun resumes without this check
        refuse_left_out(usage, config.curriculum)
    start = _begin(folder, config, ranks)
    _refuse_other_data(start, cohort, config)
    if not system.makes_lengths:
        system.check_length(curriculum.max_length)
    system.share = Share(ranks, curriculum.batch_size, config.training.micro_batch_size)
    meter = Meter(system.share)
    if start is None:
        system.exclude_unseen(cohort.train.seen_classes(cohort.schema.layout.num_classes))
    else:
        system.load_state(start.state)
        meter.load_state(start.meter)
        course.load_state(start.trainer)
    here = _progress(start, device, ranks)
    if ranks.first:
        require_place(folder.checkpoints, _num_bytes(system.state()), folder=True)
        folder.begin(config)
    batches = Batches(curriculum, course.patients, system, here.step, config.training.data_on_device)
    with ProgressReport(course.pace.total, here.step, stream) as report, stopping.listening(), batches:
        take_step, how = choose_steps(system, config.training.cuda_graphs, report.say)
        report.say(greeting(run_dir, system.num_parameters(), usage, start, here, course, config, how))
        trainer = Trainer(
            system=system,
            take_step=take_step,
            curriculum=curriculum,
            batches=batches,
            config=config,
            metrics=_metrics(folder, here.step, report) if ranks.first else None,
            report=report,
            saving=Saving(
                _saver(folder, cohort, curriculum, usage, config, here, system),
                report.say,
                here.step,
                lambda: [(step_of(path), path) for path in list_checkpoints(folder.checkpoints)],
            ),
            step=here.step,
            seconds=here.seconds,
            meter=meter,
            pace=course.pace,
            validation=course.validation,
        )
        finished = trainer.run()
        if ranks.first:
            _draw(folder, report)
            _finish(folder, trainer, report)
        report.say(farewell(run_dir, finished, trainer))
    return finished


def _progress(start: Checkpoint | None, device: torch.device, ranks: Ranks) -> Progress:
    """Return how far a run is, and on what it continues."""
    return Progress(
        step=start.progress.step if start else 0,
        seconds=start.progress.seconds if start else 0.0,
        threads=torch.get_num_threads(),
        device=device.type,
        num_processes=ranks.process.num_processes,
    )


def _built(cohort: PreparedCohort, config: RunConfig, device: torch.device) -> System:
    return build_system(
        config.system,
        cohort.schema.layout,
        torch.from_numpy(cohort.correlation_FF),
        device,
        config.training.seed,
        CohortFacts(
            cohort.cells, cohort.train.num_patients, longest_generated(cohort), cohort.train.mean_length
        ),
    )


def longest_generated(cohort: PreparedCohort) -> int:
    """Return the longest number of timesteps that a system may generate: enough patients have so many."""
    if cohort.cells is None:
        return cohort.max_length
    return reached(_counts(cohort.train.lengths_N), cohort.cells.least_patients)


def _counts(lengths_N: NDArray[Any]) -> NDArray[np.int64]:
    """Return lengths (row 0) and how many patients have each (row 1)."""
    return np.stack(np.unique(lengths_N, return_counts=True)).astype(np.int64)


def rehearse(run_dir: Path, config: RunConfig, processes: int = 1) -> int:
    """Find out, without training, whether a run could be started or resumed: do data and settings fit?

    Args:
        run_dir: the run folder.
        config: the settings.
        processes: number of processes that would train together.

    Returns:
        Bytes that each of them needs for the network alone: weights, gradients, moments, and a copy for
        checkpoints.

    Raises:
        HealthgymError: what `train` would raise before its first step.
    """
    cohort = PreparedCohort.open(config.data, verify=False)
    system = _built(cohort, config, torch.device("cpu"))
    curriculum = set_course(cohort.train, system, config).curriculum
    if not list_checkpoints(RunFolder(run_dir).checkpoints):
        refuse_left_out(usage_of(curriculum.stage_patients, cohort.train, cohort.schema), config.curriculum)
    if not system.makes_lengths:
        system.check_length(curriculum.max_length)
    Share(Ranks(Process(0, processes)), curriculum.batch_size)  # refuses too many processes
    return 4 * system.num_parameters() + 2 * _num_bytes(system.state())


def _draw(folder: RunFolder, report: ProgressReport) -> None:
    """Plot the losses; a failure to write the plot does not end the run."""
    try:
        draw_losses(folder.metrics_path, folder.losses_path)
    except OSError as error:
        report.say(f"note: the losses were not plotted: {sentence(error, folder.losses_path) or error}")


def _finish(folder: RunFolder, trainer: Trainer, report: ProgressReport) -> None:
    """Record that the run is finished; a failure to write the record is only printed."""
    if not trainer.finished:
        return
    why = "validation did not improve any more" if trainer.exhausted else ""
    try:
        folder.finish(trainer.step, why)
    except (OSError, StorageError) as error:
        report.say(f"note: status cannot say that this run is done: {sentence(error) or error}")


def _metrics(folder: RunFolder, step: int, report: ProgressReport) -> MetricsFile:
    with saving_to(folder.path):
        return MetricsFile(folder.metrics_path, step, folder.check, report.say)


def _begin(folder: RunFolder, config: RunConfig, ranks: Ranks) -> Checkpoint | None:
    """Claim the folder and return the checkpoint to resume from, the same in every process."""
    start = None

    def claim() -> int | None:
        nonlocal start
        folder.refuse_other_config(config)
        folder.claim()
        start = newest_checkpoint(folder.checkpoints)
        if start is not None and start.released:
            raise ConfigError(
                f"The newest checkpoint in {folder.checkpoints} is a release, which can generate patients "
                "but not be trained further: it has no optimisers. Resume from the checkpoint that it was "
                "made from, or choose another --run-dir."
            )
        set_aside_newer(folder.checkpoints, start.progress.step if start else -1)
        if start is not None:  # a kill after the last save may have prevented it
            with saving_to(folder.path):
                _tidy(folder, config, start.trainer)
        return start.progress.step if start else None

    step = ranks.from_first(claim)
    if not ranks.first and step is not None:
        start = read_checkpoint(checkpoint_path(folder.checkpoints, step))
    return start


def _num_bytes(state: State) -> int:
    """Return the approximate size of a checkpoint."""
    return sum(
        _num_bytes(value) if isinstance(value, dict) else getattr(value, "nbytes", 0)
        for value in state.values()
    )


def choose_device(config: RunConfig) -> torch.device:
    """Return the device of the settings; `auto` is CUDA if available."""
    wanted = config.training.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "training.device is cuda and torch finds no CUDA device here. Ask the scheduler for a GPU, "
            "install a CUDA build of torch, or set training.device=cpu."
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    process = process_from(os.environ)
    if wanted == "cuda" and process.num_processes > 1:
        device = torch.device("cuda", process.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    return torch.device(wanted)


def choose_threads(config: RunConfig) -> int:
    """Return the number of torch's threads: the setting, OMP_NUM_THREADS, or one per granted core."""
    if config.training.threads != "auto":
        return config.training.threads
    return threads_asked(os.environ) or granted_cores()


def _class_counts(cohort: PreparedCohort, system: System) -> ClassCounts:
    """Count training patients by what conditions on synthetic patients may be about."""
    codes_NS, names = static_codes(cohort.train, cohort.schema)
    if not system.takes_conditions or cohort.cells is None:
        return ClassCounts.of_patients(codes_NS, names)
    pieces_NS, others = static_pieces(cohort.train, cohort.schema, cohort.cells)
    return ClassCounts.of_patients(np.hstack([codes_NS, pieces_NS]), [*names, *others])


def _saver(
    folder: RunFolder,
    cohort: PreparedCohort,
    curriculum: Curriculum,
    usage: Usage,
    config: RunConfig,
    here: Progress,
    system: System,
) -> Callable[[Snapshot], None]:
    """Return a function that writes a snapshot as a checkpoint."""
    most = (
        min(curriculum.max_length, longest_generated(cohort))
        if system.makes_lengths
        else curriculum.max_length
    )
    cut = np.minimum(cohort.train.lengths_N, most)
    lengths_2U = _counts(cut)
    if system.makes_lengths and cohort.cells is not None:
        # Lengths are among the cells, of which none tells of fewer patients.
        lengths_2U = common_lengths(lengths_2U, cohort.cells.least_patients)
    statistics = Statistics(
        data_fingerprint=cohort.fingerprint,
        correlation_FF=cohort.correlation_FF,
        lengths_2U=lengths_2U,
        num_patients=cohort.train.num_patients,
        first_timestep=cohort.first_timestep,
        time=cohort.time.to_tree(),
        stages=np.minimum(np.array(curriculum.stage_patients.lengths, np.int64), most),
        usage=usage.to_json(),
        length_groups=to_text(_length_groups(cohort, cut, curriculum)),
        class_counts=_class_counts(cohort, system).to_text(),
    )
    transform = cohort.transform.to_tree()
    cells = cohort.cells.to_tree() if cohort.cells else {}

    def save(made: Snapshot) -> None:
        folder.check()
        progress, parts = replace(here, step=made.step, seconds=made.seconds), (made.state, made.meter)
        checkpoint = Checkpoint(
            config,
            cohort.schema,
            transform,
            statistics,
            progress,
            *parts,
            trainer=made.trainer,
            cells=cells,
        )
        with saving_to(folder.path):
            try:
                write_checkpoint(checkpoint_path(folder.checkpoints, made.step), checkpoint)
            except FileNotFoundError:
                folder.check()  # a newer owner deletes temporary files of an older one
                raise
            _tidy(folder, config, made.trainer)

    return save


def _tidy(folder: RunFolder, config: RunConfig, trainer: State) -> None:
    """Record which checkpoint is the best, and delete those that are not kept.

    Args:
        folder: of the run.
        config: its settings.
        trainer: of its newest checkpoint.
    """
    best = int(trainer["best_step"]) if "best_distance" in trainer else None
    if best is not None:
        write_best(folder.checkpoints, best)
    prune_checkpoints(folder.checkpoints, config.checkpoint.keep, best)


def _length_groups(
    cohort: PreparedCohort, lengths_N: NDArray[np.int32], curriculum: Curriculum
) -> tuple[LengthGroup, ...]:
    """Return the groups that lengths are drawn from; none if all are equal or the system generates them."""
    if isinstance(curriculum, WholeCurriculum) or (lengths_N == lengths_N[0]).all():
        return ()
    codes_NS, names = static_codes(cohort.train, cohort.schema)
    num_classes = [len(cohort.schema[name].classes) for name in names]
    return fit_groups(codes_NS, names, num_classes, lengths_N, curriculum.stage_patients.lengths)


def _refuse_other_data(start: Checkpoint | None, cohort: PreparedCohort, config: RunConfig) -> None:
    if start is not None and start.statistics.data_fingerprint != cohort.fingerprint:
        raise ConfigError(
            f"{config.data} is not the cohort that this run was started with (fingerprint "
            f"{cohort.fingerprint[:12]}, not {start.statistics.data_fingerprint[:12]}). Give the old file "
            f"by --data, or choose another --run-dir."
        )
