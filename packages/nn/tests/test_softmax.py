"""Softmax and log-sum-exp: those of PyTorch, at any size of the numbers and along any axis."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from scratch.nn import log_sum_exp, softmax

ROWS = st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=12)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_both_are_those_of_pytorch_along_any_axis(dim: int) -> None:
    x = 5 * torch.randn(3, 4, 5, dtype=torch.float64)
    # float64 throughout; a detour through float32 would be off by 1e-7.
    assert_close(softmax(x, dim), torch.softmax(x, dim), rtol=1e-12, atol=0)
    assert_close(log_sum_exp(x, dim), torch.logsumexp(x, dim), rtol=1e-12, atol=1e-14)


def test_the_last_axis_is_the_default() -> None:
    x = torch.randn(3, 4)
    assert torch.equal(softmax(x), softmax(x, 1))
    assert torch.equal(log_sum_exp(x), log_sum_exp(x, 1))


def test_a_scalar_is_an_axis_of_one() -> None:
    assert softmax(torch.tensor(3.0)).item() == 1
    assert log_sum_exp(torch.tensor(3.0)).item() == 3


@settings(deadline=None, derandomize=True)
@given(ROWS)
def test_probabilities_sum_to_one_however_large_the_numbers(row: list[float]) -> None:
    x = torch.tensor(row, dtype=torch.float64)
    assert softmax(x).sum().item() == pytest.approx(1, abs=1e-12)
    assert_close(softmax(x), torch.softmax(x, 0), rtol=1e-12, atol=0)


@settings(deadline=None, derandomize=True)
@given(ROWS)
def test_log_sum_exp_lies_between_the_greatest_and_log_n_above_it(row: list[float]) -> None:
    x = torch.tensor(row, dtype=torch.float64)
    excess = float(log_sum_exp(x) - x.max())
    assert -1e-9 <= excess <= float(torch.tensor(len(row)).double().log()) + 1e-9
    assert_close(log_sum_exp(x), torch.logsumexp(x, 0), rtol=1e-12, atol=1e-9)


def test_rows_far_apart_do_not_meet() -> None:
    x = torch.tensor([[1e4, 1e4], [0.0, 0.0], [-1e4, -1e4]])
    assert softmax(x).tolist() == [[0.5, 0.5]] * 3
    assert_close(log_sum_exp(x), torch.tensor([1e4, 0.0, -1e4]) + torch.tensor(2.0).log())


def test_adding_a_constant_changes_no_probability() -> None:
    x = torch.randn(4, 5, dtype=torch.float64)
    assert_close(softmax(x + 1024), softmax(x), rtol=1e-12, atol=0)  # x + 1024 rounds at 1e-13
    assert_close(log_sum_exp(x + 1024), log_sum_exp(x) + 1024, rtol=1e-14, atol=0)


def test_gradients_are_those_of_finite_differences_twice_over() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(softmax, x)
    assert torch.autograd.gradcheck(log_sum_exp, x)
    assert torch.autograd.gradgradcheck(softmax, x)
    assert torch.autograd.gradgradcheck(log_sum_exp, x)


def test_the_gradient_of_log_sum_exp_is_softmax_where_the_greatest_comes_twice() -> None:
    x = torch.tensor([2.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_sum_exp(x), x)
    assert_close(gradient, torch.softmax(x.detach(), 0), rtol=1e-12, atol=0)


def test_minus_infinity_has_no_probability() -> None:
    x = torch.tensor([0.0, -torch.inf, 0.0])
    assert softmax(x).tolist() == [0.5, 0, 0.5]
    assert_close(log_sum_exp(x), torch.tensor(2.0).log())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_numbers_are_summed_in_float32(dtype: torch.dtype) -> None:
    x = torch.zeros(70_000, dtype=dtype)  # more ones than float16 can count
    assert softmax(x).dtype == dtype
    assert softmax(x)[0] == torch.tensor(1 / 70_000, dtype=dtype)
    assert log_sum_exp(x).dtype == torch.float32
    assert_close(log_sum_exp(x), torch.tensor(70_000.0).log())


def test_the_log_sum_exp_of_nothing_is_minus_infinity() -> None:
    assert log_sum_exp(torch.full((2, 3), -torch.inf)).tolist() == [-torch.inf, -torch.inf]
