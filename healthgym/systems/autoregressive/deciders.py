"""Deciders: teacher forcing in training, random draws in sampling.

Legend: N rows, n the rows that a decision is about, S decisions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from healthgym.systems.autoregressive.decisions import Rows
from healthgym.systems.autoregressive.tables import ValueTable


class Given:
    """Teacher forcing: decisions are those of the data, and logits give their likelihood.

    Args:
        targets: {(what, which): class of each row (N,)}; piece targets as ("piece", r).
        weights_N: 1 for rows that count, 0 for padding; None where all count.
        by_row: whether to return the likelihood of each row and not only the sum.
    """

    def __init__(
        self, targets: Mapping[tuple[str, int], Tensor], weights_N: Tensor | None, by_row: bool = False
    ) -> None:
        self._targets, self._weights_N, self._by_row = targets, weights_N, by_row
        self.nats: dict[tuple[str, int], Tensor] = {}

    def wants(self, gate_N: Tensor | None) -> Rows:
        if gate_N is None or self._weights_N is not None:
            return Rows(gate_N, None)
        return Rows(gate_N, gate_N.nonzero()[:, 0])

    def choose(self, what: str, which: int, logits_Kn: Tensor, rows: Rows) -> Tensor:
        target_n = rows.of(self._targets[what, which])
        gate_N = rows.gate_N
        if self._weights_N is not None and gate_N is not None:
            target_n = torch.where(gate_N, target_n, 0)
        nats_n = -logits_Kn.log_softmax(0).gather(0, target_n.unsqueeze(0))[0]
        if self._weights_N is not None:
            nats_n = (nats_n if gate_N is None else torch.where(gate_N, nats_n, 0.0)) * self._weights_N
        if self._by_row and gate_N is not None:
            nats_n = rows.put(nats_n, torch.zeros_like(gate_N, dtype=nats_n.dtype))
        self.nats[what, which] = nats_n if self._by_row else nats_n.sum()
        return target_n

    def piece(
        self, which: int, table: ValueTable, bin_n: Tensor, cell_n: Tensor, before_n: Tensor, rows: Rows
    ) -> Tensor:
        return rows.of(self._targets["piece", which])

    def total(self, rows_ND: Tensor) -> Tensor:
        """Return the sum over all decisions about some rows: a scalar, or (N,) by row."""
        nothing = rows_ND.new_zeros(len(rows_ND) if self._by_row else ())
        return torch.stack([nothing, *self.nats.values()]).sum(0)


class Drawn:
    """Random draws from the logits.

    Args:
        u_NS: uniform numbers, one column per decision as `Slots.columns` has them.
        columns: index of each decision.
        temperature: divides the logits; 1 is the learned distribution.
        dense: whether all rows are computed, so that shapes do not depend on what was drawn.
    """

    def __init__(
        self,
        u_NS: Tensor,
        columns: Mapping[tuple[str, int], int],
        temperature: float = 1.0,
        dense: bool = False,
    ) -> None:
        self._u_NS, self._columns, self._temperature, self._dense = u_NS, columns, temperature, dense

    def wants(self, gate_N: Tensor | None) -> Rows:
        if gate_N is None or self._dense:
            return Rows(gate_N, None)
        return Rows(gate_N, gate_N.nonzero()[:, 0])

    def choose(self, what: str, which: int, logits_Kn: Tensor, rows: Rows) -> Tensor:
        u_n = rows.of(self._u_NS[:, self._columns[what, which]])
        if len(logits_Kn) == 2:
            share_n = torch.sigmoid((logits_Kn[0] - logits_Kn[1]) / self._temperature)
            return (u_n >= share_n).long()
        ends_nK = (logits_Kn / self._temperature).softmax(0).t().contiguous().cumsum(-1)
        # The last end may be a hair below 1; u stays below it, and a class of share 0 is never met.
        return torch.searchsorted(ends_nK, (u_n * ends_nK[:, -1]).unsqueeze(1), right=True)[:, 0].clamp(
            max=len(logits_Kn) - 1
        )

    def piece(
        self, which: int, table: ValueTable, bin_n: Tensor, cell_n: Tensor, before_n: Tensor, rows: Rows
    ) -> Tensor:
        return table.draw_piece(
            bin_n, cell_n, before_n, rows.of(self._u_NS[:, self._columns["piece", which]])
        )
