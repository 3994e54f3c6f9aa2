"""Settings: a tree of small frozen models that validate their values.

A YAML file, `--set key.path=value` and a system's preset are merged into one `RunConfig`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from healthgym.errors import nearest
from healthgym.strict import Mark, NotNegative, Positive, PositiveFloat, StrictModel, flatten, marked, merge

LEAST_PATIENTS = 10
"""Default number of training patients that each cell of a real variable, and each group asked for, has."""

# --- systems -------------------------------------------------------------------------------------


class BiLSTMGeneratorConfig(StrictModel):
    """The generator of v1 and v2: two LSTMs, one over the time-reversed noise."""

    kind: Literal["bilstm"] = "bilstm"
    hidden_dim: Positive = 128


class TransformerGeneratorConfig(StrictModel):
    """The generator of v2.5: three blocks of self-attention over noise of width `latent_dim`."""

    kind: Literal["transformer"] = "transformer"
    num_heads: Positive = 8
    num_positions: Positive = 100


class UniformLatentConfig(StrictModel):
    """The noise of v1: z ~ U(0,1)."""

    kind: Literal["uniform"] = "uniform"
    latent_dim: Positive = 128


class BufferedLatentConfig(StrictModel):
    """The latent memory of v2 and v2.5: an autoencoder's prototypes shift the noise."""

    kind: Literal["buffered"] = "buffered"
    latent_dim: Positive = 128
    hidden_dim: Positive = 128
    num_slots: Positive = 10_000


class CriticConfig(StrictModel):
    """The WGAN's critic."""

    hidden_dim: Positive = 128
    num_updates: Positive = 5
    gradient_penalty_weight: NotNegative = 10.0


class AdamConfig(StrictModel):
    """Adam (Kingma and Ba 2015), one instance per network."""

    learning_rate: PositiveFloat = 1e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99


class OptimiserConfig(AdamConfig):
    """Adam with optional schedule, clipping, averaging and mixed precision (`healthgym.systems.optimiser`).

    Args:
        weight_decay: decoupled from the gradient (AdamW, Loshchilov and Hutter 2019); only matrices decay,
            not vectors such as biases and norms.
        schedule: of the learning rate; cosine falls from `learning_rate` to 0 over the planned steps.
        warmup_steps: number of first steps in which the learning rate rises linearly, with any schedule.
        gradient_clip: largest norm of the gradient; no clipping if null.
        average_decay: decay of an exponential moving average of the weights; none if null.
        amp: mixed precision on a GPU; `training.matmul_precision: medium` turns it on anywhere.
    """

    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    gradient_clip: PositiveFloat | None = None
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    amp: bool = False


class WGANConfig(StrictModel):
    """v1, v2 and v2.5: WGAN-GP with a correlation loss."""

    kind: Literal["wgan"] = "wgan"
    generator: Annotated[BiLSTMGeneratorConfig | TransformerGeneratorConfig, Field(discriminator="kind")] = (
        BiLSTMGeneratorConfig()
    )
    latent: Annotated[UniformLatentConfig | BufferedLatentConfig, Field(discriminator="kind")] = (
        BufferedLatentConfig()
    )
    critic: CriticConfig = CriticConfig()
    correlation_weight: NotNegative = 10.0
    optimiser: AdamConfig = AdamConfig()


class UNetConfig(StrictModel):
    """The denoiser of v3: the length is halved `depth` times, with `hidden_dim` channels at every level."""

    hidden_dim: Annotated[int, Field(ge=16, multiple_of=8)] = 256
    depth: Positive = 3
    level_embedding_dim: Annotated[int, Field(gt=0, multiple_of=2)] = 128


class NoiseScheduleConfig(StrictModel):
    """How fast noise is added: beta rises linearly over the noise levels."""

    num_levels: Annotated[int, Field(ge=2)] = 500
    first_beta: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    last_beta: Annotated[float, Field(gt=0, lt=1)] = 0.01

    @model_validator(mode="after")
    def _rising(self) -> "NoiseScheduleConfig":
        if self.first_beta > self.last_beta:
            raise ValueError("first_beta must not exceed last_beta")
        return self


class DDPMSamplerConfig(StrictModel):
    """Ancestral sampling through every noise level, as published."""

    kind: Literal["ddpm"] = "ddpm"


class DDIMSamplerConfig(StrictModel):
    """DDIM: a subset of the levels; `eta` 0 adds no noise between levels, 1 as much as DDPM."""

    kind: Literal["ddim"] = "ddim"
    num_steps: Positive = 25
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0


class DPMSolverSamplerConfig(StrictModel):
    """DPM-Solver++(2M): a subset of the levels, second order, no noise between levels."""

    kind: Literal["dpmpp"] = "dpmpp"
    num_steps: Positive = 25


class RejectConfig(StrictModel):
    """Reject a patient whose reals leave [-1, 1] and sample again, as published.

    Sampling fails if a patient is rejected `max_attempts` times, or if the acceptance rate of the first few
    hundred candidates is below `min_acceptance`: such a denoiser needs more training.
    """

    kind: Literal["reject"] = "reject"
    max_attempts: Positive = 100
    min_acceptance: Annotated[float, Field(ge=0, lt=1)] = 0.02


class ClampConfig(StrictModel):
    """Clip the predicted reals to [-1, 1] at every noise level; no patient is rejected."""

    kind: Literal["clamp"] = "clamp"


class DynamicConfig(StrictModel):
    """Dynamic thresholding: scale a patient's predicted reals so that this quantile fits [-1, 1]."""

    kind: Literal["dynamic"] = "dynamic"
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.995


class DiffusionAdamConfig(AdamConfig):
    """Adam with the second moment that v3 uses."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999


class DiffusionConfig(StrictModel):
    """v3: denoising diffusion along clinical time.

    Args:
        start: the initial noise of sampling; normal is N(0, I), as published; matched has the mean and the
            standard deviation between patients of noised training data at the last level.
        pad_to: timesteps that the denoiser's input is padded to; auto is the next length divisible by
            2^depth.
        ema_decay: decay of an exponential moving average of the weights, which is used for sampling; none if
            null.
        amp: mixed precision in training on a GPU; `training.matmul_precision: medium` turns it on anywhere.
    """

    kind: Literal["diffusion"] = "diffusion"
    denoiser: UNetConfig = UNetConfig()
    schedule: NoiseScheduleConfig = NoiseScheduleConfig()
    sampler: Annotated[
        DDPMSamplerConfig | DDIMSamplerConfig | DPMSolverSamplerConfig,
        Field(discriminator="kind"),
        Mark.SAMPLING,
    ] = DDPMSamplerConfig()
    guardrail: Annotated[
        RejectConfig | ClampConfig | DynamicConfig, Field(discriminator="kind"), Mark.SAMPLING
    ] = RejectConfig()
    start: Annotated[Literal["normal", "matched"], Mark.SAMPLING] = "normal"
    reconstruction_weight: NotNegative = 20.0
    pad_to: Positive | Literal["auto"] = "auto"
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    amp: bool = True
    gradient_clip: PositiveFloat = 1.0
    optimiser: DiffusionAdamConfig = DiffusionAdamConfig()

    @model_validator(mode="after")
    def _enough_levels(self) -> "DiffusionConfig":
        steps = getattr(self.sampler, "num_steps", 1)
        if steps > self.schedule.num_levels:
            raise ValueError(
                f"sampler.num_steps is {steps}, but there are only schedule.num_levels = "
                f"{self.schedule.num_levels}; take at most as many steps as levels"
            )
        return self


class AutoregressiveOptimiserConfig(OptimiserConfig):
    """AdamW with a cosine schedule, clipping and a moving average, as used by `ar`."""

    learning_rate: PositiveFloat = 2e-3
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    weight_decay: NotNegative = 0.05
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    gradient_clip: PositiveFloat | None = 1.0
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.998


class AutoregressiveConfig(StrictModel):
    """ar: a patient's variables are sampled one after the other; trained by maximum likelihood.

    Args:
        width: of the trunk over timesteps; auto chooses this and the next two by the number of training
            patients.
        num_layers: of the trunk.
        num_heads: of the trunk's attention; must divide the width.
        hidden_dim: width of the small network of each decision.
        embedding_dim: width of the embedding of each class that the trunk reads.
        dropout: share of entries dropped in training; auto by the number of training patients.
        temperature: divides the logits in sampling; 1 is the learned distribution, less prefers likely
            values.
    """

    kind: Literal["autoregressive"] = "autoregressive"
    width: Positive | Literal["auto"] = "auto"
    num_layers: Positive | Literal["auto"] = "auto"
    num_heads: Positive | Literal["auto"] = "auto"
    hidden_dim: Positive = 64
    embedding_dim: Positive = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    temperature: Annotated[PositiveFloat, Mark.SAMPLING] = 1.0
    optimiser: AutoregressiveOptimiserConfig = AutoregressiveOptimiserConfig()


SYSTEM_PRESETS: dict[str, dict[str, Any]] = {
    "v1": {"kind": "wgan", "generator": {"kind": "bilstm"}, "latent": {"kind": "uniform"}},
    "v2": {"kind": "wgan", "generator": {"kind": "bilstm"}, "latent": {"kind": "buffered"}},
    "v2.5": {"kind": "wgan", "generator": {"kind": "transformer"}, "latent": {"kind": "buffered"}},
    "v3": {"kind": "diffusion"},
    "ar": {"kind": "autoregressive"},
}


def preset_of(system: WGANConfig | DiffusionConfig | AutoregressiveConfig) -> str:
    """Return the name of the system that a configuration belongs to, e.g. "v2"."""
    values = flatten(system.model_dump(mode="json"))
    for name, preset in SYSTEM_PRESETS.items():
        if all(values.get(key) == value for key, value in flatten(preset).items()):
            return name
    return system.kind


SystemConfig = Annotated[WGANConfig | DiffusionConfig | AutoregressiveConfig, Field(discriminator="kind")]


# --- a run ---------------------------------------------------------------------------------------


class CurriculumConfig(StrictModel):
    """The lengths of an epoch's stages, and the batch size.

    If all patients have the same number of timesteps, `lengths: auto` means every `every` timesteps up to
    that number, and `full` that number only. If lengths differ, `auto` groups the patients by length into
    stages of at least one batch each, and `full` makes one stage of all; all patients train at full length,
    padded and masked to the length of their stage. With a list of lengths, each stage has the patients of at
    least its length, shortened to it; patients shorter than the first stage are left out, and the run does
    not start if their share of the training patients exceeds `accept_left_out`. `whole` is one stage with all
    patients at full length, for systems that learn from patients of different lengths in one batch (their
    `auto`) and for no others. Its batches are smaller than `batch_size` if an epoch would otherwise have
    fewer than 22 steps.
    """

    lengths: Literal["auto", "full", "whole"] | tuple[Positive, ...] = "auto"
    every: Positive = 10
    batch_size: Positive = 256
    accept_left_out: Annotated[float, Field(ge=0, le=1)] = 0.02

    @model_validator(mode="after")
    def _increasing(self) -> "CurriculumConfig":
        if not isinstance(self.lengths, str) and (
            not self.lengths or any(a >= b for a, b in zip(self.lengths, self.lengths[1:], strict=False))
        ):
            raise ValueError("lengths must be a list of increasing numbers, such as [10, 20, 30], or auto")
        return self


class TrainingConfig(StrictModel):
    """How long to train, from which seed, and how often to report.

    Args:
        epochs: maximal number; `auto` is 100, and for systems that learn from whole patients it decreases
            with the number of patients: 20 at 3,500, between 3 and 60.
        minutes: limit of the training time, summed over all starts. The number of steps that fit is decided
            once, from the time of the first steps, and the learning-rate schedule is adapted to it. No limit
            if null.
        validation: share of the training patients used for validation, at least 10 and at most 2,000: `ar`
            computes their likelihood, v1 to v3 compare sampled patients with them. The weights with the
            lowest validation loss or distance are used for synthesis. No validation if 0.
        validate_on: `held_out`: the validation patients are not trained on. `training`, for v1 to v3 only:
            all patients are trained on. `auto`: held out for `ar`, `training` for v1 to v3.
        validate_every_steps: steps between two validations; `auto`: an epoch, but at most 1,000 steps; for v1
            to v3 whole epochs of at least 100 steps, and at most about 5% of the training time.
        patience: number of successive validations without improvement after which training stops; `auto`: 15%
            of the planned validations, but at least 5, after which v1 to v3 only print a note; never if null.
        matmul_precision: `highest` is float32, `high` TF32 on CUDA, `medium` bfloat16 if the device supports
            it; see `healthgym.nn.precision`.
        cuda_graphs: on CUDA, capture a step as a CUDA graph and replay it, with the same results; without
            effect elsewhere. `auto`: with a single process. With several, NCCL's reductions are captured too,
            but the timeout `collective_seconds` does not interrupt a graph.
        micro_batch_size: patients per forward and backward pass of a process; gradients are accumulated
            before each update, so that a small GPU gets the same result as a large one, up to the order of
            sums. The whole batch if null.
        data_on_device: whether the cohort's compact codes are kept in the device's memory; `auto`: on CUDA,
            if they take at most a quarter of the free memory. Otherwise each batch is read a step ahead.
        collective_seconds: with several processes, timeout of each collective.
    """

    epochs: Annotated[Positive | Literal["auto"], Mark.FREE] = "auto"
    minutes: Annotated[PositiveFloat | None, Mark.FREE] = None
    validation: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    validate_on: Literal["auto", "held_out", "training"] = "auto"
    validate_every_steps: Positive | Literal["auto"] = "auto"
    patience: Annotated[Positive | Literal["auto"] | None, Mark.FREE] = "auto"
    seed: int = 0
    log_every_steps: Annotated[Positive, Mark.FREE] = 10
    threads: Annotated[Positive | Literal["auto"], Mark.FREE] = "auto"
    device: Annotated[Literal["auto", "cpu", "cuda"], Mark.FREE] = "auto"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    cuda_graphs: Annotated[bool | Literal["auto"], Mark.FREE] = "auto"
    micro_batch_size: Annotated[Positive | None, Mark.FREE] = None
    data_on_device: Annotated[bool | Literal["auto"], Mark.FREE] = "auto"
    collective_seconds: Annotated[PositiveFloat, Mark.FREE] = 600.0


class CheckpointConfig(StrictModel):
    """How often to save (steps or minutes, whichever comes first), and how many checkpoints to keep."""

    every_steps: Annotated[Positive, Mark.FREE] = 1000
    every_minutes: Annotated[PositiveFloat, Mark.FREE] = 5.0
    keep: Annotated[int, Field(ge=2), Mark.FREE] = 3


class RunConfig(StrictModel):
    """All settings of a training run, without the resources it runs on."""

    data: Annotated[Path, Mark.FREE] = Path("prepared.h5")
    system: SystemConfig = WGANConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    training: TrainingConfig = TrainingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, values: Any) -> Any:
        """Let `system: v2` or `system: {preset: v2, ...}` stand for the published settings."""
        if not isinstance(values, dict) or "system" not in values:
            return values
        system = values["system"]
        if isinstance(system, str | int | float):
            system = {"preset": str(system)}
        if isinstance(system, dict) and "preset" in system:
            preset = str(system["preset"])
            if preset not in SYSTEM_PRESETS:
                raise ValueError(
                    f"system '{preset}' is unknown{nearest(preset, SYSTEM_PRESETS)}; known are "
                    f"{', '.join(SYSTEM_PRESETS)}"
                )
            rest = {name: value for name, value in system.items() if name != "preset"}
            system = merge(SYSTEM_PRESETS[preset], rest)
        return {**values, "system": system}


SAMPLING_SETTINGS = marked(RunConfig, Mark.SAMPLING)
"""Settings that affect only how a trained system samples."""

FREE_ON_RESUME = marked(RunConfig, Mark.SAMPLING, Mark.FREE)
"""Settings that may change between two starts of one run."""
