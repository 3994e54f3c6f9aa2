"""The network of ar: a trunk over timesteps and a head over the decisions of each.

    p(patient) = p(static, length) prod_t prod_j p(decision j at t | static, length, all before)

Legend: B patients, T timesteps, N rows (patients at timesteps), R real variables, K categorical variables,
D width, X inputs of a timestep.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from healthgym.nn.causal import CausalTransformer, Drop, keep
from healthgym.schema.cells import ABSENT, HELD, NONE, Cells
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.autoregressive.deciders import Drawn, Given
from healthgym.systems.autoregressive.decisions import Step
from healthgym.systems.autoregressive.decoding import Decoding
from healthgym.systems.autoregressive.head import Head
from healthgym.systems.autoregressive.history import (
    NUM_GAPS,
    NUM_LEFT,
    NUM_MOVES,
    NUM_REFERENCES,
    NUMBERS_PER_CLASS,
    NUMBERS_PER_REAL,
    Context,
    History,
    LastClass,
)
from healthgym.systems.autoregressive.tables import Slots, ValueTable, static_slots, timestep_slots
from healthgym.systems.base import State
from healthgym.systems.optimiser import module_state

_TIMES = 6
_NEVER = -1e4  # as a bias: its exponential is 0
_RARE = 20_000  # new values of a variable; with fewer, its networks overfit while others still learn
HEAD, RARE, STATIC = "head", "head/rare", "static"  # names of dropout


@dataclass(frozen=True)
class Sizes:
    """Widths of trunk, running sum, small networks and embeddings; layers and heads of the trunk."""

    width: int
    num_layers: int
    num_heads: int
    sum_dim: int
    hidden_dim: int
    embedding_dim: int


@dataclass(frozen=True)
class Course:
    """Patients as decisions.

    Args:
        classes_BTK: class in force, or the number of classes where there is no value.
        pieces_BTR: piece in force, or P where there is none yet.
        held_BTR: 0 new, 1 held, 2 no value (or none before, for a variable that repeats).
        present_BTR: whether the timestep has a value.
        lengths_B: numbers of timesteps.
    """

    classes_BTK: Tensor
    pieces_BTR: Tensor
    held_BTR: Tensor
    present_BTR: Tensor
    lengths_B: Tensor


class Network(nn.Module):
    """The likelihood of patients, and sampling of new ones.

    Args:
        layout: of the variables.
        cells: of the real variables and of the number of timesteps.
        sizes: widths.
        max_length: largest number of timesteps of a patient that is sampled. In training a patient may have
            more, which are all told the last position.
    """

    def __init__(self, layout: FeatureLayout, cells: Cells, sizes: Sizes, max_length: int) -> None:
        super().__init__()
        self.layout, self.max_length, width, sum_dim = layout, max_length, sizes.width, sizes.sum_dim
        tables = [ValueTable(each) for each in (*cells.variables, cells.length)]
        self.tables = tables
        self._registered = nn.ModuleList(tables)
        self.register_buffer("length_bounds", torch.from_numpy(cells.length.bounds), persistent=False)
        none = torch.tensor([table.num_pieces for table in tables[:-1]], dtype=torch.int64)
        self.register_buffer("none_R", none, persistent=False)
        num_classes_K = torch.tensor(layout.num_classes, dtype=torch.int64)
        self.register_buffer("num_classes_K", num_classes_K, persistent=False)
        self.static, self.varying = static_slots(layout), timestep_slots(layout, cells)
        self.num_left = NUM_LEFT if tables[-1].num_pieces > 1 else 0
        flags = dict(zip(layout.flags, layout.measured_classes, strict=True))

        def head(slots: Slots, static: bool, keeps_sum: bool) -> Head:
            return Head(
                slots,
                dict(enumerate(layout.num_classes)),
                dict(enumerate(tables)),
                {k: flag for k, flag in enumerate(layout.flag_of_classes) if flag is not None},
                {r: flag for r, flag in enumerate(layout.flag_of_reals) if flag is not None},
                flags,
                summary_dim=width,
                sum_dim=sum_dim,
                hidden_dim=sizes.hidden_dim,
                static=static,
                keeps_sum=keeps_sum,
                num_left=0 if static else self.num_left,
                unmarked=[r for r in slots.values if static and r < layout.num_reals],
            )

        self.static_head, self.step_head = head(self.static, True, True), head(self.varying, False, False)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        counts = [layout.num_classes[k] + 1 for k in self.varying.classes]
        counts += [size for r in self.varying.values for size in (tables[r].num_bins + 1, 3)]
        self.register_buffer(
            "offsets",
            torch.tensor([0, *counts[:-1]]).cumsum(0) if counts else torch.zeros(0, dtype=torch.int64),
            persistent=False,
        )
        self.tokens = nn.Embedding(max(sum(counts), 1), sizes.embedding_dim)
        # Not as lists: a list as an index is copied to the device at each use, which a CUDA graph cannot be.
        self.register_buffer("varying_reals", torch.tensor(self.varying.values, dtype=torch.int64), False)
        self.register_buffer("varying_classes", torch.tensor(self.varying.classes, dtype=torch.int64), False)
        self.register_buffer("counts_K", num_classes_K[self.varying_classes], persistent=False)
        self.decoding = Decoding([cells.variables[r] for r in self.varying.values])
        num_reals, num_classes = len(self.varying.values), len(self.varying.classes)
        num_inputs = len(counts) * sizes.embedding_dim + _TIMES
        num_inputs += NUMBERS_PER_REAL * num_reals + NUMBERS_PER_CLASS * num_classes
        self.embed, self.embed_static = nn.Linear(num_inputs, width), nn.Linear(sum_dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(max_length, width))
        self.trunk = CausalTransformer(width, sizes.num_layers, sizes.num_heads)
        self.summary_trunk, self.summary_inputs = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.summary_static = nn.Linear(sum_dim, width, bias=False)
        self.hidden_dim = sizes.hidden_dim
        counted = {**dict(enumerate(cells.variables)), layout.num_reals: cells.length}
        self.rare = {f"value {r}" for r, each in counted.items() if each.new_P.sum() < _RARE}

    none_R: Tensor
    num_classes_K: Tensor
    length_bounds: Tensor
    offsets: Tensor
    varying_reals: Tensor
    varying_classes: Tensor
    counts_K: Tensor

    @torch.no_grad()
    def exclude_unseen(self, seen: Sequence[NDArray[np.bool_]]) -> None:
        """Give classes that no training patient has the probability 0.

        Their biases have no gradient then, and stay as they are.

        Args:
            seen: for each categorical variable, whether training patients have each of its classes.
        """
        for head in (self.static_head, self.step_head):
            for k in head.slots.classes:
                bias = cast(nn.Linear, head.outputs[f"class {k}"]).bias
                bias[torch.from_numpy(~seen[k])] = _NEVER

    # --- scoring ---------------------------------------------------------------------------------

    def course(self, cells_BTR: Tensor, codes_BTK: Tensor, lengths_B: Tensor) -> Course:
        """Return patients as decisions, from the codes of their cells and classes."""
        codes, classes_BTK = cells_BTR.long(), codes_BTK.long()
        piece, held, present = codes & NONE, (codes & HELD) > 0, (codes & ABSENT) == 0
        pieces_BTR = torch.minimum(piece, self.none_R)
        held_BTR = torch.where(held, 1, 0)
        held_BTR = torch.where(present, held_BTR, 2)
        for r in self.varying.values:
            if self.tables[r].holds:
                fresh_BT = torch.ones_like(present[..., r])
                fresh_BT[:, 1:] = pieces_BTR[:, :-1, r] == self.tables[r].num_pieces
                held_BTR[..., r] = torch.where(fresh_BT, 2, held_BTR[..., r])
            else:
                held_BTR[..., r] = torch.where(present[..., r], 0, 2)
        for k, flag in enumerate(self.layout.flag_of_classes):
            if flag is not None:
                measured = self.layout.measured_classes[self.layout.flags.index(flag)]
                absent_BT = classes_BTK[..., flag] != measured
                classes_BTK[..., k] = torch.where(absent_BT, self.layout.num_classes[k], classes_BTK[..., k])
        return Course(classes_BTK, pieces_BTR, held_BTR, present, lengths_B)

    def nats(
        self, course: Course, drop: Drop = keep, dense: bool = False, by_patient: bool = False
    ) -> Tensor:
        """Return minus the log-likelihood in nats: the sum, or of each patient (B,).

        Args:
            course: patients.
            drop: dropout.
            dense: whether shapes must not depend on the data.
            by_patient: whether each patient's is wanted.
        """
        B, T = course.pieces_BTR.shape[:2]
        static_BD, static_nats = self._score_static(course, drop, dense, by_patient)
        inputs_BTX, earlier, last_BTK = self._inputs(course)
        left_BTX = self.left(self.times(torch.arange(T, device=inputs_BTX.device), course.lengths_B))
        x_BTD = self.embed(inputs_BTX) + self._positions(T) + self.embed_static(static_BD).unsqueeze(1)
        x_BTD = drop("trunk", x_BTD)
        summary_BTD = self.summary(drop("summary", self.trunk(x_BTD, drop)), x_BTD, static_BD.unsqueeze(1))
        mask_BT = torch.arange(T, device=x_BTD.device) < course.lengths_B.unsqueeze(1)
        rows = None if dense else mask_BT.flatten().nonzero()[:, 0]

        def flat(x: Tensor) -> Tensor:
            x = x.flatten(0, 1)
            return x if rows is None else x.index_select(0, rows)

        before_BTR = torch.cat([self.none_R.expand(B, 1, -1), course.pieces_BTR[:, :-1]], 1)
        before = {r: flat(before_BTR[..., r]) for r in self.varying.values}
        last = earlier.last_classes(self.varying.classes, last_BTK, left_BTX)
        context = earlier.contexts(self.varying.values, left_BTX)
        targets = self._targets(self.varying, course, flat)
        given = Given(targets, mask_BT.flatten() if dense else None, by_patient)
        ones_BTM = x_BTD.new_ones(B, T, self.hidden_dim)
        masks = {name: flat(drop(name, ones_BTM)) for name in (HEAD, RARE)}
        summary_ND = flat(summary_BTD)
        self.step_head(
            summary_ND,
            {k: each.map(flat) for k, each in last.items()},
            before,
            {r: each.map(flat) for r, each in context.items()},
            given,
            None if drop is keep else lambda name: masks[RARE if name in self.rare else HEAD],
        )
        nats = given.total(summary_ND)
        if by_patient:
            patient = torch.arange(B, device=nats.device).repeat_interleave(T)
            patient = patient if rows is None else patient[rows]
            nats = torch.zeros(B, device=nats.device).index_add(0, patient, nats)
        return nats + static_nats

    def _positions(self, length: int) -> Tensor:
        """Return the embeddings of the first positions, (T, D)."""
        beyond = self.positions[-1:].expand(max(length - self.max_length, 0), -1)
        return torch.cat([self.positions, beyond]) if len(beyond) else self.positions[:length]

    def _score_static(
        self, course: Course, drop: Drop, dense: bool, by_patient: bool
    ) -> tuple[Tensor, Tensor]:
        targets = self._targets(self.static, course, lambda x: x[:, 0])
        length_B = torch.searchsorted(self.length_bounds, course.lengths_B.double(), right=True)
        self._add_value_targets(targets, self.layout.num_reals, length_B)
        ones_B = course.lengths_B > 0 if dense else None
        given = Given(targets, ones_B, by_patient)
        ones_BM = self.start.new_ones(len(length_B), self.hidden_dim)
        mask_BM = drop(STATIC, ones_BM)
        _, static_BD = self.static_head(
            *self._static_inputs(len(length_B)),
            given,
            None if drop is keep else lambda name: mask_BM if name in self.rare else ones_BM,
        )
        return static_BD, given.total(static_BD)

    def _static_inputs(
        self, count: int
    ) -> tuple[Tensor, dict[int, LastClass], dict[int, Tensor], dict[int, Context]]:
        device = self.start.device
        before: dict[int, Tensor] = {
            r: torch.full((count,), self.tables[r].num_pieces, device=device) for r in self.static.values
        }
        nothing = Context(
            torch.zeros(count, NUM_REFERENCES, device=device),
            torch.ones(count, NUM_MOVES, device=device),
            torch.zeros(count, NUM_GAPS, device=device),
            torch.zeros(count, 0, device=device),
            torch.zeros(count, 0, device=device),
        )
        return self.start.expand(count, -1), {}, before, dict.fromkeys(self.static.values, nothing)

    def _targets(
        self, slots: Slots, course: Course, flat: Callable[[Tensor], Tensor]
    ) -> dict[tuple[str, int], Tensor]:
        targets = {("class", k): flat(course.classes_BTK[..., k]) for k in slots.classes}
        targets |= {("held", r): flat(course.held_BTR[..., r]) for r in slots.held}
        for r in slots.values:
            if r < self.layout.num_reals:
                self._add_value_targets(targets, r, flat(course.pieces_BTR[..., r]))
        return targets

    def _add_value_targets(self, targets: dict[tuple[str, int], Tensor], r: int, piece_N: Tensor) -> None:
        table = self.tables[r]
        known_N = piece_N.clamp(max=table.num_pieces - 1)
        targets["bin", r], targets["cell", r] = table.bin_P[known_N], table.cell_P[known_N]
        targets["piece", r] = piece_N

    def _inputs(self, course: Course) -> tuple[Tensor, History, Tensor]:
        """Return what each timestep's prediction reads (B, T, X), the history before each, and the classes
        last known (B, T, K)."""
        B, T = course.pieces_BTR.shape[:2]
        pieces = {r: course.pieces_BTR[..., r] for r in self.varying.values}
        held = {r: course.held_BTR[..., r] for r in self.varying.values}
        with torch.no_grad():
            history = History.empty(B, len(pieces), len(self.varying.classes), self.start.device)
            histories = [history]
            scores_BTR = self.scores(pieces, (B, T))
            present_BTR = course.present_BTR.index_select(2, self.varying_reals)
            changed_BTR = course.held_BTR.index_select(2, self.varying_reals) != 1
            known_BTK = (course.classes_BTK < self.num_classes_K).index_select(2, self.varying_classes)
            codes_BTK = self._last_known(course.classes_BTK).index_select(2, self.varying_classes)
            for t in range(T - 1):
                differs_BK = codes_BTK[:, t] != codes_BTK[:, max(t - 1, 0)]
                history = history.add(
                    scores_BTR[:, t], present_BTR[:, t], changed_BTR[:, t], known_BTK[:, t], differs_BK
                )
                histories.append(history)
            earlier = History.stacked(histories)
            times_BTX = self.times(torch.arange(T, device=self.start.device), course.lengths_B)
        tokens_BTX = self.embedded(
            codes_BTK[:, :-1],
            {r: piece_BT[:, :-1] for r, piece_BT in pieces.items()},
            {r: held_BT[:, :-1] for r, held_BT in held.items()},
        )
        tokens_BTX = functional.pad(tokens_BTX, (0, 0, 1, 0))
        inputs = torch.cat([tokens_BTX, earlier.numbers(), times_BTX], -1)
        last_BTK = torch.cat([self.counts_K.expand(B, 1, -1), codes_BTK[:, :-1]], 1)
        return inputs, earlier, last_BTK

    def _last_known(self, classes_BTK: Tensor) -> Tensor:
        """Return the class last measured, up to and including each timestep, or the number of classes.

        That a class is absent at a timestep is told by its flag.
        """
        timesteps_T1 = torch.arange(classes_BTK.shape[1], device=classes_BTK.device).unsqueeze(1)
        last_BTK = torch.where(classes_BTK < self.num_classes_K, timesteps_T1, 0).cummax(1).values
        return classes_BTK.gather(1, last_BTK)

    def scores(self, pieces: Mapping[int, Tensor], shape: tuple[int, ...]) -> Tensor:
        """Return the normal scores of the varying reals' pieces, each of this shape, side by side."""
        scores = [self.tables[r].score_P[piece] for r, piece in pieces.items()]
        return torch.stack(scores, -1) if scores else self.start.new_zeros(*shape, 0)

    def embedded(self, classes: Tensor, pieces: Mapping[int, Tensor], held: Mapping[int, Tensor]) -> Tensor:
        """Return the embeddings of a timestep's last known classes, bins and held states side by side."""
        tokens = list(classes.unbind(-1))
        for r, piece in pieces.items():
            table = self.tables[r]
            known = piece < table.num_pieces
            bins = torch.where(known, table.bin_P[piece.clamp(max=table.num_pieces - 1)], table.num_bins)
            tokens += [bins, held[r]]
        if not tokens:
            return self.tokens.weight.new_zeros(*classes.shape[:-1], 0)
        embedded: Tensor = self.tokens(torch.stack(tokens, -1) + self.offsets)
        return embedded.flatten(-2)

    def times(self, t_T: Tensor, lengths_B: Tensor) -> Tensor:
        """Return features of the position of a timestep and of the number left (B, T, 6)."""
        t_BT = t_T.expand(len(lengths_B), -1).to(self.start.dtype)
        left_BT = (lengths_B.unsqueeze(1) - 1 - t_BT).clamp_min(0)
        parts = [
            t_BT / self.max_length,
            t_BT.log1p(),
            left_BT / self.max_length,
            left_BT.log1p(),
        ]
        return torch.stack([*parts, left_BT == 0, left_BT == 1], -1)

    def left(self, times: Tensor) -> Tensor:
        """Return the features of `times` that tell how many timesteps are left (..., 3), or none (..., 0)."""
        return times[..., times.shape[-1] - self.num_left :]

    def shortened_state(self, max_length: int) -> State:
        """Return the state of the same network for patients of fewer timesteps.

        The features that are shares of the number of timesteps become larger, their weights smaller.

        Raises:
            ValueError: this network is for fewer timesteps.
        """
        if max_length > self.max_length:
            raise ValueError(f"{max_length} timesteps; this network is for {self.max_length}")
        state = module_state(self)
        weight = state["embed.weight"].clone()
        weight[:, [-_TIMES, 2 - _TIMES]] *= max_length / self.max_length
        return state | {"embed.weight": weight, "positions": state["positions"][:max_length].clone()}

    def summary(self, trunk: Tensor, x: Tensor, static: Tensor) -> Tensor:
        """Return the input of the head: a mix of the trunk's outputs, its inputs and the static variables."""
        total = self.summary_trunk(trunk) + self.summary_inputs(x) + self.summary_static(static)
        return functional.gelu(total)

    # --- sampling --------------------------------------------------------------------------------

    @torch.no_grad()
    def draw_static(self, u_BS: Tensor, temperature: float = 1.0) -> tuple[Step, Tensor]:
        """Sample the static variables and the number of timesteps; return them and the running sum (B, D)."""
        drawn = Drawn(u_BS, self.static.columns, temperature)
        step, static_BD = self.static_head(*self._static_inputs(len(u_BS)), drawn, None)
        return step, static_BD
