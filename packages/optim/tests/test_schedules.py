"""The warm-up and cosine schedule: its formula, its joints, its bounds and what it refuses."""

import dataclasses
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.optim import Constant, WarmupCosine, WarmupLinear, WarmupStableDecay

RATES = st.floats(0, 10)


@st.composite
def schedules(draw: st.DrawFn) -> WarmupCosine:
    floor, peak = sorted((draw(RATES), draw(RATES)))
    warmup = draw(st.integers(0, 500))
    total = warmup + draw(st.integers(1, 2000))
    return WarmupCosine(peak=peak, floor=floor, warmup_steps=warmup, total_steps=total)


def schedule(**changes: Any) -> WarmupCosine:
    return WarmupCosine(
        **{"peak": 1.0, "floor": 0.1, "warmup_steps": 7, "total_steps": 21, **changes}
    )


def test_the_values_of_a_worked_example() -> None:
    warmup = [step / 7 for step in range(7)]
    cosine = [0.55 + 0.45 * math.cos(math.pi * step / 14) for step in range(15)]
    expected = [*warmup, *cosine, 0.1, 0.1, 0.1]
    assert [schedule()(step) for step in range(25)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.0), (7, 1.0), (14, 0.55), (21, 0.1), (22, 0.1), (10**9, 0.1)]
)
def test_the_landmarks_are_met(step: int, rate: float) -> None:
    assert schedule()(step) == pytest.approx(rate, rel=1e-12)


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert schedule(warmup_steps=0)(0) == 1


@settings(deadline=None, derandomize=True)
@given(schedules(), st.integers(0, 3000))
def test_the_rate_stays_between_zero_or_floor_and_peak(one: WarmupCosine, step: int) -> None:
    least = 0 if step < one.warmup_steps else one.floor
    slack = 1e-12 * one.peak  # a few roundings
    assert least - slack <= one(step) <= one.peak + slack


@settings(deadline=None, derandomize=True)
@given(schedules())
def test_the_rate_rises_to_the_peak_and_then_falls(one: WarmupCosine) -> None:
    joint, slack = one.warmup_steps, 1e-12 * one.peak
    rates = [one(step) for step in range(min(one.total_steps, 2500) + 3)]
    rising, falling = rates[: joint + 1], rates[joint:]
    assert all(a <= b + slack for a, b in pairwise(rising))
    assert all(a >= b - slack for a, b in pairwise(falling))


@settings(deadline=None, derandomize=True)
@given(schedules())
def test_the_pieces_meet_at_their_joints(one: WarmupCosine) -> None:
    near = 1e-6
    assert one(one.warmup_steps) == pytest.approx(one.peak, rel=1e-12, abs=1e-300)
    assert one(one.total_steps) == pytest.approx(one.floor, rel=1e-9, abs=1e-15)
    for joint in (one.warmup_steps, one.total_steps):
        if joint > 0:
            # No slope is steeper than pi / 2 peaks a step.
            assert abs(one(joint - near) - one(joint)) <= 2 * near * one.peak + 1e-15
            assert abs(one(joint + near) - one(joint)) <= 2 * near * one.peak + 1e-15


def test_a_flat_schedule_is_flat_after_warm_up() -> None:
    flat = schedule(floor=1.0)
    assert [flat(step) for step in range(7, 30)] == 23 * [1.0]


def test_it_is_a_value() -> None:
    assert schedule() == schedule()
    assert schedule() != schedule(peak=2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule().peak = 2.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("warmup", "total"), [(-1, 10), (10, 10), (11, 10), (0, 0)])
def test_refuses_steps_that_leave_no_room_for_the_cosine(warmup: int, total: int) -> None:
    message = f"total_steps must exceed warmup_steps, .*total_steps={total}, warmup_steps={warmup}"
    with pytest.raises(ValueError, match=message):
        schedule(warmup_steps=warmup, total_steps=total)


@pytest.mark.parametrize("name", ["peak", "floor"])
@pytest.mark.parametrize("rate", [-0.1, math.inf, math.nan])
def test_refuses_a_rate_that_is_none(name: str, rate: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a finite rate of at least 0, got {rate}"):
        schedule(**{name: rate})


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        WarmupCosine(peak=1.0, floor=0.0, warmup_steps=2, total_steps=4)(-1)


# --- the other shapes


def test_the_linear_schedule_is_a_triangle_on_a_floor() -> None:
    linear = WarmupLinear(peak=1.0, floor=0.2, warmup_steps=2, total_steps=6)
    expected = [0.0, 0.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    assert [linear(step) for step in range(8)] == pytest.approx(expected, rel=1e-12)


def test_the_trapezoid_stays_at_the_top_until_the_decay() -> None:
    trapezoid = WarmupStableDecay(peak=1.0, floor=0.2, warmup_steps=2, total_steps=8, decay_steps=2)
    expected = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.6, 0.2, 0.2]
    assert [trapezoid(step) for step in range(10)] == pytest.approx(expected, rel=1e-12)


def test_a_trapezoid_without_a_top_is_a_triangle_and_without_a_decay_a_table() -> None:
    lengths = {"warmup_steps": 3, "total_steps": 11}
    triangle = WarmupStableDecay(peak=1.0, floor=0.1, decay_steps=8, **lengths)
    linear = WarmupLinear(peak=1.0, floor=0.1, **lengths)
    table = WarmupStableDecay(peak=1.0, floor=0.1, decay_steps=0, **lengths)
    assert [triangle(t) for t in range(14)] == pytest.approx([linear(t) for t in range(14)])
    assert [table(t) for t in range(3, 14)] == 9 * [1.0] + 2 * [0.1]


def test_a_longer_trapezoid_begins_alike() -> None:
    short, long = (
        WarmupStableDecay(peak=1.0, floor=0.0, warmup_steps=2, total_steps=t, decay_steps=5)
        for t in (20, 50)
    )
    assert [short(t) for t in range(16)] == [long(t) for t in range(16)]


def test_a_constant_is_one_from_the_start_or_after_its_warm_up() -> None:
    assert [Constant(peak=0.3)(step) for step in (0, 1, 10**9)] == [0.3, 0.3, 0.3]
    assert [Constant(peak=0.3, warmup_steps=3)(step) for step in (0, 1, 3)] == pytest.approx(
        [0.0, 0.1, 0.3]
    )


OTHERS: list[Any] = [
    Constant(peak=1.0, warmup_steps=3),
    WarmupLinear(peak=1.0, floor=0.1, warmup_steps=3, total_steps=9),
    WarmupStableDecay(peak=1.0, floor=0.1, warmup_steps=3, total_steps=9, decay_steps=4),
]


@pytest.mark.parametrize("one", OTHERS, ids=lambda one: type(one).__name__)
def test_every_schedule_is_a_value_with_the_same_warm_up_and_refusals(one: Any) -> None:
    assert [one(step) for step in range(4)] == [schedule(warmup_steps=3)(t) for t in range(4)]
    assert one == dataclasses.replace(one)
    assert one != dataclasses.replace(one, peak=2.0)
    assert type(one).__name__ in repr(one)
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        one(-1)
    with pytest.raises(ValueError, match="peak must be a finite rate of at least 0, got inf"):
        dataclasses.replace(one, peak=math.inf)
    with pytest.raises(ValueError, match="must not be negative"):
        dataclasses.replace(one, warmup_steps=-1)


@pytest.mark.parametrize("decay", [-1, 7])
def test_refuses_a_decay_that_does_not_fit(decay: int) -> None:
    message = f"decay_steps must be within 0 and total_steps - warmup_steps = 6, got {decay}"
    with pytest.raises(ValueError, match=message):
        WarmupStableDecay(peak=1.0, floor=0.0, warmup_steps=3, total_steps=9, decay_steps=decay)
