"""Causal attention in blocks: where the cuts are does not matter, nor what is never looked at."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from scratch.nn._block_causal import BlockCausal

# Short sums in float64, whose order may differ; a detour through float32 would be off by 1e-7.
EXACT = {"rtol": 1e-11, "atol": 1e-12}


def inputs(seq: int, dtype: torch.dtype = torch.float64, size: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seq)
    numbers = torch.randn(3, 2, seq, 4, generator=generator, dtype=torch.float64)
    return [(size * x).to(dtype).requires_grad_() for x in numbers]


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Oracle: the formula, with the whole matrix of scores."""
    distance = torch.arange(q.shape[-2])[:, None] - torch.arange(k.shape[-2])
    seen = (distance >= 0) & (distance < (window or math.inf))
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~seen, -torch.inf)
    return torch.softmax(scores, -1) @ v


def with_gradients(result: Tensor, leaves: list[Tensor], g: Tensor) -> list[Tensor]:
    return [result.detach(), *torch.autograd.grad(result, leaves, g)]


@settings(deadline=None, derandomize=True, max_examples=100, database=None)
@given(st.integers(1, 20), st.integers(1, 25), st.one_of(st.none(), st.integers(1, 25)))
def test_where_the_cuts_are_does_not_matter(seq: int, block: int, window: int | None) -> None:
    leaves, g = inputs(seq), torch.randn(2, seq, 4, dtype=torch.float64)
    actual = with_gradients(BlockCausal.apply(*leaves, block, window), leaves, g)
    expected = with_gradients(attend(*leaves, window), leaves, g)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, **EXACT)


@pytest.mark.parametrize(("block", "window"), [(2, None), (3, 2), (7, 1), (1, 4)])
def test_gradients_are_those_of_finite_differences(block: int, window: int | None) -> None:
    leaves = inputs(5)
    for tensors in (leaves, [x.mT.contiguous().mT.detach().requires_grad_() for x in leaves]):
        assert torch.autograd.gradcheck(
            lambda q, k, v: BlockCausal.apply(q, k, v, block, window), tensors
        )


def test_an_empty_batch_has_empty_gradients() -> None:
    leaves = [torch.zeros(0, 5, 4, requires_grad=True) for _ in range(3)]
    BlockCausal.apply(*leaves, 2, None).sum().backward()
    assert [tuple(x.grad.shape) for x in leaves if x.grad is not None] == 3 * [(0, 5, 4)]


def test_a_second_derivative_is_refused() -> None:
    leaves = inputs(5)
    result = BlockCausal.apply(*leaves, 2, None).square().sum()
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(result, leaves[0], create_graph=True)


@pytest.mark.parametrize("window", [None, 3])
def test_no_position_sees_or_moves_a_later_one(window: int | None) -> None:
    leaves = inputs(9)
    q, k, v = (x.detach().clone() for x in leaves)
    for x in (q, k, v):
        x[:, 6:] += 5
    before, after = (BlockCausal.apply(*three, 4, window) for three in (leaves, (q, k, v)))
    assert_close(before[:, :6], after[:, :6], **EXACT)
    before[:, :6].sum().backward()
    for x in leaves:
        assert x.grad is not None
        assert not x.grad[:, 6:].count_nonzero()


@pytest.mark.parametrize("size", [1e4, 1e15], ids="size {}".format)
@pytest.mark.parametrize("window", [None, 3])
def test_scores_may_be_large(size: float, window: int | None) -> None:
    leaves = inputs(9, torch.float32, size)
    result = BlockCausal.apply(*leaves, 4, window)
    for x in with_gradients(result, leaves, torch.randn(2, 9, 4)):
        assert x.isfinite().all()
    # The largest score takes all: the result is a value, or at a tie a mean of some.
    assert result.abs().max() <= leaves[2].abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_answers_in_the_dtype_of_its_inputs(dtype: torch.dtype) -> None:
    leaves, g = inputs(40, dtype), torch.randn(2, 40, 4).to(dtype)
    actual = with_gradients(BlockCausal.apply(*leaves, 16, None), leaves, g)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    expected = with_gradients(attend(*wide, None), wide, g.double())
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == dtype
        # Scores, exponentials and products are rounded once each, and added up a few times.
        assert (one.double() - other).norm() < 4 * torch.finfo(dtype).eps * other.norm()


def test_most_of_what_causality_hides_is_never_made() -> None:
    sizes: list[int] = []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    leaves = [x.detach().requires_grad_() for x in torch.randn(3, 1, 64, 2)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        BlockCausal.apply(*leaves, 8, None)
        whole = sum(sizes)
        sizes.clear()
        BlockCausal.apply(*leaves, 8, 8)
    rest = 4 * 64 * 2 + 64  # queries, keys, values, results; sums
    assert whole == 64 * (64 + 8) // 2 + rest
    assert sum(sizes) == 8 * 8 + 7 * 8 * 15 + rest
