"""One process of several that only run collectives; argv has the action of each rank at each step, as JSON.

That is null, "raise", "agree" (an error that all have found), "die", or seconds to come late.
"""

import json
import os
import signal
import sys
import time

import torch
from does import Does

from healthgym.distributed.ranks import Ranks, joined
from healthgym.errors import DivergenceError, StorageError
from healthgym.launch.perform import Outcome, perform

COLLECTIVE_SECONDS = 60.0


def act(ranks: Ranks, what: str | float | None) -> None:
    """Run the instructions."""
    if what == "raise":
        raise StorageError("The disk is full.")
    if what == "agree":
        raise ranks.agreed(DivergenceError("The loss is nan."))
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(what, float):
        time.sleep(what)


def work() -> Outcome:
    """Add up ones, step by step."""
    with joined(torch.device("cpu"), COLLECTIVE_SECONDS) as ranks:
        for step, what in enumerate(json.loads(sys.argv[1])[ranks.process.rank]):
            ranks.step = step
            act(ranks, what)
            ranks.sum(torch.ones(1000))
    return Outcome(True, "met")


if __name__ == "__main__":
    sys.exit(perform(Does(work), None))
