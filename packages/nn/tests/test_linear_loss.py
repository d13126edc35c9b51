"""The loss of a linear head without all logits: the same loss, the same gradients, less memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from scratch.nn import (
    TransformerConfig,
    TransformerLM,
    cross_entropy,
    linear_cross_entropy,
    plain_forms,
    soft_cap,
)

# Sums of a few dozen terms in float64; a detour through float32 would be off by 1e-7.
EXACT = {"rtol": 1e-11, "atol": 1e-13}
many = settings(deadline=None, derandomize=True, max_examples=80, database=None)


def problem(
    rows: int = 7, vocab: int = 11, d_model: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + vocab)
    hidden = torch.randn(rows, d_model, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocab, d_model, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(vocab, (rows,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def by_torch(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    token_weights: Tensor | None = None,
    ignore_index: int | None = None,
    z_loss: float = 0.0,
    logit_cap: float | None = None,
) -> Tensor:
    """Oracle: PyTorch's own loss of each row, and the mean by hand."""
    logits = hidden @ weight.T
    if logit_cap is not None:
        logits = logit_cap * torch.tanh(logits / logit_cap)
    counted = torch.ones_like(targets, dtype=torch.bool)
    if ignore_index is not None:
        counted = targets != ignore_index
    if not counted.any():
        return (logits * 0).sum()
    logits, targets = logits[counted], targets[counted]
    shares = torch.ones_like(targets, dtype=logits.dtype)
    if token_weights is not None:
        shares = token_weights[counted].to(logits.dtype)
    losses = functional.cross_entropy(logits, targets, reduction="none")
    losses = losses + z_loss * logits.logsumexp(-1).square()
    total = shares.sum()
    return (losses * shares).sum() / (total if total != 0 else 1)


def loss_and_gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def assert_same(actual: list[Tensor], expected: list[Tensor], **tolerance: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, **(tolerance or EXACT))


# --- equal to its definition


@many
@given(
    rows=st.integers(1, 9),
    vocab=st.sampled_from([1, 2, 11]),
    chunk=st.sampled_from([None, 1, 3, 9, 100]),
    ignored=st.sampled_from([None, 0, -100]),
    weights=st.sampled_from(["none", "some", "zeros", "large"]),
    z_loss=st.sampled_from([0.0, 0.1]),
    logit_cap=st.sampled_from([None, 2.0, 30.0]),
)
def test_is_the_cross_entropy_of_the_head(
    rows: int,
    vocab: int,
    chunk: int | None,
    ignored: int | None,
    weights: str,
    z_loss: float,
    logit_cap: float | None,
) -> None:
    hidden, weight, targets = problem(rows, vocab)
    if ignored == -100:
        targets[::2] = -100
    generator = torch.Generator().manual_seed(rows)
    token_weights = {
        "none": None,
        "some": torch.rand(rows, generator=generator) * (torch.arange(rows) % 3 > 0),
        "zeros": torch.zeros(rows),
        "large": 1e20 * torch.rand(rows, generator=generator),
    }[weights]
    options: dict[str, Any] = {
        "token_weights": token_weights, "ignore_index": ignored, "z_loss": z_loss
    }  # fmt: skip
    expected = by_torch(hidden, weight, targets, **options, logit_cap=logit_cap)
    logits = hidden @ weight.T
    plain = cross_entropy(
        logits if logit_cap is None else soft_cap(logits, logit_cap), targets, **options
    )
    fast = linear_cross_entropy(
        hidden, weight, targets, **options, logit_cap=logit_cap, chunk_rows=chunk
    )
    expected, plain, fast = (
        loss_and_gradients(loss, hidden, weight) for loss in (expected, plain, fast)
    )
    assert_same(plain, expected)
    assert_same(fast, expected)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (2, 3, 4)], ids=str)
def test_any_number_of_leading_axes_will_do(shape: tuple[int, ...]) -> None:
    hidden = torch.randn(*shape, 5, dtype=torch.float64, requires_grad=True)
    _, weight, _ = problem()
    targets, token_weights = torch.randint(11, shape), torch.rand(shape)
    fast = linear_cross_entropy(hidden, weight, targets, token_weights=token_weights, chunk_rows=4)
    expected = by_torch(
        hidden.reshape(-1, 5), weight, targets.reshape(-1), token_weights=token_weights.reshape(-1)
    )
    actual, expected = (loss_and_gradients(loss, hidden, weight) for loss in (fast, expected))
    assert_same(actual, expected)


def test_strides_do_not_matter() -> None:
    hidden, weight, targets = problem(8)
    for h, w, t in (
        (hidden.detach().mT.contiguous().mT, weight, targets),
        (hidden, weight.detach().mT.contiguous().mT, targets),
        (hidden, weight, torch.stack((targets, targets), 1)[:, 0]),
        (hidden.detach()[:1].expand(8, 5), weight, targets),
    ):
        leaves = h.detach().requires_grad_(), w.detach().requires_grad_()
        actual = loss_and_gradients(linear_cross_entropy(*leaves, t, chunk_rows=3), *leaves)
        assert_same(actual, loss_and_gradients(by_torch(*leaves, t), *leaves))


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.1, "logit_cap": 3.0}], ids=str)
def test_gradients_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    hidden, weight, targets = problem(5, 4, 3)
    for token_weights in (None, torch.tensor([0.0, 1.0, 2.0, 0.5, 0.0])):
        assert torch.autograd.gradcheck(
            lambda h, w, weights=token_weights: linear_cross_entropy(
                h, w, targets, token_weights=weights, ignore_index=1, chunk_rows=2, **options
            ),
            (hidden, weight),
        )


def test_a_second_derivative_is_refused_and_the_plain_form_has_one() -> None:
    hidden, weight, targets = problem(3, 4, 2)

    def loss(h: Tensor, w: Tensor) -> Tensor:
        return linear_cross_entropy(h, w, targets, z_loss=0.1, logit_cap=3.0, ignore_index=0)

    # Also where the gradient that comes in is a constant: what is made of it is none.
    for scaled in (loss(hidden, weight).square(), loss(hidden, weight)):
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(scaled, hidden, create_graph=True)
    with plain_forms():
        assert torch.autograd.gradgradcheck(loss, (hidden, weight))


# --- what counts nothing


@pytest.mark.parametrize("form", [linear_cross_entropy, by_torch])
def test_with_all_targets_ignored_the_loss_and_its_gradients_are_zero(
    form: Callable[..., Tensor],
) -> None:
    hidden, weight, targets = problem()
    for loss in (
        form(hidden, weight, torch.full_like(targets, -100), ignore_index=-100, z_loss=0.1),
        form(hidden, weight, targets, token_weights=torch.zeros(7), z_loss=0.1),
    ):
        value, *gradients = loss_and_gradients(loss, hidden, weight)
        assert value == 0
        assert not any(gradient.count_nonzero() for gradient in gradients)


def test_an_ignored_target_may_have_a_weight_that_is_no_number() -> None:
    hidden, weight, targets = problem()
    weights = torch.rand(7)
    targets[2], broken = -1, weights.clone()
    broken[2] = torch.nan
    expected = by_torch(hidden, weight, targets, token_weights=weights, ignore_index=-1)
    expected = loss_and_gradients(expected, hidden, weight)
    options: dict[str, Any] = {"token_weights": broken, "ignore_index": -1}
    fast = linear_cross_entropy(hidden, weight, targets, **options)
    plain = cross_entropy(hidden @ weight.T, targets, **options)
    for loss in (fast, plain):
        assert_same(loss_and_gradients(loss, hidden, weight), expected)


@pytest.mark.usefixtures("unchecked")  # which calls unsigned numbers no whole ones
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32], ids=str)
def test_targets_of_any_width_are_compared_as_numbers(dtype: torch.dtype) -> None:
    # As eight bits, -100 is 156.
    logits, targets = torch.randn(3, 200), torch.tensor([156, 7, 3]).to(dtype)
    for ignored in (-100, 7):
        expected = functional.cross_entropy(logits, targets.long(), ignore_index=ignored)
        assert_close(cross_entropy(logits, targets, ignore_index=ignored), expected)


def test_one_hot_weights_pick_one_loss() -> None:
    logits, targets = torch.randn(4, 9).double(), torch.randint(9, (4,))
    loss = cross_entropy(logits, targets, token_weights=torch.tensor([0.0, 0.0, 7.0, 0.0]))
    assert_close(loss, functional.cross_entropy(logits[2:3], targets[2:3]), **EXACT)


@pytest.mark.parametrize("smoothed", [0.0, 1e-4, 1.0])
def test_the_z_loss_is_the_square_of_the_normalizer(smoothed: float) -> None:
    logits, targets = torch.randn(4, 9).double(), torch.randint(9, (4,))
    extra = cross_entropy(logits, targets, z_loss=smoothed) - cross_entropy(logits, targets)
    assert_close(extra, smoothed * logits.logsumexp(-1).square().mean(), rtol=1e-9, atol=1e-14)


def test_token_weights_of_the_plain_loss_have_a_gradient_of_their_own() -> None:
    logits, targets = torch.randn(4, 9).double(), torch.randint(9, (4,))
    weights = torch.rand(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda w: cross_entropy(logits, targets, token_weights=w), (weights,)
    )


# --- the cap


def test_the_cap_bounds_logits_and_leaves_small_ones() -> None:
    logits = torch.tensor([-1e30, -1.0, 0.0, 0.01, 1e30])
    capped = soft_cap(logits, 30.0)
    assert capped[[0, 4]].tolist() == [-30, 30]
    assert capped[2] == 0
    assert_close(capped[[1, 3]], logits[[1, 3]], rtol=4e-4, atol=0)  # tanh x = x - x^3 / 3


# --- sizes


@pytest.mark.parametrize("chunk", [1, 100])
def test_logits_may_be_huge(chunk: int) -> None:
    hidden = torch.tensor([[1e4], [-1e4], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    targets = torch.tensor([0, 0, 2])
    fast = linear_cross_entropy(hidden, weight, targets, chunk_rows=chunk)
    actual = loss_and_gradients(fast, hidden, weight)
    assert_same(
        actual, loss_and_gradients(by_torch(hidden, weight, targets), hidden, weight),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    assert actual[0].item() == pytest.approx(1e4)


@many
@given(st.floats(-6, 4), st.floats(-6, 4), st.sampled_from([torch.float32, torch.float64]))
def test_logits_of_any_size_give_what_they_give_in_float64(
    size: float, shift: float, dtype: torch.dtype
) -> None:
    hidden, weight, targets = problem(4, 6, 3, dtype)
    with torch.no_grad():
        hidden.mul_(10**size)
        weight[0] += 10**shift
    actual = loss_and_gradients(linear_cross_entropy(hidden, weight, targets), hidden, weight)
    wide = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = loss_and_gradients(by_torch(*wide, targets), *wide)
    # A probability is off by the rounding of the logits that it is the exponential of.
    largest = max(1.0, (wide[0] @ wide[1].T).abs().max().item())
    off = min(1.0, 8 * largest * torch.finfo(dtype).eps)
    for one, other, factor in zip(
        actual, expected, (largest, *map(biggest, wide[::-1])), strict=True
    ):
        bound = off if factor is largest else off * factor
        assert_close(one.double(), other, rtol=1e-5, atol=bound)


def biggest(x: Tensor) -> float:
    return x.abs().max().item()


# --- gradients of what is not the loss alone


def test_a_scaled_loss_has_scaled_gradients() -> None:
    hidden, weight, targets = problem()
    for scale in (0.3, 0.0, -2.0, 1.0):
        actual = loss_and_gradients(
            scale * linear_cross_entropy(hidden, weight, targets), hidden, weight
        )
        expected = loss_and_gradients(scale * by_torch(hidden, weight, targets), hidden, weight)
        assert_same(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_scale_of_a_loss_is_not_rounded(dtype: torch.dtype) -> None:
    hidden, weight, targets = problem(dtype=dtype)
    once = loss_and_gradients(linear_cross_entropy(hidden, weight, targets), hidden, weight)[1:]
    for scale in (0.3, 1e5):  # float16 ends at 65504
        scaled = scale * linear_cross_entropy(hidden, weight, targets)
        gradients = torch.autograd.grad(scaled, (hidden, weight))
        for gradient, unit in zip(gradients, once, strict=True):
            expected = (scale * unit.double()).to(dtype)
            assert_close(gradient, expected, rtol=torch.finfo(dtype).eps / 2, atol=0)


def test_micro_batches_add_up_to_the_batch() -> None:
    hidden, weight, targets = problem(8)
    token_weights = torch.rand(8).double()
    big = linear_cross_entropy(hidden, weight, targets, token_weights=token_weights)
    expected = loss_and_gradients(big, hidden, weight)[1:]
    for part in range(0, 8, 2):
        rows = slice(part, part + 2)
        share = token_weights[rows].sum() / token_weights.sum()
        loss = linear_cross_entropy(
            hidden[rows], weight, targets[rows], token_weights=token_weights[rows]
        )
        (loss * share).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert_same([hidden.grad, weight.grad], expected)


def test_going_back_twice_gives_twice_the_gradient() -> None:
    for scale in (1.0, 0.5):
        hidden, weight, targets = problem()
        loss = linear_cross_entropy(hidden, weight, targets) * scale
        expected = loss_and_gradients(by_torch(hidden, weight, targets) * scale, hidden, weight)[1:]
        loss.backward(retain_graph=True)
        loss.backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        assert_same([hidden.grad, weight.grad], [2 * gradient for gradient in expected])


def test_a_gradient_that_was_changed_is_never_given_again() -> None:
    # It is not copied for the one backward pass of a training step; a second one must notice.
    hidden, weight, targets = problem()
    loss = linear_cross_entropy(hidden, weight, targets)
    for gradient in torch.autograd.grad(loss, (hidden, weight), retain_graph=True):
        gradient.zero_()  # as clipping does, or zeroing
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_is_frozen_gets_no_gradient_and_the_other_its_own(frozen: str) -> None:
    hidden, weight, targets = problem()
    expected = loss_and_gradients(by_torch(hidden, weight, targets), hidden, weight)
    if frozen == "hidden":
        hidden = hidden.detach()
    else:
        weight = weight.detach()
    linear_cross_entropy(hidden, weight, targets, chunk_rows=3).backward()
    for leaf, gradient in zip((hidden, weight), expected[1:], strict=True):
        if leaf.requires_grad:
            assert leaf.grad is not None
            assert_close(leaf.grad, gradient, **EXACT)
        else:
            assert leaf.grad is None


def test_a_tied_head_adds_up_both_gradients() -> None:
    _, weight, targets = problem()

    def loss(w: Tensor, form: Callable[..., Tensor]) -> Tensor:
        return form(w[targets] * 2, w, targets.flip(0))

    actual = loss_and_gradients(loss(weight, linear_cross_entropy), weight)
    assert_same(actual, loss_and_gradients(loss(weight, by_torch), weight))


# --- dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_inputs_are_answered_in_float32_with_gradients_in_their_dtype(
    dtype: torch.dtype,
) -> None:
    hidden, weight, targets = problem(40, 30, 16, dtype)
    actual = loss_and_gradients(
        linear_cross_entropy(hidden, weight, targets, chunk_rows=7), hidden, weight
    )
    assert [x.dtype for x in actual] == [torch.float32, dtype, dtype]
    wide = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    # Logits of size 10, rounded once, and sums over 40 rows in float32.
    close_to(
        actual, loss_and_gradients(by_torch(*wide, targets), *wide), 4 * torch.finfo(dtype).eps
    )


def close_to(actual: list[Tensor], expected: list[Tensor], relative: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert (one.double() - other).norm() <= relative * other.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_products_are_narrow_and_gradients_are_those_of_the_parameters(
    dtype: torch.dtype,
) -> None:
    hidden, weight, targets = problem(40, 30, 16, torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        loss = linear_cross_entropy(hidden, weight, targets, chunk_rows=7)
    actual = loss_and_gradients(loss, hidden, weight)
    assert [x.dtype for x in actual] == 3 * [torch.float32]
    expected = loss_and_gradients(by_torch(hidden, weight, targets), hidden, weight)
    close_to(actual, [x.double() for x in expected], 4 * torch.finfo(dtype).eps)
    assert not torch.equal(actual[0], expected[0])  # it did round


def test_float64_stays_float64_under_autocast() -> None:
    hidden, weight, targets = problem()
    expected = loss_and_gradients(by_torch(hidden, weight, targets), hidden, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    assert_same(loss_and_gradients(loss, hidden, weight), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_small_shares_of_a_large_batch_are_not_lost(dtype: torch.dtype) -> None:
    # Nearly even odds: each gradient by a logit is 2e-7, and float16 knows multiples of 6e-8.
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(1500, 4, generator=generator).requires_grad_()
    weight = (0.1 * torch.randn(3000, 4, generator=generator)).requires_grad_()
    targets = torch.zeros(1500, dtype=torch.int64)
    with torch.autocast("cpu", dtype=dtype):
        loss = linear_cross_entropy(hidden, weight, targets)
    actual = torch.autograd.grad(loss, (hidden, weight))
    expected = torch.autograd.grad(by_torch(hidden, weight, targets), (hidden, weight))
    others = slice(1, None)  # rows of the tokens that never come
    error = (actual[1] - expected[1])[others].norm() / expected[1][others].norm()
    assert error < 4 * torch.finfo(dtype).eps


def test_large_hidden_states_do_not_overflow_in_float16() -> None:
    hidden = torch.zeros(2, 8, dtype=torch.float16)
    hidden[:, 0] = 100
    weight = torch.zeros(4, 8, dtype=torch.float16, requires_grad=True)
    linear_cross_entropy(hidden, weight, torch.tensor([1, 1])).backward()
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [25, -75, 25, 25]


# --- memory


class Watch(TorchDispatchMode):
    """Remembers the sizes of all tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor) and not func.is_view:
                self.sizes.append(x.numel())
        return result


def sizes_made(loss: Callable[[], Tensor], *, backward: bool = True) -> list[int]:
    with Watch() as watch:
        value = loss()
        if backward:
            value.backward()
    return watch.sizes


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("options", [{}, {"z_loss": 0.1, "logit_cap": 3.0, "ignore_index": 3}])
def test_the_largest_tensor_does_not_grow_with_the_rows(
    options: dict[str, Any], *, autocast: bool
) -> None:
    rows, vocab, d_model, chunk = 512, 100, 8, 16
    hidden, weight, targets = problem(rows, vocab, d_model, torch.float32)

    def loss(form: Callable[..., Tensor] = linear_cross_entropy, **more: Any) -> Tensor:
        with torch.autocast("cpu", enabled=autocast):
            return form(hidden, weight, targets, **options, **more)

    allowed = max(chunk * vocab, rows * d_model, vocab * d_model)
    assert max(sizes_made(lambda: loss(chunk_rows=chunk))) == allowed
    with plain_forms():
        assert max(sizes_made(loss)) == rows * vocab  # the watch sees what there is


def test_without_gradients_no_tensor_is_made_for_them() -> None:
    hidden, weight, targets = problem(100, 4, 50, torch.float32)

    def evaluate() -> Tensor:
        with torch.no_grad():
            return linear_cross_entropy(hidden, weight, targets, chunk_rows=10)

    assert max(sizes_made(evaluate, backward=False)) <= 100  # targets or shares; 40 logits
    loss = evaluate()
    assert not loss.requires_grad
    assert_close(loss, by_torch(hidden, weight, targets), rtol=1e-5, atol=1e-6)
    frozen = linear_cross_entropy(hidden.detach(), weight.detach(), targets)
    assert not frozen.requires_grad


def test_inputs_are_not_changed() -> None:
    hidden, weight, targets = problem()
    weights = torch.rand(7)
    before = [x.detach().clone() for x in (hidden, weight, targets, weights)]
    linear_cross_entropy(
        hidden, weight, targets, token_weights=weights, ignore_index=3, z_loss=0.1, logit_cap=3.0
    ).backward()
    for one, other in zip((hidden, weight, targets, weights), before, strict=True):
        assert torch.equal(one, other)


# --- in the model


@pytest.mark.parametrize("variant", [{}, {"tie_embeddings": True, "logit_cap": 3.0}], ids=str)
def test_the_loss_of_the_model_is_the_cross_entropy_of_its_logits(variant: dict[str, Any]) -> None:
    sizes = {"vocab_size": 11, "context_length": 8, "d_model": 12, "num_layers": 2}
    config = TransformerConfig(**{**sizes, "num_heads": 3, "d_ff": 20, **variant})
    model, (ids, targets) = TransformerLM(config).double(), torch.randint(11, (2, 2, 8))
    options: dict[str, Any] = {
        "token_weights": torch.rand(2, 8), "ignore_index": 3, "z_loss": 0.01
    }  # fmt: skip
    parameters = list(model.parameters())
    fast = loss_and_gradients(model.loss(ids, targets, **options), *parameters)
    plain = cross_entropy(model(ids), targets, **options)
    assert_same(fast, loss_and_gradients(plain, *parameters), rtol=1e-9, atol=1e-12)


# --- refusals


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(3,), (2, 1), (6,), (2, 3, 1)], ids=str)
def test_refuses_targets_and_weights_of_another_shape(shape: tuple[int, ...]) -> None:
    hidden, weight, targets = torch.zeros(2, 3, 5), torch.zeros(7, 5), torch.zeros(2, 3).long()
    with pytest.raises(ValueError, match=r"targets must have the shape of hidden .*\(2, 3, 5\)"):
        linear_cross_entropy(hidden, weight, torch.zeros(shape).long())
    match = r"token_weights must have the shape of targets, got .* for \(2, 3\)"
    with pytest.raises(ValueError, match=match):
        linear_cross_entropy(hidden, weight, targets, token_weights=torch.zeros(shape))
    with pytest.raises(ValueError, match=match):
        cross_entropy(hidden, targets, token_weights=torch.zeros(shape))


@pytest.mark.parametrize("wrong", [-100, -1, 11])
def test_refuses_a_target_outside_of_the_vocabulary(wrong: int) -> None:
    hidden, weight, targets = problem()
    targets[3] = wrong
    with pytest.raises(ValueError, match=rf"targets must be in 0 \.\. 10 .*, got {wrong}"):
        linear_cross_entropy(hidden, weight, targets)
    with pytest.raises(ValueError, match=rf"targets must be in 0 \.\. 10 .*, got {wrong}"):
        linear_cross_entropy(hidden, weight, targets, ignore_index=wrong + 1000)


def test_refuses_a_mean_over_nothing() -> None:
    hidden, weight, targets = problem()
    with pytest.raises(ValueError, match=r"targets must not be empty, got shape \(0,\)"):
        linear_cross_entropy(hidden[:0], weight, targets[:0])


@pytest.mark.parametrize("cap", [0.0, -1.0, float("nan")])
def test_refuses_a_cap_that_is_not_positive(cap: float) -> None:
    with pytest.raises(ValueError, match=f"logit_cap must be positive, got {cap}"):
        linear_cross_entropy(*problem(), logit_cap=cap)


def test_refuses_chunks_without_rows() -> None:
    with pytest.raises(ValueError, match="chunk_rows must be at least 1, got 0"):
        linear_cross_entropy(*problem(), chunk_rows=0)


def test_refuses_token_weights_that_want_a_gradient() -> None:
    weights = torch.ones(7, requires_grad=True)
    with pytest.raises(ValueError, match="token_weights must not require a gradient"):
        linear_cross_entropy(*problem(), token_weights=weights)
