"""What is decided about a timestep, for which rows, and the protocol of the side that decides.

Legend: N rows (patients at timesteps), n the rows that a decision is about.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from healthgym.systems.autoregressive.tables import ValueTable


@dataclass(frozen=True)
class Rows:
    """A subset of rows: by index, or all rows if shapes must not depend on data.

    Args:
        gate_N: which rows a decision is about; None for all.
        index: their indices; None if all rows are computed and the results of the others are dropped.
    """

    gate_N: Tensor | None
    index: Tensor | None

    def of(self, x: Tensor) -> Tensor:
        """Return the rows of an array."""
        return x if self.index is None else x.index_select(0, self.index)

    def put(self, x_n: Tensor, else_N: Tensor) -> Tensor:
        """Return an array with these rows replaced."""
        if self.gate_N is None:
            return x_n
        if self.index is None:
            return torch.where(self.gate_N, x_n, else_N)
        return else_N.index_copy(0, self.index, x_n)


@dataclass
class Step:
    """The decisions of one timestep.

    Args:
        classes: {k: class (N,)}; the number of classes where there is no value.
        held: {r: 0 new, 1 held, 2 no value or none before (N,)}.
        pieces: {r: piece in force (N,)}; P where there is none yet.
    """

    classes: dict[int, Tensor] = field(default_factory=dict)
    held: dict[int, Tensor] = field(default_factory=dict)
    pieces: dict[int, Tensor] = field(default_factory=dict)


class Decider(Protocol):
    """The interface of deciders: teacher forcing or random draws."""

    def choose(self, what: str, which: int, logits_Kn: Tensor, rows: "Rows") -> Tensor:
        """Return a class for each row that the decision is about, int64 (n,), given logits (K, n)."""

    def piece(
        self, which: int, table: ValueTable, bin_n: Tensor, cell_n: Tensor, before_n: Tensor, rows: "Rows"
    ) -> Tensor:
        """Return a piece of each cell, int64 (n,)."""

    def wants(self, gate_N: Tensor | None) -> "Rows":
        """Return the rows that a decision is about; None stands for all."""
