"""Comparing settings: what differs, what is a seed of what, and how far figures spread."""

import pytest

from scratch.trainer.fields import flat
from scratch.trainer.report.comparison import Spread, differing_keys, seed_groups, spread


def test_nested_settings_become_one_level() -> None:
    assert flat({"seed": 1, "model": {"d_model": 8, "deep": {"x": None}}}) == {
        "seed": 1,
        "model.d_model": 8,
        "model.deep.x": None,
    }


def test_keys_that_one_run_lacks_differ() -> None:
    runs = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "b": 2, "c": 4}]
    assert differing_keys(runs) == ["b", "c"]


def test_runs_that_differ_in_the_seed_and_where_they_are_belong_together() -> None:
    runs = [
        {"seed": 0, "out": "a", "optimizer.lr": 0.1, "log_every": 1},
        {"seed": 0, "out": "b", "optimizer.lr": 0.2, "log_every": 1},
        {"seed": 1, "out": "c", "optimizer.lr": 0.1, "log_every": 5},
    ]
    assert seed_groups(runs) == [[0, 2], [1]]


@pytest.mark.parametrize("key", ["data", "steps", "batch_size", "precision", "model.norm"])
def test_what_changes_the_result_parts_runs(key: str) -> None:
    assert seed_groups([{"seed": 0, key: 1}, {"seed": 1, key: 2}]) == [[0], [1]]


def test_spread_is_the_standard_deviation_of_a_sample() -> None:
    assert spread([1.0, None, 3.0]) == Spread(2.0, pytest.approx(2**0.5), 2)


def test_one_value_has_no_spread_and_none_has_nothing() -> None:
    assert spread([None, 3.0]) == Spread(3.0, None, 1)
    assert spread([None]) is None
