"""Saving while training goes on: a checkpoint that cannot be written ends no run that could go on."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from healthgym.errors import StorageError
from healthgym.systems.base import State


@dataclass(frozen=True)
class Snapshot:
    """Everything that the next step depends on, in arrays and numbers of its own.

    Args:
        step: steps taken.
        seconds: time they took.
        state: the system's.
        meter: losses not yet logged.
        trainer: the plan and what is known from validation.
    """

    step: int
    seconds: float
    state: State
    meter: State
    trainer: State


Save = Callable[[Snapshot], None]

RETRY_SECONDS = 60.0
"""How long after a checkpoint that could not be written the next one is tried."""


class Saving:
    """Writes checkpoints, and says so where one cannot be written.

    The last one of a run, or before a stop, is written by `last`: what fails then is an error.

    Args:
        write: writes a checkpoint.
        say: tells people.
        step: of the checkpoint that the run goes on from; 0 if there is none.
        kept: returns the checkpoints that are kept, newest first, as (step, file).
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
        """Write a checkpoint, or say why not."""
        try:
            self.last(made)
        except StorageError as error:
            self._failed_at = time.monotonic()
            self._say(
                f"note: there is no checkpoint of step {made.step:,}: {error} Training goes on, and the next "
                f"try is in {RETRY_SECONDS:.0f} s or less; {self.newest}"
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
        """Say which checkpoint is the newest."""
        return f"the newest checkpoint is of step {self.step:,}" if self.step else "there is none so far"

    def last_good(self, since: int) -> str:
        """Return a sentence that names the newest checkpoint from before a step.

        The weights after n steps were used first in step n, so that a checkpoint of an earlier step is sound.
        """
        kept = list(self._kept())
        for step, file in kept:
            if step < since:
                later = "; later ones are not to be trusted" if step != kept[0][0] else ""
                return f"The last good checkpoint, of step {step}, is {file}{later}."
        return "No checkpoint from before that is kept." if kept else "No checkpoint was written before that."

    def wants_again(self) -> bool:
        """Tell whether it is time to try again after a failure."""
        return self._failed_at is not None and time.monotonic() - self._failed_at >= RETRY_SECONDS
