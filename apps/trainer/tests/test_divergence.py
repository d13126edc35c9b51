"""Divergence: told when the loss is lost, and not for a spike."""

import random

import pytest

from scratch.trainer.training.divergence import DivergedError, DivergenceDetector


def feed(losses: list[float], margin_nats: float = 2.0) -> int | None:
    """Return the step at which these losses are called lost, if they are."""
    detector = DivergenceDetector(margin_nats)
    for step, loss in enumerate(losses, start=1):
        try:
            detector.add(step, loss)
        except DivergedError:
            return step
    return None


def test_a_loss_that_goes_up_and_stays_is_told_within_a_few_updates() -> None:
    step = feed([9 - 0.05 * n for n in range(100)] + [8.5] * 100)
    assert step is not None
    assert 100 < step < 130


def test_a_loss_that_creeps_up_is_told_in_the_end() -> None:
    assert feed([4 + 0.01 * n for n in range(100)]) is None
    assert feed([4 + 0.01 * n for n in range(400)]) is not None


def test_a_noisy_loss_that_falls_is_left_alone() -> None:
    chance = random.Random(0)
    assert feed([9 / (1 + n / 50) + chance.gauss(0, 0.5) for n in range(1000)]) is None


def test_a_spike_is_left_alone() -> None:
    assert feed([9.0, 8.0, 7.0, 6.0, *[3.0] * 50, 20.0, 12.0, *[3.0] * 50]) is None


def test_a_first_loss_that_is_low_by_chance_decides_nothing() -> None:
    assert feed([8.0, *[9.5] * 100]) is None


def test_a_margin_of_zero_never_tells() -> None:
    assert feed([1.0, *[1e6] * 100], margin_nats=0) is None


def test_a_bad_start_is_given_time() -> None:
    assert feed([8.0, *[14.0] * 10, *[7.0] * 100]) is None
    assert feed([8.0, *[14.0] * 100]) == 21


def test_the_message_has_the_figures() -> None:
    detector = DivergenceDetector(0.5)
    for step in range(1, 21):
        detector.add(step, 4.0)
    with pytest.raises(
        DivergedError, match=r"step 21: .* smoothed loss is 4\.9\d+, it was 4\.000 at step \d+"
    ):
        detector.add(21, 16.0)
