"""The windows of a step are a function of the seed and the step, and an epoch repeats none."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from scratch.train import WindowSampler, permute

ANY = settings(deadline=None, derandomize=True)

keys = st.integers(0, 2**64 - 1)


@st.composite
def samplers(draw: st.DrawFn) -> WindowSampler:
    context_length = draw(st.integers(1, 40))
    return WindowSampler(
        num_tokens=context_length + draw(st.integers(1, 300)),
        context_length=context_length,
        batch_size=draw(st.integers(1, 20)),
        seed=draw(st.integers()),
    )


def sampler(**changes: Any) -> WindowSampler:
    defaults = {"num_tokens": 1000, "context_length": 8, "batch_size": 5, "seed": 0}
    return WindowSampler(**(defaults | changes))


def epoch(sampler: WindowSampler, number: int) -> npt.NDArray[np.int64]:
    """Return the starts of one epoch, which is one batch of all its windows."""
    return dataclasses.replace(sampler, batch_size=sampler.windows_per_epoch).starts(number)


# --- permute


def test_permute_reorders_every_small_size() -> None:
    for size in range(1, 2001):
        places = permute(np.arange(size), size, key=size)
        assert places.dtype == np.int64
        assert np.bincount(places, minlength=size).tolist() == [1] * size


@ANY
@given(size=st.integers(2001, 2**63 - 1), key=keys, seed=st.integers(0, 2**32 - 1))
@example(size=2**63 - 1, key=2**64 - 1, seed=0)
def test_permute_is_one_to_one_on_large_sizes(size: int, key: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(0, size, 500)
    indices = np.unique(np.concatenate([drawn, [0, 1, size - 2, size - 1]]))
    places = permute(indices, size, key)
    assert places.min() >= 0
    assert places.max() < size
    assert len(np.unique(places)) == len(indices)


@ANY
@given(st.integers(50, 5000), keys, keys)
def test_different_keys_give_different_orders(size: int, key: int, other: int) -> None:
    assume(key != other)
    indices = np.arange(size)
    assert not np.array_equal(permute(indices, size, key), permute(indices, size, other))


def test_every_order_of_four_comes_up() -> None:
    orders = {tuple(permute(np.arange(4), 4, key).tolist()) for key in range(1000)}
    assert len(orders) == 24


def test_permute_sends_an_index_anywhere() -> None:
    counts = np.bincount([int(permute(np.array([0]), 10, key)[0]) for key in range(2000)])
    # Binomial: mean 200, standard deviation 13.4. Five of them fail once in 170 000 times.
    assert np.abs(counts - 200).max() < 5 * 13.4


def test_permute_parts_neighbours() -> None:
    places = permute(np.arange(1000), 1000, key=3)
    # About one pair of neighbours stays together in a random order, and one index at home.
    assert (np.abs(np.diff(places)) == 1).sum() < 10
    assert (places == np.arange(1000)).sum() < 10


@ANY
@given(st.integers(1, 3000), keys, st.data())
def test_an_index_goes_to_the_same_place_in_any_company(
    size: int, key: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    alone = permute(np.array([index]), size, key)
    assert alone[0] == permute(np.arange(size), size, key)[index]


def test_permute_leaves_its_argument_alone() -> None:
    indices = np.arange(100, dtype=np.uint64)
    permute(indices, 100, key=1)
    assert np.array_equal(indices, np.arange(100))


# --- WindowSampler


@ANY
@given(samplers(), st.integers(0, 10**9))
@example(WindowSampler(num_tokens=2, context_length=1, batch_size=1, seed=0), 0)
@example(WindowSampler(num_tokens=41, context_length=40, batch_size=20, seed=0), 10**9)
def test_every_window_and_its_last_target_lie_inside_the_data(
    sampler: WindowSampler, step: int
) -> None:
    starts = sampler.starts(step)
    assert starts.dtype == np.int64
    assert starts.shape == (sampler.batch_size,)
    assert starts.min() >= 0
    assert starts.max() + sampler.context_length < sampler.num_tokens


@ANY
@given(samplers(), st.integers(0, 100))
def test_the_windows_of_an_epoch_do_not_overlap(sampler: WindowSampler, number: int) -> None:
    starts = np.sort(epoch(sampler, number))
    assert (np.diff(starts) >= sampler.context_length).all()


@ANY
@given(samplers())
def test_an_epoch_leaves_out_less_than_two_windows(sampler: WindowSampler) -> None:
    left_out = sampler.num_tokens - sampler.windows_per_epoch * sampler.context_length
    assert left_out < 2 * sampler.context_length


def test_the_shortest_data_has_one_window() -> None:
    shortest = sampler(num_tokens=9)
    assert shortest.windows_per_epoch == 1
    assert [shortest.starts(step).tolist() for step in range(3)] == [[0] * 5] * 3


@ANY
@given(samplers(), st.integers(0, 1000), st.lists(st.integers(0, 1000), max_size=5))
def test_a_step_does_not_depend_on_those_asked_before(
    sampler: WindowSampler, step: int, before: list[int]
) -> None:
    used = dataclasses.replace(sampler)
    for earlier in before:
        used.starts(earlier)
    assert np.array_equal(used.starts(step), sampler.starts(step))


@ANY
@given(samplers(), st.integers(1, 6), st.integers(0, 100))
def test_the_windows_come_in_the_same_order_however_batches_are_cut(
    sampler: WindowSampler, parts: int, step: int
) -> None:
    whole = dataclasses.replace(sampler, batch_size=parts * sampler.batch_size)
    cut = [sampler.starts(step * parts + part) for part in range(parts)]
    assert np.array_equal(whole.starts(step), np.concatenate(cut))


def test_epochs_have_different_orders_and_offsets() -> None:
    data = sampler(num_tokens=10_000, context_length=16)
    orders, offsets = set(), set()
    for number in range(100):
        starts = epoch(data, number)
        orders.add(tuple((starts // 16).tolist()))
        offsets |= set((starts % 16).tolist())
    assert len(orders) == 100
    assert offsets == set(range(16))


def test_all_windows_of_an_epoch_share_its_offset() -> None:
    for number in range(5):
        assert len(set((epoch(sampler(), number) % 8).tolist())) == 1


def test_every_seed_has_its_own_order() -> None:
    seeds = [0, 1, 2, -1, -2, 2**31, 2**63, -(2**62), 10**30, -(10**30)]
    orders = {tuple(sampler(seed=seed, batch_size=20).starts(0).tolist()) for seed in seeds}
    assert len(orders) == len(seeds)


def test_trillions_of_tokens_cost_no_memory() -> None:
    starts = sampler(num_tokens=10**13, context_length=4096, batch_size=64).starts(10**8)
    assert len(np.unique(starts)) == 64
    assert starts.min() >= 0
    assert starts.max() < 10**13 - 4096


def test_a_sampler_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler().seed = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", ["context_length", "batch_size"])
@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {size}"):
        sampler(**{name: size})


@pytest.mark.parametrize("num_tokens", [8, 0, -1])
def test_data_without_a_whole_window_is_refused(num_tokens: int) -> None:
    expected = f"num_tokens must exceed context_length.*num_tokens={num_tokens}, context_length=8"
    with pytest.raises(ValueError, match=expected):
        sampler(num_tokens=num_tokens)


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        sampler().starts(-1)


@pytest.mark.parametrize("num_tokens", [9, 23, 1007])
def test_every_token_is_met_in_some_epoch(num_tokens: int) -> None:
    sizes = {"num_tokens": num_tokens, "context_length": 8}
    windows = sampler(**sizes, batch_size=1).windows_per_epoch
    starts = sampler(**sizes, batch_size=100 * windows).starts(0)  # a hundred epochs
    met = {int(start) + place for start in starts for place in range(9)}
    assert met == set(range(num_tokens))


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 10), (3, 3), (7, 3)])
def test_an_index_outside_the_permutation_is_refused(index: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"indices must be in 0 .. {size - 1}, got {index}"):
        permute(np.array([index]), size, 1)
