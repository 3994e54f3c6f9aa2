"""Sampling of all timesteps of patients: on a CPU, or on a GPU as a CUDA graph of one timestep.

On a CPU, patients who have reached their length are left out. On a GPU all of a block stay in, so that
shapes are fixed, and what is sampled beyond a patient's length is dropped.

Legend: B patients, T timesteps, K categorical and R real variables (varying ones only), S decisions,
D width, X inputs of a timestep.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from healthgym.nn.causal import Cache
from healthgym.nn.cuda_graphs import Capture
from healthgym.systems.autoregressive.deciders import Drawn
from healthgym.systems.autoregressive.decisions import Step
from healthgym.systems.autoregressive.history import History
from healthgym.systems.autoregressive.network import Network

NOISE_AT_ONCE = 64  # timesteps whose random numbers are computed together on a GPU

Noise = Callable[[range], tuple[Tensor, Tensor]]
"""Returns the uniform numbers of some timesteps: of decisions (T, B, S), and of values in their pieces
(T, B, R)."""


@dataclass(frozen=True)
class Patients:
    """What is known of patients before the first timestep.

    Args:
        sums_BD: running sums of `Network.draw_static`.
        embedded_BD: these as an input of each timestep.
        lengths_B: numbers of timesteps.
    """

    sums_BD: Tensor
    embedded_BD: Tensor
    lengths_B: Tensor

    @classmethod
    def of(cls, network: Network, sums_BD: Tensor, lengths_B: Tensor) -> "Patients":
        """Return patients with these static variables."""
        return cls(sums_BD, network.embed_static(sums_BD), lengths_B)

    def first(self, count: int) -> "Patients":
        """Return the first patients."""
        return Patients(*(each[:count] for each in self.tensors()))

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        return [self.sums_BD, self.embedded_BD, self.lengths_B]


@dataclass(frozen=True)
class Past:
    """What is known of the timesteps so far.

    Args:
        tokens_BX: embeddings of the last timestep, 0 before the first.
        known_BK: class last measured; the number of classes before.
        pieces_BR: piece in force; the number of pieces before the first.
        values_BR: value in force, in the variable's unit; 0 before the first.
        history: summaries.
    """

    tokens_BX: Tensor
    known_BK: Tensor
    pieces_BR: Tensor
    values_BR: Tensor
    history: History

    @classmethod
    def empty(cls, network: Network, num_patients: int) -> "Past":
        """Return the past of the first timestep."""
        B, start, slots = num_patients, network.start, network.varying
        return cls(
            start.new_zeros(B, len(network.offsets) * network.tokens.embedding_dim),
            network.counts_K.repeat(B, 1),
            network.none_R.index_select(0, network.varying_reals).repeat(B, 1),
            start.new_zeros(B, len(slots.values)),
            History.empty(B, len(slots.values), len(slots.classes), start.device),
        )

    def first(self, count: int) -> "Past":
        """Return the past of the first patients."""
        tokens, known, pieces, values = (each[:count] for each in self.tensors()[:4])
        return Past(tokens, known, pieces, values, self.history.first_patients(count))

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        own = [self.tokens_BX, self.known_BK, self.pieces_BR, self.values_BR]
        return own + [getattr(self.history, each.name) for each in fields(self.history)]


@torch.no_grad()
def draw_timestep(
    network: Network,
    patients: Patients,
    past: Past,
    t_1: Tensor,
    cache: Cache,
    drawn: Drawn,
    value_u_BR: Tensor,
) -> tuple[Tensor, Past]:
    """Sample a timestep, given those before.

    Args:
        network: trained.
        patients, past: what is known.
        t_1: the timestep, int64 (1,).
        cache: of the trunk, at this timestep.
        drawn: decides.
        value_u_BR: uniform numbers of the values in their pieces.

    Returns:
        classes, uint8 (B, K), 0 where there is no value; and what is known after the timestep.
    """
    reals = network.varying.values
    times_BX = network.times(t_1, patients.lengths_B)[:, 0]
    inputs_BX = torch.cat([past.tokens_BX, past.history.numbers(), times_BX], -1)
    position_1D = network.positions.index_select(0, t_1)
    x_BD = network.embed(inputs_BX) + position_1D + patients.embedded_BD
    summary_BD = network.summary(network.trunk.step(x_BD, cache), x_BD, patients.sums_BD)
    left_BX = network.left(times_BX)
    context = past.history.contexts(reals, left_BX)
    before = {r: past.pieces_BR[:, i] for i, r in enumerate(reals)}
    last = past.history.last_classes(network.varying.classes, past.known_BK, left_BX)
    step, _ = network.step_head(summary_BD, last, before, context, drawn, None)
    return _after(network, step, past, t_1, value_u_BR)


def _after(network: Network, step: Step, past: Past, t_1: Tensor, value_u_BR: Tensor) -> tuple[Tensor, Past]:
    """Return a timestep's classes, and what is known after it."""
    B, head, reals = len(past.tokens_BX), network.step_head, network.varying.values
    everyone_B = torch.ones(B, dtype=torch.bool, device=t_1.device)

    def side_by_side(columns: list[Tensor], like: Tensor) -> Tensor:
        return torch.stack(columns, 1) if columns else like

    classes_BK = side_by_side([step.classes[k] for k in network.varying.classes], past.known_BK)
    known_BK = torch.where(classes_BK < network.counts_K, classes_BK, past.known_BK)
    present = {
        r: everyone_B if flag is None else step.classes[flag] == head.measured[flag]
        for r, flag in ((r, head.flag_of_reals.get(r)) for r in reals)
    }
    held = {r: step.held[r] if r in step.held else torch.where(present[r], 0, 2) for r in reals}
    no_reals = everyone_B[:, None][:, :0]
    present_BR = side_by_side(list(present.values()), no_reals)
    changed_BR = side_by_side([held_B != 1 for held_B in held.values()], no_reals)
    pieces_BR = side_by_side([step.pieces[r] for r in reals], past.pieces_BR)
    is_first_BR = past.pieces_BR > network.decoding.last_R
    drawn_BR = network.decoding(pieces_BR, value_u_BR, past.values_BR, is_first_BR)
    return torch.where(classes_BK < network.counts_K, classes_BK, 0).to(torch.uint8), Past(
        network.embedded(known_BK, step.pieces, held),
        known_BK,
        pieces_BR,
        torch.where(changed_BR & present_BR, drawn_BR.to(past.values_BR.dtype), past.values_BR),
        past.history.add(
            network.scores(step.pieces, (B,)),
            present_BR,
            changed_BR,
            classes_BK < network.counts_K,
            (known_BK != past.known_BK) & (t_1 > 0),
        ),
    )


@torch.no_grad()
def draw_course(
    network: Network, sums_BD: Tensor, lengths_B: Tensor, noise: Noise, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Sample all timesteps of patients, given their static variables, on a CPU.

    Args:
        network: trained.
        sums_BD: running sums of `Network.draw_static`.
        lengths_B: numbers of timesteps, falling.
        noise: of all patients.
        temperature: divides logits.

    Returns:
        classes, uint8 (T, B, K), and values (T, B, R). What lies beyond a patient's length means nothing.
    """
    B, T = len(lengths_B), int(lengths_B[0])
    slots = network.varying
    classes_TBK = torch.zeros(T, B, len(slots.classes), dtype=torch.uint8)
    values_TBR = torch.zeros(T, B, len(slots.values))
    patients, past = Patients.of(network, sums_BD, lengths_B), Past.empty(network, B)
    cache = network.trunk.cache(B, T, network.start.device)
    for t, n in enumerate((lengths_B > torch.arange(T).unsqueeze(1)).sum(1).tolist()):
        if n < len(past.tokens_BX):
            patients, past, cache = patients.first(n), past.first(n), cache.first(n)
        u_TBS, value_u_TBR = noise(range(t, t + 1))
        drawn = Drawn(u_TBS[0, :n], slots.columns, temperature)
        classes_BK, past = draw_timestep(
            network, patients, past, torch.tensor([t]), cache, drawn, value_u_TBR[0, :n]
        )
        classes_TBK[t, :n], values_TBR[t, :n] = classes_BK, past.values_BR
    return classes_TBK, values_TBR


class CapturedCourse:
    """Sampling of all timesteps of patients as one CUDA graph, replayed once per timestep.

    The timestep's number is a tensor that the graph increases, and everything else that it reads and writes
    stays in the same memory.

    Args:
        network: trained; its weights may change in place.
        num_patients: B, of every call.
        capture: captures the graph.
        temperature: divides logits.
    """

    def __init__(
        self, network: Network, num_patients: int, capture: Capture, temperature: float = 1.0
    ) -> None:
        self.network, self.num_patients, self._capture = network, num_patients, capture
        self._temperature, slots, start = temperature, network.varying, network.start
        B, T, at_once = num_patients, network.max_length, min(NOISE_AT_ONCE, network.max_length)
        lengths_B = torch.ones(B, dtype=torch.int64, device=start.device)
        with torch.no_grad():
            self._patients = Patients.of(network, start.new_zeros(B, network.static_head.sum_dim), lengths_B)
        self._t_1 = torch.zeros(1, dtype=torch.int64, device=start.device)
        self._cache = network.trunk.fixed_cache(B, T, self._t_1)
        self._empty, self._past = Past.empty(network, B), Past.empty(network, B)
        self._u_TBS = start.new_zeros(at_once, B, len(slots.columns))
        self._value_u_TBR = start.new_zeros(at_once, B, len(slots.values))
        self._classes_TBK = torch.zeros(T, B, len(slots.classes), dtype=torch.uint8, device=start.device)
        self._values_TBR = start.new_zeros(T, B, len(slots.values))
        self._replay: Callable[[], None] | None = None

    @torch.no_grad()
    def __call__(
        self, sums_BD: Tensor, lengths_B: Tensor, num_timesteps: int, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Return what `draw_course` does, in memory that the next call overwrites.

        Args:
            sums_BD, lengths_B, noise: as for `draw_course`; in any order.
            num_timesteps: T, known without reading the device.
        """
        if self._replay is None:
            self._replay = self._capture_call()
        self._renew(Patients.of(self.network, sums_BD, lengths_B))
        for t in range(num_timesteps):
            if t % NOISE_AT_ONCE == 0:
                now = range(t, min(t + NOISE_AT_ONCE, num_timesteps))
                for kept, numbers in zip((self._u_TBS, self._value_u_TBR), noise(now), strict=True):
                    kept[: len(now)].copy_(numbers)
            self._replay()
        return self._classes_TBK[:num_timesteps], self._values_TBR[:num_timesteps]

    def _renew(self, patients: Patients) -> None:
        self._t_1.zero_()
        for kept, new in zip(self._patients.tensors(), patients.tensors(), strict=True):
            kept.copy_(new)
        for kept, new in zip(self._past.tensors(), self._empty.tensors(), strict=True):
            kept.copy_(new)

    def _capture_call(self) -> Callable[[], None]:
        def call() -> dict[str, Tensor]:
            self.timestep()
            return {}

        for _ in range(2):  # libraries choose their algorithms
            self._renew(self._patients)
            self._capture.rehearse(call)
        self._renew(self._patients)
        return self._capture.capture(call)[0]

    def timestep(self) -> None:
        """Sample the next timestep."""
        place_1 = self._t_1 % NOISE_AT_ONCE
        u_BS, value_u_BR = (each.index_select(0, place_1)[0] for each in (self._u_TBS, self._value_u_TBR))
        drawn = Drawn(u_BS, self.network.varying.columns, self._temperature, dense=True)
        t_1 = self._t_1.clone()  # the cache goes on to the next timestep
        classes_BK, past = draw_timestep(
            self.network, self._patients, self._past, t_1, self._cache, drawn, value_u_BR
        )
        self._classes_TBK.index_copy_(0, t_1, classes_BK.unsqueeze(0))
        self._values_TBR.index_copy_(0, t_1, past.values_BR.unsqueeze(0))
        for kept, new in zip(self._past.tensors(), past.tensors(), strict=True):
            kept.copy_(new)
