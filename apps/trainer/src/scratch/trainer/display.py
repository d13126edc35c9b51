"""What a person sees meanwhile: a live line on a terminal, plain lines anywhere else.

All of it goes to stderr; stdout is for results.
"""

import os
import sys
import time
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

_PLAIN_LINE_SECONDS = 10.0


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class Progress:
    """The progress of a training, from 0 to 1, with what one wants to know meanwhile."""

    def __init__(self, description: str) -> None:
        self._description = description
        able = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._live = _live_bar(description) if able else None
        self._next_line_time = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(
        self,
        fraction: float,
        *,
        step: int,
        loss: float,
        tokens_per_second: float,
        seconds_left: float,
    ) -> None:
        fraction = min(fraction, 1.0)
        state = f"step {step:,}  loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s"
        left = f"{_clock(seconds_left)} left"
        if self._live is not None:
            self._live.update(
                self._live.task_ids[0], completed=fraction, state=state, left=left, refresh=True
            )
        elif time.monotonic() >= self._next_line_time or fraction == 1.0:
            self._next_line_time = time.monotonic() + _PLAIN_LINE_SECONDS
            say(f"{self._description} {fraction:4.0%}  {state}  {left}")


def _live_bar(description: str) -> progress.Progress:
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[state]}"),
        progress.TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        auto_refresh=False,
    )
    bar.add_task(description, total=1.0, state="", left="")
    return bar


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
