"""How far some long work is: a live bar on a terminal, a plain line every ten seconds elsewhere."""

import time

from rich import progress
from rich.console import Console

from .display import say
from .live import WhileWorking, can_draw
from .units import clock

_PLAIN_LINE_SECONDS, _LIVE_SECONDS = 10.0, 0.1


class WorkProgress(WhileWorking):
    """Shows one kind of work after another, on stderr, with the time that is left of each.

    It is itself a function of what is being done, how much is done, and how much there is, or 0 if
    nobody knows.
    """

    def __init__(self) -> None:
        self._work, self._first_done = "", 0
        self._begin_seconds = self._last_seconds = time.monotonic()
        self._live = _live_bar() if can_draw() else None
        super().__init__(self._live)

    def __call__(self, work: str, done: int, total: int) -> None:
        now = time.monotonic()
        begins = work != self._work
        if begins:
            self._work, self._first_done, self._begin_seconds = work, done, now
        if self._live is not None:
            if begins:
                for task in self._live.task_ids:
                    self._live.remove_task(task)
                self._live.add_task(work, total=None)
            if begins or now - self._last_seconds >= _LIVE_SECONDS:
                self._last_seconds = now
                task = self._live.task_ids[0]
                self._live.update(task, completed=done, total=total or None, refresh=True)
        elif now - self._last_seconds >= _PLAIN_LINE_SECONDS:
            self._last_seconds = now
            say(self._line(done, total, now))

    def _line(self, done: int, total: int, now: float) -> str:
        if not total:
            return f"{self._work}: {done / 1e6:,.0f} MB"
        made = done - self._first_done  # the rest was there when this began
        if made <= 0:
            return f"{self._work}: {done / total:.0%}"
        seconds_left = (now - self._begin_seconds) / made * (total - done)
        return f"{self._work}: {done / total:.0%}, {clock(seconds_left)} left"


def _live_bar() -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,  # a thread of its own would be in the way of starting processes
        transient=True,
    )
