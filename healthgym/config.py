"""Settings: a tree of small frozen models that refuse a bad value with the reason.

A YAML file, `--set key.path=value` and a preset of the systems end in one `RunConfig`. All problems
are reported at once; an unknown key names the nearest known one.
"""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from healthgym.errors import ConfigError, HealthgymError, nearest

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StrictModel(BaseModel):
    """A frozen model without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True)


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
    """The denoiser of v3: `depth` times the length is halved, `hidden_dim` channels wide throughout."""

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
    """DDIM: some of the levels only; `eta` 0 draws no noise on the way, 1 as much as DDPM."""

    kind: Literal["ddim"] = "ddim"
    num_steps: Positive = 25
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0


class DPMSolverSamplerConfig(StrictModel):
    """DPM-Solver++(2M): some of the levels only, second order, no noise on the way."""

    kind: Literal["dpmpp"] = "dpmpp"
    num_steps: Positive = 25


class RejectConfig(StrictModel):
    """Drop a patient whose reals leave [-1, 1] and draw again, as published.

    A patient is given up after `max_attempts`, and the whole call once `min_acceptance` is not met by
    the first few hundred candidates: such a denoiser needs more training.
    """

    kind: Literal["reject"] = "reject"
    max_attempts: Positive = 100
    min_acceptance: Annotated[float, Field(ge=0, lt=1)] = 0.02


class ClampConfig(StrictModel):
    """Clip the predicted reals to [-1, 1] at every noise level; no patient is dropped."""

    kind: Literal["clamp"] = "clamp"


class DynamicConfig(StrictModel):
    """Dynamic thresholding: squeeze a patient's predicted reals so that this quantile fits [-1, 1]."""

    kind: Literal["dynamic"] = "dynamic"
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.995


class DiffusionAdamConfig(AdamConfig):
    """Adam with the second moment that v3 uses."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999


class DiffusionConfig(StrictModel):
    """v3: denoising diffusion along clinical time.

    Args:
        start: noise that sampling begins with; normal is N(0, I), as published, matched has the mean and
            the spread between patients that noised training data have at the last level.
        pad_to: timesteps of the denoiser's canvas; auto is the next length that its depth divides.
        ema_decay: keep an exponential moving average of the weights and sample from it; none if null.
        amp: mixed precision where the device is a GPU.
    """

    kind: Literal["diffusion"] = "diffusion"
    denoiser: UNetConfig = UNetConfig()
    schedule: NoiseScheduleConfig = NoiseScheduleConfig()
    sampler: Annotated[
        DDPMSamplerConfig | DDIMSamplerConfig | DPMSolverSamplerConfig, Field(discriminator="kind")
    ] = DDPMSamplerConfig()
    guardrail: Annotated[RejectConfig | ClampConfig | DynamicConfig, Field(discriminator="kind")] = (
        RejectConfig()
    )
    start: Literal["normal", "matched"] = "normal"
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


SYSTEM_PRESETS: dict[str, dict[str, Any]] = {
    "v1": {"kind": "wgan", "generator": {"kind": "bilstm"}, "latent": {"kind": "uniform"}},
    "v2": {"kind": "wgan", "generator": {"kind": "bilstm"}, "latent": {"kind": "buffered"}},
    "v2.5": {"kind": "wgan", "generator": {"kind": "transformer"}, "latent": {"kind": "buffered"}},
    "v3": {"kind": "diffusion"},
}


def preset_of(system: WGANConfig | DiffusionConfig) -> str:
    """Return the published system that a configuration is a setting of, e.g. "v2"."""
    values = flatten(system.model_dump(mode="json"))
    for name, preset in SYSTEM_PRESETS.items():
        if all(values.get(key) == value for key, value in flatten(preset).items()):
            return name
    return system.kind


SystemConfig = Annotated[WGANConfig | DiffusionConfig, Field(discriminator="kind")]


# --- a run ---------------------------------------------------------------------------------------


class CurriculumConfig(StrictModel):
    """Which lengths an epoch walks, and in which batches.

    `lengths: auto` means every `every` timesteps up to the longest length that enough patients have to
    fill a batch, `full` that length only; longer patients are cut there, and a run says how many.
    Patients shorter than a stage's length sit that stage out.
    """

    lengths: Literal["auto", "full"] | tuple[Positive, ...] = "auto"
    every: Positive = 10
    batch_size: Positive = 256

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
        matmul_precision: of float32 products, as `torch.set_float32_matmul_precision` has it: `highest` is
            float32, `high` TF32 on CUDA, `medium` bfloat16 where the device has it.
        cuda_graphs: on CUDA, record a step and launch it as one piece; elsewhere without effect.
        micro_batch_size: patients that a process computes at once; the gradients of its part of a batch
            are added up before each update, so that a small GPU computes what a large one does, up to
            the order of sums. All at once if null.
        data_on_device: whether the cohort's compact codes lie in the device's memory; `auto`: on CUDA, if
            they take at most a quarter of what is free there. Else each batch is read a step ahead.
        collective_seconds: with several processes, how long each waits for the others.
    """

    epochs: Positive = 100
    seed: int = 0
    log_every_steps: Positive = 10
    threads: Positive | Literal["auto"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    cuda_graphs: bool = False
    micro_batch_size: Positive | None = None
    data_on_device: bool | Literal["auto"] = "auto"
    collective_seconds: PositiveFloat = 600.0


class CheckpointConfig(StrictModel):
    """How often to save (whichever comes first) and how many checkpoints to keep."""

    every_steps: Positive = 1000
    every_minutes: PositiveFloat = 5.0
    keep: Annotated[int, Field(ge=2)] = 3


class RunConfig(StrictModel):
    """Everything that a training run is, beside the resources it runs on."""

    data: Path = Path("prepared.h5")
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
                    f"system '{preset}' is unknown{nearest(preset, SYSTEM_PRESETS)}; "
                    f"known are {', '.join(SYSTEM_PRESETS)}"
                )
            rest = {name: value for name, value in system.items() if name != "preset"}
            system = merge(SYSTEM_PRESETS[preset], rest)
        return {**values, "system": system}


# What may change between two starts of one run without changing a weight by more than the order of sums.
FREE_ON_RESUME = frozenset(
    {"training.micro_batch_size", "training.collective_seconds", "training.cuda_graphs"}
    | {"training.epochs", "training.log_every_steps", "training.threads", "training.device"}
    | {"training.data_on_device"}
    | {"checkpoint.every_steps", "checkpoint.every_minutes", "checkpoint.keep", "data"}
    | {"system.start"}
    | {f"system.sampler.{name}" for name in ("kind", "num_steps", "eta")}
    | {f"system.guardrail.{name}" for name in ("kind", "max_attempts", "min_acceptance", "quantile")}
)


def differences(old: StrictModel, new: StrictModel) -> list[str]:
    """Return a line per setting in which two configurations differ, e.g. "training.seed: 0 -> 1"."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    return [
        f"{name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, "(absent)") != after.get(name, "(absent)")
    ]


# --- reading -------------------------------------------------------------------------------------

M = TypeVar("M", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a mapping that has a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            name = self.construct_object(key_node, deep=True)
            if not isinstance(name, Hashable):
                raise ConfigError(
                    f"{key_node.start_mark.name}, line {key_node.start_mark.line + 1}: a key must be a "
                    f"word or a number, not a list or a mapping."
                )
            if name in seen:
                raise ConfigError(
                    f"{key_node.start_mark.name}, line {key_node.start_mark.line + 1}: "
                    f"the key '{name}' stands twice; keep one."
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, has a key twice, or is not a mapping.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            content = _UniqueKeyLoader(stream).get_single_data()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}. Give the path of a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must hold settings as 'key: value' lines, but holds {type(content).__name__}."
        )
    return content


def parse(
    model: type[M], values: Mapping[str, Any], where: str, error: type[HealthgymError] = ConfigError
) -> M:
    """Build a model, or report every problem at once.

    Args:
        model: the class to build.
        values: what was read.
        where: names the source in messages, e.g. the file's path.
        error: the class to raise.
    """
    try:
        return model.model_validate(values)
    except ValidationError as problems:
        lines = [_sentence(problem, model) for problem in problems.errors()]
        raise error(
            f"{where}: {len(lines)} problem(s)\n" + "\n".join(f"  - {line}" for line in lines)
        ) from None


def load(model: type[M], path: Path, overrides: Iterable[str] = ()) -> M:
    """Read a model from a YAML file and `key.path=value` overrides."""
    values = load_yaml(path)
    for override in overrides:
        values = merge(values, parse_override(override))
    return parse(model, values, str(path))


def parse_override(text: str) -> dict[str, Any]:
    """Turn "training.epochs=2" into {"training": {"epochs": 2}}; the value is read as YAML."""
    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text}: expected key.path=value, such as training.epochs=2.")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value '{raw}' is not valid YAML: {error}") from error
    for part in reversed(name.strip().split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` laid over it, mapping by mapping.

    Where `over` changes a mapping's `kind` or `preset`, it replaces the mapping, since the old keys
    belong to the old kind. A preset given as a bare word is merged as `{preset: word}`.
    """
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        if name == "system" and isinstance(value, Mapping) and isinstance(old, str | int | float):
            old = {"preset": str(old)}
        switches = isinstance(value, Mapping) and any(
            mark in value and isinstance(old, Mapping) and old.get(mark) != value[mark]
            for mark in ("kind", "preset")
        )
        merged[name] = (
            merge(old, value)
            if isinstance(old, Mapping) and isinstance(value, Mapping) and not switches
            else value
        )
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": value} for {"a": {"b": value}}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    """Turn one pydantic problem into a line for a user."""
    # Where a setting is one of several kinds, pydantic puts the kind into the path; a user's file has none.
    parts = [str(part) for part in problem["loc"] if part not in _kinds(model)]
    place = ".".join(parts) or "settings"
    if problem["type"] == "extra_forbidden":
        known = _field_names(model)
        return f"{place}: unknown key{nearest(problem['loc'][-1], known)}"
    if problem["type"] == "missing":
        return f"{place}: is required and missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool | list | tuple) else ""
    return f"{place}: {message}{shown}"


def _kinds(model: type[BaseModel]) -> set[Any]:
    """Return every value that a field named `kind` may have in a model and in the models inside it."""
    return {
        name
        for inner in _models(model)
        if "kind" in inner.model_fields
        for name in get_args(inner.model_fields["kind"].annotation)
    }


def _models(model: Any, seen: frozenset[Any] = frozenset()) -> set[type[BaseModel]]:
    """Return a model and all models inside it."""
    found: set[type[BaseModel]] = set()
    if isinstance(model, type) and issubclass(model, BaseModel) and model not in seen:
        found.add(model)
        for field in model.model_fields.values():
            found |= _models(field.annotation, seen | {model})
    for inner in get_args(model):
        found |= _models(inner, seen)
    return found


def _field_names(model: Any) -> set[str]:
    """Return the names of all fields of a model and of the models inside it."""
    return {name for inner in _models(model) for name in inner.model_fields}
