"""AdamW follows its formula, number by number, and meets PyTorch's where the two variants agree."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from scratch.optim import AdamW, adamw


def gradients(steps: int) -> list[list[float]]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(steps, 4, dtype=torch.float64, generator=generator).tolist()


def by_hand(
    start: list[float],
    steps: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> list[float]:
    """Oracle: the formula on Python's numbers, one weight at a time."""
    (b1, b2), ends = betas, []
    for index, p in enumerate(start):
        m = v = 0.0
        for t, gradient in enumerate(gradients(steps), start=1):
            g = gradient[index]
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            p -= lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (math.sqrt(v) + eps)
            p -= lr * weight_decay * p
        ends.append(p)
    return ends


def walk(optimizer_class: Any, steps: int, start: list[float], **arguments: Any) -> Tensor:
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = optimizer_class([parameter], **arguments)
    for gradient in gradients(steps):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return parameter.detach()


START = [1.0, -2.0, 0.5, 0.0]


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999), (0.0, 0.95), (0.9, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_follows_the_formula(
    betas: tuple[float, float], weight_decay: float, eps: float, steps: int
) -> None:
    arguments = {"lr": 0.03, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    expected = torch.tensor(by_hand(START, steps, **arguments), dtype=torch.float64)
    # float64 throughout; a detour through float32 would be off by 1e-7.
    assert_close(walk(AdamW, steps, START, **arguments), expected, rtol=1e-12, atol=1e-14)


def test_walks_where_pytorch_walks_if_nothing_decays_and_eps_is_zero() -> None:
    arguments = {"lr": 0.03, "betas": (0.9, 0.95), "eps": 0.0, "weight_decay": 0.0}
    expected = walk(torch.optim.AdamW, 50, START, **arguments)
    assert_close(walk(AdamW, 50, START, **arguments), expected, rtol=1e-12, atol=1e-14)


def test_stays_near_pytorch_otherwise() -> None:
    arguments = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    expected = walk(torch.optim.AdamW, 50, START, **arguments)
    # In each step the variants differ by lr^2 * weight_decay, and by eps.
    assert_close(walk(AdamW, 50, START, **arguments), expected, rtol=0, atol=50 * 1e-7)


def test_the_first_step_is_one_rate_against_the_sign_of_the_gradient() -> None:
    stepped = walk(AdamW, 1, START, lr=0.03, eps=0.0, weight_decay=0.0)
    expected = torch.tensor(START).double() - 0.03 * torch.tensor(gradients(1)[0]).double().sign()
    assert_close(stepped, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta", [0.999, 0.999999])
def test_in_float32_too_the_first_step_is_one_rate(beta: float) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([1.0, -2.0, 100.0])
    AdamW([parameter], 1.0, betas=(beta, beta), eps=0.0, weight_decay=0.0).step()
    # 1 - beta^1 in float32 would be wrong in its fifth, or first, decimal.
    assert_close(parameter.detach(), torch.tensor([-1.0, 1.0, -1.0]), rtol=1e-6, atol=0)


def test_decay_pulls_a_parameter_whose_gradient_is_zero() -> None:
    parameter = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    parameter.grad = torch.tensor(0.0, dtype=torch.float64)
    AdamW([parameter], 0.1, weight_decay=0.5).step()
    assert parameter.item() == pytest.approx(2 * (1 - 0.1 * 0.5), rel=1e-15)


def test_groups_decay_each_by_their_own() -> None:
    params = [nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2)]
    for p in params:
        p.grad = torch.zeros(1, dtype=torch.float64)
    groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.0, "lr": 0.5}]
    AdamW(groups, 0.1, weight_decay=0.5).step()
    assert [p.item() for p in params] == [1 - 0.1 * 0.5, 1]


def test_the_defaults_are_those_of_its_docstring() -> None:
    group = AdamW([nn.Parameter(torch.ones(1))], 0.1).param_groups[0]
    assert group["betas"] == (0.9, 0.95)
    assert (group["eps"], group["weight_decay"]) == (1e-8, 0.1)


def test_parameters_count_their_steps_apart() -> None:
    early, late = (nn.Parameter(torch.tensor(0.0, dtype=torch.float64)) for _ in range(2))
    optimizer = AdamW([early, late], 0.1, eps=0.0, weight_decay=0.0)
    early.grad = torch.tensor(3.0, dtype=torch.float64)
    optimizer.step()
    late.grad = torch.tensor(3.0, dtype=torch.float64)
    optimizer.step()
    # The first step of either is one rate long, whenever it comes.
    assert late.item() == pytest.approx(-0.1, rel=1e-12)


def test_the_function_changes_none_of_its_arguments() -> None:
    p, g, m, v = torch.randn(4, 3, dtype=torch.float64)
    t, v = torch.tensor(3.0, dtype=torch.float64), v.abs()
    before = [x.clone() for x in (p, g, m, v, t)]
    adamw(p, g, m, v, t, lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    assert all(torch.equal(x, old) for x, old in zip((p, g, m, v, t), before, strict=True))


@pytest.mark.parametrize("name", ["lr", "eps", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_refuses_negative_numbers(name: str, value: float) -> None:
    arguments: dict[str, float] = {"lr": 0.1, name: value}
    with pytest.raises(ValueError, match=f"{name} must not be negative, got {value}"):
        AdamW([nn.Parameter(torch.ones(1))], **arguments)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, float("nan"))])
def test_refuses_betas_outside_of_zero_to_one(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"betas must be in \[0, 1\), got \("):
        AdamW([nn.Parameter(torch.ones(1))], 0.1, betas=betas)


def test_a_float16_parameter_without_a_gradient_to_speak_of_stays_finite() -> None:
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float16))
    optimizer = AdamW([parameter], lr=0.1, weight_decay=0.0)
    parameter.grad = torch.zeros_like(parameter)  # in float16, eps would be zero: 0 / 0
    optimizer.step()
    assert parameter.tolist() == [1, 1, 1]
