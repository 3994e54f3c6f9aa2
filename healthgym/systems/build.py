"""Building a system from its configuration, by one table of classes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from healthgym import config as settings
from healthgym import seeds
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.critic import Critic
from healthgym.systems.adversarial.generators import BiLSTMGenerator
from healthgym.systems.adversarial.latent import BufferedLatent, UniformLatent
from healthgym.systems.adversarial.transformer import TransformerGenerator
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.systems.autoregressive.system import AutoregressiveSystem
from healthgym.systems.base import System
from healthgym.systems.denoising.diffusion import DiffusionSystem
from healthgym.systems.patients import NO_FACTS, CohortFacts

GENERATORS: dict[type, Callable[..., nn.Module]] = {
    settings.BiLSTMGeneratorConfig: lambda config, layout, latent_dim: BiLSTMGenerator(
        layout, latent_dim, config.hidden_dim
    ),
    settings.TransformerGeneratorConfig: lambda config, layout, latent_dim: TransformerGenerator(
        layout, latent_dim, config.num_heads, config.num_positions
    ),
}

LATENTS: dict[type, Callable[..., UniformLatent]] = {
    settings.UniformLatentConfig: lambda config, layout, optimiser, device: UniformLatent(
        config.latent_dim, device
    ),
    settings.BufferedLatentConfig: lambda config, layout, optimiser, device: BufferedLatent(
        layout.num_embedded, config.hidden_dim, config.latent_dim, config.num_slots, optimiser, device
    ),
}


def build_wgan(
    config: settings.WGANConfig,
    layout: FeatureLayout,
    correlation_FF: Tensor,
    facts: CohortFacts,
    device: torch.device,
) -> WGANSystem:
    """Build v1, v2 or v2.5."""
    generator = GENERATORS[type(config.generator)](config.generator, layout, config.latent.latent_dim)
    return WGANSystem(
        generator=generator.to(device),
        critic=Critic(layout, config.critic.hidden_dim).to(device),
        latent=LATENTS[type(config.latent)](config.latent, layout, config.optimiser, device),
        correlation_FF=correlation_FF,
        optimiser=config.optimiser,
        num_critic_updates=config.critic.num_updates,
        gradient_penalty_weight=config.critic.gradient_penalty_weight,
        correlation_weight=config.correlation_weight,
    )


def build_diffusion(
    config: settings.DiffusionConfig,
    layout: FeatureLayout,
    correlation_FF: Tensor,
    facts: CohortFacts,
    device: torch.device,
) -> DiffusionSystem:
    """Build v3, which does not need the training cohort's correlations."""
    return DiffusionSystem(config, layout, device)


def build_autoregressive(
    config: settings.AutoregressiveConfig,
    layout: FeatureLayout,
    correlation_FF: Tensor,
    facts: CohortFacts,
    device: torch.device,
) -> AutoregressiveSystem:
    """Build ar, which needs the cells of the training cohort and not its correlations."""
    return AutoregressiveSystem(config, layout, facts, device)


SYSTEMS: dict[type, Callable[..., System]] = {
    settings.WGANConfig: build_wgan,
    settings.DiffusionConfig: build_diffusion,
    settings.AutoregressiveConfig: build_autoregressive,
}


def build_system(
    config: Any,
    layout: FeatureLayout,
    correlation_FF: Tensor,
    device: torch.device,
    seed: int,
    facts: CohortFacts = NO_FACTS,
) -> System:
    """Build a system with initial weights that depend only on the seed.

    Args:
        config: one of the system configurations.
        layout: meaning of the features.
        correlation_FF: Pearson correlations of the training cohort's features.
        device: of the system.
        seed: the run's seed.
        facts: about the training cohort.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seeds.stream(seed, "weights").integers(2**63)))
        return SYSTEMS[type(config)](config, layout, correlation_FF, facts, device)
