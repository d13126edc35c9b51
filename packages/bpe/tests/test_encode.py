"""Applying merges to one word: lowest rank first, leftmost of equals, in near-linear time."""

import random
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe._encode import MergeTable, apply_merges

Merges = dict[tuple[int, int], tuple[int, int]]


def apply_one_by_one(symbols: list[int], merges: Merges) -> list[int]:
    """The definition: find the pair that merges first, join its leftmost occurrence, repeat."""
    ids = list(symbols)
    while True:
        pairs = [(merges[pair][0], i) for i, pair in enumerate(pairwise(ids)) if pair in merges]
        if not pairs:
            return ids
        _, i = min(pairs)
        ids[i : i + 2] = [merges[ids[i], ids[i + 1]][1]]


@st.composite
def merge_tables(draw: st.DrawFn) -> Merges:
    """Merges of 0, 1, 2 and of products, in any order of rank; some make the same product."""
    merges: Merges = {}
    tokens = 3
    for rank in draw(st.permutations(range(12))):
        pair = draw(st.tuples(st.integers(0, tokens - 1), st.integers(0, tokens - 1)))
        product = draw(st.integers(3, tokens))
        if pair not in merges:
            merges[pair] = rank, product
            tokens = max(tokens, product + 1)
    return merges


@settings(deadline=None, derandomize=True, max_examples=240)
@given(symbols=st.lists(st.integers(0, 2), max_size=40), merges=merge_tables())
def test_any_word_follows_the_definition(symbols: list[int], merges: Merges) -> None:
    assert apply_merges(symbols, merges) == apply_one_by_one(symbols, merges)


@pytest.mark.parametrize("seed", range(20))
def test_long_words_follow_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    merges: Merges = {}
    for rank in range(60):
        tokens = 4 + rank
        merges.setdefault((rng.randrange(tokens), rng.randrange(tokens)), (rank, tokens))
    symbols = rng.choices(range(rng.choice([1, 2, 4])), k=600)
    assert apply_merges(symbols, merges) == apply_one_by_one(symbols, merges)


def test_the_earlier_merge_wins_over_the_longer_token() -> None:
    merges = {(1, 2): (0, 10), (0, 1): (1, 11), (11, 2): (2, 12)}
    assert apply_merges([0, 1, 2], merges) == [0, 10]


def test_the_leftmost_of_equal_merges_comes_first() -> None:
    assert apply_merges([0, 0, 0], {(0, 0): (0, 1)}) == [1, 0]
    assert apply_merges([0] * 7, {(0, 0): (0, 1), (1, 1): (1, 2)}) == [2, 1, 0]


def test_a_product_merges_again_before_later_merges() -> None:
    # The product of rank 5 makes a pair of rank 0, which goes before what stands further left.
    merges = {(0, 0): (6, 10), (1, 2): (5, 11), (11, 3): (0, 12)}
    assert apply_merges([0, 0, 1, 2, 3], merges) == [10, 12]


def test_a_pair_that_is_gone_leaves_its_rank_to_no_other() -> None:
    # 1+2 goes first and breaks up 0+1, whose rank 1 must not pass to the 0+10 in its place.
    merges = {(1, 2): (0, 10), (0, 1): (1, 11), (10, 3): (3, 13), (0, 10): (5, 12)}
    assert apply_merges([0, 1, 2, 3], merges) == [0, 13]


@pytest.mark.parametrize("symbols", [[], [7], [7, 8], [7, 7, 7]], ids=str)
def test_without_a_merge_nothing_changes(symbols: list[int]) -> None:
    assert apply_merges(symbols, {(8, 7): (0, 9)}) == symbols


def test_the_input_is_left_alone() -> None:
    symbols = [0, 0]
    apply_merges(symbols, {(0, 0): (0, 1)})
    assert symbols == [0, 0]


class CountedMerges(Mapping[tuple[int, int], tuple[int, int]]):
    """A merge table that counts how often it is asked."""

    def __init__(self, merges: Merges) -> None:
        self.merges, self.calls = merges, 0

    def __getitem__(self, pair: tuple[int, int]) -> tuple[int, int]:
        self.calls += 1
        return self.merges[pair]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.merges)

    def __len__(self) -> int:
        return len(self.merges)


@pytest.mark.parametrize("kinds", [1, 2, 4], ids="{}_kinds".format)
def test_work_grows_in_proportion_to_the_word(kinds: int) -> None:
    # Powers of two join runs completely; of several kinds, random merges join what they meet.
    rng = random.Random(0)
    merges: Merges = {(0, 0): (0, 4)} | {(4 + k, 4 + k): (k + 1, 5 + k) for k in range(20)}
    for rank in range(100, 1000):
        merges.setdefault((rng.randrange(kinds), rng.randrange(4, 24)), (rank, rng.randrange(24)))
    table = CountedMerges(merges)
    n = 20_000
    apply_merges(rng.choices(range(kinds), k=n), cast("MergeTable", table))
    # n - 1 pairs at the start; each of at most n - 1 joins asks for two new pairs; each of the at
    # most 3 (n - 1) heap entries is asked for once more when it comes out.
    assert table.calls <= 6 * n
