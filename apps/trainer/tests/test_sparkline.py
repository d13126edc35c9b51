"""Sparklines: the shape of a curve, in few characters and little memory."""

import math

import pytest

from scratch.trainer.watching.sparkline import Course, sparkline


def course(values: list[float]) -> Course:
    losses = Course()
    for step, value in enumerate(values, start=1):
        losses.add(step, value)
    return losses


def test_a_rising_line_climbs_by_eighths() -> None:
    lines, low, high = sparkline([1, 2, 3, 4, 5, 6, 7, 8], rows=1)
    assert lines == ["▁▂▃▄▅▆▇█"]
    assert (low, high) == (1, 8)


def test_rows_stand_on_each_other() -> None:
    lines, _, _ = sparkline([16, 9, 8, 1], rows=2)
    assert lines == ["█▁  ", "███▁"]


def test_a_steep_beginning_leaves_room_for_the_rest() -> None:
    values = [1000.0] + [2 - index / 40 for index in range(40)]
    lines, low, high = sparkline(values, rows=1)
    assert low == pytest.approx(1.025)
    assert high <= 2
    assert set(lines[0]) == set("▁▂▃▄▅▆▇█")
    assert lines[0].startswith("█")


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0]])
def test_a_level_line_lies_at_the_bottom(values: list[float]) -> None:
    assert sparkline(values, rows=2)[0] == [" " * len(values), "▁" * len(values)]


def test_nothing_has_no_line() -> None:
    lines, low, high = sparkline(Course().means(10), rows=3)
    assert lines == ["", "", ""]
    assert math.isnan(low)
    assert math.isnan(high)


def test_few_steps_have_a_column_each() -> None:
    assert course([5, 4, 3]).means(10) == [5, 4, 3]


def test_many_steps_share_columns_evenly() -> None:
    assert course([1, 3, 5, 7, 9, 11]).means(3) == [2, 6, 10]


def test_steps_that_were_not_seen_take_the_value_before() -> None:
    losses = Course()
    for step, value in (2, 8.0), (4, 6.0):
        losses.add(step, value)
    assert losses.means(10) == [8.0, 8.0, 6.0]


@pytest.mark.parametrize("steps", [511, 512, 513, 1024, 100_000])
def test_a_long_course_keeps_its_shape_in_little_memory(steps: int) -> None:
    losses = course([float(step) for step in range(steps)])
    assert len(losses.means(10**9)) <= 512
    means = losses.means(8)
    assert means == pytest.approx(
        [(column + 0.5) * steps / 8 for column in range(8)], abs=steps / 128 + 1
    )
