"""The sigmoid linear unit."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from scratch.nn import silu


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)], ids=str)
def test_is_the_silu_of_pytorch(shape: tuple[int, ...]) -> None:
    x = 4 * torch.randn(shape).double()
    assert_close(silu(x), functional.silu(x), rtol=1e-14, atol=0)  # a product of two roundings


def test_gradients_are_those_of_finite_differences_twice_over() -> None:
    x = (3 * torch.randn(6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(silu, x)
    assert torch.autograd.gradgradcheck(silu, x)


def test_far_from_zero_it_is_the_identity_or_nothing() -> None:
    x = torch.tensor([1e4, -1e4, 1e30, -1e30], requires_grad=True)
    y = silu(x)
    y.sum().backward()
    assert x.grad is not None
    assert y.tolist() == [1e4, 0, x[2].item(), 0]
    assert x.grad.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_answers_in_the_dtype_of_its_input(dtype: torch.dtype) -> None:
    assert silu(torch.ones(3, dtype=dtype)).dtype == dtype
