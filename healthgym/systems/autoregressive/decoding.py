"""Drawing values within their pieces, on the device: the numbers of `VariableCells.decode`.

Legend: B patients, R real variables, N pieces of all variables one after the other.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from healthgym.schema.cells import VariableCells


class Decoding(nn.Module):
    """The values of all varying reals at once, in float64 and in the order of `VariableCells.decode`.

    Args:
        variables: their cells.
    """

    first_R: Tensor
    last_R: Tensor
    holds_R: Tensor
    power_R: Tensor
    low_N: Tensor
    step_N: Tensor
    count_N: Tensor

    def __init__(self, variables: Sequence[VariableCells]) -> None:
        super().__init__()
        num_pieces = np.array([cells.num_pieces for cells in variables], np.int64)
        low, high, step = (
            np.concatenate([np.zeros(0), *(getattr(cells, name) for cells in variables)])
            for name in ("low_P", "high_P", "step_P")
        )
        for name, table in (
            ("first_R", np.cumsum(num_pieces) - num_pieces),
            ("last_R", num_pieces - 1),
            ("holds_R", np.array([cells.holds for cells in variables], bool)),
            ("power_R", 10.0 ** np.array([cells.decimals for cells in variables], np.float64)),
            ("low_N", low),
            ("step_N", step),
            ("count_N", np.rint((high - low) / step) + 1),
        ):
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def forward(self, piece_BR: Tensor, u_BR: Tensor, before_BR: Tensor, is_first_BR: Tensor) -> Tensor:
        """Draw a value from each piece.

        Args:
            piece_BR: pieces; P, of no value yet, counts as the last one.
            u_BR: uniform numbers in [0, 1).
            before_BR: values before, which variables that hold exclude.
            is_first_BR: whether there is no value before.

        Returns:
            values in the variables' units, float64 (B, R).
        """
        row_BR = torch.minimum(piece_BR, self.last_R) + self.first_R
        low, step, count = self.low_N[row_BR], self.step_N[row_BR], self.count_N[row_BR]
        barred = ((before_BR.double() - low) / step).round()
        is_barred = (barred >= 0) & (barred < count) & (count > 1) & self.holds_R & ~is_first_BR
        place = (u_BR.double() * (count - is_barred.double())).floor()
        place = place + (is_barred & (place >= barred)).double()
        value = low + torch.minimum(place, count - 1) * step
        return (value * self.power_R).round() / self.power_R
