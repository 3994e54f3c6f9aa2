"""The U-Net of v3 and its shape contract."""

from pathlib import Path

import h5py
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published import load, relative_error, weights
from torch import Tensor, nn

from healthgym.nn.unet import (
    Conv,
    LevelFiLM,
    ResidualBlock,
    UNet1d,
    UpConv,
    fit_length,
    shape_table,
    sinusoid_table,
)


def _unet(features: int = 5, depth: int = 2) -> UNet1d:
    torch.manual_seed(0)
    return UNet1d(features, num_channels=16, depth=depth, num_levels=6, embedding_dim=4)


@given(length=st.integers(8, 70), depth=st.integers(1, 3), features=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_shape_contract_is_what_happens(length: int, depth: int, features: int) -> None:
    unet = _unet(features, depth)
    seen: dict[str, tuple[int, int]] = {}

    def watch(name: str, timesteps_last: bool) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            shape = (out.shape[1], out.shape[-1])
            seen[name] = shape if timesteps_last else (shape[1], shape[0])

        unet.get_submodule(name).register_forward_hook(hook)

    stages = unet.stages(length)
    for row in stages[1:]:
        watch(row.name, timesteps_last=row.name not in {"enter", "leave"})
    out = unet(torch.randn(1, features, length), torch.zeros(1, dtype=torch.int64))
    assert out.shape == (1, features, length)
    assert [(row.name, row.width, row.length) for row in stages[1:]] == [
        (row.name, *seen[row.name]) for row in stages[1:]
    ]


def test_shape_table_of_the_published_setting_says_where_it_pads() -> None:
    stages = UNet1d(22, 8, 3, 6, 4).stages(100)
    assert [row.length for row in stages if row.name.startswith("down.")] == [50, 25, 12]
    text = shape_table(stages)
    assert "(B, 8, 12)    halved, an odd last timestep is dropped" in text
    assert "padded 24 -> 25, skip added" in text
    assert text.splitlines()[1].split()[:4] == ["input", "(B,", "22,", "100)"]


def test_every_parameter_gets_a_gradient() -> None:
    unet = _unet()
    out = unet(torch.randn(2, 5, 8), torch.tensor([0, 5]))
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_rows_of_a_batch_do_not_mix_and_levels_matter() -> None:
    unet, x = _unet(), torch.randn(3, 5, 12)
    together = unet(x, torch.tensor([1, 4, 1]))
    torch.testing.assert_close(together[1:2], unet(x[1:2], torch.tensor([4])))
    assert (unet(x[:1], torch.tensor([4])) - together[:1]).abs().max() > 1e-4


def test_convolutions_are_those_of_torch_along_time() -> None:
    x = torch.randn(2, 8, 1, 7).to(memory_format=torch.channels_last)
    for ours, usual in (
        (Conv(8, 8, 4, stride=2, padding=1), nn.Conv1d),
        (Conv(8, 8, 3, padding=1), nn.Conv1d),
        (UpConv(8, 8, 4, stride=2, padding=1), nn.ConvTranspose1d),
    ):
        found = ours(x)
        torch.testing.assert_close(found.squeeze(2), usual.forward(ours, x.squeeze(2)))
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_film_of_zero_is_plain_residual_block() -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(8), torch.randn(2, 8, 1, 5)
    zero = torch.zeros(2, 8, 1, 1)
    silu = nn.functional.silu
    expected = x + block.conv2(silu(block.norm2(block.conv1(silu(block.norm1(x))))))
    torch.testing.assert_close(block(x, (zero, zero)), expected)
    assert (block(x, (zero + 1, zero)) - expected).abs().max() > 1e-4
    assert (block(x, (zero, zero + 1)) - expected).abs().max() > 1e-4


def test_film_splits_into_scale_and_shift() -> None:
    film = LevelFiLM(num_levels=6, embedding_dim=4, num_channels=8)
    gamma, beta = film(torch.tensor([2, 3, 2]))
    assert gamma.shape == beta.shape == (3, 8, 1, 1)
    assert torch.equal(gamma[0], gamma[2])
    assert not torch.equal(gamma[0], beta[0])


def test_sinusoid_table_by_its_formula() -> None:
    table = sinusoid_table(7, 6).double()
    for level in range(7):
        for k in range(3):
            angle = torch.tensor(level / 10_000 ** (2 * k / 6), dtype=torch.float64)
            torch.testing.assert_close(table[level, 2 * k], angle.sin(), atol=1e-6, rtol=0)
            torch.testing.assert_close(table[level, 2 * k + 1], angle.cos(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("given_length", "wanted"), [(3, 5), (5, 3), (4, 4)])
def test_fit_length_crops_or_pads_on_the_right(given_length: int, wanted: int) -> None:
    x = torch.arange(1.0, given_length + 1).view(1, 1, -1)
    expected = [float(i + 1) if i < given_length else 0.0 for i in range(wanted)]
    assert fit_length(x, wanted).flatten().tolist() == expected


def test_matches_golden(goldens: Path) -> None:
    with h5py.File(goldens / "diffusion.h5") as file:
        constants = dict(file.attrs)
        group = file["unet"]
        recorded = weights(group["weights"])
        x, level, expected = (torch.tensor(group[name][()]) for name in ("x_t", "t", "eps"))
    table = recorded["time_emb_mid.table.weight"]
    num_levels, embedding_dim = table.shape
    unet = UNet1d(x.shape[2], int(constants["hidden"]), int(constants["levels"]), num_levels, embedding_dim)
    load(unet, recorded)
    assert relative_error(unet.middle_film.table, table) < 1e-5
    assert relative_error(unet(x.squeeze(1), level).detach(), expected.squeeze(1)) < 1e-5
