"""Curves: short enough to draw, with every extreme and every gap still there."""

import json
import math
from typing import Any

import pytest

from scratch.trainer.report.curves import group, learning_curves


def update(step: int, **changes: Any) -> dict[str, Any]:
    values = {"step": step, "tokens": 8 * step, "seconds": step / 4, "loss": 1.0, "grad_norm": 0.5}
    return values | changes


LONG = [update(step, loss=3.0 + step % 2) for step in range(1, 50_001)]


def test_a_short_run_is_drawn_update_by_update() -> None:
    journal = [update(step, loss=1 / step) for step in range(1, 101)]
    columns = learning_curves(journal)["updates"]
    assert columns["step"] == list(range(1, 101))
    assert columns["count"] == [1] * 100
    assert columns["loss"].keys() == {"mean"}
    assert columns["loss"]["mean"] == pytest.approx([1 / s for s in range(1, 101)], rel=1e-5)


def test_groups_hold_every_update_once_in_order() -> None:
    assert [record for members in group(LONG) for record in members] == LONG


def test_a_long_run_is_drawn_by_few_groups_that_begin_small() -> None:
    sizes = [len(members) for members in group(LONG)]
    assert len(sizes) < 2000
    assert sizes[:100] == [1] * 100
    assert max(sizes) == 50


def test_a_group_shows_the_mean_and_both_extremes_and_ends_where_its_last_update_is() -> None:
    columns = learning_curves(LONG)["updates"]
    loss = columns["loss"]
    assert (loss["mean"][-2], loss["low"][-2], loss["high"][-2]) == (3.5, 3, 4)
    assert (columns["step"][-1], columns["tokens"][-1]) == (50_000, 400_000)


def test_a_spike_of_one_update_among_many_is_still_there() -> None:
    journal = [*LONG[:31_234], update(31_235, grad_norm=77.0), *LONG[31_235:]]
    norm = learning_curves(journal)["updates"]["grad_norm"]
    assert max(norm["high"]) == 77
    assert max(norm["mean"]) < 3


@pytest.mark.parametrize("lost", [None, math.nan, math.inf])
def test_what_is_not_finite_makes_a_gap_and_spoils_no_neighbour(lost: float | None) -> None:
    journal = [*LONG[:31_234], update(31_235, loss=lost), *LONG[31_235:]]
    columns = learning_curves(journal)["updates"]
    place = columns["loss"]["mean"].index(None)
    assert (columns["step"][place], columns["count"][place]) == (31_235, 1)
    assert columns["loss"]["mean"].count(None) == 1
    json.dumps(columns, allow_nan=False)


def test_losses_whose_sum_is_not_finite_have_a_finite_mean() -> None:
    journal = [*LONG, *(update(step, loss=1.7e308) for step in range(50_001, 50_101))]
    assert max(learning_curves(journal)["updates"]["loss"]["mean"]) == pytest.approx(1.7e308)


def test_quantities_that_a_journal_lacks_are_left_out() -> None:
    columns = learning_curves([update(1), update(2, mfu=0.25)])["updates"]
    assert "tokens_per_second" not in columns
    assert columns["mfu"]["mean"] == [None, 0.25]


def test_evaluations_are_all_kept_and_other_lines_are_not_curves() -> None:
    journal = [
        update(1),
        {"step": 1, "tokens": 8, "seconds": 0.25, "val_loss": 2.5},
        {"step": 1, "tokens": 8, "seconds": 0.25, "prompt": "a", "sample": "b"},
        update(2),
        {"step": 2, "tokens": 16, "seconds": 0.5, "val_loss": None},
        {"step": 2, "event": "diverged", "reason": "why"},
    ]
    curves = learning_curves(journal)
    assert curves["updates"]["step"] == [1, 2]
    assert curves["evaluations"] == {
        "step": [1, 2],
        "tokens": [8, 16],
        "seconds": [0.25, 0.5],
        "val_loss": [2.5, None],
    }


def test_a_journal_without_lines_has_empty_curves() -> None:
    curves = learning_curves([])
    assert curves["updates"] == {"step": [], "tokens": [], "seconds": [], "count": []}
    assert curves["evaluations"]["val_loss"] == []
