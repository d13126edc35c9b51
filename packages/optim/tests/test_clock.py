"""By the clock: a schedule meets its end when the time is up, however fast the steps are."""

import time

import pytest

from scratch.optim import ByClock, Stopwatch, WarmupCosine, WarmupLinear

SCHEDULE = WarmupLinear(peak=1.0, floor=0.1, warmup_steps=100, total_steps=1000)


@pytest.mark.parametrize(
    ("seconds", "rate"), [(0, 0.0), (3, 0.5), (6, 1.0), (33, 0.55), (60, 0.1), (100, 0.1)]
)
def test_a_part_of_the_budget_is_that_part_of_the_steps(seconds: int, rate: float) -> None:
    clock = ByClock(schedule=SCHEDULE, budget_seconds=60)
    assert clock.at(seconds) == pytest.approx(rate, rel=1e-12)


def test_the_clock_is_asked_and_the_step_is_not() -> None:
    readings = iter([3.0, 6.0, 60.0])
    clock = ByClock(schedule=SCHEDULE, budget_seconds=60, clock=lambda: next(readings))
    rates = [clock(step) for step in (1, 10**6, 2)]
    assert rates == pytest.approx([0.5, 1.0, 0.1], rel=1e-12)


def test_it_is_the_schedule_by_steps_if_every_step_takes_a_second() -> None:
    cosine = WarmupCosine(peak=1.0, floor=0.1, warmup_steps=7, total_steps=21)
    clock = ByClock(schedule=cosine, budget_seconds=21)
    for step in range(25):
        assert clock.at(step) == pytest.approx(cosine(step), rel=1e-9, abs=1e-12)


def test_a_stopwatch_runs_and_may_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    fresh, resumed = Stopwatch(), Stopwatch(already_seconds=30)
    now[0] += 12
    assert (fresh(), resumed()) == (12, 42)


@pytest.mark.parametrize("budget", [0, -1.0, float("nan")])
def test_refuses_a_budget_that_is_none(budget: float) -> None:
    with pytest.raises(ValueError, match=f"budget_seconds must be positive, got {budget}"):
        ByClock(schedule=SCHEDULE, budget_seconds=budget)


def test_refuses_negative_seconds() -> None:
    with pytest.raises(ValueError, match="elapsed_seconds must not be negative, got -1"):
        ByClock(schedule=SCHEDULE, budget_seconds=1).at(-1)
    with pytest.raises(ValueError, match="already_seconds must not be negative, got -1"):
        Stopwatch(already_seconds=-1)
