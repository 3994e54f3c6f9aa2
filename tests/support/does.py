"""A job that runs the instructions of a test."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from healthgym.launch.perform import Outcome


@dataclass(frozen=True)
class Does:
    """A job that runs its instructions."""

    what: Callable[[], Outcome]
    saves: bool = True
    kind: str = "count"
    task: str = ""
    ranks: bool = False
    target: Path = Path("unused")
    reads: tuple[Path, ...] = ()

    def check(self, awaited: bool = False) -> None: ...

    def rehearse(self, processes: int = 1, gigabytes: float | None = None) -> None: ...

    def split(self, num_tasks: int) -> list["Does"]:
        return [self]

    def __call__(self) -> Outcome:
        return self.what()
