"""The recurrent core against a plain loop, in float64: values, first and second derivatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from healthgym.nn.recurrent import BiLSTM


def plain(lstm: BiLSTM, x_TBI: Tensor, last_only: bool) -> Tensor:
    """Return the LSTM's result, computed per timestep and direction, differentiated by autograd."""
    directions = []
    for d, sequence in enumerate([x_TBI, x_TBI.flip(0)]):
        h = s = x_TBI.new_zeros(x_TBI.shape[1], lstm.hidden_dim)
        states = []
        for x in sequence:
            a = torch.cat([x, h], 1) @ lstm.weight_DGK[d].T + lstm.input_bias_DG[d] + lstm.hidden_bias_DG[d]
            f, i, g, o = a.chunk(4, 1)
            s = f.sigmoid() * s + i.sigmoid() * g.tanh()
            h = o.sigmoid() * s.tanh()
            states.append(h)
        directions.append(torch.stack(states))
    h_TBJ = torch.cat(directions, -1)
    return h_TBJ[-1] if last_only else h_TBJ


shapes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=25, deadline=None)
@given(shape=shapes, last_only=st.booleans(), seed=st.integers(0, 99))
def test_first_derivatives(shape: tuple[int, int, int, int], last_only: bool, seed: int) -> None:
    torch.manual_seed(seed)
    T, B, I, H = shape
    lstm = BiLSTM(I, H).double()
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    found, expected = lstm(x, last_only=last_only), plain(lstm, x, last_only)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    dh = torch.randn_like(found)
    inputs = [x, *lstm.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, dh),
        torch.autograd.grad(expected, inputs, dh),
        rtol=1e-12,
        atol=1e-12,
    )


@settings(max_examples=25, deadline=None)
@given(shape=shapes, last_only=st.booleans(), penalised=st.booleans(), seed=st.integers(0, 99))
def test_second_derivatives(
    shape: tuple[int, int, int, int], last_only: bool, penalised: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    T, B, I, H = shape
    lstm = BiLSTM(I, H).double()
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    dh = torch.randn_like(plain(lstm, x, last_only)).requires_grad_()
    inputs = [x, dh, *lstm.parameters()]

    def second(h: Tensor) -> tuple[Tensor, ...]:
        (dx,) = torch.autograd.grad(h, x, dh, create_graph=True)
        return torch.autograd.grad(dx.square().sum() + dx.sin().sum(), inputs)

    torch.testing.assert_close(
        second(lstm(x, last_only=last_only, penalised=penalised)),
        second(plain(lstm, x, last_only)),
        rtol=1e-11,
        atol=1e-11,
    )


def test_gradcheck() -> None:
    torch.manual_seed(0)
    lstm = BiLSTM(2, 2).double()
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: lstm(x), x)
    assert torch.autograd.gradgradcheck(lambda x: lstm(x), x)


def test_penalised_pass_leaves_weights_out_of_the_first_backward() -> None:
    lstm = BiLSTM(2, 3)
    x = torch.randn(4, 2, 2, requires_grad=True)
    lstm(x, penalised=True).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in lstm.parameters())


def test_weight_gradients_are_not_differentiable_in_silence() -> None:
    lstm = BiLSTM(2, 3)
    x = torch.randn(4, 2, 2, requires_grad=True)
    (dweight,) = torch.autograd.grad(lstm(x).sum(), lstm.weight_DGK, create_graph=True)
    with pytest.raises(RuntimeError, match="weight gradient is not differentiable"):
        dweight.sum().backward()


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 7, 33), (4, 64, 6, 128)], ids=str)
def test_a_gpu_gives_the_plain_loop(shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    T, B, I, H = shape
    lstm = BiLSTM(I, H).double().cuda()
    x = torch.randn(T, B, I, dtype=torch.float64, device="cuda", requires_grad=True)
    sides = []
    for h in (lstm(x), plain(lstm, x, False)):
        inputs = [x, *lstm.parameters()]
        first = torch.autograd.grad(h.sin().sum(), inputs, retain_graph=True)
        (dx,) = torch.autograd.grad(h.square().sum(), x, create_graph=True)
        sides.append([h, *first, *torch.autograd.grad(dx.sin().sum(), inputs)])
    torch.testing.assert_close(*sides, rtol=1e-10, atol=1e-10)
