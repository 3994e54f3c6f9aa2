"""The training loop: step, log, save, stop on request. It uses systems only through `System`."""

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from healthgym import stopping
from healthgym.config import RunConfig
from healthgym.distributed.ranks import Ranks
from healthgym.errors import DivergenceError, HealthgymError
from healthgym.nn.subnormals import subnormals_are_zero
from healthgym.systems.base import Batch, Draws, PositionDraws, State, System
from healthgym.training.batches import StepBatch
from healthgym.training.curriculum import Curriculum
from healthgym.training.monitoring.divergence import not_finite
from healthgym.training.monitoring.metrics import Meter, MetricsFile
from healthgym.training.monitoring.progress import ProgressReport
from healthgym.training.monitoring.validation import Validation
from healthgym.training.pace import Pace
from healthgym.training.saving import Saving, Snapshot


@dataclass
class Trainer:
    """Trains a system on a curriculum.

    Args:
        system: to be trained.
        take_step: runs a step: `system.train_step`, or its CUDA graph.
        curriculum: the order of batches.
        batches: the batches on the system's device, starting at `step`.
        config: the run's settings.
        metrics: the file of losses; None in a process that writes none.
        report: shows progress.
        saving: writes snapshots; called in another thread, one at a time.
        step: number of steps already taken.
        seconds: training time so far.
        meter: losses not yet logged.
        pace: the planned number of steps.
        validation: of the system; None if it has none.
    """

    system: System
    take_step: Callable[[Batch, Draws], dict[str, Tensor]]
    curriculum: Curriculum
    batches: Iterator[StepBatch]
    config: RunConfig
    metrics: MetricsFile | None
    report: ProgressReport
    saving: Saving
    step: int
    seconds: float
    meter: Meter
    pace: Pace
    validation: Validation | None = None

    @property
    def _ranks(self) -> Ranks:
        return self.system.share.ranks

    @property
    def exhausted(self) -> bool:
        """Whether the run ends early because validation does not improve."""
        return self.validation is not None and self.validation.since >= self.validation.patience(
            self.pace.total
        )

    @property
    def finished(self) -> bool:
        """Whether the run's end is reached."""
        return self.step >= self.pace.total or self.exhausted

    def run(self) -> bool:
        """Train to the end, or until a signal requests to stop; return whether the end was reached.

        Raises:
            DivergenceError: a loss or a weight is not finite, or a loss is far too large. Nothing is saved
                afterwards.
            StorageError: the last checkpoint cannot be written.
        """
        self.system.plan(self.pace.total)
        self._first_step, self._started, self._saved_at = self.step, time.monotonic(), time.monotonic()
        self._seconds_before = self.seconds
        self._writing: Future[None] | None = None
        with ThreadPoolExecutor(1) as self._writer:
            stop, save = self._stop_or_save()
            while not stop and not self.finished:
                self._take_step()
                planned = self._plan()
                measured = self._validate()
                if planned or measured or self._log_is_due():
                    self._log(planned | measured)
                stop, save = self._stop_or_save()
                if save or planned or self._is_new_best():
                    self._snapshot()
            self._save_last()
        return self.finished

    def _stop_or_save(self) -> tuple[bool, bool]:
        """Return whether some process wants to stop, and whether one wants to save: all do the same."""
        stop, save, late = self._ranks.any(
            bool(stopping.requested()), self._save_is_due(), self.pace.is_late(self.seconds)
        )
        if late and not self.finished:
            self.pace.end_at(self.step + 1)  # the next step is then handled as the last one
        if stop and not stopping.requested():
            stopping.request("a signal to another process")
        return stop, save

    def _take_step(self) -> None:
        self._ranks.step = self.step
        step, _, batch_size, batch = next(self.batches)
        assert step == self.step
        share, seed = self.system.share, self.config.training.seed
        share.batch_size = batch_size
        draws = PositionDraws(seed, step, self.system.device, share.first_row, batch_size)
        with subnormals_are_zero():
            losses = self.take_step(batch, draws)
        self.meter.add(self.step, losses)
        self.step += 1
        if self.pace.measures() and self.system.device.type == "cuda":
            torch.cuda.synchronize(self.system.device)
        self.seconds = self._seconds_before + time.monotonic() - self._started
        self.report.step()

    def _plan(self) -> dict[str, float]:
        """Plan the number of steps if it is due; return values to log."""
        if not self.pace.step_taken(self.step, self.seconds, self._ranks):
            return {}
        self.system.plan(self.pace.total)
        self.report.expect(self.pace.total)
        self.report.say(f"{self.pace.total:,} steps fit into {self.pace.minutes:g} min")
        return {"planned_steps": self.pace.total}

    def _validate(self) -> dict[str, float]:
        """Validate the system if it is due; return values to log."""
        if self.validation is None or not self.validation.is_due(self.step, self.pace.total):
            return {}
        before = self.validation.stalled(self.pace.total)
        try:
            found = self.validation.run(self.step)
        except DivergenceError as error:
            raise self._diverged(error) from None
        if self.validation.stalled(self.pace.total) and not before:
            self.report.say(
                f"note: no improvement since step {self.validation.best_step:,}, in "
                f"{self.validation.since:,} measurements: more training may not help. The best weights are "
                "kept."
            )
        return found

    def _is_new_best(self) -> bool:
        """Whether this step's state is the best so far, and only a checkpoint would keep it."""
        validation = self.validation
        return validation is not None and validation.keeps_checkpoints and validation.best_step == self.step

    def _log_is_due(self) -> bool:
        """Whether to log: at fixed steps and at the end of each stage, so that a line has one length."""
        here, after = self.curriculum.position(self.step - 1), self.curriculum.position(self.step)
        return (
            self.step % self.config.training.log_every_steps == 0
            or (here.epoch, here.stage) != (after.epoch, after.stage)
            or self.step == self.pace.total
        )

    def _log(self, found: dict[str, float]) -> None:
        """Write the mean losses since the last call, and other values of this step."""
        self._check()
        losses = self.meter.means()
        if self.metrics is None:
            return
        position = self.curriculum.position(self.step - 1)
        length = self.curriculum.stages[position.stage].length
        elapsed = time.monotonic() - self._started
        done = self.curriculum.timesteps_between(self._first_step, self.step)
        left = self.curriculum.timesteps_between(self.step, self.pace.total)
        rate = (self.step - self._first_step) * self.curriculum.batch_size / elapsed
        self.metrics.append(
            {"step": self.step, "epoch": position.epoch, "length": length, **losses, **found}
            | {"seconds": round(self.seconds, 3), "sequences_per_second": round(rate, 1)}
        )
        epochs = -(-self.pace.total // self.curriculum.steps_per_epoch)
        where = f"epoch {position.epoch + 1}/{epochs} length {length}"
        if self.validation is not None:
            losses |= self.validation.shown()
        self.report.log(self.step, where, losses, rate, elapsed / done * left)

    def _save_is_due(self) -> bool:
        settings = self.config.checkpoint
        return (
            self.step % settings.every_steps == 0
            or time.monotonic() - self._saved_at >= 60 * settings.every_minutes
            or self.saving.wants_again()
        )

    def _snapshot(self) -> None:
        """Copy the state and let the writer thread save it during training."""
        self._await_writer()
        snapshot = self._copied()
        if self._ranks.first:
            self._writing = self._writer.submit(self.saving, snapshot)
        self._saved_at = time.monotonic()

    def _copied(self) -> Snapshot:
        """Copy everything that the next step depends on; the losses up to here are made durable before."""
        state = self._arrays()
        if self.metrics is not None:
            self.metrics.save()
        trainer = self.pace.state() | (self.validation.state() if self.validation else {})
        return Snapshot(self.step, self.seconds, state, self.meter.state(), trainer)

    def _save_last(self) -> None:
        """Save at the end of the run, unless done already; a failure is an error."""
        self._await_writer()
        if any(self._ranks.any(self._ranks.first and self.step > self.saving.step)):
            snapshot = self._copied()
            if self._ranks.first:
                self.saving.last(snapshot)

    def agreed(self, state: State) -> State:
        """Return the first process's state; different processors may differ in the last bits."""
        if (
            not self._ranks.alone
            and len({tuple(own.tolist()) for own in self._ranks.gather(digest(state))}) > 1
        ):
            state = self._ranks.from_first(lambda: state)
            self.system.load_state(state)
        return state

    def _await_writer(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _check(self) -> None:
        try:
            self.meter.check()
        except DivergenceError as error:
            raise self._diverged(error) from None

    def _arrays(self) -> State:
        """Return a copy of the system's state, the same in every process.

        Raises:
            DivergenceError: it has numbers that are not finite.
        """
        self._check()
        state = self.agreed(to_arrays(self.system.state()))
        if name := not_finite(state):
            found = DivergenceError(f"{name} has numbers that are not finite after step {self.step - 1}")
            found.since = self.step
            raise self._diverged(found)
        return state

    def _diverged(self, error: DivergenceError) -> HealthgymError:
        """Return the error with the last good checkpoint, the same in every process."""
        self._await_writer()
        error.since = error.since or self.step
        position = self.curriculum.position(self.step - 1)
        length = self.curriculum.stages[position.stage].length
        return self._ranks.agreed(
            DivergenceError(
                f"Training diverged: {error} (epoch {position.epoch + 1}, stage of length {length}). "
                f"{self.saving.last_good(error.since)} Start a new run with another training.seed or a "
                f"smaller system.optimiser.learning_rate.",
                error.since,
            )
        )


def to_arrays(state: State) -> State:
    """Return a copy of a state with numpy arrays for tensors."""
    return {
        name: to_arrays(value)
        if isinstance(value, dict)
        else np.array(value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value)
        for name, value in state.items()
    }


def digest(state: State) -> Tensor:
    """Return a hash of a state as 32 numbers."""
    sha256 = hashlib.sha256()

    def add(tree: State) -> None:
        for value in tree.values():
            if isinstance(value, dict):
                add(value)
            else:
                sha256.update(value.tobytes())

    add(state)
    return torch.tensor(list(sha256.digest()), dtype=torch.uint8)
