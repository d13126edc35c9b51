"""Progress of work: rare plain lines in a file, a bar on a terminal."""

import io
import sys

import pytest

from scratch.trainer.watching import work_progress as module
from scratch.trainer.watching.work_progress import WorkProgress


class Clock:
    """Stands still unless it is told to go on."""

    seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_plain_lines_come_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with WorkProgress() as progress:
        for _ in range(12):
            progress("encode", round(clock.seconds - 100), 40)
            clock.seconds += 2.5
    assert capsys.readouterr().err == ("encode: 25%, 0:30 left\nencode: 50%, 0:20 left\n")


def test_the_time_left_is_that_of_this_work_and_of_what_was_missing(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with WorkProgress() as progress:
        progress("count", 0, 10)
        clock.seconds += 9
        progress("encode", 500, 1000)  # of which half was there before
        clock.seconds += 20
        progress("encode", 510, 1000)
    assert capsys.readouterr().err == "encode: 51%, 16:20 left\n"


def test_work_without_a_known_end_shows_its_size(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with WorkProgress() as progress:
        clock.seconds += 10
        progress("read", 1_234_567_890, 0)
        clock.seconds += 10
        progress("check", 5, 10)
    assert capsys.readouterr().err == "read: 1,235 MB\ncheck: 50%\n"


def test_a_terminal_shows_each_work_at_once_and_keeps_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with WorkProgress() as progress:
        progress("count", 1, 4)
        progress("count", 2, 4)  # too soon to be shown
        progress("encode", 3, 4)
        clock.seconds += 1
        progress("encode", 4, 4)
    shown = terminal.getvalue()
    assert [part in shown for part in ("count", "25%", "50%", "encode", "75%", "100%")] == [
        True, True, False, True, True, True,
    ]  # fmt: skip
    assert shown.rstrip().endswith("\x1b[2K"), "the line is cleared in the end"
