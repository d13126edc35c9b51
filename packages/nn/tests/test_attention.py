"""Attention: its formula, its masks down to the empty one, its heads, and that it is causal."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from scratch.nn import (
    MultiHeadSelfAttention,
    NoPosition,
    RotaryEmbedding,
    causal_mask,
    rotary_tables,
    scaled_dot_product_attention,
)

# Short sums in float64, whose order may differ; a detour through float32 would be off by 1e-7.
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Oracle: in float64, one query at a time, over the keys it may see."""
    q, k, v = q.double(), k.double(), v.double()
    if q.ndim > 2:
        masks = [None] * len(q) if mask is None else mask.expand(*q.shape[:-1], k.shape[-2])
        return torch.stack([attend(*item) for item in zip(q, k, v, masks, strict=True)])
    rows = []
    for index, query in enumerate(q):
        seen = torch.ones(len(k), dtype=torch.bool) if mask is None else mask[index]
        weights = torch.softmax(k[seen] @ query / math.sqrt(len(query)), 0)
        rows.append(weights @ v[seen])
    return torch.stack(rows)


# --- scaled dot-product attention


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_follows_the_formula(batch: tuple[int, ...]) -> None:
    q, k, v = normal(*batch, 5, 8), normal(*batch, 7, 8), normal(*batch, 7, 4)
    assert_close(scaled_dot_product_attention(q, k, v), attend(q, k, v), **EXACT)


@pytest.mark.parametrize(
    "shape", [(5, 7), (1, 5, 7), (3, 5, 7), (2, 1, 5, 7), (1, 1, 5, 7), (2, 3, 5, 7)], ids=str
)
def test_masks_broadcast_against_the_leading_axes(shape: tuple[int, ...]) -> None:
    q, k, v = normal(2, 3, 5, 8), normal(2, 3, 7, 8), normal(2, 3, 7, 4)
    mask = torch.rand(shape) < 0.5
    actual = scaled_dot_product_attention(q, k, v, mask)
    assert_close(actual, attend(q, k, v, mask.expand(2, 3, 5, 7)), **EXACT)


def test_a_mask_of_true_is_no_mask() -> None:
    q, k, v = torch.randn(3, 2, 5, 8)
    everything = torch.ones(5, 5, dtype=torch.bool)
    assert torch.equal(
        scaled_dot_product_attention(q, k, v, everything), scaled_dot_product_attention(q, k, v)
    )


def test_the_least_of_scores_still_counts_more_than_a_masked_one() -> None:
    q, k = torch.tensor([[1e18]]), torch.tensor([[-1e18], [0.0]])
    v, first_only = torch.tensor([[3.0], [5.0]]), torch.tensor([[True, False]])
    assert scaled_dot_product_attention(q, k, v, first_only).item() == 3


@pytest.mark.parametrize("size", [1.0, 1e4, 1e15], ids="size {}".format)
def test_a_query_that_may_attend_to_nothing_gets_zeros(size: float) -> None:
    q, k, v = (size * torch.randn(3, 2, 4, 8)).unbind()
    mask = torch.rand(4, 4) < 0.5
    mask[0], mask[2] = False, True
    result = scaled_dot_product_attention(q, k, v, mask)
    assert torch.equal(result[:, 0], torch.zeros(2, 8))
    assert result.isfinite().all()


def test_a_query_that_may_attend_to_nothing_gets_no_gradient() -> None:
    q, k, v = (normal(2, 3, 8).requires_grad_() for _ in range(3))
    mask = torch.tensor([[True, False, False], [False, False, False], [True, True, False]])
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        scaled_dot_product_attention(q, k, v, mask).square().sum().backward()
    assert q.grad is not None
    assert k.grad is not None
    assert v.grad is not None
    assert torch.equal(q.grad[:, 1], torch.zeros(2, 8).double())
    # Nobody sees the last key.
    assert torch.equal(k.grad[:, 2], torch.zeros(2, 8).double())
    assert torch.equal(v.grad[:, 2], torch.zeros(2, 8).double())
    assert all(gradient.isfinite().all() for gradient in (q.grad, k.grad, v.grad))


def test_gradients_are_those_of_finite_differences_under_any_mask() -> None:
    q, k, v = (normal(2, 3, 4).requires_grad_() for _ in range(3))
    mask = torch.tensor([[True, False, False], [False, False, False], [True, True, False]])
    for some_mask in (None, causal_mask(3), mask, torch.zeros(3, 3, dtype=torch.bool)):
        assert torch.autograd.gradcheck(
            lambda q, k, v, m=some_mask: scaled_dot_product_attention(q, k, v, m), (q, k, v)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_answers_in_the_dtype_of_its_inputs(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 2, 6, 16).to(dtype).unbind()
    result = scaled_dot_product_attention(q, k, v, causal_mask(6))
    assert result.dtype == dtype
    # A mean of normal numbers by rounded weights: two units in the last place of 1.
    atol = 2 * torch.finfo(dtype).eps
    assert_close(result.double(), attend(q, k, v, causal_mask(6)), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_scores_are_summed_in_float32(dtype: torch.dtype) -> None:
    q, k, v = (torch.randint(-2, 3, (3, 5, 64)) * torch.tensor([60, 60, 1]).view(3, 1, 1)).to(dtype)
    result = scaled_dot_product_attention(q, k, v)  # products sum beyond 65504, where float16 ends
    assert_close(result.double(), attend(q, k, v), rtol=0, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
def test_refuses_a_mask_that_is_not_boolean(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 2, 5, 8)
    with pytest.raises(TypeError, match=f"mask must be boolean, True = attend, got dtype {dtype}"):
        scaled_dot_product_attention(q, k, v, torch.ones(5, 5, dtype=dtype))


def test_the_causal_mask_lets_each_position_see_itself_and_what_came_before() -> None:
    mask = causal_mask(3)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


# --- multi-head self-attention


def double_attention(position: RotaryEmbedding | NoPosition) -> MultiHeadSelfAttention:
    return MultiHeadSelfAttention(12, 3, position=position).double()


def turn(x: Tensor, positions: Tensor) -> Tensor:
    """Oracle: complex multiplication by the tables' own float32 numbers."""
    cos, sin = rotary_tables(x.shape[-1], 64)
    turns = torch.complex(cos.double(), sin.double())[positions]
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2)


def self_attention(layer: nn.Module, x: Tensor, positions: Tensor | None) -> Tensor:
    """Oracle: one head at a time, rows of the projections ordered by head."""
    weights = dict(layer.named_parameters())
    heads = []
    for head in range(3):
        q, k, v = (x @ weights[f"{name}_proj.weight"][4 * head : 4 * head + 4].T for name in "qkv")
        if positions is not None:
            q, k = turn(q, positions), turn(k, positions)
        heads.append(functional.scaled_dot_product_attention(q, k, v, is_causal=True))
    return torch.cat(heads, -1) @ weights["output_proj.weight"].T


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_every_head_attends_by_itself(batch: tuple[int, ...]) -> None:
    layer, x = double_attention(NoPosition()), normal(*batch, 7, 12)
    assert_close(layer(x), self_attention(layer, x, None), **EXACT)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_queries_and_keys_are_rotated_in_every_head(batch: tuple[int, ...]) -> None:
    layer, x = double_attention(RotaryEmbedding(4, 64)), normal(*batch, 7, 12)
    assert_close(layer(x), self_attention(layer, x, torch.arange(7)), **EXACT)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 7), (2, 1, 7), (2, 3, 7)], ids=str)
def test_positions_broadcast_before_the_heads_are_split(shape: tuple[int, ...]) -> None:
    layer, x = double_attention(RotaryEmbedding(4, 64)), normal(2, 3, 7, 12)
    positions = torch.randint(64, shape)
    expected = self_attention(layer, x, positions.expand(2, 3, 7))
    assert_close(layer(x, positions), expected, **EXACT)


def test_without_positions_the_positions_do_not_matter() -> None:
    layer, x = double_attention(NoPosition()), normal(2, 7, 12)
    assert torch.equal(layer(x, torch.arange(7).flip(0)), layer(x))


def test_shifting_all_positions_changes_nothing() -> None:
    layer, x = double_attention(RotaryEmbedding(4, 64)), normal(2, 7, 12)
    # The tables are float32, and so are the angles' differences.
    assert_close(layer(x, torch.arange(40, 47)), layer(x), rtol=0, atol=1e-6)


def test_no_position_sees_a_later_one() -> None:
    layer, x = double_attention(RotaryEmbedding(4, 64)), normal(2, 7, 12)
    changed = torch.cat((x[:, :4], normal(2, 3, 12)), 1)
    before, after = layer(x), layer(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).all()


def test_the_module_holds_four_projections_and_nothing_else() -> None:
    layer = MultiHeadSelfAttention(12, 3, position=RotaryEmbedding(4, 64))
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        f"{name}_proj.weight": (12, 12) for name in ("q", "k", "v", "output")
    }


def test_refuses_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(
        ValueError, match="num_heads must divide d_model, got num_heads=3, d_model=8"
    ):
        MultiHeadSelfAttention(8, 3, position=NoPosition())


def test_refuses_sizes_below_one() -> None:
    with pytest.raises(ValueError, match="num_heads must be at least 1, got 0"):
        MultiHeadSelfAttention(8, 0, position=NoPosition())


@pytest.mark.parametrize("d_head", [2, 6])
def test_refuses_a_rotation_made_for_heads_of_another_width(d_head: int) -> None:
    with pytest.raises(ValueError, match="d_head"):
        MultiHeadSelfAttention(12, 3, position=RotaryEmbedding(d_head, 64))(torch.randn(7, 12))
