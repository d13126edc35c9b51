"""What is seen of a training: plain lines in a file, a live panel on a terminal."""

import errno
import os
import sys
from contextlib import suppress
from typing import Any, Self

import pytest

from scratch.trainer.watching import display
from scratch.trainer.watching.display import TrainingDisplay, say

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on Windows")


class Terminal:
    """A pseudo-terminal that stands in for stderr; afterwards `shown` is what came out."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        self._stderr = os.fdopen(theirs, "w", encoding=self._encoding)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sys, "stderr", self._stderr)
        self.patch.setenv("TERM", "xterm")
        self.patch.setenv("COLUMNS", "100")
        return self

    def __exit__(self, *error: object) -> None:
        self.patch.undo()
        self._stderr.close()
        parts: list[bytes] = []
        with suppress(OSError):  # Linux says so at the end of a terminal
            while part := os.read(self._ours, 2**16):
                parts.append(part)
        os.close(self._ours)
        self.shown = b"".join(parts).decode()


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def record(step: int, **changes: object) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": 64 * step,
        "seconds": 0.5 * step,
        "loss": 2.34567,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "tokens_per_second": 12345.6,
        **changes,
    }


def drawings(shown: str) -> int:
    return shown.count("╭")


class TestLines:
    def test_a_line_tells_loss_speed_and_time_left(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with TrainingDisplay("training") as display:
            display.update(0.5, record(1234), seconds_left=75.0)
        assert capsys.readouterr() == (
            "",
            "training  50%  step 1,234  loss 2.346  lr 1.00e-03  grad norm 0.5  "
            "12,346 tokens/s  1:15 left\n",
        )

    def test_lines_are_rare_but_the_first_and_the_last_come(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = 0.0
        monkeypatch.setattr(display.time, "monotonic", lambda: clock)
        with TrainingDisplay("training") as shown:
            for step in range(1, 71):  # ended early: by a signal, or an error
                clock = 0.25 * step
                shown.update(step / 100, record(step), seconds_left=None)
        lines = capsys.readouterr().err.splitlines()
        assert [int(line.split("step ")[1].split()[0]) for line in lines] == [1, 41, 70]

    def test_the_last_line_comes_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        with TrainingDisplay("training") as display:
            display.update(0.5, record(1), seconds_left=1.0)
            display.update(1.0, record(2), seconds_left=0.0)
        assert capsys.readouterr().err.count("step 2") == 1

    def test_the_newest_evaluation_is_told_from_then_on(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        evaluation = {"step": 1, "val_loss": 3.5}
        with TrainingDisplay("training", history=[record(1), evaluation]) as display:
            display.update(0.5, record(2), seconds_left=None)
            display.evaluated({"step": 2, "val_loss": 3.25})
            display.update(1.0, record(3), seconds_left=None)
        first, second = capsys.readouterr().err.splitlines()
        assert "held-out 3.500" in first
        assert "held-out 3.250" in second

    def test_nothing_to_show_shows_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with TrainingDisplay("training"):
            pass
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize(("variable", "value"), [("TERM", "dumb"), ("TERM", "unknown")])
    def test_a_terminal_that_cannot_draw_gets_lines(self, variable: str, value: str) -> None:
        with Terminal() as terminal:
            terminal.patch.setenv(variable, value)
            with TrainingDisplay("training") as display:
                display.update(0.5, record(1), seconds_left=None)
        assert terminal.shown.startswith("training  50%  step 1")

    def test_a_terminal_without_unicode_gets_lines(self) -> None:
        with Terminal(encoding="ascii") as terminal, TrainingDisplay("training") as display:
            display.update(0.5, record(1), seconds_left=None)
        assert terminal.shown.startswith("training  50%  step 1")


class TestPanel:
    def test_a_terminal_shows_a_panel_that_draws_over_itself(self) -> None:
        with Terminal() as terminal, TrainingDisplay("training") as display:
            display.update(0.25, record(1), seconds_left=75.0)
            display.update(0.5, record(1234), seconds_left=75.0)
        assert "\x1b[1A" in terminal.shown
        for part in ("training", "25%", "step 1,234", "2.346", "12,346", "1:15 left", "▁"):
            assert part in terminal.shown

    def test_it_is_drawn_rarely_but_the_last_state_is_always_seen(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = 0.0
        monkeypatch.setattr(display.time, "monotonic", lambda: clock)
        with Terminal() as terminal, TrainingDisplay("training") as shown:
            for step in range(1, 100):
                clock = 0.01 * step
                shown.update(step / 100, record(step), seconds_left=None)
        assert "step 99" in terminal.shown
        assert 4 <= drawings(terminal.shown) <= 6

    def test_drawing_takes_no_more_than_a_small_share_of_the_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = 0.0

        def slow_panel(*_: object, **__: object) -> str:
            nonlocal clock
            clock += 1.0
            return "╭"

        monkeypatch.setattr(display.time, "monotonic", lambda: clock)
        monkeypatch.setattr(display, "training_panel", slow_panel)
        with Terminal() as terminal, TrainingDisplay("training") as shown:
            for step in range(1, 1000):
                clock += 1.0
                shown.update(step / 1000, record(step), seconds_left=None)
        assert 3 <= drawings(terminal.shown) <= 8  # of 1000, each as long as an update

    def test_messages_stand_above_the_panel_whole(self) -> None:
        message = "held-out [bold]loss[/bold] " + "long " * 40 + "end"
        with Terminal() as terminal, TrainingDisplay("training") as display:
            display.update(0.25, record(1), seconds_left=None)
            say(message)
        assert f"\x1b[2K{message}" in terminal.shown
        assert "╭" in terminal.shown.split(message)[1]

    def test_what_others_write_to_stderr_does_not_tear_it(self) -> None:
        with Terminal() as terminal, TrainingDisplay("training") as display:
            display.update(0.25, record(1), seconds_left=None)
            print("a warning", file=sys.stderr)
        assert "\x1b[2Ka warning" in terminal.shown

    def test_results_go_to_stdout_all_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        with Terminal() as terminal, TrainingDisplay("training"):
            print("a result")
        assert capsys.readouterr().out == "a result\n"
        assert "a result" not in terminal.shown

    def test_afterwards_messages_are_plain_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        with Terminal(), TrainingDisplay("training"):
            pass
        say("hello")
        assert capsys.readouterr() == ("", "hello\n")

    def test_the_curve_begins_where_the_run_did(self) -> None:
        history = [record(step, loss=9.0) for step in range(1, 40)]
        with Terminal() as terminal, TrainingDisplay("training", history=history) as display:
            display.update(0.5, record(40, loss=1.0), seconds_left=None)
        assert "9.00" in terminal.shown
        assert "█" * 39 in terminal.shown

    def test_an_evaluation_after_the_last_update_is_seen(self) -> None:
        with Terminal() as terminal, TrainingDisplay("training") as display:
            display.update(1.0, record(1), seconds_left=None)
            display.evaluated({"step": 1, "val_loss": 3.125})
        assert "3.125" in terminal.shown

    def test_all_updates_make_the_curve(self) -> None:
        with Terminal() as terminal, TrainingDisplay("training") as display:
            earlier = [record(step, loss=9.0) for step in range(1, 40)]
            display.update(0.5, record(40, loss=1.0), earlier=earlier, seconds_left=None)
        assert "█" * 39 in terminal.shown

    def test_the_cursor_comes_back_after_an_interrupt(self) -> None:
        with (
            Terminal() as terminal,
            suppress(KeyboardInterrupt),
            TrainingDisplay("training") as display,
        ):
            display.update(0.5, record(1), seconds_left=None)
            raise KeyboardInterrupt
        assert terminal.shown.endswith("\x1b[?25h")


class Gone:
    """A stderr whose terminal is gone, or whose disk is full."""

    encoding = "utf-8"

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        raise OSError(errno.EBADF, "no file")

    def write(self, _text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_training_that_nobody_sees_goes_on(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Gone(terminal))
    monkeypatch.setenv("TERM", "xterm")
    seen: list[int] = []
    with TrainingDisplay("training") as display:
        for step in range(1, 4):
            say("hello")
            display.update(step / 3, record(step), seconds_left=None)
            seen.append(step)
    assert seen == [1, 2, 3]
