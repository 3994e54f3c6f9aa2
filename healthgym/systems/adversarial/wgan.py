"""WGAN-GP with a correlation loss: v1, v2 and v2.5, by choice of generator and latent.

Source: Kuo et al., *Scientific Data* 2022 (v1) and *J. Biomedical Informatics* 2023 (v2).
Shapes: B batch, T timesteps, F features.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from healthgym.config import AdamConfig
from healthgym.distributed.share import Moments, Part, correlation_of
from healthgym.nn.cuda_graphs import CapturedMap, CudaCapture
from healthgym.systems.adversarial.critic import Critic, gradient_penalty
from healthgym.systems.adversarial.latent import UniformLatent
from healthgym.systems.adversarial.losses import correlation_loss, correlation_matrix, rows_of
from healthgym.systems.base import Batch, Draws, SampleDraws, State, System
from healthgym.systems.optimiser import Optimiser, load_module_state, module_state
from healthgym.systems.update import update


class WGANSystem(System):
    """A generator G, a critic D and a latent.

    Args:
        generator: maps noise (B, T, Z) to features; has `latent_dim` and `layout`.
        critic: scores patients.
        latent: source of the noise.
        correlation_FF: Pearson correlations of the training cohort's features.
        optimiser: Adam's settings, for G and D each.
        num_critic_updates: critic updates per step.
        gradient_penalty_weight, correlation_weight: weights of the two added losses.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: Critic,
        latent: UniformLatent,
        correlation_FF: Tensor,
        optimiser: AdamConfig,
        num_critic_updates: int,
        gradient_penalty_weight: float,
        correlation_weight: float,
    ) -> None:
        self.generator, self.critic, self.latent = generator, critic, latent
        self.layout, self.device = critic.embedding.layout, latent.device
        self.correlation_FF = correlation_FF.to(self.device, torch.float32)
        self.optimiser_G, self.optimiser_D = Optimiser(generator, optimiser), Optimiser(critic, optimiser)
        self.num_critic_updates = num_critic_updates
        self.gradient_penalty_weight = gradient_penalty_weight
        self.correlation_weight = correlation_weight

    def compute_step(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        mask_BT = batch.mask_BT if batch.is_padded else None
        x_BTF = _own(batch.x_BTF, mask_BT)
        with torch.no_grad():
            embedded = self.critic.embedding(x_BTF)
        metrics = self.latent.train_step(embedded, draws, self.share, mask_BT)
        for number in range(self.num_critic_updates):
            metrics |= self._critic_update(x_BTF, mask_BT, f"critic/{number}", draws)
        return metrics | self._generator_update(x_BTF, mask_BT, draws)

    def count_step(self, batch: Batch) -> None:
        self.latent.count_step(self.share.num_rows(len(batch)))

    def step_kind(self, batch: Batch) -> Hashable | None:
        latent = self.latent.step_kind(len(batch))
        # The number of unmasked timesteps differs from batch to batch.
        return None if latent is None or batch.is_padded else (tuple(batch.codes_BTK.shape), latent)

    def sample_features(self, length: int, seed: int, first_patient: int, num_patients: int) -> Tensor:
        with torch.no_grad():
            draws = SampleDraws(seed, first_patient, num_patients)
            z_BTZ = self.latent.draw_patients(length, draws)
            if self.device.type == "cuda":
                return self._captured(z_BTZ)["x_BTF"]
            x_BTF: Tensor = self.generator(z_BTZ)
        return x_BTF

    @cached_property
    def _captured(self) -> CapturedMap:
        """The generator as a CUDA graph for each shape of a batch."""
        return CapturedMap(lambda z_BTZ: {"x_BTF": self.generator(z_BTZ)}, CudaCapture(self.device))

    def state(self) -> State:
        latent = self.latent.state()
        optimisers = {
            "G": self.optimiser_G.moments(),
            "D": self.optimiser_D.moments(),
        } | latent.pop("optimisers", {})
        return {
            "G": module_state(self.generator),
            "D": module_state(self.critic),
            **latent,
            "optimisers": optimisers,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        load_module_state(self.generator, state["G"])
        load_module_state(self.critic, state["D"])
        self.optimiser_G.load_moments(state["optimisers"]["G"])
        self.optimiser_D.load_moments(state["optimisers"]["D"])
        self.latent.load_state(state)

    def sampling_state(self) -> State:
        return {"G": module_state(self.generator), **self.latent.sampling_state()}

    def load_sampling_state(self, state: Mapping[str, Any]) -> None:
        load_module_state(self.generator, state["G"])
        self.latent.load_sampling_state(state)

    def memory_slots(self) -> Tensor | None:
        return self.latent.slots

    @torch.no_grad()
    def memory_prototypes(self, batch: Batch) -> Tensor:
        mask_BT = batch.mask_BT if batch.is_padded else None
        return self.latent.prototypes(self.critic.embedding(batch.x_BTF), mask_BT)

    def check_length(self, length: int) -> None:
        with torch.no_grad():
            self.generator(torch.zeros(1, length, self.latent.latent_dim, device=self.device))

    def num_parameters(self) -> int:
        return sum(
            parameter.numel()
            for network in (self.generator, self.critic, self.latent)
            for parameter in network.parameters()
        )

    def _critic_update(
        self, real_BTF: Tensor, mask_BT: Tensor | None, name: str, draws: Draws
    ) -> dict[str, Tensor]:
        def backward(part: Part) -> dict[str, Tensor]:
            own, rows = draws.from_row(part.first_row), part.rows
            return self._critic_backward(real_BTF[rows], _part(mask_BT, part), name, own, part.weight)

        return update(self.optimiser_D, self.share, len(real_BTF), backward)

    def _critic_backward(
        self, real_BTF: Tensor, mask_BT: Tensor | None, name: str, draws: Draws, weight: float
    ) -> dict[str, Tensor]:
        """Add a part's gradients to the critic's; return its losses.

        Where real patients are padded, generated ones have the same lengths and zeros after them too.
        """
        B, T, _ = real_BTF.shape
        with torch.no_grad():
            fake_BTF = _own(self.generator(self.latent.draw(name, B, T, draws)), mask_BT)
        # One backward pass per term frees its buffers before the next term allocates its own.
        real_score = self.critic(real_BTF).mean()
        (-weight * real_score).backward()
        real_score = real_score.detach()
        fake_score = self.critic(fake_BTF).mean()
        (weight * fake_score).backward()
        fake_score = fake_score.detach()
        alpha_B11 = draws.uniform(f"{name}/alpha", (B, 1, 1))
        penalty = self.gradient_penalty_weight * gradient_penalty(
            self.critic, real_BTF, fake_BTF, alpha_B11, mask_BT
        )
        (weight * penalty).backward()
        gap = fake_score - real_score
        penalty = penalty.detach()
        return {"critic_loss": gap + penalty, "critic_gap": -gap, "gradient_penalty": penalty}

    def _generator_update(self, real_BTF: Tensor, mask_BT: Tensor | None, draws: Draws) -> dict[str, Tensor]:
        B, T, F = real_BTF.shape
        threshold_FF = draws.shared_uniform("generator/threshold", (F, F))
        parts = self.share.parts(B)
        moments = self._foreseen_moments(parts, T, mask_BT, draws) if len(parts) > 1 else None

        def backward(part: Part) -> dict[str, Tensor]:
            return self._generator_backward(part, T, _part(mask_BT, part), draws, threshold_FF, moments)

        return update(self.optimiser_G, self.share, B, backward)

    def _foreseen_moments(
        self, parts: Sequence[Part], length: int, mask_BT: Tensor | None, draws: Draws
    ) -> Moments:
        """Return the moments of all generated rows, computed before the gradients of parts of them."""
        with torch.no_grad():
            rows = [rows_of(self._fake(part, length, draws), _part(mask_BT, part)) for part in parts]
        return self.share.co_moments(torch.cat(rows), uneven=mask_BT is not None)

    def _fake(self, part: Part, length: int, draws: Draws) -> Tensor:
        draws = draws.from_row(part.first_row)
        x_BTF: Tensor = self.generator(self.latent.draw("generator", part.num_rows, length, draws))
        return x_BTF

    def _generator_backward(
        self,
        part: Part,
        length: int,
        mask_BT: Tensor | None,
        draws: Draws,
        threshold_FF: Tensor,
        moments: Moments | None,
    ) -> dict[str, Tensor]:
        """Add a part's gradients to the generator's; return its losses."""
        fake_BTF = _own(self._fake(part, length, draws), mask_BT)
        self.critic.requires_grad_(False)  # the gradients of its weights are not needed
        adversarial = -self.critic(fake_BTF).mean()
        self.critic.requires_grad_(True)
        fake_NF = rows_of(fake_BTF, mask_BT)
        if self.share.whole([part]) and moments is None:
            fake_FF = correlation_matrix(fake_NF)
        else:
            uneven = mask_BT is not None
            fake_FF = correlation_of(fake_NF, moments or self.share.co_moments(fake_NF, uneven))
        correlation = correlation_loss(fake_FF, self.correlation_FF, threshold_FF)
        # The correlation loss is that of the whole batch; its gradient flows through this part's rows.
        (part.weight * adversarial + self.correlation_weight * correlation).backward()
        loss = adversarial.detach() + self.correlation_weight * correlation.detach()
        return {"generator_loss": loss, "correlation_loss": correlation.detach()}


def _own(x_BTF: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return features with zeros where a mask says that a timestep is padding."""
    return x_BTF if mask_BT is None else x_BTF * mask_BT.unsqueeze(2)


def _part(mask_BT: Tensor | None, part: Part) -> Tensor | None:
    return None if mask_BT is None else mask_BT[part.rows]
