"""Contract: AdamW and the learning-rate schedule.

Two forms of AdamW are right: the one of the formulas in SPEC.md, which decays last and adds eps to
the uncorrected root, and torch's. In float64 an optimizer must follow one of them to 1e-9.
"""

import io
import math
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from .adapters import get_adamw_cls, run_get_lr_cosine_schedule

BETAS = (0.9, 0.99)


class FormulaAdamW:
    """AdamW as the formulas spell it, one parameter after another."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        self.params, self.t = list(params), 0
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.params]

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        b1, b2 = self.betas
        for p, (m, v) in zip(self.params, self.moments, strict=True):
            m.copy_(b1 * m + (1 - b1) * p.grad)
            v.copy_(b2 * v + (1 - b2) * p.grad**2)
            a_t = self.lr * math.sqrt(1 - b2**self.t) / (1 - b1**self.t)
            p -= a_t * m / (v.sqrt() + self.eps)
            p -= self.lr * self.weight_decay * p


Optimizer = FormulaAdamW | torch.optim.Optimizer


def parameters(*, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 2), (2,), ()]
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def fit(params: list[nn.Parameter], optimizer: Optimizer, steps: range) -> list[Tensor]:
    """Fit a scaled linear map to a curve, on data that depend on the number of the step only."""
    weight, bias, scale = params
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 3, generator=generator, dtype=weight.dtype)
        target = torch.stack([x[:, 0].sin(), x[:, 1] * x[:, 2]], dim=1)
        loss = (scale * (x @ weight + bias) - target).square().mean()
        for p, gradient in zip(params, torch.autograd.grad(loss, params), strict=True):
            p.grad = gradient
        optimizer.step()
    return [p.detach().clone() for p in params]


def distance(some: list[Tensor], others: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))


# A large eps and decay, so that it shows where each of them enters.
@pytest.mark.parametrize(("eps", "weight_decay"), [(1e-2, 0.5), (1e-8, 0.0)])
def test_adamw(eps: float, weight_decay: float) -> None:
    def fitted(optimizer_type: Callable[..., Optimizer]) -> list[Tensor]:
        params = parameters()
        optimizer = optimizer_type(params, lr=1e-2, betas=BETAS, eps=eps, weight_decay=weight_decay)
        return fit(params, optimizer, range(1000))

    ours = fitted(get_adamw_cls())
    accepted = [fitted(FormulaAdamW), fitted(torch.optim.AdamW)]
    start = [p.detach() for p in parameters()]
    assert distance(ours, start) > 0.1, "a thousand steps lead somewhere"
    assert min(distance(ours, theirs) for theirs in accepted) < 1e-9


def test_adamw_is_close_to_that_of_torch_in_float32() -> None:
    results = []
    for optimizer_type in (get_adamw_cls(), torch.optim.AdamW):
        params = parameters(dtype=torch.float32)
        optimizer = optimizer_type(params, lr=1e-3, betas=BETAS, eps=1e-8, weight_decay=0.01)
        results.append(fit(params, optimizer, range(1000)))
    assert all(tensor.dtype == torch.float32 for tensor in results[0])
    assert distance(*results) < 1e-4


def adamw(params: Iterable[object], **options: object) -> torch.optim.Optimizer:
    defaults = {"lr": 0.1, "betas": BETAS, "eps": 1e-8, "weight_decay": 0.0}
    return get_adamw_cls()(params, **(defaults | options))


def step_with_gradient(p: nn.Parameter, gradient: Tensor | None, **options: object) -> Tensor:
    before = p.detach().clone()
    p.grad = gradient
    adamw([p], **options).step()
    return p.detach() - before


def test_a_first_step_has_the_size_of_the_learning_rate() -> None:
    gradient = torch.tensor([1e-3, -1.0, 1e3], dtype=torch.float64)
    change = step_with_gradient(nn.Parameter(torch.zeros(3).double()), gradient, eps=1e-30)
    assert_close(change, -0.1 * gradient.sign(), rtol=1e-12, atol=0)


def test_decay_does_not_pass_through_the_moments() -> None:
    start = torch.tensor([1.0, -20.0, 300.0], dtype=torch.float64)
    change = step_with_gradient(
        nn.Parameter(start.clone()), torch.zeros_like(start), weight_decay=0.5
    )
    assert_close(change, -0.1 * 0.5 * start, rtol=1e-12, atol=0)


def test_a_parameter_without_a_gradient_stays_though_others_decay() -> None:
    frozen, moving = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    moving.grad = torch.ones(3)
    optimizer = adamw([frozen, moving], weight_decay=0.5)
    for _ in range(3):
        optimizer.step()
    assert torch.equal(frozen, torch.ones(3))
    assert (moving < 1).all()


def test_steps_change_parameters_in_place_and_leave_gradients_alone() -> None:
    p, gradient = nn.Parameter(torch.ones(3)), torch.tensor([1.0, -2.0, 3.0])
    address = p.data_ptr()
    step_with_gradient(p, gradient.clone(), weight_decay=0.1)
    assert p.data_ptr() == address
    assert torch.equal(p.grad, gradient)


def test_groups_have_their_own_learning_rate_and_decay() -> None:
    still, decaying = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [still], "lr": 0.0}, {"params": [decaying], "weight_decay": 0.5}]
    optimizer = adamw(groups)
    for p in (still, decaying):
        p.grad = torch.zeros(2)
    optimizer.step()
    assert still.tolist() == [1.0, 1.0]
    assert decaying.tolist() == pytest.approx([0.95, 0.95])
    optimizer.param_groups[1]["lr"] = 0.0  # what a schedule does
    optimizer.step()
    assert decaying.tolist() == pytest.approx([0.95, 0.95])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_restored_state_continues_bit_for_bit(dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = adamw(params, lr=1e-2, weight_decay=0.1)
    fit(params, optimizer, range(7))

    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    restored = adamw(copies, lr=0.5, weight_decay=0.0)
    restored.load_state_dict(torch.load(file, weights_only=True))

    for left, right in zip(
        fit(params, optimizer, range(7, 20)), fit(copies, restored, range(7, 20)), strict=True
    ):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1e-3),
        ("lr", math.nan),
        ("betas", (1.0, 0.9)),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("eps", -1e-8),
        ("weight_decay", -0.1),
    ],
)
def test_adamw_refuses_bad_values_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        adamw(parameters(), **{name: value})


# --- the schedule


def learning_rate(step: int, warmup: int = 7, total: int = 21) -> float:
    return run_get_lr_cosine_schedule(
        it=step,
        max_learning_rate=1.0,
        min_learning_rate=0.1,
        warmup_iters=warmup,
        cosine_cycle_iters=total,
    )


def test_get_lr_cosine_schedule() -> None:
    warmup = [step / 7 for step in range(7)]
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * k / 14)) / 2 for k in range(15)]
    expected = [*warmup, *cosine, *[0.1] * 5]
    rates = [learning_rate(step) for step in range(len(expected))]
    assert rates == pytest.approx(expected, rel=1e-12, abs=0)


def test_the_schedule_meets_its_corners_exactly() -> None:
    assert learning_rate(0) == 0.0
    assert learning_rate(7) == 1.0
    assert learning_rate(14) == pytest.approx(0.55, rel=1e-12)
    assert learning_rate(21) == learning_rate(22) == learning_rate(10**9) == 0.1


def test_without_warmup_the_schedule_starts_at_its_peak() -> None:
    assert learning_rate(0, warmup=0) == 1.0
    assert learning_rate(1, warmup=0) < 1.0


@settings(deadline=None, derandomize=True, max_examples=50)
@given(warmup=st.integers(0, 20), length=st.integers(1, 20))
def test_the_schedule_climbs_then_falls_within_its_bounds(warmup: int, length: int) -> None:
    total = warmup + length
    rates = [learning_rate(step, warmup, total) for step in range(total + 5)]
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert max(rates) == 1.0
    assert min(rates[warmup:]) == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize(("warmup", "total"), [(7, 7), (8, 7), (0, 0), (-1, 5)])
def test_a_schedule_that_ends_before_it_decays_is_refused(warmup: int, total: int) -> None:
    with pytest.raises(ValueError, match=rf"total_steps={total}, warmup_steps={warmup}"):
        learning_rate(0, warmup, total)
