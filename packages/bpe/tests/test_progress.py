"""The line of progress: told on a terminal, seldom and in its width, and gone in the end."""

import io
import os
import re
import shutil
from types import SimpleNamespace

import pytest

from scratch.bpe import _progress
from scratch.bpe._progress import ProgressLine, clock

ERASE = "\r\x1b[K"


class Terminal(io.StringIO):
    """A stderr that can be redrawn, and a clock that stands still unless it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """Return all that was drawn, one after another."""
        return self.getvalue().split(ERASE)[1:]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(_progress, "sys", SimpleNamespace(stderr=terminal))
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=lambda: terminal.now))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    return terminal


def test_the_line_tells_share_amount_speed_and_time_left(terminal: Terminal) -> None:
    with ProgressLine() as progress:
        progress("count", 0, 100_000_000)
        terminal.now += 2
        progress("count", 20_000_000, 100_000_000)
    assert terminal.lines() == ["counting   20%  20.0 MB  10.0 MB/s  0:08 left", ""]


def test_merges_are_merges_not_bytes(terminal: Terminal) -> None:
    with ProgressLine() as progress:
        progress("merge", 0, 30_000)
        terminal.now += 1
        progress("merge", 3000, 30_000)
    assert terminal.lines()[0] == "merging   10%  3,000 merges  3,000 merges/s  0:09 left"


def test_without_a_total_there_is_neither_share_nor_time_left(terminal: Terminal) -> None:
    with ProgressLine() as progress:
        progress("count", 0, 0)
        terminal.now += 2
        progress("count", 1000, 0)
    assert terminal.lines()[0] == "counting  1.0 kB  0.5 kB/s"


def test_more_than_all_is_all(terminal: Terminal) -> None:
    with ProgressLine() as progress:
        progress("count", 0, 100)
        terminal.now += 1
        progress("count", 150, 100)
    assert "100%" in terminal.lines()[0]
    assert "0:00 left" in terminal.lines()[0]


def test_of_many_calls_ten_a_second_are_drawn(terminal: Terminal) -> None:
    with ProgressLine() as progress:
        for number in range(30_000):
            progress("count" if number < 15_000 else "merge", number, 30_000)
            terminal.now += 0.0001
    assert 25 <= len(terminal.lines()) <= 31


def test_a_moment_is_not_worth_a_line(terminal: Terminal) -> None:
    with ProgressLine() as progress:
        progress("count", 1, 2)
        terminal.now += 0.05
        progress("merge", 1, 2)
        terminal.now += 0.05
        progress("merge", 2, 2)
    assert terminal.getvalue() == ""


def test_the_line_is_erased_when_all_is_done_and_when_it_fails(terminal: Terminal) -> None:
    def fail() -> None:
        with ProgressLine() as progress:
            progress("count", 0, 9)
            terminal.now += 1
            progress("count", 1, 9)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert terminal.getvalue().startswith(ERASE + "counting")
    assert terminal.getvalue().endswith(ERASE)


def test_no_line_is_wider_than_the_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((20, 24)))
    with ProgressLine() as progress:
        progress("count", 0, 9)
        terminal.now += 1
        progress("count", 1, 9)
    assert terminal.lines()[0] == "counting   11%  0.0"


def test_what_was_done_before_says_nothing_of_the_speed(terminal: Terminal) -> None:
    with ProgressLine() as progress:
        progress("encode", 90_000_000, 100_000_000)
        terminal.now += 1
        progress("encode", 91_000_000, 100_000_000)
    assert terminal.lines()[0] == "encoding   91%  91.0 MB  1.0 MB/s  0:09 left"


def test_the_speed_is_that_of_the_last_seconds(terminal: Terminal) -> None:
    with ProgressLine() as progress:
        progress("merge", 0, 10_000)
        for done in [*range(1, 101), *range(200, 5000, 100)]:
            terminal.now += 0.125
            progress("merge", done, 10_000)
    speeds = re.findall(r"([\d,]+) merges/s", terminal.getvalue())
    assert (speeds[99], speeds[-1]) == ("8", "800")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_that_asks_for_plain_text_gets_no_line(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    work(terminal, ProgressLine())
    assert terminal.getvalue() == ""


def test_a_pipe_gets_no_line(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    work(terminal, ProgressLine())
    assert terminal.getvalue() == ""


def test_the_line_can_be_left_out(terminal: Terminal) -> None:
    work(terminal, ProgressLine(visible=False))
    assert terminal.getvalue() == ""


def work(terminal: Terminal, line: ProgressLine) -> None:
    with line as progress:
        progress("count", 0, 9)
        terminal.now += 1
        progress("count", 1, 9)


def test_how_much_was_done_is_remembered_wherever_it_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressLine() as progress:
        for done in (1, 5):
            progress("count", done, 9)
        progress("merge", 3, 4)
    assert [progress.done(stage) for stage in ("count", "merge", "encode")] == [5, 3, 0]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0:00"), (0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00")],
)
def test_a_clock_shows_minutes_and_hours(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
