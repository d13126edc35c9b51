"""Contract: what linear maps, embeddings, norms and activations do besides their formulas."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from .adapters import run_embedding, run_linear, run_rmsnorm, run_silu
from .plain import normal


def linear(x: Tensor, weight: Tensor) -> Tensor:
    d_out, d_in = weight.shape
    return run_linear(d_in=d_in, d_out=d_out, weights=weight, in_features=x)


def embed(ids: Tensor, weight: Tensor) -> Tensor:
    vocab_size, d_model = weight.shape
    return run_embedding(vocab_size, d_model, weights=weight, token_ids=ids)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    return run_rmsnorm(d_model=x.shape[-1], eps=eps, weights=weight, in_features=x)


def same_gradients(actual: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(actual, leaves, upstream)
    assert_close(gradients, torch.autograd.grad(expected, leaves, upstream), rtol=1e-12, atol=1e-14)


def test_linear_has_the_gradients_of_pytorch() -> None:
    x, weight = normal(2, 3, 7).requires_grad_(), normal(5, 7).requires_grad_()
    same_gradients(linear(x, weight), functional.linear(x, weight), [x, weight])


def test_rmsnorm_has_the_gradients_of_pytorch() -> None:
    x, weight = normal(2, 3, 8).requires_grad_(), normal(8).requires_grad_()
    same_gradients(rms_norm(x, weight), functional.rms_norm(x, (8,), weight, 1e-5), [x, weight])


def test_silu_has_the_gradient_of_pytorch() -> None:
    x = (5 * normal(5, 6)).requires_grad_()
    same_gradients(run_silu(x), functional.silu(x), [x])


def test_silu_is_right_far_from_zero() -> None:
    x = torch.tensor([0.0, 30.0, -30.0, 1e4, -1e4], dtype=torch.float64)
    assert_close(run_silu(x), functional.silu(x), rtol=1e-12, atol=0)


def test_embedding_adds_up_the_gradients_of_a_repeated_id() -> None:
    ids, weight = torch.tensor([[1, 3], [3, 3]]), normal(5, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(embed(ids, weight).sum(), weight)
    assert gradient.tolist() == [[0, 0], [1, 1], [0, 0], [3, 3], [0, 0]]


def test_rmsnorm_ignores_the_scale_of_its_input() -> None:
    x, weight = normal(4, 8), normal(8)
    assert_close(
        rms_norm(2.0**40 * x, weight, eps=0.0), rms_norm(x, weight, eps=0.0), rtol=1e-14, atol=0
    )


def test_rmsnorm_of_zeros_is_zero_and_has_a_finite_gradient() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    y = rms_norm(x, torch.ones(8))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, torch.zeros(2, 8))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("weight_dtype", [torch.float16, torch.float32], ids=str)
def test_rmsnorm_survives_float16_whose_squares_overflow(weight_dtype: torch.dtype) -> None:
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float16)
    y = rms_norm(1024 * signs, torch.full((4,), 2.0, dtype=weight_dtype))
    assert y.dtype == torch.float16
    assert torch.equal(y, 2 * signs)


def test_rmsnorm_rounds_to_bfloat16_only_once() -> None:
    x, weight = torch.randn(64, 32).bfloat16(), torch.randn(32)
    y = rms_norm(x, weight)
    assert y.dtype == torch.bfloat16
    exact = functional.rms_norm(x.double(), (32,), weight.double(), 1e-5)
    # bfloat16 keeps eight bits, so one rounding errs by 2**-9 to 2**-8; float32 adds a trifle.
    assert_close(y.double(), exact, rtol=2**-8 * 1.001, atol=0)
