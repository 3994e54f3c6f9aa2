"""The decisions of one timestep, each given the previous ones and a summary of all earlier timesteps.

A running sum of embeddings carries what was decided; a small network per decision reads it and the summary:
the autoregressive density estimator of Larochelle and Murray (*The neural autoregressive distribution
estimator*, AISTATS 2011) with embeddings of classes. The same code scores given decisions in training and
draws new ones in sampling, so that the two cannot drift apart.

Legend: N rows (patients at timesteps), n the rows that a decision is about, D width of the summary,
E of the running sum, M of the small networks, R real variables.
"""

from collections.abc import Callable, Collection, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from healthgym.systems.autoregressive.decisions import Decider, Rows, Step
from healthgym.systems.autoregressive.history import NUM_PACES, Context, LastClass
from healthgym.systems.autoregressive.tables import Slots, ValueTable
from healthgym.systems.autoregressive.values import FASTER, Known, ValueHead, affine, embedding

_DURATIONS = 32  # timesteps that are told apart


def _both(present_N: Tensor | None, also_N: Tensor) -> Tensor:
    return also_N if present_N is None else present_N & also_N


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
        summary_nM = self.summary(summary_nD)
        v_nM = functional.gelu(torch.addmm(summary_nM, sum_nE, self.running.weight.t()))
        out: Tensor = v_nM + functional.gelu(self.second(v_nM))
        return out


class Transitions(nn.Module):
    """A table of what is added to the logits of a class, by the last known one.

    Of two classes (a measured flag) also by how many timesteps the last one has held: what is measured every
    four hours or once a day changes after that many. The logit of staying is shifted in proportion to how
    often the variable changed so far, since patients differ in it. Logits also depend on the number of
    timesteps left where patients differ in it.
    """

    def __init__(self, num_classes: int, num_left: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_durations = _DURATIONS if num_classes == 2 else 1
        self.table = nn.Embedding((num_classes + 1) * self.num_durations, num_classes)
        self.stay = nn.Embedding(num_classes + 1, NUM_PACES)
        for table in (self.table, self.stay):
            nn.init.zeros_(table.weight)
        self.left = nn.Parameter(torch.zeros(num_classes, num_left)) if num_left else None

    def forward(self, last: LastClass) -> Tensor:
        duration_n = last.held_for_N.clamp(max=self.num_durations - 1)
        table_nK = self.table(last.code_N * self.num_durations + duration_n)
        stay_n = (self.stay(last.code_N) * last.paces_NP).sum(1)
        same_Kn = last.code_N == torch.arange(self.num_classes, device=stay_n.device).unsqueeze(1)
        logits_Kn: Tensor = table_nK.t() + stay_n * same_Kn
        if self.left is not None:
            logits_Kn = torch.addmm(logits_Kn, self.left, last.left_NX.t())
        return FASTER * logits_Kn


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
        num_left: number of features of the timesteps left.
        unmarked: real variables whose bins have embeddings that begin at zero. Random ones of static values
            tell the few patients of a small cohort apart, who are then learned by heart; a value also has its
            normal score.
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
        num_left: int,
        unmarked: Collection[int],
    ) -> None:
        super().__init__()
        self.slots, self.num_classes, self.sum_dim, self.static = slots, dict(num_classes), sum_dim, static
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
        # Most classes stay as they were, of each class with its own chance.
        self.transitions = nn.ModuleDict(
            {f"class {k}": Transitions(num_classes[k], num_left) for k in slots.classes if not static}
        )
        self.values = nn.ModuleDict(
            {
                f"{r}": ValueHead(
                    tables[r], hidden_dim, static, i if static else 2 * (len(slots.values) - 1), i, num_left
                )
                for i, r in enumerate(slots.values)
                if r in self.decided
            }
        )
        tokens = {f"class {k}": num_classes[k] + 1 for k in slots.classes} | {
            f"held {r}": 3 for r in slots.held
        }
        tokens |= {f"value {r}": tables[r].num_bins + 1 for r in self.decided}
        if tokens and not keeps_sum:
            tokens.popitem()
        zeros = {f"value {r}" for r in unmarked}
        self.embeddings = nn.ModuleDict(
            {n: embedding(count, sum_dim, 0.0 if n in zeros else 0.5) for n, count in tokens.items()}
        )
        self.scores = nn.ParameterDict(
            {n: nn.Parameter(0.3 * torch.randn(2, sum_dim)) for n in tokens if n.startswith("value")}
        )

    def forward(
        self,
        summary_ND: Tensor,
        last: Mapping[int, LastClass],
        before: Mapping[int, Tensor],
        context: Mapping[int, Context],
        decider: Decider,
        drop: Callable[[str], Tensor] | None,
    ) -> tuple[Step, Tensor]:
        """Make all decisions, in order.

        Args:
            summary_ND: of all earlier timesteps.
            last: {k: class last known}; empty if static.
            before: {r: piece in force before (N,)}, P where there is none.
            context: {r: what the mixture refers to}.
            decider: decides.
            drop: returns what multiplies a network's output (N, M), by its name; None without dropout.

        Returns:
            What was decided, and the running sum (N, E).
        """
        step, sum_NE = Step(), summary_ND.new_zeros(len(summary_ND), self.sum_dim)

        def read(name: str, rows: Rows) -> Tensor:
            v_nM: Tensor = self.networks[name](rows.of(summary_ND), rows.of(sum_NE))
            return v_nM if drop is None else v_nM * rows.of(drop(name))

        def is_measured(flag: int | None) -> Tensor | None:
            return None if flag is None else step.classes[flag] == self.measured[flag]

        def filled(value: int) -> Tensor:
            return torch.full((len(summary_ND),), value, device=summary_ND.device)

        for k in self.slots.classes:
            name = f"class {k}"
            rows = decider.wants(is_measured(self.flag_of_classes.get(k)))
            logits_Kn = affine(cast(nn.Linear, self.outputs[name]), read(name, rows))
            if name in self.transitions:
                logits_Kn = logits_Kn + self.transitions[name](last[k].map(rows.of))
            chosen_n = decider.choose("class", k, logits_Kn, rows)
            step.classes[k] = (
                chosen_n if rows.gate_N is None else rows.put(chosen_n, filled(self.num_classes[k]))
            )
            sum_NE = self._added(sum_NE, name, step.classes[k])
        for r in self.slots.held:
            present_N = is_measured(self.flag_of_reals.get(r))
            step.held[r] = self._decide_held(r, before[r], decider, read, present_N)
            sum_NE = self._added(sum_NE, f"held {r}", step.held[r])
        known = Known([context[r] for r in self.slots.values], self.static)
        for r in self.slots.values:
            present_N = is_measured(self.flag_of_reals.get(r))
            new_N = _both(present_N, step.held[r] != 1) if r in step.held else present_N
            if r not in self.decided:
                step.pieces[r] = filled(0) if new_N is None else torch.where(new_N, 0, before[r])
                continue
            token_N = self._decide_value(r, step, before[r], context[r], known, decider, read, new_N)
            sum_NE = self._added(sum_NE, f"value {r}", token_N)
            sum_NE = self._with_value(sum_NE, r, step.pieces[r], before[r])
        return step, sum_NE

    def _decide_held(
        self,
        r: int,
        before_N: Tensor,
        decider: Decider,
        read: Callable[[str, Rows], Tensor],
        present_N: Tensor | None,
    ) -> Tensor:
        """Decide whether a real variable keeps its value; return 0 new, 1 held, 2 no value or none before."""
        rows = decider.wants(_both(present_N, before_N < self.num_pieces[r]))
        logit_1n = affine(cast(nn.Linear, self.outputs[f"held {r}"]), read(f"held {r}", rows))
        logits_2n = torch.cat([torch.zeros_like(logit_1n), logit_1n])
        return rows.put(decider.choose("held", r, logits_2n, rows), torch.full_like(before_N, 2))

    def _decide_value(
        self,
        r: int,
        step: Step,
        before_N: Tensor,
        context: Context,
        known: Known,
        decider: Decider,
        read: Callable[[str, Rows], Tensor],
        new_N: Tensor | None,
    ) -> Tensor:
        """Decide a real variable's new value where it has one; return its bin; C if none."""
        number = self.slots.values.index(r)
        head, rows = cast(ValueHead, self.values[f"{r}"]), decider.wants(new_N)
        table, v_nM, before_n = head.table, read(f"value {r}", rows), rows.of(before_N)
        here = context.map(rows.of)
        mixture = head.prediction(v_nM, before_n, here, known.others(number).of(rows))
        bin_n = cell_n = torch.zeros_like(before_n)
        if table.num_bins > 1:
            bin_n = decider.choose("bin", r, head.bin_logits(v_nM, before_n, mixture), rows)
        if table.num_cells > 1:
            cell_n = decider.choose("cell", r, head.cell_logits(v_nM, bin_n, before_n, mixture), rows)
        piece_n = decider.piece(r, table, bin_n, cell_n, before_n, rows)
        step.pieces[r] = rows.put(piece_n, before_N)
        known.decide(number, table.score_P[step.pieces[r]])
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
