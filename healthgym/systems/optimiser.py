"""Adam with learning-rate schedule, weight decay, clipping, moving average and mixed precision.

All of it works inside a CUDA graph: values that change from step to step are on the device.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from healthgym.config import AdamConfig, OptimiserConfig
from healthgym.errors import StorageError, TableError
from healthgym.nn.precision import bfloat16_is_wanted
from healthgym.systems.base import State


class Optimiser:
    """Trains one network.

    Attributes:
        module: the network.
        config: all settings.
        adam: torch's optimiser, with its state allocated from the beginning.
        average: the network with the moving average of its weights; None without average.
        amp_dtype: type in which losses are computed; None for float32.
        num_updates: steps taken, int64 on the device.
        total_steps: steps planned, int64 on the device; 0 while unknown.
        scaler: scales gradients for float16; no effect for other types.

    Args:
        module: the network.
        config: settings; with an `AdamConfig`, only Adam.
    """

    def __init__(self, module: nn.Module, config: AdamConfig) -> None:
        whole = config if isinstance(config, OptimiserConfig) else OptimiserConfig(**config.model_dump())
        self.module, self.config = module, whole
        self.device = next(module.parameters()).device
        self.adam = _adam(module, whole, self.device)
        self.average = copy.deepcopy(module).requires_grad_(False) if whole.average_decay else None
        self.compute_in(half_type(self.device) if whole.amp else None)
        self.num_updates = torch.zeros((), dtype=torch.int64, device=self.device)
        self.total_steps = torch.zeros((), dtype=torch.int64, device=self.device)

    def compute_in(self, half: torch.dtype | None) -> None:
        """Compute losses in this type from now on; None for float32. Gradients of float16 are scaled."""
        self.amp_dtype = half
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half is torch.float16)

    def plan(self, total_steps: int) -> None:
        """Set the planned number of steps, for the learning-rate schedule."""
        self.total_steps.fill_(total_steps)

    def autocast(self) -> torch.autocast:
        """Return the context for computing losses, in a shorter type with mixed precision."""
        half = self.amp_dtype or (torch.bfloat16 if bfloat16_is_wanted(self.device) else None)
        return torch.autocast(self.device.type, half, enabled=half is not None)

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        self.adam.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients, scaled for float16.

        Raises:
            TableError: the loss depends on no weight.
        """
        if not loss.requires_grad:
            raise TableError(
                "There is nothing to learn: each variable of the training patients has only one value, or "
                "one interval in which the values of few patients were pooled. Prepare more patients, or "
                "prepare them with a smaller --least-patients."
            )
        self.scaler.scale(loss).backward()

    def step(self) -> Tensor | None:
        """Take a step; return the norm of the gradient before it was clipped, None without a clip."""
        norm = self._clip()
        if self._scheduled:
            self._set_rate()
        self.scaler.step(self.adam)
        self.scaler.update()
        self.num_updates += 1
        if self.average is not None and self.config.average_decay:
            self._move_average(self.config.average_decay)
        return norm

    def rate(self) -> Tensor:
        """Return the learning rate of the next step, float64: a function of (step, plan).

            r_n = r min(1, (n + 1) / W) c_n,   c_n = (1 + cos(pi clip((n - W) / (N - W), 0, 1))) / 2

        for W steps of warm-up and N planned ones; c_n = 1 for a constant schedule, and while N is unknown.

        Source: the cosine is that of Loshchilov and Hutter 2017, *SGDR*, without restarts.
        """
        n, warmup = self.num_updates.double(), self.config.warmup_steps
        rate = self.config.learning_rate * ((n + 1) / max(warmup, 1)).clamp(max=1)
        if self.config.schedule == "constant":
            return rate
        total = self.total_steps.double()
        done = ((n - warmup).clamp(min=0) / (total - warmup).clamp(min=1)).clamp(max=1) * (total > 0)
        return rate * (1 + (torch.pi * done).cos()) / 2

    # --- state -----------------------------------------------------------------------------------

    def state(self) -> State:
        """Return everything that the next step depends on, except the network's own weights."""
        state: State = {
            "moments": self.moments(),
            "num_updates": self.num_updates,
            "total_steps": self.total_steps,
        }
        if self.average is not None:
            state["average"] = module_state(self.average)
        return state | self.scaler_state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state`."""
        self.load_moments(state["moments"])
        copy_into(self.num_updates, state["num_updates"])
        copy_into(self.total_steps, state["total_steps"])
        if self.average is not None:
            load_module_state(self.average, state["average"])
        self.load_scaler_state(state)

    def moments(self) -> State:
        """Return {parameter's name: {step, exp_avg, exp_avg_sq}}."""
        return {name: dict(self.adam.state[each]) for name, each in self.module.named_parameters()}

    def load_moments(self, state: Mapping[str, Any]) -> None:
        """Load the result of `moments`."""
        for name, parameter in self.module.named_parameters():
            for part, target in self.adam.state[parameter].items():
                copy_into(target, state[name][part])

    def scaler_state(self) -> State:
        """Return {"scaler": state}, or an empty mapping if gradients are not scaled."""
        return {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        """Load the result of `scaler_state`, if there is one."""
        if self.scaler.is_enabled() and "scaler" in state:
            self.scaler.load_state_dict({name: _plain(value) for name, value in state["scaler"].items()})

    # --- parts of a step -------------------------------------------------------------------------

    @property
    def _scheduled(self) -> bool:
        return self.config.schedule != "constant" or self.config.warmup_steps > 0

    def _clip(self) -> Tensor | None:
        self.scaler.unscale_(self.adam)
        if self.config.gradient_clip is None:
            return None
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.gradient_clip)
        if self.scaler.is_enabled():
            # An overflow of float16 is not divergence: the scaler skips the step and reduces its scale.
            norm = torch.where(norm.isfinite(), norm, 0.0)
        return norm.detach()

    def _set_rate(self) -> None:
        rate = self.rate()
        for group in self.adam.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(rate)
            else:
                group["lr"] = float(rate)

    def _move_average(self, decay: float) -> None:
        """Update the average with `decay`, smaller in the first steps, so that early weights fade sooner."""
        assert self.average is not None
        rising = (1.0 + self.num_updates) / (10.0 + self.num_updates)
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.module.parameters(), strict=True):
                kept.lerp_(new, 1.0 - rising.clamp(max=decay))


def _adam(module: nn.Module, config: OptimiserConfig, device: torch.device) -> Adam:
    """Return Adam for all parameters of a module, with its state allocated from the beginning.

    Its step counts and learning rate are tensors on the device, so that they change inside a CUDA graph.
    """
    on_device = device.type != "cpu"
    parameters = list(module.parameters())
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": 0.0}]
    if config.weight_decay:
        groups = [
            {"params": [each for each in parameters if each.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
        ]
    adam = Adam(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        foreach=True,
        capturable=on_device,
        decoupled_weight_decay=True,
    )
    if on_device and (config.schedule != "constant" or config.warmup_steps):
        for group in adam.param_groups:
            group["lr"] = torch.tensor(config.learning_rate, device=device)
    for parameter in parameters:
        adam.state[parameter] = {
            "step": torch.tensor(0.0, device=device if on_device else None),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return adam


def module_state(module: nn.Module) -> State:
    """Return {parameter's name: tensor}, live and without gradients."""
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def load_module_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy weights into a module, in place.

    Raises:
        StorageError: they are those of another network.
    """
    targets = module.state_dict()
    for name, target in targets.items():
        if name not in state or tuple(state[name].shape) != tuple(target.shape):
            raise StorageError(
                f"The weights of {name} are missing in this checkpoint or have another shape: the network of "
                f"this system has changed since it was written. Use the version of healthgym that wrote it, "
                f"or train again in a new folder."
            )
    for name, target in targets.items():
        copy_into(target, state[name])


def copy_into(target: Tensor, value: Any) -> None:
    """Copy a tensor, array or number of the same shape into a tensor."""
    source = torch.as_tensor(value)
    if source.shape != target.shape:
        raise ValueError(f"a state of shape {tuple(source.shape)} does not fit {tuple(target.shape)}")
    with torch.no_grad():
        target.copy_(source)


def half_type(device: torch.device) -> torch.dtype | None:
    """Return the type of `amp`: bfloat16 if the GPU supports it, else float16; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _plain(value: Any) -> Any:
    """Return a number read from a file as a Python number."""
    return value.item() if hasattr(value, "item") else value
