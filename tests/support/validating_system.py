"""A system that learns whole patients' means, fast: for tests of validation, stopping and time limits."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from healthgym.config import OptimiserConfig
from healthgym.distributed.share import Part
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.base import Batch, Draws, State, System
from healthgym.systems.optimiser import Optimiser, copy_into, load_module_state, module_state
from healthgym.systems.update import update

SETTINGS = OptimiserConfig(learning_rate=0.05, schedule="cosine", warmup_steps=2, average_decay=0.9)


class MeanSystem(System):
    """Predicts each scaled real by one number."""

    whole_patients = True
    validates = True

    def __init__(self, layout: FeatureLayout, device: torch.device = torch.device("cpu")) -> None:  # noqa: B008
        self.layout, self.device = layout, device
        self.network = nn.Linear(1, layout.num_reals, bias=False).to(device)
        nn.init.constant_(self.network.weight, 3.0)
        self.optimiser = Optimiser(self.network, SETTINGS)
        self.best = copy.deepcopy(self.network).requires_grad_(False)
        self.best_value = torch.full((), torch.inf, dtype=torch.float64)
        self.plans: list[int] = []
        self.seen: list[Batch] = []

    def compute_step(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        self.seen.append(batch)
        noise = 0.1 * draws.normal("noise", tuple(batch.reals_BTR.shape))
        timesteps = float(self.share.ranks.sum(batch.lengths_B.sum()))

        def backward(part: Part) -> dict[str, Tensor]:
            own = batch.rows(part.rows)
            loss = _nats(self.network, own, noise[part.rows]) / timesteps
            self.optimiser.backward(loss)
            return {"nats": loss.detach() / part.weight}

        return update(self.optimiser, self.share, len(batch), backward)

    def plan(self, total_steps: int) -> None:
        self.plans.append(total_steps)
        self.optimiser.plan(total_steps)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"nats": _nats(self.network, batch, 0.0), "timesteps": batch.lengths_B.sum()}

    def keep_if_best(self, value: float) -> bool:
        if not value < float(self.best_value):
            return False
        self.best_value.fill_(value)
        load_module_state(self.best, module_state(self.network))
        return True

    def state(self) -> State:
        return {
            "network": module_state(self.network),
            "best": module_state(self.best),
            "best_value": self.best_value,
            "optimisers": {"network": self.optimiser.state()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        load_module_state(self.network, state["network"])
        load_module_state(self.best, state["best"])
        copy_into(self.best_value, state["best_value"])
        self.optimiser.load_state(state["optimisers"]["network"])

    def sampling_state(self) -> State:
        return {"best": module_state(self.best)}

    def load_sampling_state(self, state: Mapping[str, Any]) -> None:
        load_module_state(self.best, state["best"])


def _nats(network: nn.Linear, batch: Batch, noise: Tensor | float) -> Tensor:
    error_BTR = batch.reals_BTR + noise - network.weight[:, 0]
    return (error_BTR.square().sum(-1) * batch.mask_BT).sum()
