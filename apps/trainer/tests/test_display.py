"""Progress: plain lines for a file, a live line for a terminal."""

import os
import sys
from contextlib import suppress
from itertools import pairwise
from typing import Self

import pytest

from scratch.trainer import display
from scratch.trainer.display import Progress, say

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on Windows")


class Terminal:
    """A pseudo-terminal that stands in for stderr; afterwards `shown` is what came out."""

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        self._stderr = os.fdopen(theirs, "w", encoding="utf-8")
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(sys, "stderr", self._stderr)
        self._patch.setenv("TERM", "xterm")
        self._patch.setenv("COLUMNS", "100")
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()
        self._stderr.close()
        parts: list[bytes] = []
        with suppress(OSError):  # Linux says so at the end of a terminal
            while part := os.read(self._ours, 2**16):
                parts.append(part)
        os.close(self._ours)
        self.shown = b"".join(parts).decode()


def update(progress: Progress, step: int, fraction: float, seconds_left: float = 75.0) -> None:
    progress.update(
        fraction, step=step, loss=2.34567, tokens_per_second=12345.6, seconds_left=seconds_left
    )


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_plain_line_tells_loss_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training") as progress:
        update(progress, 1234, 0.5)
    line = "training  50%  step 1,234  loss 2.346  12,346 tokens/s  1:15 left\n"
    assert capsys.readouterr() == ("", line)


def test_plain_lines_are_rare_but_the_last_one_comes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: clock)
    with Progress("training") as progress:
        for step in range(1, 101):
            clock = 0.25 * step
            update(progress, step, step / 100)
    lines = capsys.readouterr().err.splitlines()
    steps = [int(line.split("step ")[1].split()[0]) for line in lines]
    assert steps[0] == 1
    assert steps[-1] == 100
    assert all(later - earlier >= 40 for earlier, later in pairwise(steps[:-1]))
    assert len(steps) == 4


def test_more_than_all_counts_as_all(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training") as progress:
        update(progress, 7, 1.2, seconds_left=-3.0)
    assert "training 100%  step 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (59.7, "1:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_time_is_written_as_on_a_clock(
    seconds: float, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training") as progress:
        update(progress, 1, 0.5, seconds_left=seconds)
    assert capsys.readouterr().err.endswith(f"  {text} left\n")


def test_a_terminal_shows_a_live_line() -> None:
    with Terminal() as terminal, Progress("training") as progress:
        update(progress, 1, 0.25)
        update(progress, 1234, 0.5)
    assert "\x1b[" in terminal.shown  # it draws over itself
    for part in ("training", "25%", "50%", "step 1,234", "loss 2.346", "12,346 tokens/s", "1:15"):
        assert part in terminal.shown


def test_messages_stand_above_the_live_line() -> None:
    with Terminal() as terminal, Progress("training") as progress:
        update(progress, 1, 0.25)
        say("held-out loss 2.5")
    assert "\x1b[2Kheld-out loss 2.5" in terminal.shown


def test_the_cursor_comes_back_after_an_interrupt() -> None:
    with Terminal() as terminal, suppress(KeyboardInterrupt), Progress("training") as progress:
        update(progress, 1, 0.25)
        raise KeyboardInterrupt
    assert terminal.shown.endswith("\x1b[?25h")
