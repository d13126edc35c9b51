"""Contract: softmax, cross-entropy and gradient clipping, with torch's own functions as oracles.

Float64 results are compared at `rtol=1e-12`: torch's default of 1e-7 would not notice a
detour through float32.
"""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from .adapters import run_cross_entropy, run_gradient_clipping, run_softmax

SHAPES = [(7,), (3, 7), (2, 3, 7), (2, 1, 3, 7)]


def normal64(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


# --- softmax


def test_softmax_matches_pytorch() -> None:
    x = torch.randn(3, 5)
    assert_close(run_softmax(x, dim=-1), functional.softmax(x, dim=-1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -2, -3, -4])
def test_softmax_works_along_every_dim(dim: int) -> None:
    x = normal64(2, 3, 4, 5)
    assert_close(run_softmax(x, dim), functional.softmax(x, dim), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shift", [-1000.0, 1.0, 1000.0])
def test_softmax_ignores_a_shift(shift: float) -> None:
    x = normal64(4, 6)
    # A shift of 1000 itself rounds the inputs to 1000 * 2**-53, about 1e-13.
    assert_close(run_softmax(x + shift, -1), run_softmax(x, -1), rtol=1e-11, atol=0)


@pytest.mark.parametrize("scale", [1e3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_softmax_survives_large_logits(scale: float, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, -1.0, 0.5], [-1.0, -1.0, -1.0], [1.0, 1.0, -1.0]], dtype=dtype) * scale
    expected = torch.tensor([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]], dtype=dtype)
    # exp(-500), in float64 not quite zero, is the least of the differences.
    assert_close(run_softmax(x, -1), expected, rtol=1e-6, atol=1e-200)


def test_softmax_gives_minus_infinity_no_mass() -> None:
    x = torch.tensor([0.0, -torch.inf, 0.0])
    assert run_softmax(x, 0).tolist() == [0.5, 0.0, 0.5]


def test_softmax_has_the_gradient_of_pytorch() -> None:
    x, upstream = normal64(3, 4, 5).requires_grad_(), normal64(3, 4, 5)
    (expected,) = torch.autograd.grad(functional.softmax(x, 1), x, upstream)
    (gradient,) = torch.autograd.grad(run_softmax(x, 1), x, upstream)
    # Entries cancel towards zero; 1e-15 is a few roundings of values near 1.
    assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_softmax_leaves_its_input_alone() -> None:
    x = torch.randn(3, 5)
    before = x.clone()
    run_softmax(x, -1)
    assert torch.equal(x, before)


# --- cross-entropy


def flat_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def test_cross_entropy() -> None:
    logits, targets = torch.randn(8, 5), torch.randint(5, (8,))
    loss = run_cross_entropy(logits, targets)
    assert loss.shape == ()
    assert_close(loss, functional.cross_entropy(logits, targets), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_averages_over_all_leading_dimensions(shape: tuple[int, ...]) -> None:
    logits, targets = normal64(*shape), torch.randint(shape[-1], shape[:-1])
    loss = run_cross_entropy(logits, targets)
    assert loss.shape == ()
    assert_close(loss, flat_cross_entropy(logits, targets), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_cross_entropy_survives_large_logits(scale: float, dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, -1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]) * scale
    losses = [0.0, 2 * scale, math.log(3)]
    for row, expected in zip(logits.to(dtype), losses, strict=True):
        loss = run_cross_entropy(row, torch.tensor(1 if expected else 0))
        # float32 resolves 1e4 to 1e-3, so the log 3 beside it is good to that only.
        assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-3)


def test_cross_entropy_widens_before_it_sums() -> None:
    logits = torch.tensor([1e4, -1e4], dtype=torch.float16).repeat(64, 1)
    loss = run_cross_entropy(logits, torch.ones(64, dtype=torch.int64))
    assert loss.item() == 2e4, "the sum over 64 rows overflows float16, the mean does not"


def test_cross_entropy_of_equal_logits_is_the_log_of_the_vocabulary() -> None:
    loss = run_cross_entropy(torch.full((4, 1000), 3.0, dtype=torch.float64), torch.arange(4))
    assert loss.item() == pytest.approx(math.log(1000), rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy_has_the_gradient_of_pytorch(scale: float) -> None:
    logits, targets = (normal64(2, 3, 7) * scale).requires_grad_(), torch.randint(7, (2, 3))
    (expected,) = torch.autograd.grad(flat_cross_entropy(logits, targets), logits)
    (gradient,) = torch.autograd.grad(run_cross_entropy(logits, targets), logits)
    assert_close(gradient, expected, rtol=1e-12, atol=1e-16)


# --- gradient clipping


def with_gradients(*gradients: Tensor | None) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        like = torch.ones(3) if gradient is None else gradient
        parameters.append(nn.Parameter(torch.zeros_like(like)))
        parameters[-1].grad = None if gradient is None else gradient.clone()
    return parameters


def gradients_of(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


@pytest.mark.parametrize("max_norm", [1e-2, 1.0, 1e4])
def test_gradient_clipping(max_norm: float) -> None:
    gradients = [torch.randn(5, 5) * scale for scale in (0.1, 1.0, 2.0)]
    ours, theirs = with_gradients(*gradients, None), with_gradients(*gradients, None)
    norm = run_gradient_clipping(ours, max_norm)
    assert_close(norm, nn.utils.clip_grad_norm_(theirs, max_norm), rtol=1e-6, atol=0)
    assert ours[-1].grad is None
    assert_close(gradients_of(ours), gradients_of(theirs), rtol=1e-6, atol=0)


def test_clipping_scales_by_the_limit_over_the_norm_plus_1e_6() -> None:
    # A norm of 5e-6 makes the 1e-6 a sixth of the answer: nobody can leave it out unseen.
    parameters = with_gradients(torch.tensor([3e-6, 0.0]).double(), torch.tensor([4e-6]).double())
    norm = run_gradient_clipping(parameters, 3e-6)
    assert_close(norm.double(), torch.tensor(5e-6).double(), rtol=1e-7, atol=0)
    factor = 3e-6 / (5e-6 + 1e-6)
    expected = [torch.tensor([3e-6 * factor, 0.0]).double(), torch.tensor([4e-6 * factor]).double()]
    assert_close(gradients_of(parameters), expected, rtol=1e-7, atol=0)


def test_clipping_is_exact_in_float64() -> None:
    gradients = [normal64(4, 3), normal64(7), normal64()]
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
    parameters = with_gradients(*gradients)
    reported = run_gradient_clipping(parameters, 0.5)
    assert reported.item() == pytest.approx(norm, rel=1e-12)
    expected = [g * (0.5 / (norm + 1e-6)) for g in gradients]
    assert_close(gradients_of(parameters), expected, rtol=1e-12, atol=0)


def test_clipping_accepts_a_generator() -> None:
    parameters = with_gradients(torch.tensor([3.0]), torch.tensor([4.0]))

    def one_by_one() -> Iterator[nn.Parameter]:
        yield from parameters

    assert run_gradient_clipping(one_by_one(), 1.0).item() == 5.0
    assert_close(gradients_of(parameters), [torch.tensor([0.6]), torch.tensor([0.8])])


def test_clipping_works_in_place() -> None:
    parameters = with_gradients(torch.tensor([30.0, 40.0]))
    gradient = parameters[0].grad
    run_gradient_clipping(parameters, 1.0)
    assert parameters[0].grad is gradient


@pytest.mark.parametrize("max_norm", [5.0, 5.1, 1e9])
def test_clipping_changes_no_bit_up_to_the_limit(max_norm: float) -> None:
    parameters = with_gradients(torch.tensor([3.0]), None, torch.tensor([4.0]))
    assert run_gradient_clipping(parameters, max_norm).item() == 5.0
    assert [g.item() for g in gradients_of(parameters)] == [3.0, 4.0]


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_clipping_reports_a_norm_that_is_not_finite_and_does_not_scale_by_it(bad: float) -> None:
    gradients = [torch.tensor([300.0, bad]), torch.tensor([-400.0])]
    parameters = with_gradients(*gradients)
    assert not run_gradient_clipping(parameters, 1.0).isfinite()
    for gradient, before in zip(gradients_of(parameters), gradients, strict=True):
        assert_close(gradient, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("max_norm", [60.0, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_clipping_works_wider_than_narrow_gradients(dtype: torch.dtype, max_norm: float) -> None:
    # In float16 the squares of these overflow, and the smaller factor, 1e-7, has no digits left.
    parameters = with_gradients(torch.linspace(1e4, 6e4, 8).to(dtype))
    exact = parameters[0].grad.double()
    norm = exact.square().sum().sqrt()
    assert_close(run_gradient_clipping(parameters, max_norm).double(), norm, rtol=1e-6, atol=0)
    (clipped,) = gradients_of(parameters)
    assert clipped.dtype == dtype
    rounding = torch.finfo(dtype).eps / 2 * 1.001  # one, and a trifle for the float32 beneath
    assert_close(clipped.double(), exact * (max_norm / (norm + 1e-6)), rtol=rounding, atol=0)


@pytest.mark.parametrize("parameters", [[], with_gradients(None, None)], ids=["none", "no_grad"])
def test_clipping_without_any_gradient_reports_zero(parameters: list[nn.Parameter]) -> None:
    assert run_gradient_clipping(parameters, 1.0).item() == 0
