"""The warm-up and cosine schedule: its formula, its joints, its bounds and what it refuses."""

import dataclasses
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.optim import WarmupCosine

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
