"""ar: maximum likelihood over a patient's decisions, sampled one after the other.

Shapes: B batch, T timesteps, R reals, K binary and categorical variables, S decisions.
"""

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from healthgym.config import AutoregressiveConfig
from healthgym.distributed.share import Part
from healthgym.errors import ConfigError
from healthgym.nn.causal import Drop, keep
from healthgym.nn.cuda_graphs import Capture, CudaCapture
from healthgym.nn.precision import float32_on_cpu
from healthgym.schema.cells import MOST_PIECES, Cells
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.autoregressive.network import RARE, STATIC, Course, Network, Sizes
from healthgym.systems.autoregressive.sampling import CapturedCourse, draw_course
from healthgym.systems.autoregressive.static import LEAST_SHARE, Static, draw_patients, share_of
from healthgym.systems.base import Batch, Draws, Made, Making, SampleDraws, State, System
from healthgym.systems.conditions import NO_CONDITIONS, Conditions, with_length
from healthgym.systems.optimiser import Optimiser, copy_into, load_module_state, module_state
from healthgym.systems.patients import CohortFacts
from healthgym.systems.transfer import Transfer, to_device
from healthgym.systems.update import update

_BLOCK = 1024  # patients that are sampled together on a CPU; the bytes of a cohort depend on it
_TINY, _FEW, _MANY = 1_000, 10_000, 100_000
# Of the networks of variables with few values. On prothro .5 was better than .35 and .2: 8.710, 8.730 and
# 8.748 nats on validation patients, three seeds.
_RARE_DROPOUT = 0.5
_DROPOUT = ((500, 0.2), (_TINY, 0.1), (_FEW, 0.15), (500_000, 0.1))  # up to so many patients


def sizes_for(config: AutoregressiveConfig, num_patients: int) -> Sizes:
    """Return the network's widths; `auto` ones by the number of training patients."""
    if num_patients < _TINY:
        width, layers, heads = 64, 2, 4
    elif num_patients < _FEW:
        width, layers, heads = 128, 3, 4
    elif num_patients < _MANY:
        width, layers, heads = 256, 4, 8
    else:
        width, layers, heads = 384, 6, 8
    return Sizes(
        width=width if config.width == "auto" else config.width,
        num_layers=layers if config.num_layers == "auto" else config.num_layers,
        num_heads=heads if config.num_heads == "auto" else config.num_heads,
        sum_dim=config.hidden_dim,
        hidden_dim=config.hidden_dim,
        embedding_dim=config.embedding_dim,
    )


def dropout_for(config: AutoregressiveConfig, num_patients: int) -> float:
    """Return the share of dropped entries; `auto` by the number of training patients.

    More of it makes rare changes rarer than they are: what is averaged over dropout in training is sharper
    without. On 845 simulated patients .3 and .1 gave the same validation loss, and a combination of drugs
    changed at .3% and .5% of the timesteps (.5% to .6% in the data). On 353 patients with liver cirrhosis
    .2 was better than .1 (8.743 and 8.753 nats, three seeds).
    """
    if config.dropout != "auto":
        return config.dropout
    for limit, share in _DROPOUT:
        if num_patients < limit:
            return share
    return 0.0


class AutoregressiveSystem(System):
    """A network of the likelihood of decisions, and the decoding of decisions to patients.

    Attributes:
        new_capture: returns what captures a timestep as a CUDA graph; None on a CPU, where there is no graph
            and shapes may depend on the data.

    Args:
        config: all settings.
        layout: of the variables.
        facts: of the training patients; with cells.
        device: of the system.
    """

    real_form: ClassVar[Literal["scaled", "cells"]] = "cells"
    makes_lengths: ClassVar[bool] = True
    takes_conditions: ClassVar[bool] = True
    scores_patients: ClassVar[bool] = True
    whole_patients: ClassVar[bool] = True
    validates: ClassVar[bool] = True

    def __init__(
        self, config: AutoregressiveConfig, layout: FeatureLayout, facts: CohortFacts, device: torch.device
    ) -> None:
        if facts.cells is None:
            raise ConfigError(
                "This cohort was prepared by an older version of healthgym, without the cells that system ar "
                "learns from. Prepare it anew with healthgym prepare."
            )
        if max(each.num_pieces for each in facts.cells.all) > MOST_PIECES:
            raise ConfigError(
                f"A variable of this cohort has more than {MOST_PIECES:,} pieces, so that some of its values "
                "were stored as others: it was prepared by version 0.1.0. Prepare it anew with healthgym "
                "prepare."
            )
        self.config, self.layout, self.device, self.facts = config, layout, device, facts
        self.cells: Cells = facts.cells
        sizes = sizes_for(config, facts.num_patients)
        if sizes.width % sizes.num_heads:
            raise ConfigError(
                f"system.num_heads is {sizes.num_heads} and does not divide system.width = {sizes.width}. "
                f"Choose another."
            )
        self.network = Network(layout, self.cells, sizes, facts.max_length).to(device)
        self.dropout = dropout_for(config, facts.num_patients)
        self.rare_dropout = max(self.dropout, _RARE_DROPOUT) if config.dropout == "auto" else self.dropout
        self.optimiser = Optimiser(self.network, config.optimiser)
        self.best = copy.deepcopy(self.network).requires_grad_(False)
        self.best_nats = torch.full((), torch.inf, dtype=torch.float64)
        on_gpu = device.type != "cpu"
        self.new_capture: Callable[[], Capture] | None = partial(CudaCapture, device) if on_gpu else None
        self.block = 0 if self._dense else _BLOCK  # a GPU takes a small block as long as a larger one
        self._captured: CapturedCourse | None = None
        self._mean_length = max(facts.mean_length, 1.0)

    def exclude_unseen(self, seen: Sequence[NDArray[np.bool_]]) -> None:
        for network in {id(each): each for each in (self.network, self._average, self.best)}.values():
            network.exclude_unseen(seen)

    # --- training --------------------------------------------------------------------------------

    def compute_step(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        def backward(part: Part) -> dict[str, Tensor]:
            drop = self._dropout(draws.from_row(part.first_row))
            with self.optimiser.autocast():
                nats = self.network.nats(self._course(batch.rows(part.rows)), drop, self._dense)
            # Divided by a constant, so that a batch's parts add up and every timestep weighs the same.
            loss = nats / (part.num_rows * self._mean_length)
            self.optimiser.backward(part.weight * loss)
            return {"nats": loss.detach()}

        with float32_on_cpu(self.device):
            return update(self.optimiser, self.share, len(batch), backward)

    def step_kind(self, batch: Batch) -> Hashable | None:
        return tuple(batch.codes_BTK.shape)

    def plan(self, total_steps: int) -> None:
        """Let the schedule end after this number of steps."""
        self.optimiser.plan(total_steps)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Return minus the log-likelihood of patients in nats, and their number of timesteps."""
        with torch.no_grad(), float32_on_cpu(self.device):
            nats = self._average.nats(self._course(batch), keep, self._dense)
        return {"nats": nats.double(), "timesteps": batch.lengths_B.sum().double()}

    def keep_if_best(self, value: float) -> bool:
        """Keep the current weights for sampling if their validation loss is the lowest so far."""
        if not value < float(self.best_nats):
            return False
        self.best_nats.fill_(value)
        load_module_state(self.best, module_state(self._average))
        return True

    @property
    def _average(self) -> Network:
        """The current weights (or their moving average)."""
        average = self.optimiser.average
        return self.network if average is None else cast(Network, average)

    @property
    def _sampled(self) -> Network:
        """The weights for sampling: the best so far, or the current ones before any validation."""
        return self.best if bool(self.best_nats.isfinite()) else self._average

    @property
    def _dense(self) -> bool:
        """Whether shapes must not depend on the data, for CUDA graphs."""
        return self.new_capture is not None

    def check_length(self, length: int) -> None:
        if length > self.network.max_length:
            raise ConfigError(
                f"This system makes patients of at most {self.network.max_length} timesteps; {length} are "
                f"asked for. Ask for at most {self.network.max_length}."
            )

    def _course(self, batch: Batch) -> Course:
        return self.network.course(batch.reals_BTR, batch.codes_BTK, batch.lengths_B)

    def _dropout(self, draws: Draws) -> Drop:
        if not self.rare_dropout:
            return keep

        def drop(name: str, x: Tensor) -> Tensor:
            share = self.rare_dropout if name in (RARE, STATIC) else self.dropout
            if not share:
                return x
            kept = draws.uniform(f"dropout/{name}", tuple(x.shape)) >= share
            return x * kept / (1 - share)

        return drop

    def nats_by_patient(self, batch: Batch) -> Tensor:
        """Return minus the log-likelihood of each patient under the weights that sampling uses, nats (B,)."""
        with torch.no_grad(), float32_on_cpu(self.device):
            return self._sampled.nats(self._course(batch), keep, self._dense, by_patient=True)

    # --- state -----------------------------------------------------------------------------------

    def state(self) -> State:
        return {
            "network": module_state(self.network),
            "best": module_state(self.best),
            "best_nats": self.best_nats,
            "optimisers": {"network": self.optimiser.state()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        load_module_state(self.network, state["network"])
        load_module_state(self.best, state["best"])
        copy_into(self.best_nats, state["best_nats"])
        self.optimiser.load_state(state["optimisers"]["network"])

    def sampling_state(self) -> State:
        return {"best": module_state(self._sampled)}

    def released_state(self, longest: int) -> State:
        return {"best": self._sampled.shortened_state(longest)}

    def load_sampling_state(self, state: Mapping[str, Any]) -> None:
        load_module_state(self.best, state["best"])
        self.best_nats.fill_(0.0)  # no later loss can be lower

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    # --- sampling --------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_make(
        self,
        draws: SampleDraws,
        timesteps: int | None = None,
        conditions: Conditions = NO_CONDITIONS,
        stop: Callable[[], object] = lambda: None,
    ) -> Making:
        if timesteps is not None:
            self.check_length(timesteps)
        network, temperature = self._sampled, self.config.temperature
        with float32_on_cpu(self.device):
            static = draw_patients(network, self.cells, draws, conditions, timesteps, temperature, stop=stop)
            order_B = np.argsort(-static.lengths_B, kind="stable")
            classes_TBK, values_TBR = self._draw_course(network, draws, static, order_B)
        # Back to the order of numbers.
        place_B = to_device(np.argsort(order_B), self.device)
        made = {"reals": values_TBR, "codes": classes_TBK}
        transfer = Transfer(
            {name: x.index_select(1, place_B).permute(2, 0, 1).contiguous() for name, x in made.items()}
        )

        def finish() -> Made:
            arrays = transfer.arrays()
            both = self._with_static(static, arrays["reals"], arrays["codes"])
            return Made(*both, static.lengths_B, scaled=False)

        return finish

    def _draw_course(
        self, network: Network, draws: SampleDraws, static: Static, order_B: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return classes (T, B, K) and values (T, B, R) of what varies, in this order of patients."""
        order = to_device(order_B, self.device)
        num_decisions, num_reals = len(network.varying.columns), len(self.cells.variables)

        def noise(timesteps: range) -> tuple[Tensor, Tensor]:
            decisions, values = (
                draws.uniform_of(self.device, (count,), [(name, t) for t in timesteps])
                for name, count in (("timestep", num_decisions), ("value", num_reals))
            )
            values = values.index_select(2, network.varying_reals)
            return decisions.index_select(1, order), values.index_select(1, order)

        lengths_B = to_device(static.lengths_B[order_B], self.device)
        sums_BD, temperature = static.sums_BD[order], self.config.temperature
        if self.new_capture is None:
            return draw_course(network, sums_BD, lengths_B, noise, temperature)
        course = self._captured
        if course is None or course.network is not network or course.num_patients != len(order):
            course = CapturedCourse(network, len(order), self.new_capture(), temperature)
            self._captured = course
        return course(sums_BD, lengths_B, int(static.lengths_B.max()), noise)

    def _with_static(
        self, static: Static, values_RTB: NDArray[np.float32], classes_KTB: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return all reals (R, T, B) and classes (K, T, B), of static and of varying variables."""
        shape, slots = values_RTB.shape[1:], self.network.varying
        reals_RTB = np.empty((len(self.cells.variables), *shape), np.float32)
        codes_KTB = np.empty((len(self.layout.num_classes), *shape), np.uint8)
        reals_RTB[list(slots.values)] = values_RTB
        codes_KTB[list(slots.classes)] = classes_KTB
        for r, value_B in static.reals.items():
            reals_RTB[r] = value_B
        for k, class_B in static.classes.items():
            codes_KTB[k] = np.where(class_B < self.layout.num_classes[k], class_B, 0)
        return reals_RTB, codes_KTB

    def check_conditions(
        self, conditions: Conditions, timesteps: int | None = None, counted: bool = False
    ) -> None:
        network, cells, num_patients = self._sampled, self.cells, self.facts.num_patients
        asked, larger = "--where, --shares", "Ask for a larger group."
        if timesteps is not None:
            asked = f"{asked}, --timesteps {timesteps}" if conditions else f"--timesteps {timesteps}"
            larger = "In place of --timesteps ask for a range of lengths: --where timesteps=LOW..HIGH."
        conditions, cut = with_length(conditions, timesteps, cells)
        # Each piece of the length has enough patients.
        counted |= not (conditions.classes or conditions.reals or conditions.shares)
        share = partial(share_of, network, cells, conditions, cut)
        if not counted and (count := share() * num_patients) < cells.least_patients:
            raise ConfigError(
                f"{asked}: this system estimates that about {count:.0f} of the {num_patients:,} training "
                f"patients were like this; at least {cells.least_patients} are needed, or single people "
                f"would be imitated. {larger}"
            )
        if (made := share(self.config.temperature)) < LEAST_SHARE:
            raise ConfigError(
                f"{asked}: about {made:.2%} of the patients that this system makes are like this. At least "
                f"{LEAST_SHARE:.1%} are needed, or sampling until one is found takes too long. {larger}"
            )
