"""The contract of all systems, tested for each system of one list."""

import numpy as np
import pytest
import tiny
import torch
from steps import LAYOUT, T, build, made_of, train

from healthgym.errors import StorageError
from healthgym.systems.adversarial import latent, transformer
from healthgym.systems.base import SampleDraws
from healthgym.systems.denoising import diffusion
from healthgym.training.trainer import to_arrays

# The critic's last bias shifts real and fake scores alike: its gradient is zero.
STILL = {"seen.divided", "D.linear3.bias"}


@pytest.fixture(params=tiny.SYSTEMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[name for name in tiny.SYSTEMS if not build(name).makes_lengths])
def soft(request: pytest.FixtureRequest) -> str:
    """A system that makes features, of lengths that it is given."""
    return request.param


def test_losses_are_finite_scalars(name: str) -> None:
    for loss in train(build(name), 0, 2).values():
        assert loss.shape == ()
        assert not loss.requires_grad
        assert torch.isfinite(loss)


def test_samples_have_the_promised_shape_and_range(soft: str) -> None:
    system = build(soft)
    train(system, 0, 1)
    x_BTF = system.sample_features(T, seed=0, first_patient=0, num_patients=5)
    assert x_BTF.shape == (5, T, LAYOUT.num_features)
    reals = x_BTF[..., : LAYOUT.num_reals]
    assert ((reals >= 0) & (reals <= 1)).all()
    assert (x_BTF[..., LAYOUT.num_reals :] >= 0).all()


def test_made_patients_have_the_promised_shape_and_range(soft: str) -> None:
    system = build(soft)
    train(system, 0, 1)
    lengths_B = np.array([2, T - 1, 3, 1, 4])
    made = system.sample(lengths_B, SampleDraws(0, 10, 5), T)
    assert made.scaled
    assert made.reals_RTB.shape == (LAYOUT.num_reals, T - 1, 5)
    assert made.reals_RTB.dtype == np.float32
    assert made.codes_KTB.shape == (len(LAYOUT.num_classes), T - 1, 5)
    assert made.codes_KTB.dtype == np.uint8
    assert ((made.reals_RTB >= 0) & (made.reals_RTB <= 1)).all()
    assert (made.codes_KTB.max((1, 2)) < LAYOUT.num_classes).all()
    np.testing.assert_array_equal(made.lengths_B, lengths_B)
    sex_TB = made.codes_KTB[0]
    assert all(len(set(sex_TB[:length, patient])) == 1 for patient, length in enumerate(lengths_B))
    assert set(made.disagreements) == {LAYOUT.num_reals}


def test_every_parameter_moves(name: str) -> None:
    system = build(name)
    before = to_arrays(system.state())
    train(system, 0, 2)
    if system.validates:
        system.keep_if_best(1.0)
    after = to_arrays(system.state())
    networks = [group for group in before if isinstance(before[group], dict) and group != "optimisers"]
    assert networks
    for group in networks:
        for parameter, values in before[group].items():
            where = f"{group}.{parameter}"
            assert np.array_equal(values, after[group][parameter]) == (where in STILL), where


def test_resumed_equals_straight(name: str) -> None:
    straight = build(name)
    train(straight, 0, 8)  # past the latent memory's capacity
    first = build(name)
    train(first, 0, 5)
    second = build(name, seed=99)  # other initial weights: all must come from the state
    second.load_state(to_arrays(first.state()))
    tiny.assert_same_tree(to_arrays(first.state()), to_arrays(second.state()))
    train(second, 5, 8)
    tiny.assert_same_tree(to_arrays(straight.state()), to_arrays(second.state()))


def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    one = to_arrays(build(name).state())
    torch.manual_seed(2)
    state_before = torch.get_rng_state()
    tiny.assert_same_tree(one, to_arrays(build(name).state()))
    assert torch.equal(state_before, torch.get_rng_state()), (
        "building a system must not disturb torch's generator"
    )


@pytest.mark.parametrize("at_once", [1000, 2])
def test_a_patient_depends_on_its_number_not_on_the_batch(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent, "DRAWN_AT_ONCE", at_once)
    monkeypatch.setattr(diffusion, "CACHED_PATIENTS", at_once)
    monkeypatch.setattr(transformer, "CACHED_PATIENTS", at_once)
    system = build(name)
    train(system, 0, 3)
    together, alone = made_of(system, 4, 0, 6), made_of(system, 4, 3, 1)
    np.testing.assert_allclose(together.reals_RTB[..., 3:4], alone.reals_RTB, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together.codes_KTB[..., 3:4], alone.codes_KTB)
    other = made_of(system, 5, 0, 6)
    assert not np.allclose(together.reals_RTB, other.reals_RTB)
    assert len(np.unique(together.reals_RTB[0, 0])) == 6, "six patients, six values"


def test_patients_of_two_lengths_share_no_noise(soft: str) -> None:
    system = build(soft)
    train(system, 0, 1)
    short = system.sample_features(T // 2, seed=4, first_patient=0, num_patients=40).flatten(1)
    long = system.sample_features(T, seed=4, first_patient=0, num_patients=40)[:, : T // 2].flatten(1)
    distances = torch.cdist(short.double(), long.double()).fill_diagonal_(torch.inf)
    assert distances.min() > 1e-6, "two patients begin alike"


def test_a_state_of_another_shape_is_refused(name: str) -> None:
    system = build(name)
    state = to_arrays(system.state())
    group = next(iter(state))
    parameter = next(iter(state[group]))
    state[group][parameter] = state[group][parameter][..., :1][:1]
    with pytest.raises(StorageError, match="have another shape"):
        system.load_state(state)
