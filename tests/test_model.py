"""Contract: the layers and the language model, against torch's functions and the plain Transformer.

Float64 goes in and comes out, so results agree to about `rtol=1e-12`. Where a rotary embedding
takes part, its float32 tables allow an error of 2**-24 an entry, hence 1e-6.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from . import plain
from .adapters import (
    run_embedding,
    run_linear,
    run_multihead_self_attention,
    run_multihead_self_attention_with_rope,
    run_rmsnorm,
    run_rope,
    run_scaled_dot_product_attention,
    run_silu,
    run_swiglu,
    run_transformer_block,
    run_transformer_lm,
)
from .plain import normal

VOCAB, CONTEXT, LAYERS, D_MODEL, HEADS, D_FF, THETA = 50, 16, 3, 24, 3, 40, 10_000.0
LEADING = pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3)], ids=str)


def close(actual: Tensor, expected: Tensor) -> None:
    # Sums of some ten products of size 1 to 10 round by a few 1e-15; near zero that is all.
    assert_close(actual, expected, rtol=1e-12, atol=1e-13)


def close_up_to_the_rotary_tables(actual: Tensor, expected: Tensor) -> None:
    assert_close(actual, expected, rtol=1e-6, atol=1e-6)


# --- layers


@LEADING
def test_linear(leading: tuple[int, ...]) -> None:
    x, weight = normal(*leading, 7), normal(5, 7)
    y = run_linear(d_in=7, d_out=5, weights=weight, in_features=x)
    close(y, functional.linear(x, weight))


@LEADING
def test_embedding(leading: tuple[int, ...]) -> None:
    ids, weight = torch.randint(11, (*leading, 4)), torch.randn(11, 6)
    vectors = run_embedding(vocab_size=11, d_model=6, weights=weight, token_ids=ids)
    assert torch.equal(vectors, functional.embedding(ids, weight))


@LEADING
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_rmsnorm(leading: tuple[int, ...], eps: float) -> None:
    x, weight = normal(*leading, 8), normal(8)
    y = run_rmsnorm(d_model=8, eps=eps, weights=weight, in_features=x)
    close(y, functional.rms_norm(x, (8,), weight, eps))


@LEADING
def test_silu_matches_pytorch(leading: tuple[int, ...]) -> None:
    x = 5 * normal(*leading, 9)
    close(run_silu(x), functional.silu(x))


@LEADING
def test_swiglu(leading: tuple[int, ...]) -> None:
    x, (w1, w2, w3) = normal(*leading, 6), (normal(10, 6), normal(6, 10), normal(10, 6))
    y = run_swiglu(6, 10, w1_weight=w1, w2_weight=w2, w3_weight=w3, in_features=x)
    close(y, plain.swiglu(x, w1, w2, w3))


@LEADING
@pytest.mark.parametrize("theta", [100.0, 10_000.0])
def test_rope(leading: tuple[int, ...], theta: float) -> None:
    x, positions = normal(*leading, CONTEXT, 8), torch.arange(CONTEXT)
    turned = run_rope(8, theta, CONTEXT, in_query_or_key=x, token_positions=positions)
    close_up_to_the_rotary_tables(turned, plain.rotate(x, positions, theta))


# --- attention


def check_attention(leading: tuple[int, ...]) -> None:
    q, k, v = normal(*leading, 5, 4), normal(*leading, 7, 4), normal(*leading, 7, 3)
    mask = torch.rand(*leading, 5, 7) < 0.5
    mask[..., 0] = True
    close(run_scaled_dot_product_attention(q, k, v), plain.attend(q, k, v))
    expected = plain.attend(q, k, v, mask)
    close(expected, functional.scaled_dot_product_attention(q, k, v, mask))
    close(run_scaled_dot_product_attention(q, k, v, mask), expected)


@pytest.mark.parametrize("leading", [(), (2,)], ids=str)
def test_scaled_dot_product_attention(leading: tuple[int, ...]) -> None:
    check_attention(leading)


@pytest.mark.parametrize("leading", [(2, 3), (2, 1, 3)], ids=str)
def test_4d_scaled_dot_product_attention(leading: tuple[int, ...]) -> None:
    check_attention(leading)


@LEADING
@pytest.mark.parametrize("heads", [1, 3])
def test_multihead_self_attention(leading: tuple[int, ...], heads: int) -> None:
    x, weights = normal(*leading, 7, 12), plain.attention_weights(12)
    y = run_multihead_self_attention(12, heads, *weights.values(), in_features=x)
    close(y, plain.self_attention(x, weights, heads))


@LEADING
@pytest.mark.parametrize("heads", [1, 3])
def test_multihead_self_attention_with_rope(leading: tuple[int, ...], heads: int) -> None:
    x, weights = normal(*leading, 7, 12), plain.attention_weights(12)
    y = run_multihead_self_attention_with_rope(
        12, heads, CONTEXT, THETA, *weights.values(), in_features=x
    )
    expected = plain.self_attention(x, weights, heads, torch.arange(7), THETA)
    close_up_to_the_rotary_tables(y, expected)


# --- the block


def block(x: Tensor, weights: plain.Weights) -> Tensor:
    return run_transformer_block(D_MODEL, HEADS, D_FF, CONTEXT, THETA, weights, x)


@LEADING
def test_transformer_block(leading: tuple[int, ...]) -> None:
    x, weights = normal(*leading, 12, D_MODEL), plain.block_weights(D_MODEL, D_FF)
    close_up_to_the_rotary_tables(block(x, weights), plain.block(x, weights, HEADS, THETA))


def test_a_block_passes_gradients_back_as_the_plain_one_does() -> None:
    x, weights = normal(2, 12, D_MODEL).requires_grad_(), plain.block_weights(D_MODEL, D_FF)
    upstream = normal(2, 12, D_MODEL)
    (expected,) = torch.autograd.grad(plain.block(x, weights, HEADS, THETA), x, upstream)
    (gradient,) = torch.autograd.grad(block(x, weights), x, upstream)
    assert_close(gradient, expected, rtol=1e-6, atol=1e-5)


def test_a_block_of_zero_weights_is_the_identity() -> None:
    x, weights = normal(2, 5, D_MODEL), plain.block_weights(D_MODEL, D_FF)
    nothing = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    assert torch.equal(block(x, nothing), x)


# --- the language model


def language_model(ids: Tensor, weights: plain.Weights) -> Tensor:
    return run_transformer_lm(
        vocab_size=VOCAB,
        context_length=CONTEXT,
        d_model=D_MODEL,
        num_layers=LAYERS,
        num_heads=HEADS,
        d_ff=D_FF,
        rope_theta=THETA,
        weights=weights,
        in_indices=ids,
    )


@pytest.fixture
def weights(seeded: None) -> plain.Weights:
    return plain.language_model_weights(VOCAB, LAYERS, D_MODEL, D_FF)


@LEADING
def test_transformer_lm(leading: tuple[int, ...], weights: plain.Weights) -> None:
    ids = torch.randint(VOCAB, (*leading, CONTEXT))
    expected = plain.language_model(ids, weights, LAYERS, HEADS, THETA)
    assert expected.shape == (*leading, CONTEXT, VOCAB)
    close_up_to_the_rotary_tables(language_model(ids, weights), expected)


@pytest.mark.parametrize("length", [1, 2, CONTEXT // 2, CONTEXT - 1])
def test_transformer_lm_truncated_input(length: int, weights: plain.Weights) -> None:
    ids = torch.randint(VOCAB, (2, CONTEXT))
    logits = language_model(ids[:, :length], weights)
    expected = plain.language_model(ids[:, :length], weights, LAYERS, HEADS, THETA)
    close_up_to_the_rotary_tables(logits, expected)
    # Rotations by the same tables: what is left is the order of sums.
    assert_close(logits, language_model(ids, weights)[:, :length], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("changed", [1, CONTEXT // 2, CONTEXT - 1])
def test_a_later_token_never_changes_earlier_logits(changed: int, weights: plain.Weights) -> None:
    ids = torch.randint(VOCAB, (2, CONTEXT))
    others = ids.clone()
    others[:, changed] = (ids[:, changed] + 1) % VOCAB
    before, after = language_model(ids, weights), language_model(others, weights)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert (before[:, changed:] != after[:, changed:]).any(-1).all()


def test_sequences_of_a_batch_do_not_see_each_other(weights: plain.Weights) -> None:
    ids = torch.randint(VOCAB, (3, CONTEXT))
    alone = torch.stack([language_model(row, weights) for row in ids])
    assert_close(language_model(ids, weights), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.2)], ids=str
)
def test_a_narrow_model_answers_in_its_own_dtype(
    dtype: torch.dtype, tolerance: float, weights: plain.Weights
) -> None:
    ids = torch.randint(VOCAB, (2, CONTEXT))
    narrow = {name: weight.to(dtype) for name, weight in weights.items()}
    widened = {name: weight.double() for name, weight in narrow.items()}
    logits = language_model(ids, narrow)
    assert logits.dtype == dtype
    expected = plain.language_model(ids, widened, LAYERS, HEADS, THETA)
    # Logits are of size 1 to 4; some ten roundings, of 2**-24 or 2**-9 each, stand behind one.
    assert_close(logits.double(), expected, rtol=0, atol=tolerance)


def test_a_text_longer_than_the_context_is_refused(weights: plain.Weights) -> None:
    ids = torch.zeros(1, CONTEXT + 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"{CONTEXT}.*{CONTEXT + 1}|{CONTEXT + 1}.*{CONTEXT}"):
        language_model(ids, weights)
