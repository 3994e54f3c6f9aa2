"""The published v1, v2 and v2.5 training step, written plainly: what ours is measured against.

The mathematics and its order follow the published Health Gym notebooks (Kuo et al., *Scientific Data* 2022
and *J. Biomedical Informatics* 2023): two LSTM modules walked by a Python loop and differentiated twice by
autograd, a soft embedding block by block, one sum of three critic losses, fakes that keep their generator
graph in critic steps, critic weight gradients in the generator step. In one thing it is kinder than it
might be: the gradient penalty starts from detached features.

Shapes: B batch, T timesteps, Z noise, H hidden, F features, E embedded, M slots, A heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, mse_loss, softmax

from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.latent import BufferedLatent
from healthgym.systems.adversarial.transformer import TransformerGenerator
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.systems.base import Draws


class LSTM(nn.Module):
    """One direction, two affine maps per timestep."""

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.i2h = nn.Linear(input_dim, 4 * hidden_dim)
        self.h2h = nn.Linear(hidden_dim, 4 * hidden_dim)

    def forward(self, x_BTI: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, T, H) and the last one (B, H)."""
        h = s = x_BTI.new_zeros(x_BTI.shape[0], self.hidden_dim)
        states = []
        for t in range(x_BTI.shape[1]):
            gates = self.i2h(x_BTI[:, t, :]) + self.h2h(h)
            forget, read, candidate, write = gates.chunk(4, 1)
            s = torch.sigmoid(forget) * s + torch.sigmoid(read) * torch.tanh(candidate)
            h = torch.sigmoid(write) * torch.tanh(s)
            states.append(h)
        return torch.stack(states, 1), h


class Generator(nn.Module):
    """Noise through a forward and a reversed LSTM and three affine maps."""

    def __init__(self, layout: FeatureLayout, latent_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.layout = layout
        self.rnn_f, self.rnn_r = LSTM(latent_dim, hidden_dim), LSTM(latent_dim, hidden_dim)
        self.linear1 = nn.Linear(2 * hidden_dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, hidden_dim)
        self.linear3 = nn.Linear(hidden_dim, layout.num_features)

    def forward(self, z_BTZ: Tensor) -> Tensor:
        """Return features (B, T, F)."""
        h = torch.cat([self.rnn_f(z_BTZ)[0], self.rnn_r(torch.flip(z_BTZ, [1]))[0]], -1)
        h = leaky_relu(self.linear1(h), 0.1)
        h = leaky_relu(self.linear2(h), 0.1)
        return heads(self.linear3(h), self.layout)


class SelfAttention(nn.Module):
    """Multi-head attention with a map per part, its scores at full length, residual, LayerNorm."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, 1 / math.sqrt(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-6)

    def forward(self, x_BTH: Tensor) -> Tensor:
        """Return y (B, T, H)."""
        (B, T, H), A = x_BTH.shape, self.num_heads
        query, key, value = (
            part(x_BTH).reshape(B, T, A, H // A).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        weights = softmax(query @ key.transpose(-1, -2) * self.scale, -1)
        mixed = (weights @ value).transpose(1, 2).reshape(B, T, H)
        y: Tensor = self.norm(x_BTH + self.out(mixed))
        return y


class Transformer(nn.Module):
    """v2.5's generator: noise plus positions, three blocks of attention, a residual map, an affine map."""

    def __init__(self, ours: TransformerGenerator) -> None:
        super().__init__()
        (num_positions, width), self.layout = ours.positions.weight.shape, ours.layout
        self.positions = nn.Embedding(num_positions, width)
        self.blocks = nn.ModuleList(SelfAttention(width, block.num_heads) for block in ours.blocks)
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, ours.layout.num_features)

    def forward(self, z_BTZ: Tensor) -> Tensor:
        """Return features (B, T, F)."""
        h = z_BTZ + self.positions(torch.arange(z_BTZ.shape[1], device=z_BTZ.device))
        for block in self.blocks:
            h = block(h)
        return heads(self.out(torch.relu(self.norm(h + self.linear(h)))), self.layout)


def heads(logits: Tensor, layout: FeatureLayout) -> Tensor:
    """Return features from the last map's values."""
    blocks = [torch.sigmoid(logits[..., : layout.num_reals])]
    blocks += [softmax(logits[..., span], -1) for span in layout.spans]
    return torch.cat(blocks, -1)


class Critic(nn.Module):
    """Features through a soft embedding, two affine maps and two LSTMs to a score."""

    def __init__(self, layout: FeatureLayout, hidden_dim: int) -> None:
        super().__init__()
        self.layout = layout
        sizes = zip(layout.num_classes, layout.embedding_dims, strict=True)
        self.tables = nn.ParameterList(torch.randn(width, dim) for width, dim in sizes)
        self.linear1 = nn.Linear(layout.num_embedded, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, hidden_dim)
        self.rnn_f, self.rnn_r = LSTM(hidden_dim, hidden_dim), LSTM(hidden_dim, hidden_dim)
        self.linear3 = nn.Linear(2 * hidden_dim, 1)

    def embed(self, x_BTF: Tensor) -> Tensor:
        """Return embedded features (B, T, E)."""
        blocks = [x_BTF[..., : self.layout.num_reals]]
        blocks += [
            x_BTF[..., span] @ table for span, table in zip(self.layout.spans, self.tables, strict=True)
        ]
        return torch.cat(blocks, -1)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Return scores (B, 1)."""
        h = leaky_relu(self.linear1(self.embed(x_BTF)), 0.1)
        h = leaky_relu(self.linear2(h), 0.1)
        last = torch.cat([self.rnn_f(h)[1], self.rnn_r(torch.flip(h, [1]))[1]], -1)
        scores: Tensor = self.linear3(last)
        return scores


class Autoencoder(nn.Module):
    """v2's autoencoder of single timesteps."""

    def __init__(self, input_dim: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.linear1, self.skip1 = nn.Linear(input_dim, hidden_dim), nn.Linear(input_dim, hidden_dim)
        self.linear2, self.linear3 = nn.Linear(hidden_dim, hidden_dim), nn.Linear(hidden_dim, hidden_dim)
        self.encoder, self.decoder = nn.Linear(hidden_dim, latent_dim), nn.Linear(latent_dim, input_dim)

    def forward(self, x_BTE: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents (B, T, Z) and reconstruction (B, T, E)."""
        h = torch.relu(self.linear1(x_BTE) + self.skip1(x_BTE))
        h = torch.relu(self.linear2(h) + h)
        h = torch.relu(self.linear3(h) + h)
        latent = self.encoder(h)
        return latent, self.decoder(latent)


class PublishedSystem:
    """The published step with weights and settings taken over from one of our systems.

    Args:
        ours: a v1, v2 or v2.5 system; it is only read.
    """

    def __init__(self, ours: WGANSystem) -> None:
        hidden_dim, layout, device = ours.critic.linear1.out_features, ours.layout, ours.device
        self.ours, self.latent_dim = ours, ours.latent.latent_dim
        self.generator = (
            Transformer(ours.generator)
            if isinstance(ours.generator, TransformerGenerator)
            else Generator(layout, self.latent_dim, hidden_dim)
        ).to(device)
        self.critic = Critic(layout, hidden_dim).to(device)
        _take_over(self.generator, ours.generator)
        _take_over(self.critic, ours.critic)
        self.autoencoder: Autoencoder | None = None
        if isinstance(ours.latent, BufferedLatent):
            self.autoencoder = Autoencoder(layout.num_embedded, hidden_dim, self.latent_dim).to(device)
            _take_over(self.autoencoder, ours.latent.autoencoder)
            self.adam_A = _adam(self.autoencoder, ours)
        self.slots_MZ = torch.zeros(0, self.latent_dim, device=device)
        self.scale_Z = torch.ones(self.latent_dim, device=device)
        self.adam_G, self.adam_D = _adam(self.generator, ours), _adam(self.critic, ours)

    def train_step(self, x_BTF: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Take a step of the same name and meaning as ours."""
        losses = {}
        if self.autoencoder is not None:
            losses["autoencoder_loss"] = self._autoencoder_step(self.autoencoder, x_BTF, draws)
        for update in range(self.ours.num_critic_updates):
            losses["critic_loss"] = self._critic_step(x_BTF, f"critic/{update}", draws)
        losses["generator_loss"] = self._generator_step(x_BTF, draws)
        return losses

    def _noise(self, x_BTF: Tensor, place: str, draws: Draws) -> Tensor:
        B, T, _ = x_BTF.shape
        z = draws.uniform(f"{place}/z", (B, T, self.latent_dim)) * self.scale_Z
        if len(self.slots_MZ):
            z = z + self.slots_MZ[draws.index(f"{place}/slot", B, len(self.slots_MZ))].unsqueeze(1)
        return z

    def _autoencoder_step(self, autoencoder: Autoencoder, x_BTF: Tensor, draws: Draws) -> Tensor:
        x_BTE = self.critic.embed(x_BTF)
        latent, reconstruction = autoencoder(x_BTE)
        mean, var = latent.mean((0, 1)), latent.var((0, 1))
        loss = mse_loss(reconstruction, x_BTE) - 0.5 * (1 + torch.log(var) - mean**2 - var).sum()
        autoencoder.zero_grad()
        loss.backward()
        self.adam_A.step()
        latent = latent.detach()
        self.slots_MZ = torch.cat([self.slots_MZ, latent.mean(1)])
        capacity = len(self.ours.latent.slots_MZ)  # type: ignore[attr-defined]
        if len(self.slots_MZ) > capacity:
            kept = draws.shared_index("autoencoder/slots", capacity, len(self.slots_MZ))
            self.slots_MZ = self.slots_MZ[kept]
        self.scale_Z = (self.scale_Z + latent.std((0, 1))) / 2
        return loss.detach()

    def _critic_step(self, x_BTF: Tensor, place: str, draws: Draws) -> Tensor:
        fake = self.generator(self._noise(x_BTF, place, draws))
        loss = self.critic(fake).mean() - self.critic(x_BTF).mean()
        alpha = draws.uniform(f"{place}/alpha", (len(x_BTF), 1, 1))
        mixed = (alpha * x_BTF + (1 - alpha) * fake.detach()).requires_grad_()
        scores = self.critic(mixed)
        (gradient,) = torch.autograd.grad(scores, mixed, torch.ones_like(scores), create_graph=True)
        norm = torch.sqrt((gradient**2).sum((1, 2)) + 1e-12)
        loss = loss + self.ours.gradient_penalty_weight * ((norm - 1) ** 2).mean()
        self.critic.zero_grad()
        loss.backward()
        self.adam_D.step()
        return loss.detach()

    def _generator_step(self, x_BTF: Tensor, draws: Draws) -> Tensor:
        F = self.ours.layout.num_features
        fake = self.generator(self._noise(x_BTF, "generator", draws))
        threshold = draws.shared_uniform("generator/threshold", (F, F))
        found, wanted = correlation(fake.reshape(-1, F)), self.ours.correlation_FF
        difference = _clip(found, threshold) - _clip(wanted, threshold)
        loss = -self.critic(fake).mean() + self.ours.correlation_weight * difference.abs().mean()
        self.generator.zero_grad()
        loss.backward()
        self.adam_G.step()
        return loss.detach()


def correlation(x_NF: Tensor) -> Tensor:
    """Return Pearson correlations (F, F)."""
    std = x_NF.std(0)
    scaled = (x_NF - x_NF.mean(0)) / torch.where(std < 1e-8, torch.ones_like(std), std)
    matrix = torch.clamp(scaled.T @ scaled / (len(x_NF) - 1), -1, 1)
    eye = torch.eye(x_NF.shape[1], device=x_NF.device)
    return matrix * (1 - eye) + eye


def _clip(matrix: Tensor, threshold: Tensor) -> Tensor:
    return torch.sign(matrix) * torch.minimum(matrix.abs(), threshold)


def _adam(module: nn.Module, ours: WGANSystem) -> torch.optim.Adam:
    group = ours.optimiser_G.adam.param_groups[0]
    return torch.optim.Adam(module.parameters(), lr=group["lr"], betas=group["betas"])


def _take_over(target: nn.Module, source: nn.Module) -> None:
    """Copy our weights into the published shapes."""
    weights = dict(source.state_dict())
    prefix = "recurrent."
    if f"{prefix}weight_DGK" in weights:
        both = {name: weights.pop(f"{prefix}{name}") for name in _RECURRENT}
        for d, name in enumerate(("rnn_f", "rnn_r")):
            weight_GK, width = both["weight_DGK"][d], getattr(target, name).hidden_dim
            weights[f"{name}.i2h.weight"] = weight_GK[:, :-width]
            weights[f"{name}.h2h.weight"] = weight_GK[:, -width:]
            weights[f"{name}.i2h.bias"] = both["input_bias_DG"][d]
            weights[f"{name}.h2h.bias"] = both["hidden_bias_DG"][d]
    for name in [name for name in weights if "query_key_value" in name]:
        for part, weight in zip(("query", "key", "value"), weights.pop(name).chunk(3), strict=True):
            weights[name.replace("query_key_value", part)] = weight
    for prefix in ("embedding.", "residual."):
        weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    target.load_state_dict(weights)


_RECURRENT = ("weight_DGK", "input_bias_DG", "hidden_bias_DG")
