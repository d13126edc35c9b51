"""RMS normalization follows its formula, in float32 or wider whatever comes in."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from scratch.nn import RMSNorm, rms_norm


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (0, 8)], ids=str)
def test_is_the_rms_norm_of_pytorch(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape).double(), torch.randn(8).double()
    expected = functional.rms_norm(x, (8,), weight, eps=0.25)
    # float64 throughout: a detour through float32 would be off by 1e-7.
    assert_close(rms_norm(x, weight, eps=0.25), expected, rtol=1e-12, atol=1e-14)


def test_gradients_are_those_of_finite_differences() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, eps=0.1), (x, weight))


def test_the_epsilon_is_added_to_the_mean_square() -> None:
    x = torch.full((4,), 3.0, dtype=torch.float64)
    y = rms_norm(x, torch.ones(4, dtype=torch.float64), eps=16.0)
    assert_close(y, torch.full_like(x, 3 / 5), rtol=1e-15, atol=0)


@pytest.mark.parametrize("size", [1024.0, 1e-4], ids=["squares overflow", "squares vanish"])
def test_float16_is_normalized_where_its_squares_are_not_numbers(size: float) -> None:
    x = size * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float16)
    y = rms_norm(x, torch.ones(4, dtype=torch.float16), eps=0.0)
    assert y.dtype == torch.float16
    assert y.tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_answers_in_the_dtype_of_its_input_rounded_once(dtype: torch.dtype) -> None:
    x, weight = torch.randn(50, 64).to(dtype), torch.randn(64).to(dtype)
    expected = functional.rms_norm(x.double(), (64,), weight.double(), eps=1e-5)
    # Half a unit in the last place, plus what float32 adds to it.
    rtol = torch.finfo(dtype).eps / 2 + 1e-6
    actual = rms_norm(x, weight)
    assert actual.dtype == dtype
    assert_close(actual.double(), expected, rtol=rtol, atol=1e-7)


def test_a_wider_weight_does_not_widen_the_answer() -> None:
    assert rms_norm(torch.ones(2, 4).bfloat16(), torch.ones(4)).dtype == torch.bfloat16


def test_zeros_stay_zeros_and_have_a_finite_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    y = rms_norm(x, torch.ones(4))
    y.sum().backward()
    assert y.tolist() == torch.zeros(2, 4).tolist()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_module_starts_with_a_gain_of_one_and_an_epsilon_of_1e_5() -> None:
    layer = RMSNorm(4)
    assert {name: p.tolist() for name, p in layer.named_parameters()} == {"weight": [1, 1, 1, 1]}
    # So small an input shows the epsilon: (1e-3)^2 / ((1e-3)^2 + 1e-5) = 1 / 11.
    y = layer(torch.full((4,), 1e-3)).square()
    assert_close(y, torch.full((4,), 1 / 11), rtol=1e-5, atol=0)


def test_the_module_uses_its_gain_and_its_epsilon() -> None:
    layer, x = RMSNorm(4, eps=0.5), torch.randn(3, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4))
    assert torch.equal(layer(x), rms_norm(x, layer.weight, eps=0.5))


def test_refuses_to_normalize_nothing() -> None:
    with pytest.raises(ValueError, match="d_model must be at least 1, got 0"):
        RMSNorm(0)
