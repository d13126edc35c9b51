"""Learning-rate schedules: functions of the step, without state.

All of them rise in a straight line first. With w = `warmup_steps`, the learning rate at step t is

    t < w:   t / w peak
    t >= w:  what the schedule is named for
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """What the schedules share: the warm-up, and what their constructors refuse."""

    peak: float
    warmup_steps: int

    def __call__(self, step: int | float) -> float:
        """Return the learning rate at `step`, counted from 1 for the first update.

        Raises:
            ValueError: if `step` is negative.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        if step < self.warmup_steps:
            return step / self.warmup_steps * self.peak
        return self.after_warmup(step)

    @abstractmethod
    def after_warmup(self, step: int | float) -> float:
        """Return the learning rate at `step`, which is at least `warmup_steps`."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """`peak` for ever, if need be after a warm-up.

    Raises:
        ValueError: if `peak` is negative or not finite, or `warmup_steps` is negative.
    """

    peak: float
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check_rates(peak=self.peak)
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")

    def after_warmup(self, step: int | float) -> float:
        del step
        return self.peak


@dataclass(frozen=True, kw_only=True)
class _ToFloor(Schedule):
    """From `peak` at `warmup_steps` to `floor` at `total_steps`, and no further."""

    peak: float
    floor: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        if not self.total_steps > self.warmup_steps >= 0:
            raise ValueError(
                "total_steps must exceed warmup_steps, which must not be negative, "
                f"got total_steps={self.total_steps}, warmup_steps={self.warmup_steps}"
            )
        _check_rates(peak=self.peak, floor=self.floor)

    def _progress(self, step: int | float, start: int) -> float:
        return (step - start) / (self.total_steps - start)


class WarmupCosine(_ToFloor):
    """Linear warm-up, then half a cosine down to a floor.

    After Loshchilov and Hutter (2017, arXiv:1608.03983), without their restarts. With
    w = `warmup_steps` and c = `total_steps`, the learning rate at step t is

        t < w:        t / w peak
        w <= t <= c:  floor + (1 + cos(pi (t - w) / (c - w))) / 2 (peak - floor)
        t > c:        floor

    Raises:
        ValueError: if not `total_steps > warmup_steps >= 0`, or a rate is negative.
    """

    def after_warmup(self, step: int | float) -> float:
        if step > self.total_steps:
            return self.floor
        progress = self._progress(step, self.warmup_steps)
        return self.floor + (1 + math.cos(math.pi * progress)) / 2 * (self.peak - self.floor)


class WarmupLinear(_ToFloor):
    """Linear warm-up, then a straight line down to a floor (as in Devlin et al., 2019).

    With w = `warmup_steps` and c = `total_steps`, the learning rate at step t is

        t < w:        t / w peak
        w <= t <= c:  floor + (c - t) / (c - w) (peak - floor)
        t > c:        floor

    Raises:
        ValueError: if not `total_steps > warmup_steps >= 0`, or a rate is negative.
    """

    def after_warmup(self, step: int | float) -> float:
        if step > self.total_steps:
            return self.floor
        left = 1 - self._progress(step, self.warmup_steps)
        return self.floor + left * (self.peak - self.floor)


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(_ToFloor):
    """A trapezoid: up, along the top, and down to a floor (Hu et al., 2024, arXiv:2404.06395).

    With w = `warmup_steps`, c = `total_steps` and d = `decay_steps`, the rate at step t is

        t < w:            t / w peak
        w <= t <= c - d:  peak
        c - d < t <= c:   floor + (c - t) / d (peak - floor)
        t > c:            floor

    The top does not depend on the end, so a run can be made longer after the fact.

    Raises:
        ValueError: if not `total_steps > warmup_steps >= 0`, if `decay_steps` is negative or more
            than is left after the warm-up, or a rate is negative.
    """

    decay_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay_steps <= self.total_steps - self.warmup_steps:
            raise ValueError(
                "decay_steps must be within 0 and total_steps - warmup_steps = "
                f"{self.total_steps - self.warmup_steps}, got {self.decay_steps}"
            )

    def after_warmup(self, step: int | float) -> float:
        if step > self.total_steps:
            return self.floor
        if step <= self.total_steps - self.decay_steps:
            return self.peak
        left = 1 - self._progress(step, self.total_steps - self.decay_steps)
        return self.floor + left * (self.peak - self.floor)


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not (rate >= 0 and math.isfinite(rate)):
            raise ValueError(f"{name} must be a finite rate of at least 0, got {rate}")
