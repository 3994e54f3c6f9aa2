"""Self-attention and the transformer generator."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from healthgym.errors import ConfigError
from healthgym.nn import attention
from healthgym.nn.attention import ResidualLinear, SelfAttentionBlock
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.transformer import TransformerGenerator

LAYOUT = FeatureLayout(num_reals=2, num_classes=(2, 3), embedding_dims=(2, 4))


def _by_hand(block: SelfAttentionBlock, x_TH: Tensor) -> Tensor:
    """One sequence through the block, head by head and timestep by timestep."""
    width, heads = x_TH.shape[1], block.num_heads
    query, key, value = block.query_key_value(x_TH).split(width, dim=-1)
    rows = []
    for head in range(heads):
        columns = slice(head * width // heads, (head + 1) * width // heads)
        scores = query[:, columns] @ key[:, columns].T / math.sqrt(width)
        rows.append(torch.softmax(scores, dim=-1) @ value[:, columns])
    return block.norm(x_TH + block.out(torch.cat(rows, dim=-1)))


@given(length=st.integers(1, 7), heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_block_is_attention_scaled_by_the_model_width(length: int, heads: int, seed: int) -> None:
    torch.manual_seed(seed)
    block = SelfAttentionBlock(8, heads).double()
    x = torch.randn(2, length, 8, dtype=torch.float64)
    expected = torch.stack([_by_hand(block, row) for row in x])
    torch.testing.assert_close(block(x), expected)


def test_fused_attention_equals_that_of_heads_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block, x = SelfAttentionBlock(8, 2).double(), torch.randn(3, 5, 8, dtype=torch.float64)
    in_turn = block(x)
    monkeypatch.setattr(attention, "by_heads", lambda x_BTH: False)
    torch.testing.assert_close(block(x), in_turn, rtol=1e-12, atol=1e-14)


def test_heads_are_taken_in_turn_in_short_sequences_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def longest() -> int:
        return max(T for T in range(1, 200) if attention.by_heads(torch.zeros(1, T, 8)))

    exact = longest()
    monkeypatch.setattr(attention, "bfloat16_is_wanted", lambda device: True)
    assert 60 <= exact < longest() < 150
    assert not attention.by_heads(torch.zeros(1, 5, 8, device="meta"))


def test_many_patients_without_gradients_are_those_with_them() -> None:
    torch.manual_seed(0)
    generator = TransformerGenerator(LAYOUT, latent_dim=8, num_heads=2, num_positions=6).double()
    z_BTZ = torch.rand(70, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        without = generator(z_BTZ)
    torch.testing.assert_close(without, generator(z_BTZ).detach(), rtol=1e-12, atol=1e-14)


def test_scale_is_not_that_of_a_head() -> None:
    torch.manual_seed(0)
    block, x = SelfAttentionBlock(8, 4), torch.randn(2, 5, 8)
    published = block(x)
    block.scale = 1.0 / math.sqrt(8 / 4)
    assert (block(x) - published).abs().max() > 1e-3


def test_block_without_positions_commutes_with_reordering() -> None:
    torch.manual_seed(0)
    block, x, order = SelfAttentionBlock(8, 2), torch.randn(2, 6, 8), torch.randperm(6)
    torch.testing.assert_close(block(x)[:, order], block(x[:, order]))


def test_bias_of_the_key_changes_nothing() -> None:
    torch.manual_seed(0)
    block, x = SelfAttentionBlock(8, 2).double(), torch.randn(2, 6, 8, dtype=torch.float64)
    before = block(x)
    with torch.no_grad():
        block.query_key_value.bias[8:16] += 3.0
    torch.testing.assert_close(block(x), before)


def test_residual_linear_is_normalised_sum() -> None:
    torch.manual_seed(0)
    layer, x = ResidualLinear(8), torch.randn(3, 4, 8)
    nn.init.zeros_(layer.linear.weight)
    nn.init.zeros_(layer.linear.bias)
    torch.testing.assert_close(layer(x), nn.functional.layer_norm(x, (8,), eps=1e-6))


def test_generator_shapes_heads_and_gradients() -> None:
    torch.manual_seed(0)
    generator = TransformerGenerator(LAYOUT, latent_dim=8, num_heads=2, num_positions=6)
    x = generator(torch.rand(3, 6, 8))
    assert x.shape == (3, 6, LAYOUT.num_features)
    assert ((x[..., :2] > 0) & (x[..., :2] < 1)).all()
    for span in LAYOUT.spans:
        torch.testing.assert_close(x[..., span].sum(-1), torch.ones(3, 6))
    (x * torch.randn_like(x)).sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_generator_tells_timesteps_apart() -> None:
    torch.manual_seed(0)
    generator = TransformerGenerator(LAYOUT, latent_dim=8, num_heads=2, num_positions=6)
    x = generator(torch.zeros(1, 6, 8))
    assert (x[0, 0] - x[0, 1]).abs().max() > 1e-3


def test_too_long_a_sequence_names_the_setting() -> None:
    generator = TransformerGenerator(LAYOUT, latent_dim=8, num_heads=2, num_positions=6)
    with pytest.raises(ConfigError, match=r"7 timesteps .* 6\. Set system\.generator\.num_positions to 7"):
        generator(torch.rand(1, 7, 8))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"num_heads is 3, which does not divide .*latent_dim = 8"):
        TransformerGenerator(LAYOUT, latent_dim=8, num_heads=3, num_positions=6)
