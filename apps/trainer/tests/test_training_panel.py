"""How a training looks, at every width."""

import io
import math
from typing import Any

import pytest
from rich.console import Console

from scratch.trainer.watching.sparkline import Course
from scratch.trainer.watching.training_panel import State, training_line, training_panel

UPDATE = {
    "step": 4200,
    "tokens": 10**7,
    "seconds": 90.0,
    "loss": 3.21449,
    "lr": 9.8e-4,
    "grad_norm": 0.8312,
    "tokens_per_second": 12345.6,
    "mfu": 0.412,
    "memory_bytes": 3.21e9,
}
EVALUATION = {"step": 4000, "val_loss": 3.4012, "val_perplexity": 30.0, "val_bits_per_byte": 1.9}
OLD = {"step": 4200, "tokens": 10**7, "seconds": 90.0, "loss": 3.2, "lr": 0.1, "grad_norm": 1.0}


def losses() -> Course:
    course = Course()
    for step in range(1, 4201):
        course.add(step, 3 + 6 * math.exp(-step / 500))
    return course


def draw(columns: int, record: dict[str, Any] = UPDATE, left: float | None = 75.0) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    state = State(0.42, record, left, EVALUATION if record is UPDATE else None)
    with console.capture() as capture:
        console.print(training_panel("training", state, losses(), columns=columns))
    return capture.get().splitlines()


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 200])
def test_the_panel_fits_any_width(columns: int) -> None:
    lines = draw(columns)
    assert {len(line) for line in lines} == {min(columns, 120)}
    assert lines[0].startswith("╭")
    assert lines[-1].startswith("╰")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_all_that_is_known_stands_in_the_panel(columns: int) -> None:
    shown = "\n".join(draw(columns))
    for part in (
        "training",
        "42%",
        "step 4,200",
        "1:15 left",
        "loss 3.214",
        "held-out 3.401",
        "tokens/s 12,346",
        "lr 9.80e-04",
        "grad norm 0.831",
        "MFU 41.2%",
        "memory 3.21 GB",
    ):
        assert part in shown


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_curve_falls_from_the_left_to_the_right_edge(columns: int) -> None:
    bottom = draw(columns)[4]
    curve = bottom.strip("│ ").split(" ")[1]
    assert len(curve) == columns - 4 - 7
    assert curve[0] == "█"
    assert curve[-1] == "▁"
    assert list(curve) == sorted(curve, reverse=True)


def test_the_height_stays_when_numbers_are_missing() -> None:
    missing = {**UPDATE, "loss": None, "grad_norm": math.nan, "tokens_per_second": None}
    assert len(draw(80)) == len(draw(80, missing)) == len(draw(80, UPDATE, None))


def test_the_journal_of_an_older_run_can_be_shown() -> None:
    shown = "\n".join(draw(80, OLD, None))
    assert "loss 3.200" in shown
    assert "tokens/s -" in shown
    assert "MFU" not in shown
    assert "left" not in shown


def test_a_line_tells_the_same() -> None:
    assert training_line("training", State(0.42, UPDATE, 75.0, EVALUATION)) == (
        "training  42%  step 4,200  loss 3.214  lr 9.80e-04  grad norm 0.831  held-out 3.401  "
        "12,346 tokens/s  MFU 41%  1:15 left"
    )
    assert training_line("training", State(1.2, OLD, None, None)) == (
        "training 100%  step 4,200  loss 3.200  lr 1.00e-01  grad norm 1"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3.0, "0:00"), (0.2, "0:00"), (59.7, "1:00"), (3599, "59:59"), (3723, "1:02:03")],
)
def test_time_is_written_as_on_a_clock(seconds: float, text: str) -> None:
    assert training_line("training", State(0.5, OLD, seconds, None)).endswith(f"  {text} left")
