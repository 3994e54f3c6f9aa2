"""Saving checkpoints during training; a failed save does not end the run."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from healthgym.errors import StorageError
from healthgym.systems.base import State


@dataclass(frozen=True)
class Snapshot:
    """A copy of everything that the next step depends on.

    Args:
        step: number of steps taken.
        seconds: training time.
        state: the system's.
        meter: losses not yet logged.
        trainer: the planned number of steps and the state of validation.
    """

    step: int
    seconds: float
    state: State
    meter: State
    trainer: State


Save = Callable[[Snapshot], None]

RETRY_SECONDS = 60.0
"""Time from a failed checkpoint to the next attempt."""


class Saving:
    """Writes checkpoints, and prints a note if one cannot be written.

    The last checkpoint of a run, or before a stop, is written by `last`: its failure is an error.

    Args:
        write: writes a checkpoint.
        say: prints a note.
        step: of the checkpoint that the run resumes from; 0 if there is none.
        kept: returns the stored checkpoints, newest first, as (step, file).
    """

    def __init__(
        self,
        write: Save,
        say: Callable[[str], None],
        step: int,
        kept: Callable[[], Iterable[tuple[int, Path]]],
    ) -> None:
        self._write, self._say, self._kept = write, say, kept
        self.step = step
        self._failed_at: float | None = None

    def __call__(self, made: Snapshot) -> None:
        """Write a checkpoint, or print why it failed."""
        try:
            self.last(made)
        except StorageError as error:
            self._failed_at = time.monotonic()
            self._say(
                f"note: there is no checkpoint of step {made.step:,}: {error} Training continues, and the "
                f"next try is in {RETRY_SECONDS:.0f} s or less; {self.newest}"
            )

    def last(self, made: Snapshot) -> None:
        """Write a checkpoint.

        Raises:
            StorageError: it cannot be written, with the cause.
        """
        self._write(made)
        if self._failed_at is not None:
            self._say(f"note: saving works again: there is a checkpoint of step {made.step:,}")
        self.step, self._failed_at = made.step, None

    @property
    def newest(self) -> str:
        """A phrase that names the newest checkpoint."""
        return f"the newest checkpoint is of step {self.step:,}" if self.step else "there is none so far"

    def last_good(self, since: int) -> str:
        """Return a sentence that names the newest checkpoint before a step.

        The weights after n steps are first used in step n, so that checkpoints of earlier steps are good.
        """
        kept = list(self._kept())
        for step, file in kept:
            if step < since:
                later = "; later ones are not to be trusted" if step != kept[0][0] else ""
                return f"The last good checkpoint, of step {step}, is {file}{later}."
        return "No checkpoint from before that is kept." if kept else "No checkpoint was written before that."

    def wants_again(self) -> bool:
        """Return whether to try again after a failure."""
        return self._failed_at is not None and time.monotonic() - self._failed_at >= RETRY_SECONDS
