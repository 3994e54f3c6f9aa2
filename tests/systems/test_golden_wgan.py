"""v1, v2 and v2.5 against reference values: outputs, losses, gradients, weights after three full steps."""

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from published import RecordedDraws, Weights, embedding_layout, load, ours, relative_error, weights
from torch import Tensor

from healthgym.config import AdamConfig, TransformerGeneratorConfig
from healthgym.nn.recurrent import BiLSTM
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.autoencoder import Autoencoder, autoencoder_loss
from healthgym.systems.adversarial.critic import Critic, gradient_penalty
from healthgym.systems.adversarial.generators import BiLSTMGenerator
from healthgym.systems.adversarial.latent import BufferedLatent, UniformLatent
from healthgym.systems.adversarial.losses import correlation_loss, correlation_matrix
from healthgym.systems.adversarial.transformer import TransformerGenerator
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.systems.base import Batch, System

TOLERANCE = 1e-4  # relative, float32; what is reached is printed by `pytest -s`
CPU = torch.device("cpu")


@pytest.fixture
def networks(goldens: Path) -> Iterator[h5py.File]:
    with h5py.File(goldens / "networks.h5") as file:
        yield file


def tensor(node: h5py.Dataset) -> Tensor:
    return torch.from_numpy(np.array(node))


def agree(what: str, found: Tensor, expected: object) -> None:
    error = relative_error(found.detach(), expected)
    print(f"{what}: {error:.1e}")
    assert error <= TOLERANCE, what


def test_lstm(networks: h5py.File) -> None:
    recorded = networks["lstm"]
    x_BTI, parts = tensor(recorded["x"]), weights(recorded["weights"])
    both = {f"rnn_{d}.{name}": value for d in "fr" for name, value in parts.items()}
    lstm = BiLSTM(x_BTI.shape[2], recorded["hidden"].shape[2])
    lstm.load_state_dict({k.removeprefix("recurrent."): v for k, v in ours(both).items()})
    h_TBJ = lstm(x_BTI.transpose(0, 1))
    H = lstm.hidden_dim
    agree("lstm hidden", h_TBJ.transpose(0, 1)[..., :H], recorded["hidden"])
    agree("lstm last", h_TBJ[-1, :, :H], recorded["h_last"])
    reversed_TBJ = lstm(x_BTI.flip(1).transpose(0, 1))
    agree("lstm, second direction", reversed_TBJ.transpose(0, 1)[..., H:], recorded["hidden"])


@pytest.fixture
def critic(networks: h5py.File) -> Critic:
    recorded = weights(networks["critic/weights"])
    layout = embedding_layout(recorded, networks["critic/x"].shape[2])
    module = Critic(layout, hidden_dim=int(networks.attrs["hidden_dim"]))
    load(module, recorded)
    return module


def test_generator(networks: h5py.File, critic: Critic) -> None:
    recorded = networks["generator_lstm"]
    generator = BiLSTMGenerator(
        critic.embedding.layout, int(networks.attrs["latent_dim"]), int(networks.attrs["hidden_dim"])
    )
    load(generator, weights(recorded["weights"]))
    agree("generator", generator(tensor(recorded["z"])), recorded["out"])


def test_critic_and_gradient_penalty(networks: h5py.File, critic: Critic) -> None:
    recorded = networks["critic"]
    real = tensor(recorded["x"])
    agree("critic score", critic(real), recorded["score"])
    recorded = recorded["gradient_penalty"]
    fake, alpha = tensor(recorded["fake"]), tensor(recorded["alpha"])
    penalty = float(networks.attrs["gp_weight"]) * gradient_penalty(critic, real, fake, alpha)
    agree("gradient penalty", penalty, recorded["penalty"])
    loss = critic(fake).mean() - critic(real).mean() + penalty
    agree("critic loss", loss, recorded["critic_loss"])
    loss.backward()
    expected = ours(weights(recorded["param_grads"]))
    found = {name: parameter.grad for name, parameter in critic.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient is not None, name
        agree(f"critic gradient {name}", gradient, expected[name])


def test_autoencoder(networks: h5py.File, critic: Critic) -> None:
    recorded = networks["autoencoder"]
    layout = critic.embedding.layout
    autoencoder = Autoencoder(
        layout.num_embedded, int(networks.attrs["hidden_dim"]), int(networks.attrs["latent_dim"])
    )
    load(autoencoder, weights(recorded["weights"]))
    x_BTE = critic.embedding(tensor(recorded["x"])).detach()
    latent, reconstruction = autoencoder(x_BTE)
    loss = autoencoder_loss(x_BTE, latent, reconstruction)
    agree("autoencoder loss", loss, recorded["loss"])
    agree("prototypes", latent.mean(1, keepdim=True), recorded["prototypes"])
    agree("latent std", latent.std((0, 1)).view(1, 1, -1), recorded["latent_std"])
    loss.backward()
    expected = ours(weights(recorded["param_grads"]))
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None
        agree(f"autoencoder gradient {name}", parameter.grad, expected[name])


def test_correlation(goldens: Path) -> None:
    with h5py.File(goldens / "correlation.h5") as recorded:
        F = recorded["x_real"].shape[2]
        real = correlation_matrix(tensor(recorded["x_real"]).reshape(-1, F))
        fake = correlation_matrix(tensor(recorded["x_fake"]).reshape(-1, F))
        agree("correlation, real", real, recorded["corr_real"])
        agree("correlation, fake", fake, recorded["corr_fake"])
        agree(
            "correlation loss", correlation_loss(fake, real, tensor(recorded["threshold"])), recorded["loss"]
        )


def uniform_latent(trace: h5py.File, critic: Critic, optimiser: AdamConfig) -> UniformLatent:
    return UniformLatent(trace["steps/0/generator/z"].shape[2], CPU)


def buffered_latent(trace: h5py.File, critic: Critic, optimiser: AdamConfig) -> UniformLatent:
    recorded = weights(trace["init/A"])
    hidden_dim, embedded_dim = recorded["L1.weight"].shape
    latent_dim = len(recorded["Encoder.weight"])
    latent = BufferedLatent(embedded_dim, hidden_dim, latent_dim, 10_000, optimiser, CPU)
    load(latent.autoencoder, recorded)
    return latent


def wgan_of(
    trace: h5py.File, generator: torch.nn.Module, make_latent: Callable[..., UniformLatent]
) -> WGANSystem:
    """Return the system at the start of a recorded trace."""
    critic = critic_of(trace)
    optimiser = AdamConfig(
        learning_rate=trace.attrs["lr"], beta1=trace.attrs["beta1"], beta2=trace.attrs["beta2"]
    )
    return WGANSystem(
        generator,
        critic,
        make_latent(trace, critic, optimiser),
        tensor(trace["corr_real"]),
        optimiser,
        num_critic_updates=int(trace.attrs["critic_iterations"]),
        gradient_penalty_weight=float(trace.attrs["gp_weight"]),
        correlation_weight=float(trace.attrs["corr_weight"]),
    )


def critic_of(trace: h5py.File) -> Critic:
    recorded = weights(trace["init/D"])
    layout = embedding_layout(recorded, trace["steps/0/x"].shape[2])
    critic = Critic(layout, len(recorded["linear1.weight"]))
    load(critic, recorded)
    return critic


def replay(trace: h5py.File, system: System) -> None:
    """Take the recorded steps with the recorded draws and compare all that was recorded."""
    for number in range(len(trace["steps"])):
        step = trace[f"steps/{number}"]
        metrics = system.train_step(Batch.of_features(system.layout, tensor(step["x"])), RecordedDraws(step))
        agree(f"step {number} critic loss", metrics["critic_loss"], step["critic_loss"][-1])
        agree(f"step {number} penalty", metrics["gradient_penalty"], step["gradient_penalty"][-1])
        agree(f"step {number} generator loss", metrics["generator_loss"], step["generator_loss"])
        agree(f"step {number} correlation", metrics["correlation_loss"], step["correlation_loss"])
        state = system.state()
        if "ae_loss" in step:
            agree(f"step {number} autoencoder loss", metrics["autoencoder_loss"], step["ae_loss"])
            agree(f"step {number} slots", state["Mean_Container"].unsqueeze(1), step["Mean_Container"])
            agree(f"step {number} scale", state["T_SD"].view(1, 1, -1), step["T_SD"])
    for network, recorded in trace["final"].items():
        for name, expected in ours(weights(recorded)).items():
            found = system.state()[network][name]
            if name.endswith("query_key_value.bias"):
                reach = len(trace["steps"]) * float(trace.attrs["lr"])
                found, expected = without_key_bias(found, expected, reach)
            agree(f"final {network} {name}", found, expected)


def without_key_bias(found: Tensor, expected: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Return the biases of query and value alone.

    The key's bias adds the same to all scores of a query, which softmax undoes: its gradient is zero but
    for rounding, and Adam turns rounding of any size into steps. Nothing depends on where they lead; no
    step is longer than the learning rate.
    """
    query, key, value = found.chunk(3)
    recorded_query, recorded_key, recorded_value = expected.chunk(3)
    assert float((key - recorded_key).abs().max()) <= 2 * reach
    return torch.cat([query, value]), torch.cat([recorded_query, recorded_value])


def recurrent_generator(recorded: Weights, layout: FeatureLayout) -> torch.nn.Module:
    latent_dim, hidden_dim = recorded["rnn_f.i2h.weight"].shape[1], len(recorded["linear1.weight"])
    return load(BiLSTMGenerator(layout, latent_dim, hidden_dim), recorded)


def transformer_generator(recorded: Weights, layout: FeatureLayout) -> torch.nn.Module:
    num_positions, width = recorded["EOT.Learned_PE.weight"].shape
    num_heads = TransformerGeneratorConfig().num_heads
    return load(TransformerGenerator(layout, width, num_heads, num_positions), recorded)


def test_transformer_generator(networks: h5py.File, critic: Critic) -> None:
    recorded = networks["generator_transformer"]
    generator = transformer_generator(weights(recorded["weights"]), critic.embedding.layout)
    agree("transformer generator", generator(tensor(recorded["z"])), recorded["out"])


@pytest.mark.parametrize(
    ("name", "make_generator", "make_latent"),
    [
        ("trace_v1", recurrent_generator, uniform_latent),
        ("trace_v2", recurrent_generator, buffered_latent),
        ("trace_v25", transformer_generator, buffered_latent),
    ],
)
def test_three_steps(
    goldens: Path,
    name: str,
    make_generator: Callable[..., torch.nn.Module],
    make_latent: Callable[..., UniformLatent],
) -> None:
    with h5py.File(goldens / f"{name}.h5") as trace:
        generator = make_generator(weights(trace["init/G"]), critic_of(trace).embedding.layout)
        replay(trace, wgan_of(trace, generator, make_latent))
