"""Adam, and its state under the names of the parameters it belongs to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from healthgym.config import AdamConfig
from healthgym.systems.base import State


def adam(module: nn.Module, config: AdamConfig) -> Adam:
    """Return Adam for all parameters of a module, with every state there from the start.

    On CUDA its counts of steps live on the device, so that a recorded step goes on counting.
    """
    on_device = next(module.parameters()).device.type == "cuda"
    optimiser = Adam(
        module.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        foreach=True,
        capturable=on_device,
    )
    for parameter in module.parameters():
        optimiser.state[parameter] = {
            "step": torch.tensor(0.0, device=parameter.device if on_device else None),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimiser


def optimiser_state(optimiser: Adam, module: nn.Module) -> State:
    """Return {parameter's name: {step, exp_avg, exp_avg_sq}}."""
    return {name: dict(optimiser.state[parameter]) for name, parameter in module.named_parameters()}


def load_optimiser_state(optimiser: Adam, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy a state into an optimiser, in place."""
    for name, parameter in module.named_parameters():
        for part, target in optimiser.state[parameter].items():
            copy_into(target, state[name][part])


def module_state(module: nn.Module) -> State:
    """Return {parameter's name: tensor}, live and without gradients."""
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def load_module_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy weights into a module, in place."""
    for name, target in module.state_dict().items():
        copy_into(target, state[name])


def copy_into(target: Tensor, value: Any) -> None:
    """Copy a tensor, array or number of the same shape into a tensor."""
    source = torch.as_tensor(value)
    if source.shape != target.shape:
        raise ValueError(f"a state of shape {tuple(source.shape)} does not fit {tuple(target.shape)}")
    with torch.no_grad():
        target.copy_(source)
