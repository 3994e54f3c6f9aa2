"""Collecting losses on the device and writing them to a file."""

import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from healthgym.distributed.share import WHOLE, Share
from healthgym.errors import DivergenceError, StorageError
from healthgym.faults import sentence
from healthgym.files import append_bytes, fsync, write_text
from healthgym.training.monitoring.divergence import Watch


class Meter:
    """Collects the losses of single steps and computes their means.

    Losses stay on the device until they are read, so that steps need no synchronisation. With several
    processes each collects its own until all read them at the same step; then all have the means of the
    global batch.

    Args:
        share: this process's part of each batch.
    """

    def __init__(self, share: Share = WHOLE) -> None:
        self._share, self._num_merged, self._watch = share, 0, Watch()
        self._names: list[str] = []
        self._pending: list[Tensor] = []
        self._steps: list[int] = []

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Add the losses of a step."""
        self._names = sorted(losses)
        self._pending.append(torch.stack([losses[name].detach().float() for name in self._names]))
        self._steps.append(step)

    def check(self) -> None:
        """Check the collected losses.

        Raises:
            DivergenceError: one is not finite, or too large (`Watch`); it has the loss, the step and, if it
                is not finite, the process.
        """
        self._merge()
        self._watch.look(self._names, self._steps, self._values())

    def means(self) -> dict[str, float]:
        """Return the mean of each loss and forget the steps."""
        self._merge()
        means = self._values().mean(0)
        self._pending, self._steps, self._num_merged = [], [], 0
        return {name: float(mean) for name, mean in zip(self._names, means, strict=True)}

    def __len__(self) -> int:
        return len(self._steps)

    def state(self) -> dict[str, Any]:
        """Return the losses not logged yet, so that a resumed run logs the same means."""
        values = self._values().astype(np.float32)
        names, steps = (
            list(self._names),
            list(self._steps),
        )  # copies, since another thread writes them while steps are added
        return {"names": names, "steps": steps, "values": values, "watch": self._watch.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._names, self._steps = list(state["names"]), list(state["steps"])
        self._pending = [torch.from_numpy(row) for row in np.asarray(state["values"])]
        self._num_merged = len(self._pending)
        del self._steps[self._num_merged :]  # older versions could save a step that was being added
        if "watch" in state:  # older checkpoints have none
            self._watch.load_state(state["watch"])

    def _merge(self) -> None:
        """Replace this process's losses by those of the global batch."""
        ranks, new = self._share.ranks, self._pending[self._num_merged :]
        if ranks.alone or not new:
            return
        values_PSL = torch.stack(ranks.gather(torch.stack(new).double().cpu()))
        bad = (~values_PSL.isfinite()).transpose(0, 1).nonzero()
        if len(bad):
            row, process, column = (int(index) for index in bad[0])
            raise DivergenceError(
                f"{self._names[column]} is {float(values_PSL[process, row, column])} at step "
                f"{self._steps[self._num_merged + row]} in process {process} of {len(values_PSL)}",
                since=self._steps[self._num_merged + row],
            )
        merged_SL = torch.einsum("psl,p->sl", values_PSL, self._share.weights())
        self._pending[self._num_merged :] = list(merged_SL.float())
        self._num_merged = len(self._pending)

    def _values(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        if not self._pending:
            return np.zeros((0, len(self._names)))
        values: np.ndarray[Any, np.dtype[np.float64]] = torch.stack(self._pending).double().cpu().numpy()
        return values


class MetricsFile:
    """`metrics.jsonl`: a line per logged step.

    On opening, an incomplete line of a killed process and lines of steps after the checkpoint are removed, so
    that a resumed run has the same file as an uninterrupted one.
    """

    def __init__(
        self,
        path: Path,
        after_step: int,
        guard: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path, self._guard, self._say = path, guard, say
        self._waiting: list[str] = []
        guard()
        kept = [record for record in read_metrics(path) if record["step"] <= after_step]
        write_text(path, "".join(map(_line, kept)))

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a line; numbers that are not finite are written as null, since JSON has none.

        If it cannot be written, it is written with the next line: a missing loss must not end a run.
        """
        self._waiting.append(_line(record))
        self._write(note=len(self._waiting) == 1)

    def save(self) -> None:
        """Write waiting lines, and make all lines durable: called before a checkpoint of the same step.

        A run that resumes from the checkpoint after a power failure would lack them.
        """
        self._write(note=False, durably=True)

    def _write(self, note: bool, durably: bool = False) -> None:
        try:
            self._guard()
            if self._waiting:
                append_bytes(self.path, "".join(self._waiting).encode())
                self._waiting.clear()
            if durably:
                fsync(self.path)
        except (OSError, StorageError) as error:
            if note:
                self._say(f"note: {sentence(error, self.path, 'write') or error} Training continues.")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics file, in order of steps; none if it does not exist.

    A line that is damaged or out of order is skipped with a warning: another process wrote to the file until
    it noticed that this one had taken over.
    """
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            continue  # its writer was killed
        try:
            record = json.loads(line)
            in_order = record["step"] > (records[-1]["step"] if records else -1)
        except (ValueError, TypeError, KeyError):
            in_order = False
        if in_order:
            records.append(record)
        else:
            warnings.warn(f"Skipping line {number} of {path}: it is damaged or out of order.", stacklevel=2)
    return records


def _line(record: Mapping[str, Any]) -> str:
    clean = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(clean) + "\n"
