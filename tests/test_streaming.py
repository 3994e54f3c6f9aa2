"""The generator without a graph makes what it makes with one."""

import pytest
import torch

from healthgym.layout import FeatureLayout
from healthgym.nn.heads import apply_heads
from healthgym.systems.generators import BiLSTMGenerator
from healthgym.systems.streaming import stream_heads

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


def test_heads_by_planes_are_safe_for_large_logits() -> None:
    logits_TBF = torch.tensor([1e4, -1e4, 3e4, -3e4, *[200.0] * 5, 0.0, 1.0, 2.0]).repeat(3, 4, 1)
    x_TBF = stream_heads(logits_TBF.transpose(1, 2), LAYOUT).permute(1, 2, 0)
    torch.testing.assert_close(x_TBF, apply_heads(logits_TBF, LAYOUT))
    assert torch.isfinite(x_TBF).all()
