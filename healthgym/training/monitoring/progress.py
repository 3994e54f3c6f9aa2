"""Progress of a run: a bar on a terminal, or lines in a log."""

import io
import os
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

_LINE_EVERY_SECONDS = 30.0
_BAR_COLUMNS = 30  # for a short bar, per cent, and the remaining time


class ProgressReport:
    """A bar if the stream is a terminal, otherwise a line at most every half minute.

    Args:
        total: steps of the whole run.
        done: number of steps already taken.
        stream: where to write; standard error if not given.
    """

    def __init__(self, total: int, done: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = total
        self._last_line = float("-inf")
        self._bar: Any = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=done,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {remaining} left{postfix}",
            )

    def expect(self, total: int) -> None:
        """Change the number of steps of the whole run."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def step(self) -> None:
        """Count a step."""
        if self._bar is not None:
            self._bar.update()

    def log(self, step: int, stage: str, losses: dict[str, float], rate: float, seconds_left: float) -> None:
        """Show the newest losses.

        Args:
            step: number of steps taken.
            stage: epoch and length, e.g. "epoch 3/100 length 20".
            losses: means since the last call.
            rate: sequences per second.
            seconds_left: an estimate.
        """
        shown = "  ".join(
            f"{_SHORT.get(name, name)} {value:{'.5g' if 'nats' in name else '.3g'}}"
            for name, value in losses.items()
        )
        if self._bar is not None:
            self._bar.set_description(stage, refresh=False)
            self._bar.set_postfix_str(self._fitting(stage, [*shown.split("  "), f"{rate:,.0f} seq/s"]))
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY_SECONDS or step >= self._total:
            self._last_line = now
            left = _duration(seconds_left)
            self.say(f"step {step:,}/{self._total:,}  {stage}  {shown}  {rate:,.0f} seq/s  {left} left")

    def _fitting(self, stage: str, texts: list[str]) -> str:
        """Return as many of the texts as fit into the terminal's width beside the bar."""
        columns = os.get_terminal_size(self._stream.fileno()).columns if _is_real(self._stream) else 80
        room = columns - len(stage) - len(f"{self._total}/{self._total}") - _BAR_COLUMNS
        kept: list[str] = []
        for text in texts:
            room -= len(text) + 2
            if room < 0:
                break
            kept.append(text)
        return "  ".join(kept)

    def say(self, text: str) -> None:
        """Write a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def __enter__(self) -> "ProgressReport":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _is_real(stream: TextIO) -> bool:
    """Return whether a stream is a terminal with a known size."""
    try:
        os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, io.UnsupportedOperation):
        return False
    return True


_SHORT = {
    "autoencoder_loss": "A",
    "critic_gap": "gap",
    "critic_loss": "D",
    "generator_loss": "G",
    "gradient_penalty": "gp",
    "correlation_loss": "corr",
    "validation_nats": "validation",
    "best_nats": "best",
    "validation_distance": "distance",
    "best_distance": "best",
}


def _duration(seconds: float) -> str:
    """Return "2 h 05 min", "4 min" or "30 s"."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    return f"{int(seconds // 60)} min" if seconds >= 120 else f"{int(seconds)} s"
