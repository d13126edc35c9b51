"""What is seen of a download."""

import os
import sys
from contextlib import suppress

import pytest

from scratch.trainer.hub import transfer_display
from scratch.trainer.hub.transfer_display import TransferDisplay
from scratch.trainer.watching.display import say


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [0.0]
    monkeypatch.setattr(transfer_display.time, "monotonic", lambda: seconds[0])
    return seconds


def test_lines_are_rare_and_tell_rate_and_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with TransferDisplay("tales.txt") as display:
        display.begin(500_000_000, 2_000_000_000)  # what is there already came at no rate
        for clock[0] in range(1, 26):
            display.advance(10_000_000)
    assert capsys.readouterr() == (
        "",
        "tales.txt  30%  600 of 2,000 MB  10.0 MB/s  2:20 left\n"
        "tales.txt  35%  700 of 2,000 MB  10.0 MB/s  2:10 left\n",
    )


def test_without_a_known_size_there_is_no_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with TransferDisplay("tales.txt") as display:
        display.begin(0, None)
        clock[0] = 10.0
        display.advance(50_000_000)
    assert capsys.readouterr().err == "tales.txt  50 MB  5.0 MB/s\n"


def test_nothing_comes_and_nothing_is_promised(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with TransferDisplay("tales.txt") as display:
        display.begin(0, 1000)
        clock[0] = 10.0
        display.advance(0)
    assert capsys.readouterr().err == "tales.txt   0%  0 of 0 MB  0.0 MB/s  ? left\n"


def test_a_terminal_shows_a_bar_and_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on Windows")
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(theirs, "w", encoding="utf-8") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with TransferDisplay("tales.txt") as display:
            display.begin(500_000_000, 2_000_000_000)
            display.advance(100_000_000)
            say("trying again")
    parts: list[bytes] = []
    with suppress(OSError):  # Linux says so at the end of a terminal
        while part := os.read(ours, 2**16):
            parts.append(part)
    os.close(ours)
    shown = b"".join(parts).decode()
    for part in ("tales.txt", "30%", "0.6/2.0 GB", "\x1b[2Ktrying again"):
        assert part in shown
    assert shown.endswith("\x1b[2K")  # nothing is left of the bar
