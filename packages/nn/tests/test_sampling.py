"""Drawing on the device: a race of clocks is as fair as its distribution."""

import pytest
import torch
from torch.testing import assert_close

from scratch.nn._sampling import draw


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ids_come_as_often_as_their_probability_says() -> None:
    distribution = torch.tensor([0.5, 0.25, 0.125, 0.1, 0.025, 0.0])
    drawn = draw(distribution.expand(20_000, 6), generator=generator())
    shares = torch.bincount(drawn, minlength=6) / len(drawn)
    assert_close(shares, distribution, rtol=0, atol=0.014)  # four standard errors of a half
    assert shares[5] == 0


def test_rows_are_drawn_apart_and_each_from_its_own() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0]])
    draws = torch.stack([draw(rows, generator=generator(seed)) for seed in range(200)])
    assert set(draws[:, 0].tolist()) == {0, 1}
    assert set(draws[:, 1].tolist()) == {2, 3}
    agreeing = (draws[:, 0] == draws[:, 2]).float().mean().item()
    assert agreeing == pytest.approx(0.5, abs=0.15)  # four standard errors


def test_a_certain_token_is_always_drawn() -> None:
    certain = torch.eye(7)
    for seed in range(20):
        assert draw(certain, generator=generator(seed)).tolist() == list(range(7))


def test_a_clock_that_stands_at_zero_gives_nothing_to_what_must_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda clocks, **_: clocks.zero_())
    assert draw(torch.tensor([[0.0, 1.0, 0.0]]), generator=generator()).tolist() == [1]


def test_draws_follow_the_seed() -> None:
    distribution = torch.full((50, 10), 0.1)
    first, again, other = (draw(distribution, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
