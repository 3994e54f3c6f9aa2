"""The number of steps of a run: those of all epochs, or as many as fit into a time limit."""

import bisect
from collections.abc import Mapping
from typing import Any

from healthgym.distributed.ranks import Ranks
from healthgym.systems.base import State
from healthgym.training.curriculum import Curriculum

_FIRST_STEPS, _MEASURED_STEPS = 5, 20  # the first steps are slower: libraries are loaded, graphs captured
_LATE = 1.25  # times the limit: a run ends there even if steps are left in its plan


class Pace:
    """Plans the number of steps.

    With a time limit the plan is made once, from the time of steps 6 to 25, and stored in the checkpoint, so
    that a learning-rate schedule is a function of the step alone. Time is assumed to be proportional to the
    timesteps of a batch.

    Attributes:
        total: planned number of steps.
        minutes: the limit, summed over all starts of the run; None for no limit.

    Args:
        curriculum: the order of batches.
        epochs: maximal number.
        minutes: the time limit.
        share: of the limit that steps may take; the rest is for validation.
    """

    def __init__(
        self, curriculum: Curriculum, epochs: int, minutes: float | None = None, share: float = 1.0
    ) -> None:
        self._curriculum, self.minutes, self._share = curriculum, minutes, share
        self.total = self._most = epochs * curriculum.steps_per_epoch
        self._planned = False
        self._marks: list[tuple[int, float]] = []

    def measures(self) -> bool:
        """Return whether the next call of `step_taken` needs the time for the plan."""
        waiting = self.minutes is not None and not self._planned
        return waiting and len(self._marks) + 1 in (_FIRST_STEPS, _FIRST_STEPS + _MEASURED_STEPS)

    def step_taken(self, step: int, seconds: float, ranks: Ranks) -> bool:
        """Count a step; return whether the plan was made.

        Args:
            step: steps taken so far.
            seconds: of training so far, over all starts.
            ranks: all processes follow the first one's clock.
        """
        if self.minutes is None or self._planned:
            return False
        self._marks.append((step, seconds))
        if len(self._marks) < _FIRST_STEPS + _MEASURED_STEPS:
            return False
        begin, begun = self._marks[_FIRST_STEPS - 1]
        timestep_seconds = (seconds - begun) / self._curriculum.timesteps_between(begin, step)
        left = 60 * self.minutes * self._share - seconds
        self._planned = True
        self.total = ranks.from_first(lambda: self.fitting(step, left / timestep_seconds))
        return True

    def fitting(self, step: int, timesteps: float) -> int:
        """Return the last step that fits into this number of timesteps per sequence after `step`."""
        steps = range(step, self._most + 1)
        fits = bisect.bisect_right(
            steps, timesteps, key=lambda stop: self._curriculum.timesteps_between(step, stop)
        )
        return steps[max(fits - 1, 0)] if steps else step

    def is_late(self, seconds: float) -> bool:
        """Return whether the limit is exceeded so far that the run must end."""
        return self.minutes is not None and seconds >= 60 * _LATE * self.minutes

    def end_at(self, step: int) -> None:
        """Plan no more than this many steps."""
        self.total, self._planned = min(self.total, step), True

    def state(self) -> State:
        """Return the plan, if one was made."""
        return {"planned_steps": self.total, "planned_minutes": self.minutes} if self._planned else {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a plan if it was made for the same limit and fits the epochs."""
        if "planned_steps" in state and float(state["planned_minutes"]) == self.minutes:
            self.total, self._planned = min(self._most, int(state["planned_steps"])), True
