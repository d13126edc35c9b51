"""The linear map is that of PyTorch without a bias, and starts as its docstring says."""

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from scratch.nn import Linear, linear


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)], ids=str)
def test_is_the_linear_map_of_pytorch(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape).double(), torch.randn(5, 7).double()
    # Sums of seven products in float64, whose order may differ.
    assert_close(linear(x, weight), functional.linear(x, weight), rtol=1e-12, atol=1e-14)


def test_has_the_gradients_of_pytorch() -> None:
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    actual = torch.autograd.grad(linear(x, weight).square().sum(), (x, weight))
    expected = torch.autograd.grad(functional.linear(x, weight).square().sum(), (x, weight))
    assert_close(actual, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_answers_in_the_dtype_of_its_inputs(dtype: torch.dtype) -> None:
    assert linear(torch.ones(2, 3, dtype=dtype), torch.ones(4, 3, dtype=dtype)).dtype == dtype


def test_the_module_applies_its_weight() -> None:
    layer, x = Linear(7, 5), torch.randn(2, 7)
    assert torch.equal(layer(x), linear(x, layer.weight))


def test_the_module_owns_one_weight_stored_out_by_in() -> None:
    shapes = {name: tuple(weight.shape) for name, weight in Linear(7, 5).named_parameters()}
    assert shapes == {"weight": (5, 7)}


def test_starts_normal_with_glorot_variance_cut_at_three_sigma() -> None:
    weight = Linear(1000, 600).weight.detach().double()
    sigmas = weight / math.sqrt(2 / 1600)
    # 600,000 draws: 0.005 is five standard errors of a mean or a share, and more of the rest.
    assert float(sigmas.abs().max()) <= 3 + 1e-6
    assert float(sigmas.abs().max()) > 2.95
    assert float(sigmas.mean()) == pytest.approx(0, abs=0.007)
    assert float(sigmas.std()) == pytest.approx(0.98658, abs=0.005)  # of the normal, cut at 3
    share_within_one = math.erf(1 / math.sqrt(2)) / math.erf(3 / math.sqrt(2))
    assert float((sigmas.abs() < 1).double().mean()) == pytest.approx(share_within_one, abs=0.005)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((0, 3), "d_in must be at least 1, got 0"), ((3, -1), "d_out must be at least 1, got -1")],
)
def test_refuses_sizes_below_one(sizes: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Linear(*sizes)
