"""Cross-entropy: the mean surprise, its gradient, and the logits and targets it must stand."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from scratch.nn import cross_entropy


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 3, 4)], ids=str)
def test_is_the_mean_cross_entropy_of_pytorch(shape: tuple[int, ...]) -> None:
    logits, targets = 3 * torch.randn(*shape, 7).double(), torch.randint(7, shape)
    expected = functional.cross_entropy(logits.reshape(-1, 7), targets.reshape(-1))
    # float64 throughout; a detour through float32 would be off by 1e-7.
    assert_close(cross_entropy(logits, targets), expected, rtol=1e-12, atol=0)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary() -> None:
    loss = cross_entropy(torch.zeros(4, 10, dtype=torch.float64), torch.tensor([0, 3, 5, 9]))
    assert_close(loss, torch.tensor(10.0).double().log(), rtol=1e-15, atol=0)


def test_the_gradient_is_softmax_minus_one_hot_over_the_number_of_targets() -> None:
    logits = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (2, 3))
    (gradient,) = torch.autograd.grad(cross_entropy(logits, targets), logits)
    expected = (torch.softmax(logits.detach(), -1) - functional.one_hot(targets, 7)) / 6
    assert_close(gradient, expected, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_huge_logits_cost_exactly_their_distance(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]], dtype=dtype, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(loss, logits)
    high, low = logits.detach()[0].tolist()  # 1e4 as the dtype has it
    assert loss.dtype == torch.float32
    assert loss.item() == (high - low) / 2
    assert gradient.tolist() == [[0, 0], [0.5, -0.5]]


def one_in_a_thousand(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = (8 * torch.randn(64, 1000, generator=generator)).to(dtype)
    return logits, torch.randint(1000, (64,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_logits_are_answered_in_float32(dtype: torch.dtype) -> None:
    logits, targets = one_in_a_thousand(dtype)
    loss = cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    expected = functional.cross_entropy(logits.double(), targets)
    assert_close(loss.double(), expected, rtol=1e-6, atol=0)  # float32; bfloat16 has but 4e-3


def test_float64_logits_are_answered_in_float64() -> None:
    assert cross_entropy(*one_in_a_thousand(torch.float64)).dtype == torch.float64


def test_a_logit_of_minus_infinity_rules_a_token_out() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([1]))
    loss.backward()
    assert logits.grad is not None
    assert_close(loss, torch.tensor(2.0).log())
    assert logits.grad.tolist() == [[0.5, -0.5, 0]]


@pytest.mark.parametrize("wrong", [-100, -1, 7])
def test_refuses_a_target_outside_of_the_vocabulary(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"targets must be in 0 \.\. 6 .*, got {wrong}"):
        cross_entropy(torch.zeros(2, 7), torch.tensor([0, wrong]))


def test_refuses_a_mean_over_nothing() -> None:
    with pytest.raises(ValueError, match=r"targets must not be empty, got shape \(0,\)"):
        cross_entropy(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 3, 1), ()], ids=str)
def test_refuses_targets_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"targets must have the shape of logits .*\(2, 3, 7\)"):
        cross_entropy(torch.zeros(2, 3, 7), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.usefixtures("unchecked")
def test_refuses_targets_that_are_no_whole_numbers() -> None:
    with pytest.raises(TypeError, match=r"targets must be whole numbers, got dtype torch\.float32"):
        cross_entropy(torch.zeros(2, 7), torch.zeros(2))
