"""Learning merges, against a trainer that recounts every pair after every merge."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe._merges import descending, learn_merges, merge_pair

Trainer = Callable[[dict[bytes, int], int], list[tuple[bytes, bytes]]]


# Few letters and equal counts: nearly every choice is a tie, and most runs overlap.
TIED = st.dictionaries(st.binary(max_size=9), st.integers(1, 2), max_size=8) | st.dictionaries(
    st.lists(st.sampled_from(b"ab"), max_size=14).map(bytes), st.integers(1, 3), max_size=8
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(word_counts=TIED)
def test_merges_are_those_of_recounting(
    recount_every_time: Trainer, word_counts: dict[bytes, int]
) -> None:
    assert learn_merges(word_counts, 60) == recount_every_time(word_counts, 60)


@pytest.mark.parametrize("seed", range(40))
def test_merges_are_those_of_recounting_for_many_words(
    recount_every_time: Trainer, seed: int
) -> None:
    rng = random.Random(seed)
    letters = rng.choice([b"a", b"ab", b"abc", b"\x00\x7f\xff", bytes(range(256))])
    words = [bytes(rng.choices(letters, k=rng.randrange(1, 12))) for _ in range(60)]
    word_counts = {word: rng.choice([1, 1, 2, 5]) for word in words}
    assert learn_merges(word_counts, 80) == recount_every_time(word_counts, 80)


def test_a_worked_example() -> None:
    # an 11; then an+a 6 before b+an 5; then b+an 5, ban+ana 3; then d+ana ties with ban+d at 2.
    word_counts = {b"banana": 3, b"bandana": 2, b"ana": 1}
    assert learn_merges(word_counts, 100) == [
        (b"a", b"n"),
        (b"an", b"a"),
        (b"b", b"an"),
        (b"ban", b"ana"),
        (b"d", b"ana"),
        (b"ban", b"dana"),
    ]


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ([b"ab", b"ac"], (b"a", b"c")),
        ([b"ba", b"ca"], (b"c", b"a")),
        ([b"\xffa", b"~a"], (b"\xff", b"a")),
        ([b"az", b"ba"], (b"b", b"a")),
    ],
    ids=str,
)
def test_a_tie_goes_to_the_greater_pair(words: list[bytes], first: tuple[bytes, bytes]) -> None:
    assert learn_merges(dict.fromkeys(words, 1), 1) == [first]
    assert learn_merges(dict.fromkeys(reversed(words), 1), 1) == [first]


def test_pairs_are_compared_as_tuples_and_not_as_joined_bytes() -> None:
    # After x+y the pairs (x, z) and (xy, b) tie: joined, xz is greater; as tuples, xy is.
    word_counts = {b"xy": 9, b"xyb": 2, b"xz": 2}
    merges = learn_merges(word_counts, 3)
    assert merges == [(b"x", b"y"), (b"xy", b"b"), (b"x", b"z")]


def test_an_overlapping_run_joins_from_the_left() -> None:
    assert merge_pair([0, 0, 0], (0, 0), 1) == [1, 0]
    assert merge_pair([0, 0, 0, 0, 2, 0], (0, 0), 1) == [1, 1, 2, 0]
    assert learn_merges({b"aaa": 1}, 9) == [(b"a", b"a"), (b"aa", b"a")]
    assert learn_merges({b"aaaaa": 1}, 9) == [(b"a", b"a"), (b"aa", b"aa"), (b"aaaa", b"a")]


def test_counts_are_exact_beyond_64_bits() -> None:
    for base in (2**31, 2**32, 2**53, 2**64):
        word_counts = {b"yz": base, b"ab": base + 1, b"mn": 1}
        merges = learn_merges(word_counts, 3)
        assert merges == [(b"a", b"b"), (b"y", b"z"), (b"m", b"n")]


def test_counts_add_up_beyond_32_bits() -> None:
    # a+b occurs 2^32 times in all, in words of 2^31: it must not wrap around to nothing.
    word_counts = {b"xab": 2**31, b"aby": 2**31, b"zz": 2**32 - 1}
    assert learn_merges(word_counts, 2) == [(b"a", b"b"), (b"z", b"z")]


def test_learning_stops_when_no_pair_is_left() -> None:
    assert learn_merges({b"abc": 1, b"d": 7}, 1000) == [(b"b", b"c"), (b"a", b"bc")]
    assert learn_merges({b"a": 5, b"": 3}, 10) == []
    assert learn_merges({}, 10) == []


def test_no_merge_is_learnt_when_none_is_wanted() -> None:
    assert learn_merges({b"abc": 1}, 0) == []


def test_fewer_merges_are_the_first_of_more() -> None:
    rng = random.Random(1)
    word_counts = {bytes(rng.choices(b"abcd", k=8)): rng.randrange(1, 4) for _ in range(40)}
    many = learn_merges(word_counts, 50)
    assert len(many) == 50
    assert learn_merges(word_counts, 20) == many[:20]


def test_the_order_of_words_does_not_matter() -> None:
    rng = random.Random(2)
    items = [(bytes(rng.choices(b"ab", k=9)), rng.randrange(1, 4)) for _ in range(30)]
    forward, backward = dict(items), dict(reversed(list(dict(items).items())))
    assert learn_merges(forward, 40) == learn_merges(backward, 40)


def test_a_merge_makes_each_token_once() -> None:
    rng = random.Random(3)
    word_counts = {bytes(rng.choices(b"ab", k=30)): 1 for _ in range(30)}
    products = [left + right for left, right in learn_merges(word_counts, 300)]
    assert len(set(products)) == len(products)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(tokens=st.lists(st.lists(st.sampled_from([0, 65, 66, 255]), max_size=4).map(bytes)))
def test_the_key_sorts_byte_strings_from_greatest_to_least(tokens: list[bytes]) -> None:
    assert sorted(tokens, key=descending) == sorted(tokens, reverse=True)
