"""The decisions of one timestep, each given the previous ones and a summary of all earlier timesteps.

A running sum of embeddings carries what was decided; a small network per decision reads it and the summary:
the autoregressive density estimator of Larochelle and Murray (*The neural autoregressive distribution
estimator*, AISTATS 2011) with embeddings of classes. The same code scores given decisions in training and
draws new ones in sampling, so that the two cannot drift apart.

Legend: N rows (patients at timesteps), n the rows that a decision is about, D width of the summary,
E of the running sum, M of the small networks, R real variables, C bins, J cells, G components.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from healthgym.systems.autoregressive.history import MEAN, NUM_REFERENCES, Context
from healthgym.systems.autoregressive.tables import Slots, ValueTable

_NEVER = -1e9
_SMALLEST_SHARE = 1e-6
# Five logistic distributions that make up nearly a standard normal one: their locations, and the logarithm of
# their scale.
_START, _START_SCALE = torch.linspace(-1.6, 1.6, 5), math.log(0.35)


def _embedding(count: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(count, width)
    nn.init.normal_(embedding.weight, std=0.5)
    return embedding


class Decider(Protocol):
    """The interface of deciders: teacher forcing or random draws."""

    def choose(self, what: str, which: int, logits_nK: Tensor, rows: "Rows") -> Tensor:
        """Return a class for each row that the decision is about, int64 (n,)."""

    def piece(
        self, which: int, table: ValueTable, bin_n: Tensor, cell_n: Tensor, before_n: Tensor, rows: "Rows"
    ) -> Tensor:
        """Return a piece of each cell, int64 (n,)."""

    def wants(self, gate_N: Tensor) -> "Rows":
        """Return the rows that a decision is about."""


@dataclass(frozen=True)
class Rows:
    """A subset of rows: by index, or all rows if shapes must not depend on data.

    Args:
        gate_N: which rows a decision is about.
        index: their indices; None if all rows are computed and the results of the others are dropped.
    """

    gate_N: Tensor
    index: Tensor | None

    def of(self, x: Tensor) -> Tensor:
        """Return the rows of an array."""
        return x if self.index is None else x.index_select(0, self.index)

    def put(self, x_n: Tensor, else_N: Tensor) -> Tensor:
        """Return an array with these rows replaced."""
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


@dataclass(frozen=True)
class Others:
    """Real variables decided before another one.

    Args:
        scores_NX: their normal scores.
        moves_NX: how far these are from the patient's mean and from the value before, (N, 2 X).
    """

    scores_NX: Tensor
    moves_NX: Tensor

    def and_also(self, score_N: Tensor, context: Context) -> "Others":
        """Return these and one more."""
        references_NF = context.references[:, [MEAN, 0]]
        return Others(
            torch.cat([self.scores_NX, score_N.unsqueeze(1)], 1),
            torch.cat([self.moves_NX, score_N.unsqueeze(1) - references_NF], 1),
        )

    def of(self, rows: Rows) -> "Others":
        """Return the values of some rows."""
        return Others(rows.of(self.scores_NX), rows.of(self.moves_NX))


class SlotNetwork(nn.Module):
    """Reads the summary and the running sum for one decision; two layers of width M."""

    def __init__(self, summary_dim: int, sum_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.summary, self.running = (
            nn.Linear(summary_dim, hidden_dim),
            nn.Linear(sum_dim, hidden_dim, bias=False),
        )
        self.second = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, summary_nD: Tensor, sum_nE: Tensor) -> Tensor:
        v_nM = functional.gelu(self.summary(summary_nD) + self.running(sum_nE))
        out: Tensor = v_nM + functional.gelu(self.second(v_nM))
        return out


class ValueHead(nn.Module):
    """The bin and the cell of a real variable's new value.

    The bin's logits are free ones plus the logarithm of a mixture of logistic distributions on the normal
    scores, whose locations are weighted means of references (the value before, the one before that, the
    patient's means, and a linear prediction from the variables decided before it), shifted in proportion to
    how far those variables are from their own means and from their values before; scales are in units of the
    patient's own volatility. The mixture over discretised values is that of Salimans et al., *PixelCNN++*,
    ICLR 2017.

    A static variable has no value before; there the components begin as a standard normal distribution about
    the linear prediction.

    Args:
        table: of the variable.
        hidden_dim: M.
        static: whether the variable is static.
        num_others: number of variables decided before it.
    """

    def __init__(self, table: ValueTable, hidden_dim: int, static: bool, num_others: int) -> None:
        super().__init__()
        self.table, self.static = table, static
        if table.num_bins > 1:
            self.bins = nn.Linear(hidden_dim, table.num_bins)
        if table.num_cells > 1:
            self.of_bin = _embedding(table.num_bins, hidden_dim)
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
        follows_others = num_others and not static
        self.coupling = nn.Linear(hidden_dim, count * 2 * num_others) if follows_others else None
        for layer in (self.level, self.coupling):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def prediction(
        self, v_nM: Tensor, before_n: Tensor, context: Context, others: Others
    ) -> "Mixture | None":
        """Return the mixture that the value's normal score is expected to follow; None for a single bin."""
        if self.table.num_bins == 1:
            return None
        o_nGX = self.mixture(v_nM).unflatten(-1, (self.num_components, self.num_references + 3))
        shift_nG, scale_nG = o_nGX[..., -2], o_nGX[..., -1].clamp(-3, 3).exp()
        references = [] if self.static else [context.references]
        if not self.static:
            volatility_n1 = (context.moves * self.volatility.abs()).sum(-1, keepdim=True)
            shift_nG, scale_nG = shift_nG * volatility_n1, scale_nG * volatility_n1
        if self.level is not None:
            level_nX = self.level(v_nM)
            level_n = (level_nX[:, 1:] * others.scores_NX).sum(-1) + level_nX[:, 0]
            references.append(level_n.unsqueeze(1))
        if self.coupling is not None:
            # The strength of relations between variables differs between patients.
            weights_nGX = self.coupling(v_nM).unflatten(-1, (self.num_components, -1))
            shift_nG = shift_nG + (weights_nGX * others.moves_NX.unsqueeze(1)).sum(-1)
        weights_nGF = o_nGX[..., 1 : 1 + self.num_references].softmax(-1)
        location_nG = (weights_nGF * torch.cat(references, 1).unsqueeze(1)).sum(-1) + shift_nG
        has_n1 = (
            torch.ones_like(before_n, dtype=torch.bool) if self.static else before_n < self.table.num_pieces
        )
        return Mixture(o_nGX[..., 0].softmax(-1), location_nG, scale_nG, has_n1.unsqueeze(1))

    def bin_logits(self, v_nM: Tensor, before_n: Tensor, mixture: "Mixture | None") -> Tensor:
        logits_nC: Tensor = self.bins(v_nM)
        if mixture is not None:
            below_nE = mixture.below(self.table.edges_E)
            ends_nX = functional.pad(below_nE, (1, 0))
            share_nC = functional.pad(below_nE, (0, 1), value=1.0) - ends_nX
            logits_nC = logits_nC + mixture.logits(share_nC)
        return logits_nC.masked_fill(self.table.barred_PC[before_n], _NEVER)

    def cell_logits(self, v_nM: Tensor, bin_n: Tensor, before_n: Tensor, mixture: "Mixture | None") -> Tensor:
        table = self.table
        logits_nJ: Tensor = self.cells(functional.gelu(v_nM + self.of_bin(bin_n)))
        if mixture is not None:
            below_nX = mixture.below(table.cell_edges_CX[bin_n].unsqueeze(1))
            logits_nJ = logits_nJ + mixture.logits(below_nX.diff(dim=1))
        logits_nJ = logits_nJ.masked_fill(table.absent_CJ[bin_n], _NEVER)
        same_bin_n = table.bin_P[before_n.clamp(max=table.num_pieces - 1)] == bin_n
        return logits_nJ.masked_fill(table.barred_PJ[before_n] & same_bin_n.unsqueeze(1), _NEVER)


@dataclass(frozen=True)
class Mixture:
    """A mixture of logistic distributions over normal scores.

    Args:
        weights_nG, location_nG, scale_nG: of each component.
        has_n1: whether a value before tells anything; else nothing is added to the logits.
    """

    weights_nG: Tensor
    location_nG: Tensor
    scale_nG: Tensor
    has_n1: Tensor

    def below(self, edges: Tensor) -> Tensor:
        """Return the share below each edge (n, E), for edges of shape (E,) or (n, 1, E)."""
        distance_nGE = (edges - self.location_nG.unsqueeze(-1)) / self.scale_nG.unsqueeze(-1)
        return (self.weights_nG.unsqueeze(-1) * torch.sigmoid(distance_nGE)).sum(1)

    def logits(self, share_nK: Tensor) -> Tensor:
        """Return what shares add to logits."""
        return torch.where(self.has_n1, share_nK.clamp_min(_SMALLEST_SHARE).log(), 0.0)


class Head(nn.Module):
    """All decisions of a timestep, or of the static variables.

    Args:
        slots: the decisions, in order.
        num_classes: of each categorical variable.
        tables: of each real variable, and of the number of timesteps.
        flag_of_classes, flag_of_reals: measured flag of each variable that may be absent.
        measured: {flag: the class that says "measured"}.
        summary_dim, sum_dim, hidden_dim: D, E, M.
        static: whether these are the static variables.
        keeps_sum: whether the running sum is read when all is decided; else the last decision is not added.
    """

    def __init__(
        self,
        slots: Slots,
        num_classes: Mapping[int, int],
        tables: Mapping[int, ValueTable],
        flag_of_classes: Mapping[int, int],
        flag_of_reals: Mapping[int, int],
        measured: Mapping[int, int],
        summary_dim: int,
        sum_dim: int,
        hidden_dim: int,
        static: bool,
        keeps_sum: bool,
    ) -> None:
        super().__init__()
        self.slots, self.num_classes, self.sum_dim = slots, dict(num_classes), sum_dim
        self.flag_of_classes, self.flag_of_reals, self.measured = flag_of_classes, flag_of_reals, measured
        self.num_pieces = {r: tables[r].num_pieces for r in slots.values}
        networks = [f"class {k}" for k in slots.classes] + [f"held {r}" for r in slots.held]
        self.decided = [r for r in slots.values if tables[r].num_pieces > 1]  # a constant needs no decision
        networks += [f"value {r}" for r in self.decided]
        self.networks = nn.ModuleDict({n: SlotNetwork(summary_dim, sum_dim, hidden_dim) for n in networks})
        self.outputs = nn.ModuleDict(
            {f"class {k}": nn.Linear(hidden_dim, num_classes[k]) for k in slots.classes}
            | {f"held {r}": nn.Linear(hidden_dim, 1) for r in slots.held}
        )
        self.values = nn.ModuleDict(
            {f"{r}": ValueHead(tables[r], hidden_dim, static, i) for i, r in enumerate(self.decided)}
        )
        tokens = {f"class {k}": num_classes[k] + 1 for k in slots.classes} | {
            f"held {r}": 3 for r in slots.held
        }
        tokens |= {f"value {r}": tables[r].num_bins + 1 for r in self.decided}
        if tokens and not keeps_sum:
            tokens.popitem()
        self.embeddings = nn.ModuleDict({n: _embedding(count, sum_dim) for n, count in tokens.items()})
        self.scores = nn.ParameterDict(
            {n: nn.Parameter(0.3 * torch.randn(2, sum_dim)) for n in tokens if n.startswith("value")}
        )

    def forward(
        self,
        summary_ND: Tensor,
        before: Mapping[int, Tensor],
        context: Mapping[int, Context],
        decider: Decider,
        drop: Tensor | None,
    ) -> tuple[Step, Tensor]:
        """Make all decisions, in order.

        Args:
            summary_ND: of all earlier timesteps.
            before: {r: piece in force before (N,)}, P where there is none.
            context: {r: what the mixture refers to}.
            decider: decides.
            drop: multiplies the networks' outputs (N, M); None without dropout.

        Returns:
            What was decided, and the running sum (N, E).
        """
        step, sum_NE = Step(), summary_ND.new_zeros(len(summary_ND), self.sum_dim)
        everyone = torch.ones(len(summary_ND), dtype=torch.bool, device=summary_ND.device)

        def read(name: str, rows: Rows) -> Tensor:
            v_nM: Tensor = self.networks[name](rows.of(summary_ND), rows.of(sum_NE))
            return v_nM if drop is None else v_nM * rows.of(drop)

        def is_measured(flag: int | None) -> Tensor:
            return everyone if flag is None else step.classes[flag] == self.measured[flag]

        for k in self.slots.classes:
            name = f"class {k}"
            rows = decider.wants(is_measured(self.flag_of_classes.get(k)))
            chosen_n = decider.choose("class", k, self.outputs[name](read(name, rows)), rows)
            step.classes[k] = rows.put(
                chosen_n, torch.full_like(everyone, self.num_classes[k], dtype=torch.int64)
            )
            sum_NE = self._added(sum_NE, name, step.classes[k])
        for r in self.slots.held:
            name, present_N = f"held {r}", is_measured(self.flag_of_reals.get(r))
            rows = decider.wants(present_N & (before[r] < self.num_pieces[r]))
            logit_n1 = self.outputs[name](read(name, rows))
            logits_n2 = torch.cat([torch.zeros_like(logit_n1), logit_n1], 1)
            chosen_n = decider.choose("held", r, logits_n2, rows)
            step.held[r] = rows.put(chosen_n, torch.full_like(everyone, 2, dtype=torch.int64))
            sum_NE = self._added(sum_NE, name, step.held[r])
        others = Others(summary_ND.new_zeros(len(summary_ND), 0), summary_ND.new_zeros(len(summary_ND), 0))
        for r in self.slots.values:
            present_N = is_measured(self.flag_of_reals.get(r))
            new_N = present_N & (step.held[r] != 1) if r in step.held else present_N
            if r not in self.decided:
                step.pieces[r] = torch.where(new_N, 0, before[r])
                continue
            token_N = self._decide_value(r, step, before[r], context[r], others, decider, read, new_N)
            others = others.and_also(
                cast(ValueHead, self.values[f"{r}"]).table.score_P[step.pieces[r]], context[r]
            )
            sum_NE = self._with_value(
                self._added(sum_NE, f"value {r}", token_N), r, step.pieces[r], before[r]
            )
        return step, sum_NE

    def _decide_value(
        self,
        r: int,
        step: Step,
        before_N: Tensor,
        context: Context,
        others: Others,
        decider: Decider,
        read: Callable[[str, Rows], Tensor],
        new_N: Tensor,
    ) -> Tensor:
        """Decide a real variable's new value where it has one; return its bin; C if none."""
        head, rows = cast(ValueHead, self.values[f"{r}"]), decider.wants(new_N)
        table, v_nM, before_n = head.table, read(f"value {r}", rows), rows.of(before_N)
        here = Context(rows.of(context.references), rows.of(context.moves))
        mixture = head.prediction(v_nM, before_n, here, others.of(rows))
        bin_n = cell_n = torch.zeros_like(before_n)
        if table.num_bins > 1:
            bin_n = decider.choose("bin", r, head.bin_logits(v_nM, before_n, mixture), rows)
        if table.num_cells > 1:
            cell_n = decider.choose("cell", r, head.cell_logits(v_nM, bin_n, before_n, mixture), rows)
        piece_n = decider.piece(r, table, bin_n, cell_n, before_n, rows)
        step.pieces[r] = rows.put(piece_n, before_N)
        return rows.put(bin_n, torch.full_like(before_N, table.num_bins))

    def _added(self, sum_NE: Tensor, name: str, token_N: Tensor) -> Tensor:
        """Return the running sum with a decision's embedding, unless nothing reads it."""
        if name not in self.embeddings:
            return sum_NE
        added_NE: Tensor = sum_NE + self.embeddings[name](token_N)
        return added_NE

    def _with_value(self, sum_NE: Tensor, r: int, piece_N: Tensor, before_N: Tensor) -> Tensor:
        """Return the running sum with a value's normal score and its change."""
        name, table = f"value {r}", cast(ValueHead, self.values[f"{r}"]).table
        if name not in self.scores:
            return sum_NE
        score_N, old_N = table.score_P[piece_N], table.score_P[before_N]
        change_N = torch.where(before_N < table.num_pieces, score_N - old_N, 0.0)
        numbers_NE: Tensor = torch.stack([score_N, change_N], 1) @ self.scores[name]
        return sum_NE + numbers_NE
