"""What is drawn on a terminal and drawn again, as a context: it is gone when the work is over."""

import os
import sys
from types import TracebackType
from typing import Protocol, Self

from ..process import speaks


class Drawing(Protocol):
    """What `rich` keeps drawing between a start and a stop."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


def can_draw() -> bool:
    """Return whether somebody looks at stderr on a terminal that can be drawn on."""
    return (
        speaks()
        and sys.stderr.isatty()
        and os.environ.get("TERM") not in ("dumb", "unknown")
        and (sys.stderr.encoding or "utf-8").lower().startswith("utf")
    )


class WhileWorking:
    """Shows a drawing as long as the block lasts, or nothing where there is none."""

    def __init__(self, drawing: Drawing | None) -> None:
        self._drawing = drawing

    def __enter__(self) -> Self:
        if self._drawing is not None:
            self._drawing.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._drawing is not None:
            self._drawing.stop()
