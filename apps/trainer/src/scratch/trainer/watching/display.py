"""What a person sees meanwhile: a live panel on a terminal, plain lines anywhere else.

All of it goes to stderr; stdout is for results. When nobody can see it any more, since the
terminal is gone or the disk with the log is full, the work goes on.
"""

import math
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..process import speaks
from .live import WhileWorking, can_draw
from .sparkline import Course
from .training_panel import State, training_line, training_panel

_PLAIN_LINE_SECONDS = 10.0
_DRAWING_SECONDS = 0.25
_DRAWING_SHARE = 1 / 300  # of the time, and no more

_live_console: Console | None = None  # of the display that draws on the terminal now


def say(message: str) -> None:
    """Show a message, above what is live; of several processes that train only one speaks."""
    if not speaks():
        return
    with suppress(OSError):
        if _live_console is None:
            print(message, file=sys.stderr, flush=True)
        else:
            _live_console.print(Text(message), soft_wrap=True)


class TrainingDisplay(WhileWorking):
    """The progress of a training: a live panel or plain lines.

    `history` holds lines of the journal from earlier sessions of the run.
    """

    def __init__(self, description: str, *, history: Iterable[Mapping[str, Any]] = ()) -> None:
        self._losses = Course()
        self._evaluation: Mapping[str, Any] | None = None
        self._state: State | None = None
        for record in history:
            self._remember(record)
        self._view = _Panel(description, self._losses) if can_draw() else _Lines(description)
        super().__init__(self._view)

    def update(
        self,
        fraction: float,
        record: Mapping[str, Any],
        *,
        seconds_left: float | None,
        earlier: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Show an update's line of the journal, when `fraction` of the training is done.

        `earlier` holds the lines since the last call; they belong to the course of the loss.
        """
        for each in (*earlier, record):
            self._remember(each)
        self._state = State(fraction, record, seconds_left, self._evaluation)
        self._view.show(self._state)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Take an evaluation's line of the journal, to be shown with the updates from now on."""
        self._remember(record)
        if self._state is not None:
            self._state = replace(self._state, evaluation=record)
            self._view.amend(self._state)

    def _remember(self, record: Mapping[str, Any]) -> None:
        loss = record.get("loss")
        if loss is not None and math.isfinite(loss):
            self._losses.add(record["step"], loss)
        if "val_loss" in record:
            self._evaluation = record


class _Lines:
    """The first state, one every ten seconds, and the last."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._next_seconds = -math.inf
        self._unsaid: State | None = None

    def start(self) -> None:
        pass

    def show(self, state: State) -> None:
        self._unsaid = state
        now = time.monotonic()
        if now >= self._next_seconds or state.fraction >= 1:
            self._next_seconds = now + _PLAIN_LINE_SECONDS
            self._say()

    def amend(self, state: State) -> None:
        if self._unsaid is not None:
            self._unsaid = state

    def stop(self) -> None:
        self._say()

    def _say(self) -> None:
        if self._unsaid is not None:
            say(training_line(self._description, self._unsaid))
            self._unsaid = None


class _Panel:
    """The newest state, drawn a few times a second."""

    def __init__(self, description: str, losses: Course) -> None:
        self._description, self._losses = description, losses
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._next_seconds = -math.inf
        self._undrawn: State | None = None

    def start(self) -> None:
        global _live_console
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),  # a file with results gets what is printed
        )
        _live_console = self._console
        try:
            self._live.start()
        except OSError:
            self._close()

    def show(self, state: State) -> None:
        self._undrawn = state
        if time.monotonic() >= self._next_seconds:
            self._draw()

    def amend(self, state: State) -> None:
        self.show(state)

    def stop(self) -> None:
        self._draw()
        self._close()

    def _close(self) -> None:
        global _live_console
        _live_console = None
        live, self._live = self._live, None
        if live is not None:
            with suppress(OSError):
                live.stop()

    def _draw(self) -> None:
        if self._undrawn is None or self._live is None:
            return
        begin = time.monotonic()
        panel = training_panel(
            self._description, self._undrawn, self._losses, columns=self._console.width
        )
        self._undrawn = None
        try:
            self._live.update(panel, refresh=True)
        except OSError:
            self._close()
        took = time.monotonic() - begin
        self._next_seconds = begin + max(_DRAWING_SECONDS, took / _DRAWING_SHARE)
