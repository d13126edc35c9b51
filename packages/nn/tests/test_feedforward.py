"""The feed-forward networks follow their formulas, and their modules hold w1, w2 and w3."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from scratch.nn import SiLUFeedForward, SwiGLU, silu_feed_forward, swiglu


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_swiglu_gates_w3_by_silu_of_w1(batch: tuple[int, ...]) -> None:
    x, w1, w2, w3 = normal(*batch, 4), normal(6, 4), normal(4, 6), normal(6, 4)
    gated = functional.silu(x @ w1.T) * (x @ w3.T)
    same_with_gradients(swiglu(x, w1, w2, w3), gated @ w2.T, (x, w1, w2, w3))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_the_silu_network_has_no_gate(batch: tuple[int, ...]) -> None:
    x, w1, w2 = normal(*batch, 4), normal(6, 4), normal(4, 6)
    expected = functional.silu(x @ w1.T) @ w2.T
    same_with_gradients(silu_feed_forward(x, w1, w2), expected, (x, w1, w2))


def same_with_gradients(actual: Tensor, expected: Tensor, leaves: tuple[Tensor, ...]) -> None:
    # Short sums in float64, whose order may differ.
    assert_close(actual, expected, rtol=1e-12, atol=1e-13)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(actual, leaves, upstream)
    assert_close(gradients, torch.autograd.grad(expected, leaves, upstream), rtol=1e-12, atol=1e-13)


def test_the_modules_apply_their_weights() -> None:
    x, gated, plain = torch.randn(2, 4), SwiGLU(4, 6), SiLUFeedForward(4, 6)
    weights = {name.split(".")[0]: weight for name, weight in gated.named_parameters()}
    assert torch.equal(gated(x), swiglu(x, **weights))
    weights = {name.split(".")[0]: weight for name, weight in plain.named_parameters()}
    assert torch.equal(plain(x), silu_feed_forward(x, **weights))


def test_the_modules_hold_linear_maps_of_their_sizes() -> None:
    swiglu_shapes = {name: tuple(p.shape) for name, p in SwiGLU(4, 6).named_parameters()}
    silu_shapes = {name: tuple(p.shape) for name, p in SiLUFeedForward(4, 6).named_parameters()}
    assert silu_shapes == {"w1.weight": (6, 4), "w2.weight": (4, 6)}
    assert swiglu_shapes == {**silu_shapes, "w3.weight": (6, 4)}


@pytest.mark.parametrize("network", [SwiGLU, SiLUFeedForward])
def test_the_modules_refuse_a_width_below_one(network: type[SwiGLU | SiLUFeedForward]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        network(4, 0)
