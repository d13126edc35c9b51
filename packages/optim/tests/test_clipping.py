"""Clipping: one norm over all gradients, scaled down to a limit or left to the last bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from scratch.optim import clip_grad_norm


def with_gradients(*gradients: Tensor | None) -> list[nn.Parameter]:
    params = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(1) if gradient is None else torch.zeros_like(gradient))
        parameter.grad = None if gradient is None else gradient.clone()
        params.append(parameter)
    return params


def some_gradients() -> list[Tensor]:
    return [torch.randn(3, 4).double(), torch.randn(5).double(), torch.randn(()).double()]


def test_a_single_tensor_is_one_parameter() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    weight.grad = torch.full((2, 2), 2.0)
    assert clip_grad_norm(weight, 1.0).item() == 4
    torch.testing.assert_close(weight.grad, torch.full((2, 2), 0.5))


def test_returns_the_norm_of_all_gradients_together() -> None:
    gradients = some_gradients()
    norm = clip_grad_norm(with_gradients(*gradients), 1000.0)
    expected = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm.shape == ()
    assert_close(norm, expected, rtol=1e-14, atol=0)


def test_scales_every_gradient_by_the_limit_over_the_norm_plus_1e_6() -> None:
    gradients = some_gradients()
    params = with_gradients(*gradients)
    norm = clip_grad_norm(params, 0.5)
    for p, gradient in zip(params, gradients, strict=True):
        # The norm is near 4: without the 1e-6 the result would be off by 2e-7.
        assert_close(p.grad, gradient * (0.5 / (norm + 1e-6)), rtol=1e-14, atol=0)


def test_agrees_with_pytorch() -> None:
    gradients = some_gradients()
    ours, theirs = with_gradients(*gradients), with_gradients(*gradients)
    norm = clip_grad_norm(ours, 0.5)
    assert_close(norm, nn.utils.clip_grad_norm_(theirs, 0.5), rtol=1e-14, atol=0)
    assert_close([p.grad for p in ours], [p.grad for p in theirs], rtol=1e-14, atol=0)


@pytest.mark.parametrize("limit", [5.0, 5.1, float("inf")])
def test_a_norm_within_the_limit_changes_no_bit(limit: float) -> None:
    gradients = [torch.tensor([3.0, -0.0]), torch.tensor([4.0, 1e-30])]
    params = with_gradients(*gradients)
    assert clip_grad_norm(params, limit).item() == 5
    for p, gradient in zip(params, gradients, strict=True):
        assert p.grad is not None
        assert p.grad.numpy().tobytes() == gradient.numpy().tobytes()


@settings(deadline=None, derandomize=True)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), limit=st.floats(1e-3, 1e6))
def test_the_norm_afterwards_is_the_smaller_of_norm_and_limit(
    values: list[float], limit: float
) -> None:
    params = with_gradients(*(torch.tensor([value], dtype=torch.float64) for value in values))
    norm = clip_grad_norm(params, limit)
    after = clip_grad_norm(params, limit)
    # Sums of eight squares in float64, and the 1e-6 beside a norm that is at least the limit.
    assert after.item() == pytest.approx(min(norm.item(), limit), rel=2e-3 if limit < 1 else 2e-6)
    assert after.item() <= limit * (1 + 1e-12)


def test_gradients_are_changed_in_place() -> None:
    params = with_gradients(torch.tensor([3.0, 4.0]))
    gradient = params[0].grad
    clip_grad_norm(params, 1.0)
    assert params[0].grad is gradient
    assert_close(gradient, torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0)


def test_the_parameters_come_from_any_iterable() -> None:
    params = with_gradients(*some_gradients())
    clip_grad_norm((p for p in params), 0.5)
    assert clip_grad_norm(iter(params), 0.5).item() == pytest.approx(0.5, rel=1e-6)


def test_parameters_without_a_gradient_do_not_count() -> None:
    params = with_gradients(None, torch.tensor([3.0, 4.0]), None)
    assert clip_grad_norm(params, 1.0).item() == 5
    assert params[0].grad is None


@pytest.mark.parametrize("params", [[], [nn.Parameter(torch.ones(2))]], ids=["none", "no gradient"])
def test_the_norm_of_nothing_is_zero(params: list[nn.Parameter]) -> None:
    norm = clip_grad_norm(params, 1.0)
    assert norm.shape == ()
    assert norm.item() == 0


def test_an_empty_gradient_has_no_length() -> None:
    params = with_gradients(torch.zeros(0), torch.tensor([3.0, 4.0]))
    assert clip_grad_norm(params, 1.0).item() == 5


def test_no_graph_is_kept() -> None:
    params = with_gradients(torch.tensor([3.0, 4.0]))
    assert not clip_grad_norm(params, 1.0).requires_grad
    assert params[0].grad is not None
    assert not params[0].grad.requires_grad


# --- dtypes


def test_gradients_of_several_dtypes_share_one_norm() -> None:
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    params = with_gradients(*(torch.tensor([4.0], dtype=dtype) for dtype in dtypes))
    assert clip_grad_norm(params, 4.0).item() == 8
    for p, dtype in zip(params, dtypes, strict=True):
        assert p.grad is not None
        assert p.grad.dtype == dtype
        assert p.grad.item() == pytest.approx(2, rel=float(torch.finfo(dtype).eps) + 1e-6)


def test_float16_gradients_may_have_squares_beyond_float16() -> None:
    params = with_gradients(torch.tensor([30_000.0, 40_000.0], dtype=torch.float16))
    assert clip_grad_norm(params, 5.0).item() == 50_000
    assert params[0].grad is not None
    assert_close(params[0].grad, torch.tensor([3.0, 4.0]).half())  # by torch's rounding of float16


def test_float16_gradients_may_need_a_scale_beyond_float16() -> None:
    params = with_gradients(torch.full((4,), 60_000.0, dtype=torch.float16))
    clip_grad_norm(params, 1e-3)  # a scale of 8e-9, where float16 ends at 6e-8
    assert params[0].grad is not None
    assert_close(params[0].grad, torch.full((4,), 5e-4).half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_gradients_are_scaled_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    gradient = torch.randn(1000).to(dtype)
    params = with_gradients(gradient)
    norm = clip_grad_norm(params, 1.0)
    expected = (gradient.double() / (norm.double() + 1e-6)).to(dtype)
    assert params[0].grad is not None
    # Equal but for a rare halfway case, which float32 may see from the other side.
    assert (params[0].grad == expected).double().mean() > 0.99


# --- numbers that are not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_norm_that_is_not_finite_is_reported_and_scales_nothing(bad: float) -> None:
    gradients = [torch.tensor([1e3, -0.0]), torch.tensor([bad, 2e3])]
    params = with_gradients(*gradients)
    norm = clip_grad_norm(params, 1.0)
    assert not norm.isfinite()
    assert norm.isnan() == (bad != bad)
    for p, gradient in zip(params, gradients, strict=True):
        assert p.grad is not None
        assert p.grad.numpy().tobytes() == gradient.numpy().tobytes()


@pytest.mark.usefixtures("unchecked")
def test_the_norm_is_never_read_on_the_host() -> None:
    params = with_gradients(torch.ones(3, device="meta"), torch.ones(2, 2, device="meta"))
    norm = clip_grad_norm(params, 1.0)  # on the meta device there is no value to read
    assert norm.device.type == "meta"


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_refuses_a_limit_that_is_not_positive(limit: float) -> None:
    with pytest.raises(ValueError, match=f"max_norm must be positive, got {limit}"):
        clip_grad_norm(with_gradients(torch.ones(2)), limit)


def test_one_parameter_may_come_by_itself() -> None:
    (parameter,) = with_gradients(torch.tensor([3.0, 4.0]))
    assert clip_grad_norm(parameter, 1.0) == 5
    assert parameter.grad is not None
    assert_close(parameter.grad, torch.tensor([0.6, 0.8]))


# --- many and large


@settings(deadline=None, derandomize=True, max_examples=20)
@given(
    shapes=st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    transposed=st.booleans(),
    limit=st.sampled_from([1e-2, 1.0, 1e3]),
)
def test_any_gradients_are_clipped_as_their_float64_copies(
    shapes: list[list[int]], dtype: torch.dtype, transposed: bool, limit: float
) -> None:
    gradients = [torch.randn(shape).to(dtype) for shape in shapes]
    if transposed:
        gradients = [g.permute(list(range(g.ndim))[::-1]) for g in gradients]
    params = with_gradients(*gradients)
    for p, gradient in zip(params, gradients, strict=True):
        p.grad = gradient  # in its layout
    expected = [g.double().clone() for g in gradients]
    squares = torch.stack([g.square().sum() for g in expected])
    norm = squares.sum().sqrt()
    assert_close(clip_grad_norm(params, limit).double(), norm, rtol=1e-5, atol=1e-6)
    scale = limit / (norm + 1e-6) if norm > limit else torch.ones(())
    near = {"rtol": max(1e-5, float(torch.finfo(dtype).eps)), "atol": 1e-6}
    for p, wide in zip(params, expected, strict=True):
        assert p.grad is not None
        assert_close(p.grad.double(), wide * scale, **near)


def test_a_large_gradient_is_summed_without_losing_its_small_terms() -> None:
    gradient = torch.full((5_000_001,), 0.1)
    norm = clip_grad_norm(with_gradients(gradient), 1e9)
    # One running sum in float32 would be off by 4e-3.
    assert_close(norm.double(), gradient.double().square().sum().sqrt(), rtol=2e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_gradients_are_summed_in_float32(dtype: torch.dtype) -> None:
    gradient = torch.full((4096,), 3.0, dtype=dtype)
    norm = clip_grad_norm(with_gradients(gradient), 1e9)
    assert norm.dtype == torch.float32
    assert_close(norm, torch.tensor(3.0 * 64), rtol=1e-6, atol=0)
