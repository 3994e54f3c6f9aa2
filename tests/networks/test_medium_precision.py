"""`matmul_precision: medium` on processors with and without bfloat16 arithmetic."""

from collections.abc import Iterator

import pytest
import tiny
import torch
from steps import LAYOUT, T, build, train

from healthgym.nn.precision import bfloat16_is_wanted, get_precision, set_precision
from healthgym.systems.adversarial import generators
from healthgym.systems.adversarial.generators import BiLSTMGenerator
from healthgym.systems.base import SampleDraws
from healthgym.training.trainer import to_arrays

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def medium(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Medium precision, on a processor that says it multiplies bfloat16."""
    before = get_precision()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    set_precision("medium")
    yield
    set_precision(before)


def test_highest_is_float32_in_convolutions_on_a_gpu_too() -> None:
    allowed = {}
    for precision in ("highest", "high", "medium", "highest"):
        set_precision(precision)
        allowed[precision] = torch.backends.cudnn.allow_tf32
    assert allowed == {"highest": False, "high": True, "medium": True}


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_is_for_medium_on_processors_that_have_it(
    precision: str, supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    set_precision(precision)
    for device in ("cpu", "cuda"):
        assert bfloat16_is_wanted(torch.device(device)) == (supported and precision == "medium")
    assert not bfloat16_is_wanted(torch.device("mps"))


def test_only_a_generator_of_float32_without_gradients_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator, z_BTZ = BiLSTMGenerator(LAYOUT, 6, 8), torch.rand(5, 4, 6)
    with torch.no_grad():
        rounded = generator(z_BTZ)
        monkeypatch.setattr(generators, "bfloat16_is_wanted", lambda device: False)
        exact = generator(z_BTZ)
    assert rounded.shape == exact.shape
    assert 0 < (rounded - exact).abs().max() < 0.02

    def never(*arguments: object) -> None:
        raise AssertionError("rounded")

    monkeypatch.setattr(generators, "bfloat16_is_wanted", lambda device: True)
    monkeypatch.setattr(generators, "bfloat16_logits", never)
    generator(z_BTZ)
    with torch.no_grad():
        generator.double()(z_BTZ.double())
        with pytest.raises(AssertionError, match="rounded"):
            generator.float()(z_BTZ)


@pytest.mark.parametrize("name", ["v1", "v2", "v2.5"])
def test_a_resumed_run_resumes_bit_for_bit(name: str) -> None:
    whole = build(name)
    train(whole, 0, 2)
    resumed = build(name, seed=4)
    resumed.load_state(to_arrays(whole.state()))
    train(whole, 2, 4)
    train(resumed, 2, 4)
    tiny.assert_same_tree(to_arrays(whole.state()), to_arrays(resumed.state()))


@pytest.mark.parametrize("name", ["v1", "v2", "v2.5"])
def test_patients_of_a_batch_do_not_depend_on_the_other_batches(name: str) -> None:
    system = build(name)
    train(system, 0, 1)
    second = system.sample_features(T, 0, 8, 8)
    system.sample_features(T, 0, 0, 8)
    assert torch.equal(system.sample_features(T, 0, 8, 8), second)
    assert not torch.equal(system.sample_features(T, 0, 0, 8), second)


def test_ar_computes_in_float32_on_a_cpu() -> None:
    found = {}
    for precision in ("highest", "medium"):
        set_precision(precision)
        system = build("ar")
        train(system, 0, 2)
        made = system.make(SampleDraws(0, 0, 64))
        found[precision] = made.reals_RTB.tobytes() + made.codes_KTB.tobytes()
        assert get_precision() == precision
    assert found["medium"] == found["highest"]
