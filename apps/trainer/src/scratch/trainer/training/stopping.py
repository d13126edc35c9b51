"""Stopping in good order: on a signal, at a limit of time or of tokens."""

import os
import time

from scratch.train import ALONE, World

from ..config import TrainSettings
from .signals import Signals

# torchrun gives its processes thirty seconds.
_ASKED_SECONDS = 2.0


class Limits:
    """When a session of a run ends before the training does.

    Of several processes each may get a signal, or find the time over, at another update. They agree
    at looks, which all of them take after the same one, and every two seconds or so between them.
    """

    def __init__(self, settings: TrainSettings, signals: Signals, world: World = ALONE) -> None:
        self._signals, self._world = signals, world
        self._max_tokens = settings.max_tokens
        self._max_seconds = settings.max_seconds
        self._begin = time.perf_counter()
        self._parent = os.getppid()
        self._asked = (0, self._begin)  # after which update, and when
        self._ask_again = 0

    def reached(self, number: int, tokens: int, *, at_a_look: bool) -> str | None:
        """Return why to stop now, after update `number` and so many tokens of the run, or None."""
        noticed = None
        if self._world.size == 1:
            noticed = self._noticed()
        elif at_a_look or number >= self._ask_again:
            noticed = self._world.first(self._noticed())
            self._ask_again = number + self._world.from_main(self._updates_until_next(number))
        return noticed or self.tokens_reached(tokens)

    def _updates_until_next(self, number: int) -> int:
        """Return how many updates take about as long as to wait between two questions."""
        (before, then), now = self._asked, time.perf_counter()
        self._asked = (number, now)
        each = (now - then) / max(1, number - before)
        return max(1, int(_ASKED_SECONDS / max(each, 1e-6)))

    def _noticed(self) -> str | None:
        if self._signals.received is not None:
            return self._signals.received
        if self._world.size > 1 and os.getppid() != self._parent:
            return "torchrun is gone"
        seconds = time.perf_counter() - self._begin
        if self._max_seconds is not None and seconds >= self._max_seconds:
            return f"--max-time {self._max_seconds:g}"
        return None

    def tokens_reached(self, tokens: int) -> str | None:
        """Return why to stop at so many tokens, or None: of the limits the one on the whole run."""
        if self._max_tokens is not None and tokens >= self._max_tokens:
            return f"--max-tokens {self._max_tokens}"
        return None
