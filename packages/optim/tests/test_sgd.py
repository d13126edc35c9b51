"""SGD follows its formula, which is that of PyTorch."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from scratch.optim import SGD, sgd


def gradients(steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(steps, 3, 4, dtype=torch.float64, generator=generator)


def trajectory(optimizer_class: type[torch.optim.Optimizer], **arguments: float) -> list[Tensor]:
    parameter = nn.Parameter(torch.ones(3, 4, dtype=torch.float64))
    optimizer = optimizer_class([parameter], **arguments)
    visited = []
    for gradient in gradients(20):
        parameter.grad = gradient
        optimizer.step()
        visited.append(parameter.detach().clone())
    return visited


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_walks_where_pytorch_walks(momentum: float, weight_decay: float) -> None:
    arguments = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay}
    actual = trajectory(SGD, **arguments)
    # Twenty steps in float64; a detour through float32 would be off by 1e-7.
    expected = trajectory(torch.optim.SGD, **arguments)
    assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_the_function_is_one_step_of_the_formula() -> None:
    p, g, v = (torch.tensor(value, dtype=torch.float64) for value in (5.0, 3.0, 2.0))
    stepped, velocity = sgd(p, g, v, lr=0.1, momentum=0.5, weight_decay=0.2)
    assert velocity.item() == 0.5 * 2 + 3 + 0.2 * 5
    assert stepped.item() == pytest.approx(5 - 0.1 * 5, rel=1e-15)
    assert (p.item(), g.item(), v.item()) == (5, 3, 2)


def test_there_is_no_momentum_unless_asked_for() -> None:
    assert_close(trajectory(SGD, lr=0.1), trajectory(SGD, lr=0.1, momentum=0.0), rtol=0, atol=0)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_refuses_a_momentum_outside_of_zero_to_one(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
        SGD([nn.Parameter(torch.ones(1))], 0.1, momentum=momentum)


@pytest.mark.parametrize("lr", [-0.1, float("nan")])
def test_refuses_a_negative_rate(lr: float) -> None:
    with pytest.raises(ValueError, match=f"lr must not be negative, got {lr}"):
        SGD([nn.Parameter(torch.ones(1))], lr)
