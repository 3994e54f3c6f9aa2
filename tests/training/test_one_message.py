"""Processes that fail or are lost end with one message, even if another process notices late."""

from typing import Any

import pytest
from test_data_parallel import last_words, spawn

from healthgym import stopping

pytestmark = pytest.mark.nightly

LATE = 8.0  # seconds: longer than the others wait for a process of which they know nothing
DISK = r"error: The disk is full. (in process {} of 3, at step 3)"


def ends(*does: Any, before: Any = None) -> tuple[list[int], list[str]]:
    """Return exit statuses and last messages of processes that meet, given their actions at steps 3 and 2."""
    steps = [[None, None, before, what, None] for what in does]
    ended = spawn(steps, len(does), script="drive_meeting.py")
    return [process.returncode for process in ended], last_words(ended)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_is_told_once_though_another_notices_late(failing: int) -> None:
    does: list[Any] = [None, None, LATE]
    does[failing] = "raise"
    assert ends(*does) == ([1, 1, 1], [DISK.format(failing)])


@pytest.mark.parametrize("attempt", range(5))
def test_the_first_process_that_fails_is_never_taken_for_lost(attempt: int) -> None:
    assert ends("raise", None, None) == ([1, 1, 1], [DISK.format(0)])


def test_failures_at_once_are_told_once() -> None:
    statuses, words = ends("raise", "raise", "raise")
    assert statuses == [1, 1, 1]
    assert len(words) == 1


def test_what_all_have_found_is_told_by_the_first() -> None:
    assert ends("agree", "agree", "agree") == ([1, 1, 1], ["error: The loss is nan."])


def test_who_computes_as_long_as_before_is_not_taken_for_lost() -> None:
    statuses, words = ends(None, "die", LATE, before=0.5 * LATE)
    assert statuses == [stopping.LOST, -9, stopping.LOST]
    [told] = words
    assert "Process 1 of 3 was lost or did not answer at step 3 (timeout 60 s" in told


def test_processes_that_end_well_say_nothing() -> None:
    assert ends(None, None) == ([0, 0], [])
