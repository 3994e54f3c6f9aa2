"""Noise levels and samplers, against closed forms.

For data x0 ~ N(mu, v) the best prediction of the noise is known, the marginal of x_s is
N(sqrt(abar) mu, abar v + 1 - abar), and the samplers that draw nothing follow an ordinary differential
equation whose solution keeps every x at its quantile.
"""

import math
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published import relative_error
from torch import Tensor

from healthgym.config import DDIMSamplerConfig, DDPMSamplerConfig, DPMSolverSamplerConfig
from healthgym.systems.denoising.samplers import (
    Denoise,
    Prediction,
    ancestral_step,
    build_sampler,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp,
    snr_spaced_levels,
    spaced_levels,
)
from healthgym.systems.noise import NoiseSchedule, blended_reconstruction, masked_mse

MEAN, VARIANCE = 0.3, 0.25


def _exact(schedule: NoiseSchedule, mean: float = MEAN, variance: float = VARIANCE) -> Denoise:
    """The best denoiser of N(mean, variance)."""

    def denoise(x: Tensor, level: int) -> Prediction:
        abar = schedule.alpha_bar_S[level].double()
        marginal = abar * variance + 1 - abar
        eps = (1 - abar).sqrt() * (x - abar.sqrt() * mean) / marginal
        return Prediction((x - (1 - abar).sqrt() * eps) / abar.sqrt(), eps)

    return denoise


def _quantile_map(schedule: NoiseSchedule, x: Tensor) -> Tensor:
    """Where the differential equation takes x from the noisiest level to no noise."""
    abar = schedule.alpha_bar_S[-1].double()
    deviation = (abar * VARIANCE + 1 - abar).sqrt()
    return MEAN + math.sqrt(VARIANCE) * (x - abar.sqrt() * MEAN) / deviation


def _no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


def _grid() -> Tensor:
    return torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1)


@pytest.mark.parametrize("num_levels", [2, 50, 500])
def test_linear_schedule_by_its_formula(num_levels: int) -> None:
    schedule = NoiseSchedule.linear(num_levels, 1e-4, 0.01)
    left = 1.0
    for level in range(num_levels):
        beta = 1e-4 + (0.01 - 1e-4) * level / (num_levels - 1)
        left *= 1 - beta
        assert float(schedule.beta_S[level]) == pytest.approx(beta, rel=1e-5)
        assert float(schedule.alpha_bar_S[level]) == pytest.approx(left, rel=1e-5)


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_removing_noise_undoes_adding_it(seed: int) -> None:
    torch.manual_seed(seed)
    schedule = NoiseSchedule.linear(30, 1e-4, 0.02)
    x, eta, level = torch.randn(4, 3, 5), torch.randn(4, 3, 5), torch.randint(0, 30, (4,))
    noisy = schedule.add_noise(x, eta, level)
    torch.testing.assert_close(schedule.remove_noise(noisy, eta, level), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(schedule.noise_in(noisy, x, level), eta, atol=1e-3, rtol=1e-3)


def test_added_noise_has_the_stated_share() -> None:
    torch.manual_seed(0)
    schedule = NoiseSchedule.linear(10, 0.05, 0.3)
    x = torch.full((20_000, 1, 1), 2.0)
    noisy = schedule.add_noise(x, torch.randn_like(x), torch.full((20_000,), 7))
    abar = float(schedule.alpha_bar_S[7])
    assert float(noisy.mean()) == pytest.approx(2 * math.sqrt(abar), abs=0.03)
    assert float(noisy.var()) == pytest.approx(1 - abar, rel=0.05)


def test_masked_mse_ignores_padding_and_weighs_features_alike() -> None:
    predicted, target = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]).view(2, 1, 4)
    target[0, :, 2:] = 99.0
    target[1, 0, 0] = 3.0
    assert float(masked_mse(predicted, target, mask)) == pytest.approx((8 + 9) / 9)


@pytest.mark.parametrize(("sampler", "order"), [(sample_ddim, 1), (sample_dpmpp, 2)])
def test_fast_samplers_converge_at_their_order(sampler: Callable[..., Tensor], order: int) -> None:
    # Many fine levels, so that the steps alone make the error; level 0 is all but free of noise.
    schedule = NoiseSchedule.linear(20_000, 1e-7, 2.5e-4)
    target, extra = _quantile_map(schedule, _grid()), ([0.0] if sampler is sample_ddim else [])

    def error(num_steps: int) -> float:
        x = sampler(schedule, _exact(schedule), _no_noise, _grid(), num_steps, *extra)
        return float((x - target).abs().max())

    coarse, fine = error(50), error(100)
    assert fine < coarse < 0.1
    assert coarse / fine == pytest.approx(2**order, rel=0.35)


def test_second_order_beats_first_at_25_steps_of_the_published_schedule() -> None:
    schedule = NoiseSchedule.linear(500, 1e-4, 0.01)
    target = _quantile_map(schedule, _grid())
    first = sample_ddim(schedule, _exact(schedule), _no_noise, _grid(), 25, 0.0)
    second = sample_dpmpp(schedule, _exact(schedule), _no_noise, _grid(), 25)
    assert float((second - target).abs().max()) < 0.1 * float((first - target).abs().max()) < 0.01


@pytest.mark.parametrize("sampler", [DDPMSamplerConfig(), DDIMSamplerConfig(num_steps=400, eta=1.0)])
def test_stochastic_samplers_recover_mean_and_variance(
    sampler: DDPMSamplerConfig | DDIMSamplerConfig,
) -> None:
    torch.manual_seed(0)
    # To nearly pure noise, so that starting from N(0, 1) is right.
    schedule = NoiseSchedule.linear(400, 1e-4, 0.04)
    x = torch.randn(20_000, 1, 1, dtype=torch.float64)
    out = build_sampler(sampler)(schedule, _exact(schedule), lambda: torch.randn_like(x), x)
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(out.var()) == pytest.approx(VARIANCE, rel=0.05)


def test_ddim_with_all_levels_and_eta_1_is_the_posterior() -> None:
    schedule = NoiseSchedule.linear(40, 1e-3, 0.1)
    beta, abar = schedule.beta_S.double(), schedule.alpha_bar_S.double()
    denoise, x, level = _exact(schedule), _grid(), 39
    one = NoiseSchedule(schedule.beta_S[[38, 39]], schedule.alpha_bar_S[[38, 39]])

    def two_levels(y: Tensor, index: int) -> Prediction:
        return denoise(y, 38 + index) if index else Prediction(y, y)  # the last call returns x_{s-1}

    mean = sample_ddim(one, two_levels, lambda: torch.zeros_like(x), x, 2, 1.0)
    shifted = sample_ddim(one, two_levels, lambda: torch.ones_like(x), x, 2, 1.0)
    # Ho et al. 2020, equations 6 and 7.
    clean = denoise(x, level).clean
    posterior_mean = (abar[38].sqrt() * beta[39] * clean + (1 - beta[39]).sqrt() * (1 - abar[38]) * x) / (
        1 - abar[39]
    )
    posterior_variance = (1 - abar[38]) / (1 - abar[39]) * beta[39]
    torch.testing.assert_close(mean, posterior_mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close((shifted - mean) ** 2, posterior_variance.expand_as(x), atol=1e-6, rtol=1e-5)
    # The ancestral step has the same mean.
    step = ancestral_step(schedule, level, x, denoise(x, level).eps, 0.0)
    torch.testing.assert_close(step, posterior_mean, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("sampler", [sample_ddpm, sample_ddim, sample_dpmpp])
def test_samplers_find_data_that_is_one_point(sampler: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    schedule = NoiseSchedule.linear(60, 1e-4, 0.1)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    extra = {sample_ddpm: (), sample_ddim: (10, 0.0), sample_dpmpp: (10,)}[sampler]
    out = sampler(schedule, _exact(schedule, 0.7, 0.0), lambda: torch.randn_like(x), x, *extra)
    torch.testing.assert_close(out, torch.full_like(x, 0.7), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "evaluations", "draws"),
    [
        (DDPMSamplerConfig(), 30, 29),
        (DDIMSamplerConfig(num_steps=7), 7, 0),
        (DDIMSamplerConfig(num_steps=7, eta=0.5), 7, 6),
        (DPMSolverSamplerConfig(num_steps=7), 7, 0),
        (DPMSolverSamplerConfig(num_steps=1), 1, 0),
    ],
)
def test_number_of_evaluations_and_draws(
    config: DDPMSamplerConfig | DDIMSamplerConfig | DPMSolverSamplerConfig, evaluations: int, draws: int
) -> None:
    schedule, counted = NoiseSchedule.linear(30, 1e-4, 0.02), {"evaluations": 0, "draws": 0}
    exact = _exact(schedule)

    def denoise(x: Tensor, level: int) -> Prediction:
        counted["evaluations"] += 1
        return exact(x, level)

    def draw() -> Tensor:
        counted["draws"] += 1
        return torch.zeros(1)

    build_sampler(config)(schedule, denoise, draw, _grid())
    assert counted == {"evaluations": evaluations, "draws": draws}


def test_levels_are_spread_from_the_noisiest_to_zero() -> None:
    assert spaced_levels(500, 5) == [499, 374, 250, 125, 0]
    assert spaced_levels(4, 4) == [3, 2, 1, 0]
    assert spaced_levels(500, 1) == [499]


@given(num_levels=st.integers(2, 60), data=st.data())
@settings(max_examples=40, deadline=None)
def test_snr_spacing_takes_different_levels_down_to_zero(num_levels: int, data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(1, num_levels))
    levels = snr_spaced_levels(NoiseSchedule.linear(num_levels, 1e-4, 0.02), num_steps)
    assert levels == sorted(set(levels), reverse=True)
    assert len(levels) == num_steps
    assert levels[0] == num_levels - 1
    assert num_steps == 1 or levels[-1] == 0


def test_schedule_losses_and_ancestral_step_match_golden(goldens: Path) -> None:
    with h5py.File(goldens / "diffusion.h5") as file:
        weight = float(file.attrs["recon_weight"])
        got = {name: torch.tensor(file[name][()]) for name in _used(file)}
    betas = got["schedule/betas"]
    schedule = NoiseSchedule.linear(len(betas), float(betas[0]), float(betas[-1]))
    assert relative_error(schedule.beta_S, betas) < 1e-6
    assert relative_error(schedule.alpha_bar_S, got["schedule/alphas_bar"]) < 1e-6

    x0, eta, blend, mask = (
        got[f"loss/{name}"].squeeze(1) for name in ("x0_padded", "noise", "blend", "mask")
    )
    x_s, eps, level = got["unet/x_t"].squeeze(1), got["unet/eps"].squeeze(1), got["unet/t"]
    assert relative_error(schedule.add_noise(x0, eta, level), x_s) < 1e-6
    x0_hat = blended_reconstruction(schedule, x_s, eps, eta, blend, level)
    assert relative_error(x0_hat, got["loss/x0_hat"].squeeze(1)) < 1e-5
    noise_loss, reconstruction = masked_mse(eps, eta, mask), weight * masked_mse(x0_hat, x0, mask)
    assert relative_error(noise_loss, got["loss/diffusion"]) < 1e-5
    assert relative_error(reconstruction, got["loss/reconstruction_x20"]) < 1e-5
    assert relative_error(noise_loss + reconstruction, got["loss/total"]) < 1e-5


def _used(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(lambda name: names.append(name) if isinstance(file[name], h5py.Dataset) else None)
    return [name for name in names if "weights" not in name]
