"""Patients of unequal length in one batch: padding does not affect losses and gradients."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from healthgym.distributed.share import Share
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.critic import gradient_penalty
from healthgym.systems.base import Batch, PositionDraws, System
from healthgym.systems.build import build_system

LAYOUT: FeatureLayout = tiny.SCHEMA.layout
CPU = torch.device("cpu")
FEATURED = ("v1", "v2", "v2.5", "v3")
"""Systems that learn from features; what the autoregressive one does with padding is tested with it."""


def system(name: str) -> System:
    config = tiny.config(Path(), name)
    return build_system(config.system, LAYOUT, torch.eye(LAYOUT.num_features), CPU, 3)


def batch(lengths: list[int], num_timesteps: int, garbage: float = 0.0, padded: bool = True) -> Batch:
    """Return patients of these lengths; `garbage` is in the padding."""
    random = np.random.default_rng(0)
    shape = len(lengths), 6
    reals = torch.from_numpy(random.random((*shape, LAYOUT.num_reals), np.float32))[:, :num_timesteps].clone()
    classes = [random.integers(0, count, shape) for count in LAYOUT.num_classes]
    codes = torch.from_numpy(np.stack(classes, -1).astype(np.uint8))[:, :num_timesteps].clone()
    lengths_B = torch.tensor(lengths)
    padding = torch.arange(num_timesteps) >= lengths_B[:, None]
    reals[padding], codes[padding] = garbage, int(garbage)
    return Batch(LAYOUT, reals, codes, lengths_B, padded)


def learned(name: str, given: Batch, share: Share | None = None) -> tuple[dict[str, float], list[Tensor]]:
    """Return the losses of a step and all numbers of the system after it."""
    made = system(name)
    if share:
        share.batch_size = len(given)
        made.share = share
    losses = made.train_step(given, PositionDraws(1, 0, CPU))
    flat: list[Tensor] = []

    def walk(tree: object) -> None:
        if isinstance(tree, dict):
            for key in sorted(tree):
                walk(tree[key])
        elif isinstance(tree, Tensor):
            flat.append(tree.detach().double().clone().reshape(-1))

    walk(made.state())
    return {key: float(loss) for key, loss in losses.items()}, flat


@pytest.mark.parametrize("name", FEATURED)
def test_what_stands_in_the_padding_is_not_learned(name: str) -> None:
    lengths = [6, 2, 3, 6, 1, 4]
    one, other = (learned(name, batch(lengths, 6, garbage)) for garbage in (0.0, 1.0))
    assert one[0] == other[0]
    for first, second in zip(one[1], other[1], strict=True):
        assert torch.equal(first, second)
    without = learned(name, batch([6] * 6, 6))
    assert without[0] != one[0], "lengths matter"


@pytest.mark.parametrize("name", FEATURED)
def test_a_mask_that_keeps_everything_changes_last_bits_only(name: str) -> None:
    masked, plain = (learned(name, batch([6] * 6, 6, padded=padded)) for padded in (True, False))
    for key, loss in plain[0].items():
        assert masked[0][key] == pytest.approx(loss, rel=1e-5, abs=1e-6), key


@pytest.mark.parametrize("name", FEATURED)
def test_micro_batches_of_padded_patients_learn_the_same(name: str) -> None:
    given = batch([6, 2, 3, 6, 1, 4], 6)
    whole, parts = learned(name, given), learned(name, given, Share(micro_batch_size=2))
    for key, loss in whole[0].items():
        assert parts[0][key] == pytest.approx(loss, rel=2e-4, abs=1e-5), key
    for first, second in zip(whole[1], parts[1], strict=True):
        np.testing.assert_allclose(first, second, rtol=2e-3, atol=2e-3)


def test_the_penalty_is_of_a_patients_own_timesteps() -> None:
    weight_TF = torch.tensor([[3.0, 0.0], [4.0, 0.0], [100.0, 100.0]])

    def linear(x_BTF: Tensor, penalised: bool = False) -> Tensor:
        return (x_BTF * weight_TF).sum((1, 2)).unsqueeze(1)

    mask_BT = torch.tensor([[True, True, False]])
    x = torch.zeros(1, 3, 2)
    penalty = gradient_penalty(linear, x, x, torch.zeros(1, 1, 1), mask_BT)  # type: ignore[arg-type]
    assert penalty == pytest.approx((5 - 1) ** 2)
