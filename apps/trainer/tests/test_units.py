"""Numbers as a person reads them."""

import pytest

from scratch.trainer.watching.units import ago, clock, decimals, short


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.5, "1:00"), (3599.6, "1:00:00"), (90_061, "25:01:01")],
)
def test_a_clock_goes_on_past_a_day(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1234, "1.23k"),
        (999_400, "999k"),
        (999_999, "1M"),
        (327_680_000, "328M"),
        (1.6384e9, "1.64B"),
        (2.5e12, "2500B"),
    ],
)
def test_a_count_has_three_digits(count: float, text: str) -> None:
    assert short(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.23456, "1.235"), (9999.5, "9,999.500"), (6.5e22, "6.50e+22")]
)
def test_a_number_that_went_astray_stays_short(value: float, text: str) -> None:
    assert decimals(value, 3) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "now"), (59, "now"), (150, "2 min ago"), (7200, "2 h ago")]
)
def test_what_a_wrong_clock_says_is_to_come_is_now(seconds: float, text: str) -> None:
    assert ago(seconds) == text
