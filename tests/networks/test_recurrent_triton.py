"""The recurrent core's kernels against the plain loop, run by Triton's interpreter: no GPU is needed."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from test_recurrent import plain
from torch import Tensor

from healthgym.nn import recurrent
from healthgym.nn.recurrent import BiLSTM
from healthgym.nn.recurrent_hoisted import Hoisted

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def fused() -> Iterator[Hoisted]:
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are declared
    recurrent._fused.cache_clear()
    found = recurrent._fused()
    assert found is not None, "Triton is not installed: make test-triton installs it"
    yield found
    os.environ.pop("TRITON_INTERPRET") if before is None else os.environ.update(TRITON_INTERPRET=before)


@pytest.fixture(autouse=True)
def _everywhere(fused: Hoisted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "passes_for", lambda x_TBI: fused)


def derivatives(h: Tensor, x_TBI: Tensor, lstm: BiLSTM) -> list[Tensor]:
    """Return h, its first derivatives, and those of a function of the input gradient."""
    dh = torch.linspace(-1, 1, h.numel(), dtype=h.dtype).view(h.shape).requires_grad_()
    inputs = [x_TBI, *lstm.parameters()]
    first = torch.autograd.grad(h, inputs, dh, retain_graph=True)
    (dx,) = torch.autograd.grad(h, x_TBI, dh, create_graph=True)
    return [h, *first, *torch.autograd.grad(dx.square().sum() + dx.sin().sum(), [dh, *inputs])]


# T, B, I, H: one of everything; odd ones; more units than a program takes; wider than it; a power of two.
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 9, 2, 33), (4, 1, 3, 300), (5, 8, 4, 16)]


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_both_derivatives(shape: tuple[int, int, int, int], last_only: bool) -> None:
    torch.manual_seed(sum(shape))
    T, B, I, H = shape
    lstm = BiLSTM(I, H).double()
    x_TBI = 2 * torch.randn(T, B, I, dtype=torch.float64)
    x_TBI.requires_grad_()
    found = derivatives(lstm(x_TBI, last_only=last_only), x_TBI, lstm)
    expected = derivatives(plain(lstm, x_TBI, last_only), x_TBI, lstm)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_single_precision_is_as_close_as_single_operations_are() -> None:
    torch.manual_seed(0)
    lstm = BiLSTM(6, 20)
    x_TBI = torch.randn(5, 7, 6, requires_grad=True)
    found = derivatives(lstm(x_TBI), x_TBI, lstm)
    exact = lstm.double()
    x_double = x_TBI.detach().double().requires_grad_()
    expected = derivatives(plain(exact, x_double, False), x_double, exact)
    torch.testing.assert_close(found, [each.float() for each in expected], rtol=2e-5, atol=2e-5)


def test_penalised_pass_leaves_weights_out_of_the_first_backward() -> None:
    lstm = BiLSTM(2, 3)
    x = torch.randn(4, 2, 2, requires_grad=True)
    lstm(x, penalised=True).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in lstm.parameters())


@pytest.mark.parametrize("x", [0.0, 1e-30, 1e-4, -0.3, 0.4999999, 0.5, -0.7, 3.0, 30.0, -800.0])
def test_tanh(x: float) -> None:
    """A cell's input gate times its candidate is what an LSTM of one timestep makes of s: h = o tanh(s)."""
    lstm = BiLSTM(1, 1).double()
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
        lstm.weight_DGK[:, 2, 0] = 1  # the candidate is tanh(x), its gate 1/2
        found = lstm(torch.full((1, 1, 1), x, dtype=torch.float64))
    s = torch.tensor(x, dtype=torch.float64).tanh() / 2
    torch.testing.assert_close(found[0, 0], (s.tanh() / 2).expand(2), rtol=1e-15, atol=0)


_COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from healthgym.nn import recurrent_triton as kernels

constants, numbers = {"BLOCK": 256, "KEEP": True}, {"t", "dh_row", "T", "num_units", "H"}
for name in ("_forward", "_adjoint", "_tangent", "_adjoint_tangent"):
    kernel = getattr(kernels, name)
    own = {each: constants[each] for each in kernel.arg_names if each in constants}
    kinds = {each: "i32" if each in numbers else "*fp32" for each in kernel.arg_names}
    source = ASTSource(kernel, signature=kinds | dict.fromkeys(own, "constexpr"), constexprs=own)
    print(name, len(triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]) > 0)
"""


def test_all_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE], env=variables, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [
        *("_forward", "True", "_adjoint", "True", "_tangent", "True", "_adjoint_tangent", "True")
    ], done.stderr
