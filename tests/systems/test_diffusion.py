"""v3: reference values, the guardrail, and that a patient is a function of its number."""

from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published import embedding_layout, load, relative_error, weights
from torch import Tensor

from healthgym import strict
from healthgym.config import DiffusionConfig, RunConfig
from healthgym.errors import ConfigError, SamplingError
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.base import Batch, Draws, PositionDraws
from healthgym.systems.denoising import diffusion
from healthgym.systems.denoising.diffusion import DiffusionSystem
from healthgym.systems.denoising.samplers import ancestral_step, constant_level

CPU = torch.device("cpu")
LAYOUT = FeatureLayout(num_reals=2, num_classes=(2, 3), embedding_dims=(2, 4))


def make(layout: FeatureLayout = LAYOUT, **changed: Any) -> DiffusionSystem:
    torch.manual_seed(0)
    values = {
        "denoiser": {"hidden_dim": 16, "depth": 2, "level_embedding_dim": 4},
        "schedule": {"num_levels": 8, "first_beta": 0.001, "last_beta": 0.3},
        "guardrail": {"kind": "clamp"},
    }
    return DiffusionSystem(DiffusionConfig.model_validate(values | changed), layout, CPU)


def batch(rows: int = 6, length: int = 7, layout: FeatureLayout = LAYOUT) -> Tensor:
    torch.manual_seed(1)
    blocks = [torch.rand(rows, length, layout.num_reals)]
    for width in layout.num_classes:
        classes = torch.randint(0, width, (rows, length))
        blocks.append(torch.nn.functional.one_hot(classes, width).float())
    return torch.cat(blocks, -1)


def draws(step: int) -> PositionDraws:
    return PositionDraws(0, step, CPU)


class _Recorded(Draws):
    """The draws of the recorded loss."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self._values = values

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        assert tuple(self._values[name].shape) == shape
        return self._values[name]

    shared_uniform = normal = uniform

    def index(self, name: str, num_rows: int, count: int) -> Tensor:
        return self.uniform(name, (num_rows,))


@pytest.fixture
def golden(goldens: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with h5py.File(goldens / "diffusion.h5") as file:
        for group in ("schedule", "loss", "unet", "ancestral_step", "guardrail"):
            for name, node in file[group].items():
                if isinstance(node, h5py.Dataset):
                    found[f"{group}/{name}"] = torch.tensor(node[()])
    return found


@pytest.fixture
def recorded_system(goldens: Path, golden: dict[str, Tensor]) -> DiffusionSystem:
    with h5py.File(goldens / "networks.h5") as file:
        num_features = file["critic/x"].shape[2]
        layout = embedding_layout(weights(file["critic/weights"]), num_features)
    with h5py.File(goldens / "diffusion.h5") as file:
        constants, parts = dict(file.attrs), weights(file["unet/weights"])
    betas = golden["schedule/betas"]
    system = make(
        layout,
        denoiser={
            "hidden_dim": int(constants["hidden"]),
            "depth": int(constants["levels"]),
            "level_embedding_dim": int(constants["time_embedding_dim"]),
        },
        schedule={
            "num_levels": int(constants["n_steps"]),
            "first_beta": float(betas[0]),
            "last_beta": float(betas[-1]),
        },
        reconstruction_weight=float(constants["recon_weight"]),
        pad_to=int(constants["pad_to"]),
        guardrail={"kind": "reject"},
    )
    load(system.denoiser, parts)
    return system


def test_loss_matches_golden(recorded_system: DiffusionSystem, golden: dict[str, Tensor]) -> None:
    x0, mask = golden["loss/x0_padded"].squeeze(1), golden["loss/mask"].squeeze(1)
    length = int(mask[0].sum())
    x_BTF = (x0[..., :length].transpose(1, 2) + 1) / 2
    canvas, ours = recorded_system.to_canvas(x_BTF)
    assert relative_error(canvas, x0) < 1e-6
    assert torch.equal(ours, mask)
    recorded = _Recorded(
        {
            "level": golden["unet/t"].long(),
            "noise": golden["loss/noise"].squeeze(1),
            "blend": golden["loss/blend"].squeeze(1),
        }
    )
    losses = recorded_system.train_step(Batch.of_features(recorded_system.layout, x_BTF), recorded)
    assert relative_error(losses["noise_loss"], golden["loss/diffusion"]) < 1e-5
    weighted = losses["reconstruction_loss"] * recorded_system.config.reconstruction_weight
    assert relative_error(weighted, golden["loss/reconstruction_x20"]) < 1e-5
    assert relative_error(losses["loss"], golden["loss/total"]) < 1e-5


def test_ancestral_step_matches_golden(recorded_system: DiffusionSystem, golden: dict[str, Tensor]) -> None:
    x, noise = (golden[f"ancestral_step/{name}"].squeeze(1) for name in ("x_t", "noise"))
    level = int(golden["ancestral_step/t"])
    with torch.no_grad():
        eps = recorded_system.denoiser(x, constant_level(level, x))
    ours = ancestral_step(recorded_system.schedule, level, x, eps, noise)
    assert relative_error(ours, golden["ancestral_step/x_prev"].squeeze(1)) < 1e-5


def test_guardrail_matches_golden(recorded_system: DiffusionSystem, golden: dict[str, Tensor]) -> None:
    raw, expected = golden["guardrail/raw"].squeeze(1), golden["guardrail/accepted"].squeeze(1)
    num_reals = recorded_system.layout.num_reals
    passed = recorded_system.guardrail.accepts(raw[:, :num_reals])
    assert torch.equal(passed, golden["guardrail/accepted_rows"].bool())
    ours = recorded_system.from_canvas(raw[passed]).transpose(1, 2)
    assert relative_error(ours[:, :num_reals], expected[:, :num_reals]) < 1e-6
    for span in recorded_system.layout.spans:
        assert torch.equal(ours[:, span].argmax(1), expected[:, span].argmax(1))


# --- training ------------------------------------------------------------------------------------


@given(length=st.integers(1, 40), depth=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_canvas_is_the_next_length_that_the_depth_divides(length: int, depth: int) -> None:
    system = make(denoiser={"hidden_dim": 16, "depth": depth, "level_embedding_dim": 4})
    canvas = system.canvas(length)
    assert canvas % 2**depth == 0
    assert length <= canvas < length + 2**depth
    padded, mask = system.to_canvas(torch.rand(2, length, 7))
    assert padded.shape == (2, 7, canvas)
    assert float(padded[..., length:].abs().sum()) == 0
    assert mask.sum((1, 2)).tolist() == [length, length]


@pytest.mark.parametrize(("pad_to", "length", "needed"), [(8, 9, 9), (3, 2, 4)])
def test_canvas_too_small_names_the_setting(pad_to: int, length: int, needed: int) -> None:
    expected = rf"{length} timesteps .*depth = 2 need system\.pad_to of {needed} or more, but it is {pad_to}"
    with pytest.raises(ConfigError, match=expected):
        make(pad_to=pad_to).canvas(length)


def test_shape_contract_begins_with_the_padding() -> None:
    lines = make().shapes(7).splitlines()
    assert lines[1].split(maxsplit=4)[-1] == "7 timesteps, right-padded to a canvas of 8"
    assert "padded to" not in make().shapes(8)


def test_training_learns_to_tell_noise() -> None:
    system = make(optimiser={"learning_rate": 1e-2})
    x = batch(32, 8).round()
    losses = [
        float(system.train_step(Batch.of_features(LAYOUT, x), draws(step))["noise_loss"])
        for step in range(100)
    ]
    assert sum(losses[-20:]) < 0.8 * 20  # always saying "no noise" would lose 1


def test_gradient_is_clipped_and_padding_is_not_seen() -> None:
    system = make(gradient_clip=1e-3)
    assert float(system.train_step(Batch.of_features(LAYOUT, batch()), draws(0))["gradient_norm"]) > 1e-3
    norm = torch.stack([p.grad.norm() for p in system.denoiser.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_moving_average_follows_its_formula_and_makes_the_patients() -> None:
    system = make(ema_decay=0.9, optimiser={"learning_rate": 0.01})
    assert system.optimiser.average is not None
    expected = system.denoiser.out_conv.weight.detach().clone()
    for step in range(3):
        system.train_step(Batch.of_features(LAYOUT, batch()), draws(step))
        decay = min(0.9, (2 + step) / (11 + step))
        expected = decay * expected + (1 - decay) * system.denoiser.out_conv.weight.detach()
    torch.testing.assert_close(system.optimiser.average.out_conv.weight, expected)
    averaged = system.sample_features(7, 0, 0, 2)
    system.optimiser.average = None
    assert not torch.equal(system.sample_features(7, 0, 0, 2), averaged)


def test_mixed_precision_is_for_gpus_only() -> None:
    assert make(amp=True).optimiser.amp_dtype is None
    assert not make(amp=True).optimiser.scaler.is_enabled()


# --- sampling ------------------------------------------------------------------------------------

SAMPLERS = [{"kind": "ddpm"}, {"kind": "ddim", "num_steps": 4}, {"kind": "dpmpp", "num_steps": 4}]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler["kind"])
@pytest.mark.parametrize("guardrail", ["clamp", "dynamic"])
def test_samples_are_features(sampler: dict[str, Any], guardrail: str) -> None:
    x = make(sampler=sampler, guardrail={"kind": guardrail}).sample_features(7, 0, 0, 5)
    assert x.shape == (5, 7, LAYOUT.num_features)
    assert bool(torch.isfinite(x).all())
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    for span in LAYOUT.spans:
        torch.testing.assert_close(x[..., span].sum(-1), torch.ones(5, 7))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler["kind"])
def test_a_patient_depends_on_seed_and_number_alone(sampler: dict[str, Any]) -> None:
    # A generous range, so that a network without training is accepted now and then.
    system = _rejecting(0.4, sampler=sampler)
    together = system.sample_features(7, 5, 10, 6)
    assert system.num_candidates > 6
    apart = torch.cat(
        [
            system.sample_features(7, 5, 10, 2),
            system.sample_features(7, 5, 12, 1),
            system.sample_features(7, 5, 13, 3),
        ]
    )
    torch.testing.assert_close(together, apart)
    assert not torch.allclose(system.sample_features(7, 6, 10, 6), together)
    assert not torch.allclose(together[0], together[1])


def _rejecting(reach: float, **changed: Any) -> DiffusionSystem:
    """A system whose guardrail accepts patients whose first real's mean stays within `reach`."""
    system = make(guardrail={"kind": "reject", "max_attempts": 60}, **changed)

    def accepts(reals_BRT: Tensor) -> Tensor:
        return reals_BRT[:, 0].mean(-1).abs() <= reach

    system.guardrail.accepts = accepts  # type: ignore[method-assign]
    return system


def test_rejected_patients_are_drawn_again_and_others_stay() -> None:
    strict, open_to_all = _rejecting(0.4), _rejecting(float("inf"))
    first_attempts = open_to_all.sample_features(7, 5, 10, 6)
    kept = strict.sample_features(7, 5, 10, 6)
    same = [bool(torch.allclose(a[:, 2:], b[:, 2:])) for a, b in zip(kept, first_attempts, strict=True)]
    assert 0 < sum(same) < 6
    assert float((2 * kept[..., 0] - 1).mean(1).abs().max()) <= 0.4 + 1e-6


def test_the_shipped_settings_make_patients_before_any_training() -> None:
    shipped = strict.load(RunConfig, Path(__file__).parents[2] / "configs/v3.yaml").system
    assert isinstance(shipped, DiffusionConfig)
    kind = shipped.guardrail.kind
    assert torch.isfinite(make(guardrail={"kind": kind}).sample_features(7, 0, 0, 300)).all()
    with pytest.raises(SamplingError, match=r"system\.guardrail\.min_acceptance"):
        make(guardrail={"kind": "reject"}).sample_features(7, 0, 0, 300)


def test_published_guardrail_keeps_reals_in_range() -> None:
    accepts = make(guardrail={"kind": "reject"}).guardrail.accepts
    reals = torch.tensor([[[0.0, 1.0]], [[-1.0, 0.5]], [[1.001, 0.0]], [[0.0, -1.2]]])
    assert accepts(reals).tolist() == [True, True, False, False]


def test_dynamic_thresholding_by_hand() -> None:
    guardrail = make(guardrail={"kind": "dynamic", "quantile": 0.5}).guardrail
    calm, wild = torch.tensor([[[-0.2, 0.1, 0.9]]]), torch.tensor([[[-2.0, 4.0, 1.0]]])
    assert torch.equal(guardrail.correct(calm), calm)
    assert torch.equal(guardrail.correct(wild), torch.tensor([[[-1.0, 1.0, 0.5]]]))


def test_no_attempt_accepted_is_an_error_that_names_patient_and_remedy() -> None:
    system = _rejecting(-1.0)
    expected = (
        r"Patient 10: none of 60 attempts \(system\.guardrail\.max_attempts\) stayed in range; of all 180 "
        r"candidates here 0 did \(0\.0%\)\. .*[Tt]rain longer, or set system\.guardrail\.kind to clamp"
    )
    with pytest.raises(SamplingError, match=expected):
        system.sample_features(7, 5, 10, 3)


def test_hopeless_acceptance_ends_early() -> None:
    system = _rejecting(-1.0)
    with pytest.raises(SamplingError, match=r"accepted 0 of 260 .* under .*min_acceptance = 2\.0%"):
        system.sample_features(7, 5, 10, 130)
    assert system.guardrail.hopeless(255, 0) is None
    assert system.guardrail.hopeless(1000, 20) is None


def test_matched_start_has_the_moments_of_noised_data() -> None:
    system = make(start="matched")
    x = batch(4000, 8)
    x[..., 1] = torch.rand(4000, 1)  # constant within a patient
    system.train_step(Batch.of_features(LAYOUT, x), draws(0))
    noised = system.schedule.add_noise(*_noised(system, x))
    found = start_of(system, 4000)
    for feature in range(LAYOUT.num_features):
        assert float(found[:, feature].mean()) == pytest.approx(float(noised[:, feature].mean()), abs=0.03)
        sd, expected = (each[:, feature].mean(-1).std() for each in (found, noised))
        assert float(sd) == pytest.approx(float(expected), rel=0.1)


def start_of(system: DiffusionSystem, num_patients: int) -> Tensor:
    """Return what sampling begins with; the system's sampler is replaced."""
    starts = []

    def only_the_start(schedule: Any, denoise: Any, draw: Any, start: Tensor) -> Tensor:
        starts.append(start)
        return start

    system.sampler = only_the_start
    system.sample_features(8, 0, 0, num_patients)
    (start,) = starts
    return start


def _noised(system: DiffusionSystem, x_BTF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the data, noise for it, and the last level."""
    canvas, _ = system.to_canvas(x_BTF)
    return canvas, torch.randn_like(canvas), constant_level(system.schedule.num_levels - 1, canvas)


def test_published_start_is_standard_normal() -> None:
    system = make()
    system.train_step(Batch.of_features(LAYOUT, batch()), draws(0))
    start = start_of(system, 2000)
    assert float(start.mean()) == pytest.approx(0, abs=0.02)
    assert float(start.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler["kind"])
def test_medium_precision_rounds_the_network_alone(
    sampler: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(sampler=sampler, guardrail={"kind": "clamp"})
    exact = system.sample_features(7, seed=1, first_patient=0, num_patients=16)
    monkeypatch.setattr(diffusion, "bfloat16_is_wanted", lambda device: True)
    rounded = system.sample_features(7, seed=1, first_patient=0, num_patients=16)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.02
    assert len(rounded.unique()) > 0.5 * len(exact.unique())  # no grid of eight bits


def test_shorter_patients_are_cut_from_the_trained_canvas() -> None:
    system = make()
    system.train_step(Batch.of_features(LAYOUT, batch(length=16)), draws(0))
    torch.testing.assert_close(system.sample_features(5, 0, 0, 3), system.sample_features(16, 0, 0, 3)[:, :5])


@pytest.mark.parametrize(
    "layout", [FeatureLayout(0, (3,), (4,)), FeatureLayout(3, (), ())], ids=["no reals", "no classes"]
)
@pytest.mark.parametrize("guardrail", ["clamp", "dynamic", "reject"])
def test_any_schema(layout: FeatureLayout, guardrail: str) -> None:
    system = make(
        layout, guardrail={"kind": guardrail, **({"max_attempts": 1} if guardrail == "reject" else {})}
    )
    assert bool(
        torch.isfinite(system.train_step(Batch.of_features(layout, batch(layout=layout)), draws(0))["loss"])
    )
    if guardrail == "reject" and layout.num_reals:
        with pytest.raises(SamplingError, match="none of 1 attempts"):
            system.sample_features(7, 0, 0, 40)
    else:
        assert system.sample_features(7, 0, 0, 2).shape == (2, 7, layout.num_features)
