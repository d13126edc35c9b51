"""Learning-rate schedules: functions of the step, without state."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear warm-up, then half a cosine down to a floor.

    After Loshchilov and Hutter (2017, arXiv:1608.03983), without their restarts. With
    w = `warmup_steps` and c = `total_steps`, the learning rate at step t is

        t < w:        t / w peak
        w <= t <= c:  floor + (1 + cos(pi (t - w) / (c - w))) / 2 (peak - floor)
        t > c:        floor

    Raises:
        ValueError: if not `total_steps > warmup_steps >= 0`, or a rate is negative.
    """

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
        for name, rate in (("peak", self.peak), ("floor", self.floor)):
            if not (rate >= 0 and math.isfinite(rate)):
                raise ValueError(f"{name} must be a finite rate of at least 0, got {rate}")

    def __call__(self, step: int | float) -> float:
        """Return the learning rate at `step`, counted from 1 for the first update.

        Raises:
            ValueError: if `step` is negative.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        if step < self.warmup_steps:
            return step / self.warmup_steps * self.peak
        if step > self.total_steps:
            return self.floor
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.floor + (1 + math.cos(math.pi * progress)) / 2 * (self.peak - self.floor)
