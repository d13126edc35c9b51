"""A schedule that follows the clock: what is spent of a budget of time stands for the step."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@runtime_checkable
class Bounded(Protocol):
    """A schedule that knows where it ends."""

    @property
    def total_steps(self) -> int: ...

    def __call__(self, step: float, /) -> float: ...


class Stopwatch:
    """Runs from its creation; called, it returns the seconds since then.

    Args:
        already_seconds: what had gone by before, for a run that resumes.

    Raises:
        ValueError: if `already_seconds` is negative.
    """

    def __init__(self, already_seconds: int | float = 0.0) -> None:
        if not already_seconds >= 0:
            raise ValueError(f"already_seconds must not be negative, got {already_seconds}")
        self._start_seconds = time.monotonic() - already_seconds

    def __call__(self) -> float:
        return time.monotonic() - self._start_seconds


@dataclass(frozen=True, kw_only=True)
class ByClock:
    """`schedule`, whose `total_steps` are parts of a budget of time and not updates.

    When s seconds of b = `budget_seconds` are gone, the learning rate is that of `schedule` at
    s / b total_steps, so a run of unknown speed still meets its end at the floor.

    Args:
        schedule: one that has `total_steps`; 1000 of them make its other lengths thousandths.
        budget_seconds: how long the run may take.
        clock: returns the seconds that the run has taken so far. One that resumes is given
            `Stopwatch(already_seconds=...)`.

    Raises:
        TypeError: if `schedule` has no `total_steps`.
        ValueError: if `budget_seconds` is not positive.
    """

    schedule: Bounded
    budget_seconds: int | float
    clock: Callable[[], float] = field(default_factory=Stopwatch)

    def __post_init__(self) -> None:
        if not self.budget_seconds > 0:
            raise ValueError(f"budget_seconds must be positive, got {self.budget_seconds}")
        if not hasattr(self.schedule, "total_steps"):
            raise TypeError(f"schedule must have total_steps, got {self.schedule!r}")

    def __call__(self, step: int | float) -> float:
        """Return the learning rate now; `step` is not looked at."""
        del step
        return self.at(self.clock())

    def at(self, elapsed_seconds: int | float) -> float:
        """Return the learning rate when `elapsed_seconds` of the budget are gone.

        Raises:
            ValueError: if `elapsed_seconds` is negative.
        """
        if elapsed_seconds < 0:
            raise ValueError(f"elapsed_seconds must not be negative, got {elapsed_seconds}")
        return self.schedule(elapsed_seconds / self.budget_seconds * self.schedule.total_steps)
