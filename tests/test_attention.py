"""Contract: what attention and rotary positions do besides their formulas.

Float64 agrees to about `rtol=1e-12`; the float32 tables of a rotary embedding allow about 1e-6.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from . import plain
from .adapters import (
    run_multihead_self_attention,
    run_multihead_self_attention_with_rope,
    run_rope,
    run_scaled_dot_product_attention,
)
from .plain import normal

THETA = 10_000.0


def queries_keys_values() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = normal(2, 5, 4), normal(2, 7, 4), normal(2, 7, 3)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


# --- masks


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (2, 5, 7)], ids=str)
def test_a_mask_broadcasts_over_leading_dimensions(shape: tuple[int, ...]) -> None:
    q, k, v = queries_keys_values()
    mask = torch.rand(shape) < 0.7
    mask[..., 0] = True
    expected = functional.scaled_dot_product_attention(q, k, v, mask)
    actual = run_scaled_dot_product_attention(q, k, v, mask)
    assert_close(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_has_the_gradients_of_pytorch(masked: bool) -> None:
    q, k, v = queries_keys_values()
    mask = torch.ones(5, 7, dtype=torch.bool).tril() if masked else None
    upstream = normal(2, 5, 3)
    expected = functional.scaled_dot_product_attention(q, k, v, mask)
    actual = run_scaled_dot_product_attention(q, k, v, mask)
    gradients = torch.autograd.grad(actual, (q, k, v), upstream)
    wanted = torch.autograd.grad(expected, (q, k, v), upstream)
    assert_close(gradients, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_query_that_may_attend_to_nothing_gives_zeros(dtype: torch.dtype) -> None:
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in queries_keys_values())
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[2] = False
    output = run_scaled_dot_product_attention(q, k, v, mask)
    assert output.dtype == dtype
    assert torch.equal(output[:, 2], torch.zeros(2, 3, dtype=dtype))

    others = [0, 1, 3, 4]
    rest = run_scaled_dot_product_attention(q[:, others], k, v, mask[others])
    upstream = torch.randn_like(output)
    gradients = torch.autograd.grad(output, (q, k, v), upstream)
    wanted = torch.autograd.grad(rest, (q, k, v), upstream[:, others])
    # The same sums with zeros among them; a bfloat16 result may round to either neighbour.
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2**-5}[dtype]
    assert_close(output[:, others], rest, rtol=tolerance, atol=tolerance)
    assert_close(gradients, wanted, rtol=tolerance, atol=tolerance)


def test_nothing_to_attend_to_at_all_gives_zeros() -> None:
    q, k, v = queries_keys_values()
    output = run_scaled_dot_product_attention(q, k, v, torch.zeros(5, 7, dtype=torch.bool))
    gradients = torch.autograd.grad(output.sum(), (q, k, v))
    for tensor in (output, *gradients):
        assert torch.equal(tensor, torch.zeros_like(tensor))


def test_a_masked_key_has_no_influence() -> None:
    q, k, v = (x.detach() for x in queries_keys_values())
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[:, 3] = False
    before = run_scaled_dot_product_attention(q, k, v, mask)
    k[:, 3], v[:, 3] = 1e4, -1e4
    assert torch.equal(run_scaled_dot_product_attention(q, k, v, mask), before)


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_attention_survives_large_scores(scale: float) -> None:
    q, k, v = (x.detach() for x in queries_keys_values())
    expected = functional.scaled_dot_product_attention(scale * q, k, v)
    actual = run_scaled_dot_product_attention(scale * q, k, v)
    # Scores of 1e4 carry roundings of 1e-12 into the exponents.
    assert_close(actual, expected, rtol=1e-10, atol=1e-12)


# --- heads


def test_the_order_of_heads_does_not_matter() -> None:
    heads, d_model = 4, 24
    x, weights = normal(2, 9, d_model), plain.attention_weights(d_model)
    order = torch.arange(d_model).view(heads, -1)[[2, 0, 3, 1]].flatten()
    permuted = {name: weight[order] for name, weight in weights.items()}
    permuted["output_proj.weight"] = weights["output_proj.weight"][:, order]
    before = run_multihead_self_attention_with_rope(
        d_model, heads, 16, THETA, *weights.values(), in_features=x
    )
    after = run_multihead_self_attention_with_rope(
        d_model, heads, 16, THETA, *permuted.values(), in_features=x
    )
    assert_close(after, before, rtol=1e-12, atol=1e-14)


def test_heads_of_the_same_weights_agree() -> None:
    heads, d_model = 3, 12
    q, k, v = (normal(4, d_model).repeat(heads, 1) for _ in range(3))
    identity = torch.eye(d_model, dtype=torch.float64)
    output = run_multihead_self_attention_with_rope(
        d_model, heads, 16, THETA, q, k, v, identity, in_features=normal(2, 9, d_model)
    )
    first, *others = output.chunk(heads, dim=-1)
    for other in others:
        assert_close(other, first, rtol=1e-12, atol=1e-14)


def test_self_attention_is_causal() -> None:
    x, weights = normal(2, 9, 12), plain.attention_weights(12)
    before = run_multihead_self_attention(12, 3, *weights.values(), in_features=x)
    x[:, 5] += 1
    after = run_multihead_self_attention(12, 3, *weights.values(), in_features=x)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(-1).all()


def test_heads_must_divide_the_width() -> None:
    weights = plain.attention_weights(8)
    with pytest.raises(ValueError, match=r"num_heads.*3.*8"):
        run_multihead_self_attention(8, 3, *weights.values(), in_features=normal(2, 8))


# --- rotary positions


def rope(x: Tensor, positions: Tensor, max_seq_len: int = 32) -> Tensor:
    return run_rope(x.shape[-1], THETA, max_seq_len, x, positions)


def test_adjacent_features_turn_together() -> None:
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    turned = rope(x, torch.tensor([3]))
    slow = 3 * THETA**-0.5
    expected = torch.tensor([[math.cos(3), math.sin(3), math.cos(slow), math.sin(slow)]])
    assert_close(turned, expected.double(), rtol=0, atol=1e-7)


def test_position_zero_turns_nothing() -> None:
    x = normal(3, 5, 8)
    assert torch.equal(rope(x, torch.zeros(5, dtype=torch.int64)), x)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6), (2, 1, 6), (2, 3, 6)], ids=str)
def test_positions_broadcast_over_leading_dimensions(shape: tuple[int, ...]) -> None:
    x, positions = normal(2, 3, 6, 8), torch.randint(32, shape)
    assert_close(rope(x, positions), plain.rotate(x, positions, THETA), rtol=1e-6, atol=1e-6)


def test_far_positions_turn_as_exactly_as_near_ones() -> None:
    x, positions = normal(4, 8), torch.tensor([0, 1_000, 30_000, 99_999])
    turned = rope(x, positions, max_seq_len=100_000)
    assert_close(turned, plain.rotate(x, positions, THETA), rtol=1e-6, atol=1e-6)


def test_inner_products_depend_on_the_distance_only() -> None:
    q, k = normal(8, 16), normal(8, 16)

    def scores(shift: int) -> Tensor:
        positions = torch.arange(8) + shift
        return rope(q, positions) @ rope(k, positions).T

    # Inner products of 16 features with an error of 1e-7 each.
    assert_close(scores(24), scores(0), rtol=1e-6, atol=2e-6)


def test_rope_passes_gradients_back() -> None:
    x, positions, upstream = normal(2, 6, 8).requires_grad_(), torch.arange(6), normal(2, 6, 8)
    (expected,) = torch.autograd.grad(plain.rotate(x, positions, THETA), x, upstream)
    (gradient,) = torch.autograd.grad(rope(x, positions), x, upstream)
    assert_close(gradient, expected, rtol=1e-6, atol=1e-6)


def test_bfloat16_turns_by_float32_tables() -> None:
    x, positions = normal(64, 8).bfloat16(), torch.arange(64) * 15
    turned = rope(x, positions, max_seq_len=1000)
    assert turned.dtype == torch.bfloat16
    # One rounding of the result; tables in bfloat16 would err by 2**-9 of the larger feature too.
    expected = plain.rotate(x.double(), positions, THETA)
    assert_close(turned.double(), expected, rtol=2**-8 * 1.001, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 7)], ids=str)
def test_self_attention_takes_positions_of_its_leading_dimensions(shape: tuple[int, ...]) -> None:
    x, weights = normal(2, 7, 12), plain.attention_weights(12)
    positions = torch.randint(16, shape)
    output = run_multihead_self_attention_with_rope(
        12, 3, 16, THETA, *weights.values(), in_features=x, token_positions=positions
    )
    expected = plain.self_attention(x, weights, 3, positions, THETA)
    assert_close(output, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("positions", [[0, 8], [9, 1], [10**6, 0]], ids=str)
def test_a_position_beyond_the_last_is_refused(positions: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"\b8\b.*{max(positions)}|{max(positions)}.*\b8\b"):
        rope(normal(2, 4), torch.tensor(positions), max_seq_len=8)


def test_an_input_longer_than_the_last_position_is_refused() -> None:
    weights = plain.attention_weights(8)
    with pytest.raises(ValueError, match="max_seq_len"):
        run_multihead_self_attention_with_rope(
            8, 2, 4, THETA, *weights.values(), in_features=normal(5, 8)
        )


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"even.*5"):
        rope(normal(2, 5), torch.arange(2))
