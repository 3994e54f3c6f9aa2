"""v3: denoising diffusion along clinical time.

Reals and one-hot blocks are recentred from [0, 1] to [-1, 1], laid out (B, F, T) and right-padded with
zeros to a canvas, whose padding a mask keeps out of the losses.

Source: Ho et al. 2020; Kuo et al. 2023, arXiv 2303.12281.
Shapes: B batch, F features, R reals, T timesteps, P timesteps of the canvas, S noise levels.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from healthgym.config import ClampConfig, DiffusionConfig, DPMSolverSamplerConfig, OptimiserConfig
from healthgym.distributed.share import Part
from healthgym.errors import ConfigError
from healthgym.nn.cuda_graphs import Capture, CapturedMap, CudaCapture
from healthgym.nn.precision import bfloat16_is_wanted, get_precision
from healthgym.nn.unet import UNet1d, shape_table
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.base import Batch, Draws, Made, SampleDraws, State, System
from healthgym.systems.denoising.guardrail import build_guardrail, give_up
from healthgym.systems.denoising.samplers import Prediction, build_sampler, constant_level
from healthgym.systems.noise import NoiseSchedule, blended_reconstruction, masked_mse, patient_mse
from healthgym.systems.optimiser import Optimiser, copy_into, load_module_state, module_state
from healthgym.systems.update import update

CACHED_PATIENTS = 128  # that a core makes fastest at once: a sixth less time than 512 at medium precision
_PREVIEW_LEVELS = 25  # of DPM-Solver++
_SCORE_SHARPNESS = 2.0  # any positive number: scores are only compared, and averaged for static variables


class DiffusionSystem(System):
    """A U-Net that predicts noise, with a sampler and a guardrail.

    Attributes:
        new_capture: returns what captures the denoiser as a CUDA graph for sampling; None to sample without
            graphs, as on a CPU.

    Args:
        config: all settings.
        layout: meaning of the features.
        device: of the system.
    """

    preview_cost: ClassVar[float] = _PREVIEW_LEVELS / 3  # a training step has a pass and its gradient

    def __init__(self, config: DiffusionConfig, layout: FeatureLayout, device: torch.device) -> None:
        self.config, self.layout, self.device = config, layout, device
        schedule, net = config.schedule, config.denoiser
        self.schedule = NoiseSchedule.linear(
            schedule.num_levels, schedule.first_beta, schedule.last_beta, device
        )
        self.denoiser = UNet1d(
            layout.num_features, net.hidden_dim, net.depth, schedule.num_levels, net.level_embedding_dim
        ).to(device)
        self.optimiser = Optimiser(self.denoiser, _optimiser_settings(config))
        self.sampler, self.guardrail = build_sampler(config.sampler), build_guardrail(config.guardrail)
        # Of the patients' time means in [-1, 1]: their number, sum and sum of squares.
        self.means_3F = torch.zeros(3, layout.num_features, dtype=torch.float64, device=device)
        on_cuda = device.type == "cuda"
        self.new_capture: Callable[[], Capture] | None = (lambda: CudaCapture(device)) if on_cuda else None
        self._maps: dict[tuple[object, ...], CapturedMap] = {}
        self.trained_length = 0
        # Whether stages divide the patients by length, so that each length has patients of its own kind.
        self.divided = False
        self.num_candidates = 0

    # --- training --------------------------------------------------------------------------------

    def compute_step(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x_BTF, mask_BT = batch.x_BTF, batch.mask_BT if batch.is_padded else None
        x_BFP, mask_B1P = self.to_canvas(x_BTF, mask_BT)
        mse = masked_mse if mask_BT is None else patient_mse

        def backward(part: Part) -> dict[str, Tensor]:
            own = draws.from_row(part.first_row)
            return self._backward(x_BFP[part.rows], mask_B1P[part.rows], own, part.weight, mse)

        losses = update(self.optimiser, self.share, len(x_BFP), backward)
        mean_BF = 2.0 * _time_mean(x_BTF, mask_BT).double() - 1.0
        sums = [torch.ones_like(mean_BF).sum(0), mean_BF.sum(0), mean_BF.square().sum(0)]
        self.means_3F += self.share.ranks.sum(torch.stack(sums))
        return losses

    def count_step(self, batch: Batch) -> None:
        self.trained_length = max(self.trained_length, batch.num_timesteps)
        self.divided |= batch.is_padded

    def step_kind(self, batch: Batch) -> Hashable | None:
        # The scaler of float16 decides in Python whether to skip a step.
        scaled = self.optimiser.scaler.is_enabled()
        return None if scaled else (tuple(batch.codes_BTK.shape), batch.is_padded)

    def _backward(
        self,
        x_BFP: Tensor,
        mask_B1P: Tensor,
        draws: Draws,
        weight: float,
        mse: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """Add a part's gradients to the denoiser's; return its losses.

        Of patients of one length a mean under the mask is a mean over patients; of others `mse` makes it one.
        """
        level_B = draws.index("level", len(x_BFP), self.schedule.num_levels)
        eta_BFP = draws.normal("noise", tuple(x_BFP.shape))
        blend_BFP = draws.uniform("blend", tuple(x_BFP.shape))
        noised_BFP = self.schedule.add_noise(x_BFP, eta_BFP, level_B)
        with self.optimiser.autocast():
            eps_BFP = self.denoiser(noised_BFP, level_B).to(x_BFP.dtype)
        noise_loss = mse(eps_BFP, eta_BFP, mask_B1P)
        clean_BFP = blended_reconstruction(self.schedule, noised_BFP, eps_BFP, eta_BFP, blend_BFP, level_B)
        reconstruction_loss = mse(clean_BFP, x_BFP, mask_B1P)
        loss = noise_loss + self.config.reconstruction_weight * reconstruction_loss
        self.optimiser.backward(weight * loss)
        return {
            "loss": loss.detach(),
            "noise_loss": noise_loss.detach(),
            "reconstruction_loss": reconstruction_loss.detach(),
        }

    def to_canvas(self, x_BTF: Tensor, mask_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the recentred, padded data (B, F, P) and the mask of its timesteps (B, 1, P).

        Timesteps that are padding already are zeros there too.
        """
        length = x_BTF.shape[1]
        padding = (0, self.canvas(length) - length)
        mask_B1T = x_BTF.new_ones(len(x_BTF), 1, length)
        x_BFT = (2.0 * x_BTF - 1.0).transpose(1, 2)
        if mask_BT is not None:
            mask_B1T = mask_BT.unsqueeze(1).to(x_BTF.dtype)
            x_BFT = x_BFT * mask_B1T
        return functional.pad(x_BFT, padding), functional.pad(mask_B1T, padding)

    def canvas(self, length: int) -> int:
        """Return P for sequences of `length` timesteps.

        Raises:
            ConfigError: they do not fit the canvas that was set, or it is too short for the depth.
        """
        depth, pad_to = self.config.denoiser.depth, self.config.pad_to
        unit = int(2**depth)
        if pad_to == "auto":
            return -(-length // unit) * unit
        if max(length, unit) > pad_to:
            raise ConfigError(
                f"Sequences of {length} timesteps and system.denoiser.depth = {depth} need system.pad_to of "
                f"{max(length, unit)} or more, but it is {pad_to}. Raise it, or set it to auto."
            )
        return pad_to

    # --- sampling --------------------------------------------------------------------------------

    @torch.no_grad()
    def sample_features(self, length: int, seed: int, first_patient: int, num_patients: int) -> Tensor:
        """Sample patients; a patient rejected by the guardrail is sampled again from new noise.

        The noise is a function of (seed, patient, attempt), so that one patient's acceptance moves no
        other's noise.

        Raises:
            SamplingError: too few candidates pass, or none of a patient's attempts does.
        """
        draws = SampleDraws(seed, first_patient, num_patients)
        x_BFT = torch.empty(num_patients, self.layout.num_features, length, device=self.device)
        waiting, candidates = torch.arange(num_patients), 0
        for attempt in range(self.guardrail.max_attempts):
            patients = [first_patient + int(row) for row in waiting]
            tried_BFT = self._candidates(length, draws, patients, attempt)
            passed = self.guardrail.accepts(tried_BFT[:, : self.layout.num_reals]).cpu()
            x_BFT[waiting[passed]] = tried_BFT[passed]
            waiting, candidates = waiting[~passed], candidates + len(patients)
            accepted = num_patients - len(waiting)
            if not len(waiting):
                break
            if hopeless := self.guardrail.hopeless(candidates, accepted):
                raise hopeless
        else:
            raise give_up(first_patient + int(waiting[0]), attempt + 1, candidates, accepted)
        self.num_candidates += candidates
        return self.from_canvas(x_BFT)

    def preview(self, lengths_B: NDArray[np.integer[Any]], draws: SampleDraws, length: int) -> Made:
        """Make patients by a fast sampler, with clipped reals, whatever the settings of sampling are."""
        kept = self.sampler, self.guardrail, self.num_candidates
        num_steps = min(_PREVIEW_LEVELS, self.schedule.num_levels)
        self.sampler = build_sampler(DPMSolverSamplerConfig(num_steps=num_steps))
        self.guardrail = build_guardrail(ClampConfig())
        try:
            return self.sample(lengths_B, draws, length)
        finally:
            self.sampler, self.guardrail, self.num_candidates = kept

    def from_canvas(self, x_BFT: Tensor) -> Tensor:
        """Return x_BTF: reals in [0, 1], each categorical block scores that sum to 1."""
        x_BTF = x_BFT.transpose(1, 2)
        blocks = [((x_BTF[..., : self.layout.num_reals] + 1.0) / 2.0).clamp(0.0, 1.0)]
        blocks += [(_SCORE_SHARPNESS * x_BTF[..., span]).softmax(-1) for span in self.layout.spans]
        return torch.cat(blocks, -1)

    def _candidates(self, length: int, draws: SampleDraws, patients: list[int], attempt: int) -> Tensor:
        """Return one attempt for each of the patients, (B, F, T) in [-1, 1] but for the guardrail."""
        # Shorter patients are cut from what the denoiser was trained to make, unless it learned each length
        # from other patients.
        whole = length if self.divided else max(self.trained_length, length)
        canvas = self.canvas(whole)
        streams = [draws.stream(patient, attempt) for patient in patients]

        def draw() -> Tensor:
            x_BFP = torch.empty(len(patients), self.layout.num_features, canvas)
            for row, stream in zip(x_BFP.numpy(), streams, strict=True):
                stream.standard_normal(dtype=row.dtype.type, out=row)
            return x_BFP.to(self.device)

        def denoise(x_BFP: Tensor, level: int) -> Prediction:
            level_1 = constant_level(level, x_BFP[:1])
            if self.new_capture is not None:
                return Prediction(**self._captured(whole, self.new_capture)(x_BFP, level_1))
            return self._denoise(x_BFP, level_1, whole)

        start_BFP = draw()
        if self.config.start == "matched":
            start_BFP = self._match(start_BFP, streams, whole)
        return self.sampler(self.schedule, denoise, draw, start_BFP)[..., :length]

    def _denoise(self, x_BFP: Tensor, level_1: Tensor, whole: int) -> Prediction:
        """Return the prediction at a noise level, with the guardrail's correction of the first timesteps."""
        num_reals = self.layout.num_reals
        at_once = CACHED_PATIENTS if self.device.type == "cpu" else len(x_BFP)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16_is_wanted(self.device)):
            parts = [self._sampled(part_BFP, level_1) for part_BFP in x_BFP.split(at_once)]
        eps_BFP = torch.cat(parts).to(x_BFP.dtype)
        clean_BFP = self.schedule.remove_noise(x_BFP, eps_BFP, level_1)
        reals_BRT = clean_BFP[:, :num_reals, :whole]
        corrected_BRT = self.guardrail.correct(reals_BRT) if num_reals else reals_BRT
        if corrected_BRT is not reals_BRT:
            clean_BFP[:, :num_reals, :whole] = corrected_BRT
            eps_BFP = self.schedule.noise_in(x_BFP, clean_BFP, level_1)
        return Prediction(clean_BFP, eps_BFP)

    def _captured(self, whole: int, new_capture: Callable[[], Capture]) -> CapturedMap:
        """`_denoise` as a CUDA graph for each shape of a batch; one graph serves all noise levels."""
        kind = type(self.guardrail), whole, get_precision()
        if kind not in self._maps:
            self._maps[kind] = CapturedMap(
                lambda x_BFP, level_1: self._denoise(x_BFP, level_1, whole)._asdict(), new_capture()
            )
        return self._maps[kind]

    def _match(self, eta_BFP: Tensor, streams: Sequence[np.random.Generator], whole: int) -> Tensor:
        """Return noise as the last level has it, for data that are constant over time.

            x_S = sqrt(alpha_bar_S) m + sqrt(1 - alpha_bar_S) eta,   m ~ N(mean, sd^2) per feature

        The published schedule leaves alpha_bar_S = 0.08 of the data's variance at its last level. The
        denoiser has learned to read the mean over many timesteps from it, and reads from N(0, I) that
        every class is as likely as not: rare classes come out too often, static ones most of all.

        Source: the fault is that of Lin et al. 2024, *Common diffusion noise schedules and sample steps
        are flawed*, section 3.1; the remedy is our own.
        """
        count_F, sum_F, squares_F = self.means_3F.cpu()
        mean_F = sum_F / count_F.clamp(min=1.0)
        sd_F = (squares_F / count_F.clamp(min=1.0) - mean_F.square()).clamp(min=0.0).sqrt()
        normal_BF = torch.from_numpy(np.stack([stream.standard_normal(len(mean_F)) for stream in streams]))
        constant_BF1 = (mean_F + sd_F * normal_BF).float().to(self.device)[..., None]
        matched_BFP = eta_BFP.clone()
        last_B = constant_level(self.schedule.num_levels - 1, eta_BFP)
        kept_BFT = eta_BFP[..., :whole]
        matched_BFP[..., :whole] = self.schedule.add_noise(constant_BF1, kept_BFT, last_B)
        matched_BFP[..., whole:] *= (1.0 - self.schedule.alpha_bar_S[-1]).sqrt()
        return matched_BFP

    # --- state -----------------------------------------------------------------------------------

    def state(self) -> State:
        state: State = {
            "denoiser": module_state(self.denoiser),
            "optimisers": {"denoiser": self.optimiser.moments()},
            "seen": self._seen(),
        }
        if self.optimiser.average is not None:
            state["average"] = module_state(self.optimiser.average)
        return state | self.optimiser.scaler_state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        load_module_state(self.denoiser, state["denoiser"])
        self.optimiser.load_moments(state["optimisers"]["denoiser"])
        self._load_seen(state["seen"])
        if self.optimiser.average is not None:
            load_module_state(self.optimiser.average, state["average"])
        self.optimiser.load_scaler_state(state)

    def sampling_state(self) -> State:
        return {"denoiser": module_state(self._sampled), "seen": self._seen()}

    def released_state(self, longest: int) -> State:
        seen = self._seen() | {"trained_length": torch.tensor(min(self.trained_length, longest))}
        return self.sampling_state() | {"seen": seen}

    def load_sampling_state(self, state: Mapping[str, Any]) -> None:
        load_module_state(self._sampled, state["denoiser"])
        self._load_seen(state["seen"])

    @property
    def _sampled(self) -> nn.Module:
        """The network used for sampling."""
        return self.optimiser.average or self.denoiser

    def _seen(self) -> State:
        return {
            "means": self.means_3F,
            "num_updates": self.optimiser.num_updates,
            "trained_length": torch.tensor(self.trained_length),
            "divided": torch.tensor(int(self.divided)),
        }

    def _load_seen(self, seen: Mapping[str, Any]) -> None:
        copy_into(self.means_3F, seen["means"])
        copy_into(self.optimiser.num_updates, seen["num_updates"])
        self.trained_length = int(seen["trained_length"])
        self.divided = bool(int(seen.get("divided", 0)))

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.denoiser.parameters())

    def check_length(self, length: int) -> None:
        self.canvas(length)

    def shapes(self, length: int) -> str:
        canvas = self.canvas(length)
        note = f"{length} timesteps, right-padded to a canvas of {canvas}" if canvas > length else ""
        first, *others = self.denoiser.stages(canvas)
        return shape_table([replace(first, note=note), *others])


def _optimiser_settings(config: DiffusionConfig) -> OptimiserConfig:
    return OptimiserConfig(
        **config.optimiser.model_dump(),
        gradient_clip=config.gradient_clip,
        average_decay=config.ema_decay,
        amp=config.amp,
    )


def _time_mean(x_BTF: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return each patient's mean over timesteps, of its own ones where there is a mask."""
    if mask_BT is None:
        return x_BTF.mean(1)
    return (x_BTF * mask_BT.unsqueeze(2)).sum(1) / mask_BT.sum(1, keepdim=True)
