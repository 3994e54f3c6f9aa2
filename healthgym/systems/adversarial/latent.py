"""Sources of the generator's noise.

Shapes: B batch, T timesteps, Z noise, M slots, E embedded features.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from healthgym.config import AdamConfig
from healthgym.distributed.share import WHOLE, Moments, Part, Share, var_mean_of
from healthgym.systems.adversarial.autoencoder import (
    Autoencoder,
    autoencoder_loss,
    latent_divergence,
    patient_mse,
)
from healthgym.systems.adversarial.losses import rows_of
from healthgym.systems.base import Draws, SampleDraws, State
from healthgym.systems.draws import to_index
from healthgym.systems.optimiser import Optimiser, copy_into, load_module_state, module_state
from healthgym.systems.update import update

# A patient's noise (60 x 128 numbers) outweighs all else in synthesis: few are held twice.
DRAWN_AT_ONCE = 64


class UniformLatent:
    """z ~ U(0,1), the noise of v1.

    Args:
        latent_dim: Z.
        device: of the noise.
    """

    def __init__(self, latent_dim: int, device: torch.device) -> None:
        self.latent_dim, self.device = latent_dim, device

    @property
    def num_filled(self) -> int:
        """Slots of the latent memory that hold a prototype."""
        return 0

    def count_step(self, num_rows: int) -> None:
        """Do Python's part of a step with this number of patients, after the device's."""

    def step_kind(self, num_rows: int) -> str | None:
        """Return a key: steps with equal keys share one CUDA graph. None if this step must not use one."""
        return ""

    def train_step(
        self, x_BTE: Tensor, draws: Draws, share: Share = WHOLE, mask_BT: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Learn from a batch of embedded features, or this process's share of one; return losses.

        A mask says which timesteps are the patients' own, where some are padding.
        """
        return {}

    def draw(self, name: str, num_rows: int, length: int, draws: Draws) -> Tensor:
        """Return noise (B, T, Z) for a training step; `name` is the update's, such as "critic/0"."""
        return self._place(draws.uniform(f"{name}/z", (num_rows, length, self.latent_dim)), None)

    def draw_patients(self, length: int, draws: SampleDraws) -> Tensor:
        """Return noise (B, T, Z) of the given patients of a cohort, each a function of its number."""
        z_TBZ = torch.empty(length, draws.num_patients, self.latent_dim, device=self.device)
        at_once = DRAWN_AT_ONCE if self.device.type == "cpu" else max(draws.num_patients, 1)
        for start in range(0, draws.num_patients, at_once):
            part = draws.part(start, at_once)
            # Each length has its own stream: rows of different widths in one stream would overlap.
            z = part.uniform_on(self.device, (length, self.latent_dim), length, "z")
            u = part.uniform_on(self.device, (), length, "slot")
            slot_B = to_index(u, self.num_filled) if self.num_filled else None
            placed_TBZ = self._place(z, slot_B).transpose(0, 1)
            z_TBZ[:, start : start + part.num_patients] = placed_TBZ
        return z_TBZ.transpose(0, 1)

    @property
    def slots(self) -> Tensor | None:
        """The filled slots of the latent memory, shape (M, Z); None for noise without one."""
        return None

    def prototypes(self, x_BTE: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Return each patient's prototype for the latent memory, shape (B, Z)."""
        raise NotImplementedError

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the trained module."""
        return ()

    def state(self) -> State:
        """Return the state for `load_state`."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state`."""

    def sampling_state(self) -> State:
        """Return the state that a patient's noise depends on."""
        return {}

    def load_sampling_state(self, state: Mapping[str, Any]) -> None:
        """Load the result of `sampling_state`, or a coarsened one."""

    def _place(self, z_BTZ: Tensor, slot_B: Tensor | None) -> Tensor:
        """Turn uniform numbers into noise."""
        return z_BTZ


class BufferedLatent(UniformLatent):
    """z scale + a prototype per patient, the noise of v2 and v2.5.

    An autoencoder embeds real timesteps. The latent memory (published name: Mean_Container) keeps one
    prototype per seen sequence, the time mean of its latents; the scale (published name: T_SD) is a
    running mean of their standard deviation.

    Args:
        embedded_dim: E, width of the autoencoder's input.
        hidden_dim: width of the autoencoder's layers.
        latent_dim: Z.
        num_slots: M, capacity of the latent memory.
        optimiser: settings of the autoencoder's Adam.
        device: of the memory.
    """

    def __init__(
        self,
        embedded_dim: int,
        hidden_dim: int,
        latent_dim: int,
        num_slots: int,
        optimiser: AdamConfig,
        device: torch.device,
    ) -> None:
        super().__init__(latent_dim, device)
        self.autoencoder = Autoencoder(embedded_dim, hidden_dim, latent_dim).to(device)
        self.optimiser = Optimiser(self.autoencoder, optimiser)
        self.slots_MZ = torch.zeros(num_slots, latent_dim, device=device)
        self.scale_Z = torch.ones(latent_dim, device=device)
        # The count exists twice, in Python and on the device, so that neither waits for the other.
        self._num_filled, self._filled = 0, torch.zeros((), dtype=torch.int64, device=device)

    @property
    def num_filled(self) -> int:
        return self._num_filled

    @property
    def slots(self) -> Tensor | None:
        return self.slots_MZ[: self._num_filled]

    def prototypes(self, x_BTE: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        return _time_mean(self.autoencoder(x_BTE)[0], mask_BT)

    def count_step(self, num_rows: int) -> None:
        self._num_filled = min(self._num_filled + num_rows, len(self.slots_MZ))

    def step_kind(self, num_rows: int) -> str | None:
        if self._num_filled + num_rows <= len(self.slots_MZ):
            return "filling"
        return "full" if self._num_filled == len(self.slots_MZ) else None

    def draw(self, name: str, num_rows: int, length: int, draws: Draws) -> Tensor:
        z_BTZ = draws.uniform(f"{name}/z", (num_rows, length, self.latent_dim))
        return self._place(z_BTZ, draws.index(f"{name}/slot", num_rows, self._filled))

    def train_step(
        self, x_BTE: Tensor, draws: Draws, share: Share = WHOLE, mask_BT: Tensor | None = None
    ) -> dict[str, Tensor]:
        parts = share.parts(len(x_BTE))
        if not share.whole(parts):
            return self._shared_step(x_BTE, draws, share, parts, mask_BT)
        latents: list[Tensor] = []

        def backward(part: Part) -> dict[str, Tensor]:
            latent_BTZ, reconstruction_BTE = self.autoencoder(x_BTE)
            loss = autoencoder_loss(x_BTE, latent_BTZ, reconstruction_BTE, mask_BT)
            loss.backward()
            latents.append(latent_BTZ.detach())
            return {"autoencoder_loss": loss.detach()}

        losses = update(self.optimiser, share, len(x_BTE), backward)
        (latent_BTZ,) = latents
        deviation_Z = latent_BTZ.std((0, 1)) if mask_BT is None else latent_BTZ[mask_BT].std(0)
        self._remember(_time_mean(latent_BTZ, mask_BT), deviation_Z, draws)
        return losses

    def _shared_step(
        self, x_BTE: Tensor, draws: Draws, share: Share, parts: Sequence[Part], mask_BT: Tensor | None
    ) -> dict[str, Tensor]:
        """The same with the global batch in several parts."""
        with torch.no_grad():
            latent_BTZ = torch.cat([self.autoencoder(x_BTE[part.rows])[0] for part in parts])
        moments = share.square_moments(rows_of(latent_BTZ, mask_BT), uneven=mask_BT is not None)

        def backward(part: Part) -> dict[str, Tensor]:
            own_BT = None if mask_BT is None else mask_BT[part.rows]
            return self._backward(x_BTE[part.rows], moments, part.weight, own_BT)

        losses = update(self.optimiser, share, len(x_BTE), backward)
        deviation_Z = (moments.co / (moments.count - 1)).sqrt()
        self._remember(share.all_rows(_time_mean(latent_BTZ, mask_BT)), deviation_Z, draws)
        return losses

    def _backward(
        self, x_BTE: Tensor, moments: Moments, weight: float, mask_BT: Tensor | None
    ) -> dict[str, Tensor]:
        """Add a part's gradients to the autoencoder's; return its loss."""
        latent_BTZ, reconstruction_BTE = self.autoencoder(x_BTE)
        divergence = latent_divergence(*var_mean_of(rows_of(latent_BTZ, mask_BT), moments))
        error = patient_mse(reconstruction_BTE, x_BTE, mask_BT)
        (weight * error + divergence).backward()
        return {"autoencoder_loss": error.detach() + divergence.detach()}

    def parameters(self) -> Iterable[nn.Parameter]:
        return self.autoencoder.parameters()

    def state(self) -> State:
        return {
            "A": module_state(self.autoencoder),
            "Mean_Container": self.slots_MZ[: self._num_filled],
            "T_SD": self.scale_Z,
            "optimisers": {"A": self.optimiser.moments()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        load_module_state(self.autoencoder, state["A"])
        self.optimiser.load_moments(state["optimisers"]["A"])
        self._fill(torch.as_tensor(state["Mean_Container"]))
        copy_into(self.scale_Z, state["T_SD"])

    def sampling_state(self) -> State:
        """Return the scale, the slots, and how many prototypes each stands for: one, until made coarse."""
        ones_M = torch.ones(self._num_filled, dtype=torch.int64)
        return {
            "Mean_Container": self.slots_MZ[: self._num_filled],
            "Mean_Counts": ones_M,
            "T_SD": self.scale_Z,
        }

    def load_sampling_state(self, state: Mapping[str, Any]) -> None:
        slots, counts = torch.as_tensor(state["Mean_Container"]), torch.as_tensor(state["Mean_Counts"])
        # A centroid is drawn with the weight of the prototypes it represents.
        self._fill(slots.repeat_interleave(counts.to(slots.device), dim=0))
        copy_into(self.scale_Z, state["T_SD"])

    def _fill(self, prototypes_MZ: Tensor) -> None:
        """Replace the content of the memory by these prototypes."""
        self._num_filled = len(prototypes_MZ)
        self._filled.fill_(self._num_filled)
        self.slots_MZ.zero_()
        copy_into(self.slots_MZ[: self._num_filled], prototypes_MZ)

    def _remember(self, prototypes_BZ: Tensor, deviation_Z: Tensor, draws: Draws) -> None:
        """Add the batch's prototypes; over capacity, keep a draw with replacement from old and new."""
        capacity, filled = len(self.slots_MZ), self._num_filled + len(prototypes_BZ)
        if filled <= capacity:
            free_B = self._filled + torch.arange(len(prototypes_BZ), device=self.device)
            self.slots_MZ.index_copy_(0, free_B, prototypes_BZ)
            self._filled += len(prototypes_BZ)
        else:
            everything = torch.cat([self.slots_MZ[: self._num_filled], prototypes_BZ])
            self.slots_MZ.copy_(everything[draws.shared_index("autoencoder/slots", capacity, filled)])
            self._filled.fill_(capacity)
        self.scale_Z.add_(deviation_Z).mul_(0.5)

    def _place(self, z_BTZ: Tensor, slot_B: Tensor | None) -> Tensor:
        if slot_B is None:
            return z_BTZ * self.scale_Z
        # One pass over the noise, of which there is much (60 x 128 numbers a patient), which leaves it in the
        # order in which a recurrent generator reads it.
        placed_TBZ = torch.empty_like(z_BTZ.transpose(0, 1), memory_format=torch.contiguous_format)
        torch.addcmul(self.slots_MZ[slot_B], z_BTZ.transpose(0, 1), self.scale_Z, out=placed_TBZ)
        return placed_TBZ.transpose(0, 1)


def _time_mean(latent_BTZ: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return each patient's mean over timesteps, of its own ones where there is a mask."""
    if mask_BT is None:
        return latent_BTZ.mean(1)
    return (latent_BTZ * mask_BT.unsqueeze(2)).sum(1) / mask_BT.sum(1, keepdim=True)
