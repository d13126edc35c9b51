"""One line of progress on a terminal: how much is done, how fast, how long it may still take.

Where stderr is no terminal, or one that shall not be written on anew (NO_COLOR, TERM=dumb), nothing
is shown.
"""

import os
import shutil
import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

_SECONDS_BETWEEN_LINES = 0.1
_RECENT_LINES = 30  # that tell the speed
_BACK_AND_ERASE = "\r\x1b[K"
_NAMES = {"count": "counting", "merge": "merging", "encode": "encoding", "decode": "decoding"}
_COUNTED = {"merge": "merges"}  # all else is bytes


class ProgressLine:
    """A callable for `progress=` that redraws a line on stderr, and erases it at the end.

    >>> with ProgressLine() as progress:
    ...     progress("count", 2**20, 2**21)
    >>> progress.done("count")
    1048576
    """

    def __init__(self, *, visible: bool = True) -> None:
        self._visible = visible and _can_redraw()
        self._done: dict[str, int] = {}
        self._stage = ""
        self._next_time = 0.0
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT_LINES)
        self._is_drawn = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Tell that `done` of `total` is done; a total of 0 is not known."""
        self._done[stage] = done
        if not self._visible:
            return
        now = time.monotonic()
        if stage != self._stage:
            self._stage = stage
            self._recent.clear()
            self._recent.append((now, done))
            self._next_time = max(self._next_time, now + _SECONDS_BETWEEN_LINES)
        if now >= self._next_time:
            self._next_time = now + _SECONDS_BETWEEN_LINES
            self._draw(done, total, now)
            self._recent.append((now, done))

    def done(self, stage: str) -> int:
        """Return how much of a stage was done when it was last told of."""
        return self._done.get(stage, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_drawn:
            self._is_drawn = False
            print(_BACK_AND_ERASE, end="", file=sys.stderr, flush=True)

    def _draw(self, done: int, total: int, now: float) -> None:
        then, done_then = self._recent[0]
        rate = (done - done_then) / (now - then)
        parts = [_NAMES.get(self._stage, self._stage)]
        if total > 0:
            parts.append(f"{min(done / total, 1.0):4.0%}")
        parts.append(amount(done, self._stage))
        if rate > 0:
            parts.append(f"{amount(rate, self._stage)}/s")
            if total > 0:
                parts.append(f"{clock((total - done) / rate)} left")
        # In the last column some terminals go on to the next line.
        line = "  ".join(parts)[: shutil.get_terminal_size().columns - 1]
        self._is_drawn = True  # first, as Ctrl-C may come between
        print(_BACK_AND_ERASE + line, end="", file=sys.stderr, flush=True)


def amount(number: float, stage: str) -> str:
    """Return a number of bytes, or of what else a stage counts, to be read by people."""
    if stage in _COUNTED:
        return f"{number:,.0f} {_COUNTED[stage]}"
    if number < 1e6:
        return f"{number / 1e3:.1f} kB"
    return f"{number / 1e6:,.1f} MB"


def clock(seconds: float) -> str:
    """Return seconds as a clock shows them."""
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _can_redraw() -> bool:
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not is_plain and sys.stderr.isatty()
