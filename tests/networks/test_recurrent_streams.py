"""The ways of running the directions: in turn or at once (CPU), together or hoisted (elsewhere); buffers."""

from collections.abc import Iterator

import pytest
import torch
from test_recurrent import plain
from torch import Tensor

from healthgym.nn import recurrent
from healthgym.nn.recurrent import BiLSTM
from healthgym.nn.recurrent_hoisted import Hoisted, PlainPointwise
from healthgym.nn.recurrent_passes import Tape


@pytest.fixture(params=["in turn", "at once", "together", "hoisted"])
def lstm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BiLSTM]:
    threads = torch.get_num_threads()
    streams = (...,) if request.param == "together" else (0, 1)
    monkeypatch.setattr(recurrent, "streams_of", lambda x_TBI: streams)
    monkeypatch.setattr(recurrent, "ENOUGH_FOR_TWO_THREADS", 1)
    if request.param == "hoisted":
        monkeypatch.setattr(recurrent, "passes_for", lambda x_TBI: Hoisted(PlainPointwise()))
    torch.set_num_threads(2 if request.param == "at once" else 1)
    torch.manual_seed(0)
    yield BiLSTM(3, 4).double()
    torch.set_num_threads(threads)


def inputs(T: int = 5) -> Tensor:
    return torch.randn(T, 2, 3, dtype=torch.float64, requires_grad=True)


def derivatives(h: Tensor, x_TBI: Tensor, lstm: BiLSTM) -> tuple[Tensor, ...]:
    """Return the first derivatives, and those of a function of the input gradient."""
    first = torch.autograd.grad(h.sin().sum(), [x_TBI, *lstm.parameters()], retain_graph=True)
    (dx,) = torch.autograd.grad(h.sum(), x_TBI, create_graph=True)
    return first + torch.autograd.grad(dx.square().sum(), [x_TBI, *lstm.parameters()])


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("T", [5, 1])
def test_all_ways_give_the_plain_loop(lstm: BiLSTM, T: int, last_only: bool) -> None:
    x = inputs(T)
    found, expected = lstm(x, last_only=last_only), plain(lstm, x, last_only)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        derivatives(found, x, lstm), derivatives(expected, x, lstm), rtol=1e-11, atol=1e-11
    )


def test_memory_order_of_the_input_does_not_matter(lstm: BiLSTM) -> None:
    x = inputs()
    features_first = x.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    assert not features_first.is_contiguous()
    found = derivatives(lstm(features_first), features_first, lstm)
    torch.testing.assert_close(found, derivatives(lstm(x), x, lstm))


def test_a_pass_that_is_still_needed_keeps_its_buffers(lstm: BiLSTM) -> None:
    x, other = inputs(), inputs()
    expected = derivatives(lstm(x), x, lstm)
    h = lstm(x)
    derivatives(lstm(other), other, lstm)  # same shapes: would take the same buffers if they were free
    torch.testing.assert_close(derivatives(h, x, lstm), expected, rtol=0, atol=0)


def test_buffers_are_used_again(lstm: BiLSTM) -> None:
    def count() -> int:
        return sum(len(steps) for steps in Tape._shelf.values())

    x = inputs()
    derivatives(lstm(x), x, lstm)
    before = count()
    for _ in range(3):
        derivatives(lstm(x), x, lstm)
    assert count() == before


@pytest.mark.parametrize("num_patients", [5, 7, 13])
def test_the_bits_do_not_depend_on_which_buffers_are_used(num_patients: int) -> None:
    torch.manual_seed(0)
    lstm, x_TBI = BiLSTM(9, 6), torch.randn(6, num_patients, 9, requires_grad=True)
    held, found = [], []
    for _ in range(6):
        h_TBJ = lstm(x_TBI)
        gradients = torch.autograd.grad(h_TBJ.square().sum(), [x_TBI, *lstm.parameters()])
        found.append([h_TBJ.detach(), *gradients])
        held.append(lstm(x_TBI[: len(held) + 1]))  # keeps a number of buffers, so that others come next
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            assert torch.equal(first, other)
