"""Every attention backend gives the same results, whatever may be seen, forward and backward."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from scratch.nn import (
    ATTENTION_BACKENDS,
    MultiHeadSelfAttention,
    NoPosition,
    TransformerConfig,
    TransformerLM,
    Visibility,
    plain_forms,
    scaled_dot_product_attention,
)
from scratch.nn._backends import _say_once

# Means of normal numbers, and gradients that sum over up to 300 queries. bfloat16 rounds scores of
# size 3, weights and results to 2^-9 each.
TOLERANCES = {
    torch.float64: {"rtol": 1e-11, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 2e-5},
    torch.bfloat16: {"rtol": 0.05, "atol": 0.05},
}
LENGTHS = (1, 127, 128, 129, 300)  # around the blocks of 128 queries
on_cpu = pytest.mark.parametrize("backend", ["auto", "reference", "block", "fused"])
slow = pytest.mark.slow
# On a CPU, flex attention says that it is not compiled; that is known and documented. It is traced
# all the same, and the shape checker cannot be.
flex_is_plain_here = pytest.mark.filterwarnings("ignore:flex_attention called without")


def documents(seq: int, *, shared: bool) -> Tensor:
    """Return numbers of documents, each ten tokens long, that differ or not between two rows."""
    numbers = torch.arange(seq) // 10
    return numbers if shared else torch.stack((numbers, (torch.arange(seq) + 4) // 10))


def visibilities(seq: int) -> list[Visibility]:
    return [
        Visibility(),
        *(Visibility(window) for window in (1, 2, 130, seq, seq + 1, 10 * seq)),
        Visibility(documents=documents(seq, shared=True)),
        Visibility(documents=documents(seq, shared=False)),
        Visibility(7, documents(seq, shared=False)),
    ]


def seen(visible: Visibility, seq: int) -> Tensor:
    """Oracle: pair by pair, by what the words mean; `(batch or 1, 1, query, key)`."""
    query, key = torch.arange(seq)[:, None], torch.arange(seq)
    mask = (key <= query)[None]
    if visible.window is not None:
        mask = mask & (query - key < visible.window)
    if visible.documents is not None:
        rows = visible.documents.reshape(-1, seq).tolist()
        same = [[[a == b for b in row] for a in row] for row in rows]
        mask = mask & torch.tensor(same)
    return mask[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Oracle: the formula, from PyTorch's own functions."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    scores = (q @ k.mT) / math.sqrt(q.shape[-1])
    return torch.softmax(scores.masked_fill(~mask, -torch.inf), -1) @ v


def inputs(
    seq: int, heads: int = 2, kv_heads: int = 2, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    sizes = (heads, kv_heads, kv_heads)
    return [torch.randn(2, size, seq, 4).to(dtype).requires_grad_() for size in sizes]


def with_gradients(result: Tensor, leaves: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    return [result.detach(), *torch.autograd.grad(result, leaves, g)]


def assert_same(backend: str, leaves: list[Tensor], visible: Visibility) -> None:
    q, k, v = leaves
    g = torch.randn(q.shape).to(q.dtype)
    actual = with_gradients(ATTENTION_BACKENDS[backend](q, k, v, visible), leaves, g)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    result = attend(*wide, seen(visible, q.shape[-2]))
    for one, other in zip(actual, with_gradients(result, wide, g.double()), strict=True):
        assert one.dtype == q.dtype
        assert_close(one.double(), other, **TOLERANCES[q.dtype])


@on_cpu
@pytest.mark.parametrize("seq", LENGTHS)
def test_all_agree_on_everything_that_may_be_seen(backend: str, seq: int) -> None:
    for visible in visibilities(seq):
        if backend != "block" or visible.documents is None:
            assert_same(backend, inputs(seq), visible)


@on_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_all_agree_in_every_dtype(backend: str, dtype: torch.dtype) -> None:
    for visible in (Visibility(), Visibility(3), Visibility(130)):
        assert_same(backend, inputs(129, dtype=dtype), visible)
    if backend != "block":
        some = Visibility(5, documents(129, shared=False))
        assert_same(backend, inputs(129, dtype=dtype), some)


@on_cpu
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 1), (4, 2), (6, 2)])
def test_heads_of_keys_and_values_are_shared(backend: str, heads: int, kv_heads: int) -> None:
    for visible in (Visibility(), Visibility(3)):
        assert_same(backend, inputs(9, heads, kv_heads), visible)
    if backend != "block":
        assert_same(backend, inputs(9, heads, kv_heads), Visibility(documents=torch.arange(9) // 4))


@on_cpu
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)], ids=str)
def test_any_number_of_leading_axes_will_do(backend: str, batch: tuple[int, ...]) -> None:
    q, k, v = torch.randn(3, *batch, 2, 9, 4, dtype=torch.float64)
    result = ATTENTION_BACKENDS[backend](q, k, v, Visibility(3))
    assert result.shape == q.shape
    expected = attend(*(x.reshape(-1, 2, 9, 4) for x in (q, k, v)), seen(Visibility(3), 9))
    assert_close(result, expected.view(q.shape), rtol=1e-11, atol=1e-12)


@on_cpu
def test_strides_do_not_matter(backend: str) -> None:
    # As the heads of a projection lie in memory; and one key and value for the whole batch.
    q = torch.randn(2, 9, 3, 4, dtype=torch.float64).transpose(1, 2)
    k, v = torch.randn(2, 1, 3, 9, 4, dtype=torch.float64).expand(2, 2, 3, 9, 4)
    for one, other, third in ((q, k, v), (k, q, v), (k, v, q), (q, q, q)):
        leaves = [x.detach().requires_grad_() for x in (one, other, third)]
        assert_same(backend, leaves, Visibility())
        assert_same(backend, leaves, Visibility(4))


@on_cpu
def test_a_gradient_that_is_one_number_seen_many_times_is_taken(backend: str) -> None:
    leaves = inputs(5)
    ATTENTION_BACKENDS[backend](*leaves, Visibility()).sum().backward()
    attend(*(x.detach() for x in leaves), seen(Visibility(), 5))
    wide = [x.detach().requires_grad_() for x in leaves]
    attend(*wide, seen(Visibility(), 5)).sum().backward()
    for one, other in zip(leaves, wide, strict=True):
        assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-12)


@on_cpu
@pytest.mark.parametrize("size", [1e4, 1e15], ids="size {}".format)
def test_scores_may_be_large(backend: str, size: float) -> None:
    leaves = [(size * x).detach().requires_grad_() for x in inputs(130, dtype=torch.float32)]
    for visible in (Visibility(), Visibility(3)):
        result = ATTENTION_BACKENDS[backend](*leaves, visible)
        for x in with_gradients(result, leaves, torch.randn(result.shape)):
            assert x.isfinite().all()
        # Of the first two tokens, the first sees itself only.
        assert_close(result[:, :, 0], leaves[2][:, :, 0])


@on_cpu
@pytest.mark.parametrize("shape", [(9,), (1, 9), (3, 9), (2, 1, 9), (2, 3, 9)], ids=str)
def test_documents_broadcast_against_the_leading_axes(backend: str, shape: tuple[int, ...]) -> None:
    q, k, v = torch.randn(3, 2, 3, 2, 9, 4, dtype=torch.float64)
    numbers = torch.randint(3, shape)
    visible = Visibility(documents=numbers)
    if backend == "block":
        return
    expected = attend(
        *(x.reshape(6, 2, 9, 4) for x in (q, k, v)),
        seen(Visibility(documents=numbers.expand(2, 3, 9)), 9),
    )
    result = ATTENTION_BACKENDS[backend](q, k, v, visible)
    assert_close(result, expected.view(q.shape), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("seq", [1, 2, 9])
def test_the_mask_is_what_the_words_say(seq: int) -> None:
    for visible in visibilities(seq):
        mask = visible.mask(seq)
        assert mask.dtype == torch.bool
        expected = seen(visible, seq)
        assert torch.equal(mask.broadcast_to(expected.shape), expected)


def test_a_document_that_goes_on_later_is_the_same_document() -> None:
    mask = Visibility(documents=torch.tensor([0, 1, 0])).mask(3)
    assert mask.tolist() == [[[True, False, False], [False, True, False], [True, False, True]]]


def test_refuses_a_window_below_one() -> None:
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        Visibility(0)


# --- the reference, with masks that no self-attention makes


@settings(deadline=None, derandomize=True, max_examples=40, database=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from([1.0, 1e4, 1e15]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_any_mask_gives_a_finite_gradient_and_an_empty_row_gives_zeros(
    rows: list[list[bool]], size: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(5)
    mask = torch.tensor(rows)
    q, k, v = (
        (size * torch.randn(2, length, 6, generator=generator)).to(dtype).requires_grad_()
        for length in (len(rows), 4, 4)
    )
    result = scaled_dot_product_attention(q, k, v, mask)
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        gradients = torch.autograd.grad(result.sum(), (q, k, v))
    assert all(gradient.isfinite().all() for gradient in gradients)
    blind, unseen = ~mask.any(1), ~mask.any(0)
    assert not result[:, blind].count_nonzero()
    assert not gradients[0][:, blind].count_nonzero()
    for gradient in gradients[1:]:
        assert not gradient[:, unseen].count_nonzero()


# --- what a backend cannot do


def test_blocks_refuse_documents() -> None:
    q, k, v = torch.randn(3, 2, 5, 4)
    with pytest.raises(ValueError, match=r'documents need attention="reference".*, got "block"'):
        ATTENTION_BACKENDS["block"](q, k, v, Visibility(documents=torch.zeros(5).long()))


def test_blocks_are_differentiable_once_and_the_others_that_are_plain_twice() -> None:
    def differentiate_twice(backend: str) -> None:
        leaves = inputs(5)
        result = ATTENTION_BACKENDS[backend](*leaves, Visibility())
        (gradient,) = torch.autograd.grad(result.square().sum(), leaves[0], create_graph=True)
        gradient.square().sum().backward()

    with pytest.raises(RuntimeError, match="differentiated once"):
        differentiate_twice("block")
    differentiate_twice("reference")
    with plain_forms():
        differentiate_twice("auto")


# --- flex


@flex_is_plain_here
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seq", [9, pytest.param(1, marks=slow), pytest.param(130, marks=slow)])
def test_flex_agrees_on_everything_that_may_be_seen(seq: int) -> None:
    for visible in visibilities(seq):
        q, k, v = (x.detach() for x in inputs(seq, 4, 2, torch.float32))
        result = ATTENTION_BACKENDS["flex"](q, k, v, visible)
        assert_close(result, attend(q, k, v, seen(visible, seq)), rtol=1e-4, atol=2e-5)


@slow
@flex_is_plain_here
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_flex_takes_any_number_of_leading_axes(batch: tuple[int, ...]) -> None:
    q, k, v = torch.randn(3, *batch, 2, 9, 4)
    for numbers in (None, torch.arange(9) // 4, torch.randint(3, (*batch, 9))):
        visible = Visibility(documents=numbers)
        result = ATTENTION_BACKENDS["flex"](q, k, v, visible)
        expected = ATTENTION_BACKENDS["reference"](q, k, v, visible)
        assert_close(result, expected, rtol=1e-4, atol=1e-5)


@flex_is_plain_here
@pytest.mark.usefixtures("unchecked")
def test_flex_has_no_gradient_on_a_cpu() -> None:
    with pytest.raises(NotImplementedError, match='attention="flex" has no gradient on a CPU'):
        ATTENTION_BACKENDS["flex"](*inputs(5), Visibility())
    lm, ids = model(attention="flex"), torch.randint(11, (2, 12))
    with pytest.raises(NotImplementedError, match='attention="flex" has no gradient on a CPU'):
        lm(ids)
    with torch.no_grad():
        assert_close(lm(ids), model(attention="reference")(ids), rtol=1e-4, atol=1e-5)


# --- the automatic choice


def chosen(caplog: pytest.LogCaptureFixture, q: Tensor, visible: Visibility) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="scratch.nn"):
        ATTENTION_BACKENDS["auto"](q, q, q, visible)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("name", "seq", "dtype", "visible"),
    [
        ("block", 8, torch.float32, Visibility()),
        ("block", 512, torch.bfloat16, Visibility(5)),
        ("fused", 513, torch.float32, Visibility()),
        ("fused", 8, torch.float32, Visibility(documents=torch.zeros(8).long())),
        ("reference", 8, torch.float16, Visibility()),
    ],
)
def test_the_automatic_choice_is_logged_once(
    name: str,
    seq: int,
    dtype: torch.dtype,
    visible: Visibility,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _say_once.cache_clear()
    q = torch.randn(1, seq, 4).to(dtype)
    assert chosen(caplog, q, visible) == [f"attention: {name}, chosen for cpu"]
    assert not chosen(caplog, q, visible)


def test_plain_forms_choose_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    _say_once.cache_clear()
    with plain_forms():
        log = chosen(caplog, torch.randn(1, 8, 4), Visibility())
    assert log == ["attention: reference, chosen for cpu"]


def test_large_scores_in_float16_stay_finite_by_the_automatic_choice() -> None:
    q = torch.full((1, 3, 4), 300.0, dtype=torch.float16)  # a score of 180,000
    assert_close(ATTENTION_BACKENDS["auto"](q, q, q, Visibility()), q)


# --- in the model


def model(**changes: Any) -> TransformerLM:
    torch.manual_seed(3)
    sizes = {"vocab_size": 11, "context_length": 12, "d_model": 12, "num_layers": 2}
    return TransformerLM(TransformerConfig(**{**sizes, "num_heads": 3, "d_ff": 20, **changes}))


@pytest.mark.parametrize("attention", ["auto", "block", "fused"])
def test_the_model_computes_by_the_backend_of_its_configuration(attention: str) -> None:
    ids = torch.randint(11, (2, 12))
    for window in (None, 3):
        expected = model(attention="reference", sliding_window=window)(ids)
        actual = model(attention=attention, sliding_window=window)(ids)
        assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["auto", "reference", "fused"])
def test_a_document_does_not_know_its_neighbours(attention: str) -> None:
    lm = model(attention=attention, position="none")
    ids, numbers = torch.randint(11, (2, 12)), torch.tensor([0] * 5 + [1] * 7)
    together = lm(ids, documents=numbers)
    apart = torch.cat((lm(ids[:, :5]), lm(ids[:, 5:])), 1)
    assert_close(together, apart, rtol=1e-4, atol=1e-5)
    loss = lm.loss(ids, ids, documents=numbers)
    first, second = (lm.loss(part, part) for part in ids.split((5, 7), 1))
    assert_close(loss, (5 * first + 7 * second) / 12)


def test_a_model_that_attends_in_blocks_refuses_documents() -> None:
    ids = torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="documents need attention="):
        model(attention="block")(ids, documents=ids)


def test_any_function_of_the_promise_can_be_the_backend() -> None:
    def nothing(q: Tensor, k: Tensor, v: Tensor, visible: Visibility) -> Tensor:
        return torch.zeros_like(q)

    layer = MultiHeadSelfAttention(12, 3, position=NoPosition(), backend=nothing)
    assert not layer(torch.randn(2, 5, 12)).count_nonzero()
