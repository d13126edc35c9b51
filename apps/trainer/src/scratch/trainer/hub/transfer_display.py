"""How far a download is: a live bar on a terminal, a plain line every ten seconds elsewhere."""

import sys
import time

from rich import progress
from rich.console import Console

from ..watching.display import say
from ..watching.live import WhileWorking, can_draw
from ..watching.units import clock

_PLAIN_LINE_SECONDS = 10.0


class TransferDisplay(WhileWorking):
    """Shows bytes that have come, how fast they come, and how long the rest takes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done = 0
        self._total: int | None = None
        self._line_bytes, self._line_seconds = 0, time.monotonic()
        self._live = _live_bar() if can_draw() else None
        super().__init__(self._live)

    def begin(self, done: int, total: int | None) -> None:
        """Begin, or begin again, with `done` bytes that are there already."""
        self._done = self._line_bytes = done
        self._total = total
        self._line_seconds = time.monotonic()
        if self._live is not None:
            for task in self._live.task_ids:
                self._live.remove_task(task)
            self._live.add_task(self._name, completed=done, total=total)

    def advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        if self._live is not None:
            self._live.advance(self._live.task_ids[0], num_bytes)
            return
        now = time.monotonic()
        if now - self._line_seconds >= _PLAIN_LINE_SECONDS:
            rate = (self._done - self._line_bytes) / (now - self._line_seconds)
            self._line_bytes, self._line_seconds = self._done, now
            say(self._line(rate))

    def _line(self, rate: float) -> str:
        total = self._total
        speed = f"{rate / 1e6:.1f} MB/s"
        if total is None:
            return f"{self._name}  {self._done / 1e6:,.0f} MB  {speed}"
        left = clock((total - self._done) / rate) if rate else "?"
        return (
            f"{self._name} {self._done / total:4.0%}  "
            f"{self._done / 1e6:,.0f} of {total / 1e6:,.0f} MB  {speed}  {left} left"
        )


def _live_bar() -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=None),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        expand=True,
    )
