"""The order of decisions about a patient, and the tables that map between values and classes.

Legend: R real variables, K categorical variables, P pieces, C bins, J cells.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from healthgym.schema.cells import Cells, VariableCells
from healthgym.schema.layout import FeatureLayout


@dataclass(frozen=True)
class Slots:
    """The decisions about a timestep (or, before the first, about what is static), in their order.

    Args:
        classes: categorical variables, measured flags first.
        held: real variables with a decision whether they keep the previous value.
        values: real variables, each a bin and a cell where it has a new value.
    """

    classes: tuple[int, ...]
    held: tuple[int, ...]
    values: tuple[int, ...]

    @cached_property
    def columns(self) -> dict[tuple[str, int], int]:
        """Number of each decision: its column in targets and in noise."""
        names = [("class", k) for k in self.classes] + [("held", r) for r in self.held]
        names += [(what, r) for r in self.values for what in ("bin", "cell", "piece", "value")]
        return {name: number for number, name in enumerate(names)}


def static_slots(layout: FeatureLayout) -> Slots:
    """Return the decisions before the first timestep; the number of timesteps is the real variable R."""
    classes = tuple(k for k, static in enumerate(layout.static_classes) if static)
    reals = tuple(r for r, static in enumerate(layout.static_reals) if static)
    return Slots(classes, (), (*reals, layout.num_reals))


def has_held(cells: VariableCells) -> bool:
    """Return whether it is decided that a variable keeps its value: not of one that has a single value."""
    return cells.holds and cells.num_pieces > 1


def timestep_slots(layout: FeatureLayout, cells: Cells) -> Slots:
    """Return the decisions of every timestep."""
    varying = [k for k, static in enumerate(layout.static_classes) if not static]
    classes = sorted(varying, key=lambda k: k not in layout.flags)  # flags first, else as in the schema
    reals = tuple(r for r, static in enumerate(layout.static_reals) if not static)
    return Slots(tuple(classes), tuple(r for r in reals if has_held(cells.variables[r])), reals)


class ValueTable(nn.Module):
    """The cells of one real variable as tensors; they follow the module to its device and are no parameters.

    Attributes:
        bars_bins, bars_cells: whether "new" rules any bin or cell out.
        bin_P, cell_P: of each piece.
        score_P: normal score of each piece, and 0 at P, which stands for no value.
        edges_E: normal scores between bins, E = C - 1.
        cell_edges_CX: normal scores around the cells of each bin, X = J + 1.
        barred_PC: whether "new" rules a bin out, given the piece before.
        absent_CJ: whether a bin has no such cell.
        barred_PJ: whether "new" rules a cell of the bin of the piece before out.
        below_P, mass_P: share of new values in the pieces below each, and in each.
        first_CJ, share_CJ: share below a cell's first piece, and in the cell.
    """

    bin_P: Tensor
    cell_P: Tensor
    score_P: Tensor
    edges_E: Tensor
    cell_edges_CX: Tensor
    barred_PC: Tensor
    barred_PJ: Tensor
    absent_CJ: Tensor
    below_P: Tensor
    mass_P: Tensor
    first_CJ: Tensor
    share_CJ: Tensor

    def __init__(self, cells: VariableCells) -> None:
        super().__init__()
        P, C, J = cells.num_pieces, cells.num_bins, cells.num_cells
        self.num_pieces, self.num_bins, self.num_cells, self.holds = P, C, J, has_held(cells)
        pieces_CJ = np.zeros((C, J), np.int64)
        np.add.at(pieces_CJ, (cells.bin_P, cells.cell_P), 1)
        single_P = cells.low_P == cells.high_P
        alone_P = single_P & (pieces_CJ[cells.bin_P, cells.cell_P] == 1)
        lone_bin_P = alone_P & ((pieces_CJ > 0).sum(1)[cells.bin_P] == 1)
        barred_PC = lone_bin_P[:, None] & (np.arange(C) == cells.bin_P[:, None])
        barred_PJ = (alone_P & ~lone_bin_P)[:, None] & (np.arange(J) == cells.cell_P[:, None])
        if not self.holds:  # repeats are drawn as any other value, or there is nothing else
            barred_PC[:], barred_PJ[:], single_P = False, False, np.zeros(P, bool)
        self.bars_bins, self.bars_cells = bool(barred_PC.any()), bool(barred_PJ.any())
        mass_P = cells.new_P / cells.new_P.sum()
        share_CJ = np.zeros((C, J))
        np.add.at(share_CJ, (cells.bin_P, cells.cell_P), mass_P)
        first_CJ = (np.cumsum(share_CJ.ravel()) - share_CJ.ravel()).reshape(C, J)
        for name, table in (
            ("bin_P", cells.bin_P),
            ("cell_P", cells.cell_P),
            ("score_P", np.append(cells.scores_P, 0.0)),
            ("edges_E", cells.edges),
            ("cell_edges_CX", cells.cell_edges),
            ("barred_PC", np.vstack([barred_PC, np.zeros((1, C), bool)])),
            ("barred_PJ", np.vstack([barred_PJ, np.zeros((1, J), bool)])),
            ("absent_CJ", pieces_CJ == 0),
            ("below_P", np.cumsum(mass_P) - mass_P),
            ("mass_P", mass_P),
            ("first_CJ", first_CJ),
            ("share_CJ", share_CJ),
        ):
            tensor = torch.from_numpy(np.ascontiguousarray(table))
            if name in ("score_P", "edges_E", "cell_edges_CX"):  # what networks read; shares stay exact
                tensor = tensor.to(torch.get_default_dtype())
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("single_P", torch.from_numpy(np.append(single_P, False)), persistent=False)

    single_P: Tensor

    def draw_piece(self, bin_N: Tensor, cell_N: Tensor, before_N: Tensor, u_N: Tensor) -> Tensor:
        """Draw a piece of each cell by its share, excluding the previous single value.

        Args:
            bin_N, cell_N: the cells.
            before_N: piece of the value before, P where there is none.
            u_N: uniform numbers.
        """
        first_N, share_N = self.first_CJ[bin_N, cell_N], self.share_CJ[bin_N, cell_N]
        piece_N = before_N.clamp(max=self.num_pieces - 1)
        inside_N = (self.bin_P[piece_N] == bin_N) & (self.cell_P[piece_N] == cell_N)
        barred_N = self.single_P[before_N] & inside_N & (share_N > self.mass_P[piece_N] * (1 + 1e-9))
        out_N = torch.where(barred_N, self.mass_P[piece_N], 0.0)
        place_N = first_N + u_N.double() * (share_N - out_N)
        place_N = torch.where(barred_N & (place_N >= self.below_P[piece_N]), place_N + out_N, place_N)
        found_N = torch.searchsorted(self.below_P, place_N, right=True) - 1
        # Rounding may end a hair outside of the cell.
        low_N = torch.searchsorted(self.below_P, first_N - 1e-12)
        return torch.maximum(found_N, low_N).clamp(0, self.num_pieces - 1)
