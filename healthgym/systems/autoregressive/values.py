"""The value of one real variable: a bin and a cell, given the decisions before it.

Rows come last in what is computed here: on a CPU, a softmax or a sum over a short first dimension is several
times as fast as over a short last one.

Legend: N rows (patients at timesteps), n the rows that a decision is about, M width of the small networks,
X other variables, R all of them, D those decided before, C bins, J cells, G components of the mixture,
F references.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from healthgym.systems.autoregressive.decisions import Rows
from healthgym.systems.autoregressive.history import IS_FIRST, MEAN, NUM_GAPS, NUM_REFERENCES, Context
from healthgym.systems.autoregressive.tables import ValueTable

# What a table or a short list of weights is multiplied by. Adam changes a weight by about the learning rate
# per step, which in a run's number of steps would not reach the logarithm of a small chance.
FASTER = 10.0
_NEVER = -1e9
_SMALLEST_SHARE = 1e-6
# Five logistic distributions that make up nearly a standard normal one: their locations, and the logarithm of
# their scale.
_START, _START_SCALE = torch.linspace(-1.6, 1.6, 5), math.log(0.35)


def affine(layer: nn.Linear, v_nM: Tensor) -> Tensor:
    """Return the outputs of a linear layer with rows last, (K, n)."""
    return torch.addmm(layer.bias.unsqueeze(1), layer.weight, v_nM.t())


def embedding(count: int, width: int, std: float = 0.5) -> nn.Embedding:
    """Return an embedding with weights of this standard deviation."""
    layer = nn.Embedding(count, width)
    nn.init.normal_(layer.weight, std=std)
    return layer


@dataclass(frozen=True)
class Others:
    """Other real variables, as far as they are known when one is decided.

    Args:
        scores_NX: their normal scores: of this timestep where they were decided before, else the last known;
            and, unless static, the patient's means of all.
        moves_NX: how far each is from its value when the variable to be decided last changed, and those
            decided before from the patient's means, (N, X + D).
    """

    scores_NX: Tensor
    moves_NX: Tensor

    def of(self, rows: Rows) -> "Others":
        """Return the values of some rows."""
        return Others(rows.of(self.scores_NX), rows.of(self.moves_NX))


class Known:
    """The normal scores of all real variables while they are decided one after the other.

    Args:
        contexts: of each variable, in the order of decisions.
        static: whether they are static, so that nothing is known of those not yet decided.
    """

    def __init__(self, contexts: Sequence[Context], static: bool) -> None:
        self._contexts, self._static = contexts, static
        if contexts:
            references_NRF = torch.stack([context.references for context in contexts], 1)
            self._scores_NR, self._means_NR = references_NRF[:, :, 0].clone(), references_NRF[:, :, MEAN]

    def others(self, number: int) -> Others:
        """Return what is known of the others when a variable is decided."""

        def without(x_NR: Tensor) -> tuple[Tensor, Tensor]:
            return x_NR[:, :number], x_NR[:, number + 1 :]

        scores_NR, means_NR = self._scores_NR, self._means_NR
        if self._static:
            return Others(scores_NR[:, :number].clone(), scores_NR[:, :0])
        since_NR = scores_NR - self._contexts[number].others
        own_ND = scores_NR[:, :number] - means_NR[:, :number]
        return Others(
            torch.cat([*without(scores_NR), *without(means_NR)], 1),
            torch.cat([*without(since_NR), own_ND], 1),
        )

    def decide(self, number: int, score_N: Tensor) -> None:
        """Replace a variable's last known score by the one that was decided."""
        self._scores_NR[:, number] = score_N  # no result of `others` shares its memory


@dataclass(frozen=True)
class Mixture:
    """A mixture of logistic distributions over normal scores.

    Args:
        weights_Gn, location_Gn, scale_Gn: of each component.
    """

    weights_Gn: Tensor
    location_Gn: Tensor
    scale_Gn: Tensor

    def below(self, edges: Tensor) -> Tensor:
        """Return the share below each edge (E, n), for edges of shape (E, 1) or (E, n)."""
        per_scale_G1n = self.scale_Gn.reciprocal().unsqueeze(1)
        distance_GEn = (edges - self.location_Gn.unsqueeze(1)) * per_scale_G1n
        return (self.weights_Gn.unsqueeze(1) * torch.sigmoid(distance_GEn)).sum(0)

    def logits(self, share_Kn: Tensor) -> Tensor:
        """Return what shares add to logits."""
        return share_Kn.clamp_min(_SMALLEST_SHARE).log()


class ValueHead(nn.Module):
    """The bin and the cell of a real variable's new value.

    The bin's logits are free ones plus the logarithm of a mixture of logistic distributions on the normal
    scores, whose locations are weighted means of references (the value before, the one before that, the
    patient's means, and a linear prediction from the other variables), shifted in proportion to the last
    change, to what the other variables did since this one last changed, and to how far those decided before
    are from their own means. Scales are in units of the patient's own volatility, and of the standard
    deviation over all patients for a patient's first value. All of this also depends on the time since the
    last change and the last measurement, and on the number of timesteps left where patients differ in it; the
    linear prediction of a first value has weights of its own. The
    mixture over discretised values is that of Salimans et al., *PixelCNN++*, ICLR 2017.

    A static variable has no value before; there the components begin as a standard normal distribution about
    the linear prediction.

    Args:
        table: of the variable.
        hidden_dim: M.
        static: whether the variable is static.
        num_others: number of scores of other variables: of each its own and, unless static, its mean.
        num_before: number of variables decided before it.
        num_left: number of features of the timesteps left.
    """

    def __init__(
        self,
        table: ValueTable,
        hidden_dim: int,
        static: bool,
        num_others: int,
        num_before: int,
        num_left: int = 0,
    ) -> None:
        super().__init__()
        self.table, self.static = table, static
        if table.num_bins > 1:
            self.bins = nn.Linear(hidden_dim, table.num_bins)
        if table.num_cells > 1:
            self.of_bin = embedding(table.num_bins, hidden_dim)
            self.cells = nn.Linear(hidden_dim, table.num_cells)
        if table.num_bins == 1:
            return
        has_level = static or num_others > 0
        self.num_references = has_level if static else NUM_REFERENCES + has_level
        self.num_components = len(_START) if static else self.num_references
        count, width = self.num_components, self.num_references + 3
        self.mixture = nn.Linear(hidden_dim, count * width)
        nn.init.zeros_(self.mixture.weight)
        start = torch.zeros(count, width)
        if static:
            start[:, 0], start[:, -2], start[:, -1] = -_START.square() / 2, _START, _START_SCALE
        else:  # one component begins at each reference
            self.volatility = nn.Parameter(torch.tensor([0.08, 0.5, 0.3]))
            start[range(count), range(1, 1 + count)], start[:, -1] = 3.0, -0.5
        with torch.no_grad():
            self.mixture.bias.copy_(start.flatten())
        self.level = nn.Linear(hidden_dim, 1 + num_others) if has_level else None
        self.coupling = None if static else nn.Linear(hidden_dim, count * (1 + num_others // 2 + num_before))
        self.first_level = None if static or not has_level else nn.Parameter(torch.zeros(1 + num_others))
        self.gaps = None if static else nn.Linear(NUM_GAPS, count * width, bias=False)
        self.left = nn.Parameter(torch.zeros(count * width, num_left)) if num_left else None
        for layer in (self.level, self.coupling, self.gaps):
            if layer is not None:
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter)

    def prediction(self, v_nM: Tensor, before_n: Tensor, context: Context, others: Others) -> Mixture | None:
        """Return the mixture that the value's normal score is expected to follow; None for a single bin."""
        if self.table.num_bins == 1:
            return None
        o_Xn = affine(self.mixture, v_nM)
        if self.gaps is not None:
            o_Xn = torch.addmm(o_Xn, self.gaps.weight, context.gaps.t(), alpha=FASTER)
        if self.left is not None:
            o_Xn = torch.addmm(o_Xn, self.left, context.left.t(), alpha=FASTER)
        o_GXn = o_Xn.unflatten(0, (self.num_components, self.num_references + 3))
        shift_Gn, scale_Gn = o_GXn[:, -2], o_GXn[:, -1].clamp(-3, 3).exp()
        references = [] if self.static else [context.references.t()]
        if not self.static:
            volatility_n = (context.moves * self.volatility.abs()).sum(-1)
            volatility_n = torch.where(before_n < self.table.num_pieces, volatility_n, 1.0)
            shift_Gn, scale_Gn = shift_Gn * volatility_n, scale_Gn * volatility_n
        if self.level is not None:
            level_Xn = affine(self.level, v_nM)
            if self.first_level is not None:
                first_1n = FASTER * context.gaps[:, IS_FIRST].unsqueeze(0)
                level_Xn = level_Xn + first_1n * self.first_level.unsqueeze(1)
            level_n = (level_Xn[1:] * others.scores_NX.t()).sum(0) + level_Xn[0]
            references.append(level_n.unsqueeze(0))
        if self.coupling is not None:
            # The strength of relations between variables differs between patients.
            weights_GXn = affine(self.coupling, v_nM).unflatten(0, (self.num_components, -1))
            change_1n = (context.references[:, 0] - context.references[:, 1]).unsqueeze(0)
            moves_Xn = torch.cat([change_1n, others.moves_NX.t()])
            shift_Gn = shift_Gn + (weights_GXn * moves_Xn).sum(1)
        weights_GFn = o_GXn[:, 1 : 1 + self.num_references].softmax(1)
        location_Gn = (weights_GFn * torch.cat(references)).sum(1) + shift_Gn
        return Mixture(o_GXn[:, 0].softmax(0), location_Gn, scale_Gn)

    def bin_logits(self, v_nM: Tensor, before_n: Tensor, mixture: Mixture | None) -> Tensor:
        """Return the logits of bins, (C, n)."""
        table, logits_Cn = self.table, affine(self.bins, v_nM)
        if mixture is not None:
            below_En = mixture.below(table.edges_E.unsqueeze(1))
            share_Cn = functional.pad(below_En, (0, 0, 0, 1), value=1.0) - functional.pad(
                below_En, (0, 0, 1, 0)
            )
            logits_Cn = logits_Cn + mixture.logits(share_Cn)
        if table.bars_bins:
            logits_Cn = logits_Cn.masked_fill(table.barred_PC[before_n].t(), _NEVER)
        return logits_Cn

    def cell_logits(self, v_nM: Tensor, bin_n: Tensor, before_n: Tensor, mixture: Mixture | None) -> Tensor:
        """Return the logits of the cells of a bin, (J, n)."""
        table = self.table
        logits_Jn = affine(self.cells, functional.gelu(v_nM + self.of_bin(bin_n)))
        if mixture is not None:
            below_Xn = mixture.below(table.cell_edges_CX[bin_n].t())
            logits_Jn = logits_Jn + mixture.logits(below_Xn.diff(dim=0))
        logits_Jn = logits_Jn.masked_fill(table.absent_CJ[bin_n].t(), _NEVER)
        if table.bars_cells:
            same_bin_n = table.bin_P[before_n.clamp(max=table.num_pieces - 1)] == bin_n
            barred_Jn = table.barred_PJ[before_n].t() & same_bin_n
            logits_Jn = logits_Jn.masked_fill(barred_Jn, _NEVER)
        return logits_Jn
