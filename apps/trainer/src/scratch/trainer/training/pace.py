"""The pace of a training: how long it takes, and how far it is."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from scratch.optim import ByClock
from scratch.train import ALONE, World

from ..config import LENGTHS, OptimizerSettings, TrainSettings
from ..runs.figures import planned_steps
from .optimization import build_schedule


def total_steps(settings: TrainSettings) -> int | None:
    """Return the updates that a training makes, or None for one that goes by time.

    Raises:
        ValueError: unless exactly one of steps, tokens and seconds says how long it is.
    """
    given = [name for name in LENGTHS if getattr(settings, name) is not None]
    if len(given) != 1:
        got = " and ".join(f"--{name.replace('_', '-')}" for name in given) or "none of them"
        raise ValueError(
            f"train needs one of --steps, --train-tokens and --train-seconds, got {got}"
        )
    return planned_steps(settings)


class Stopwatch:
    """Seconds of training, those of earlier sessions of the run included, pauses left out."""

    def __init__(self, seconds: float) -> None:
        self._begin = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    @contextmanager
    def paused(self) -> Generator[None]:
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin


class Pace:
    """How far the training is, by updates or by a budget of time.

    Processes that go by time ask the main one for it, once for each use: they have to agree.
    """

    # A budget of time is cut into so many parts for a schedule that counts.
    _PARTS = 1000

    def __init__(self, settings: TrainSettings, watch: Stopwatch, world: World = ALONE) -> None:
        self._steps, self._budget_seconds = total_steps(settings), settings.train_seconds
        self._watch, self._world = watch, world

    @property
    def steps(self) -> int | None:
        return self._steps

    @property
    def seconds(self) -> float:
        """Seconds of training, those of all processes where something depends on them."""
        seconds = self._watch.seconds
        return seconds if self._steps is not None else self._world.from_main(seconds)

    def fraction(self, number: int, seconds: float) -> float:
        """Return how much is done after `number` updates in `seconds`; 1 or more is all."""
        if self._steps is not None:
            return number / self._steps
        assert self._budget_seconds is not None
        return seconds / self._budget_seconds

    def schedule(self, settings: OptimizerSettings) -> Callable[[int], float]:
        if self._steps is not None:
            return build_schedule(settings, total_steps=self._steps)
        assert self._budget_seconds is not None
        return ByClock(
            schedule=build_schedule(settings, total_steps=self._PARTS),
            budget_seconds=self._budget_seconds,
            clock=lambda: self.seconds,
        )
