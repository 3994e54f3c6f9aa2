"""The generator gives the same output with and without gradients."""

import pytest
import torch

from healthgym.nn.heads import apply_heads
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.generators import LEAK, BiLSTMGenerator
from healthgym.systems.bfloat16 import bfloat16_logits
from healthgym.systems.streaming import stream_heads, stream_logits

LAYOUT = FeatureLayout(num_reals=2, num_classes=(2, 5, 3), embedding_dims=(2, 4, 4))


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("noise_scale", [1.0, 30.0])
def test_streamed_output_equals_the_differentiable_one(length: int, noise_scale: float) -> None:
    torch.manual_seed(0)
    generator = BiLSTMGenerator(LAYOUT, latent_dim=6, hidden_dim=8).double()
    z_BTZ = noise_scale * torch.randn(5, length, 6, dtype=torch.float64)
    with_graph = generator(z_BTZ)
    with torch.no_grad():
        streamed = generator(z_BTZ)
    assert with_graph.requires_grad
    assert streamed.shape == (5, length, LAYOUT.num_features)
    torch.testing.assert_close(streamed, with_graph.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_bfloat16_logits_are_those_of_float32_but_for_rounding(length: int) -> None:
    torch.manual_seed(0)
    generator = BiLSTMGenerator(LAYOUT, latent_dim=24, hidden_dim=32)
    maps = (generator.linear1, generator.linear2, generator.linear3)
    z_BTZ = 20 * torch.rand(64, length, 24)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(2)  # as trained weights do, so that patients differ
        exact, rounded = (
            make(z_BTZ, generator.recurrent, maps, LEAK) for make in (stream_logits, bfloat16_logits)
        )
    assert rounded.dtype == torch.float32
    assert rounded.shape == exact.shape
    deviation_F = exact.flatten(1).std(1)
    error_F = (rounded - exact).flatten(1).square().mean(1).sqrt()
    assert (error_F < 0.03 * deviation_F).all()
    assert len(rounded.unique()) > 0.9 * rounded.numel()  # no grid


def test_heads_by_planes_are_safe_for_large_logits() -> None:
    logits_TBF = torch.tensor([1e4, -1e4, 3e4, -3e4, *[200.0] * 5, 0.0, 1.0, 2.0]).repeat(3, 4, 1)
    x_TBF = stream_heads(logits_TBF.permute(2, 0, 1).clone(), LAYOUT).permute(1, 2, 0)
    torch.testing.assert_close(x_TBF, apply_heads(logits_TBF, LAYOUT))
    assert torch.isfinite(x_TBF).all()
