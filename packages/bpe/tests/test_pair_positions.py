"""Where pairs stand: numbered, found again, and passed over when they are gone."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe._pair_positions import NONE, PairPositions
from scratch.bpe._word_counts import WordTable
from scratch.bpe._word_keys import spell_long

WORD_COUNTS = st.dictionaries(
    st.binary(max_size=6) | st.lists(st.sampled_from(b"\0ab"), max_size=9).map(bytes),
    st.integers(1, 2**40),
    max_size=9,
)


def table_of(word_counts: dict[bytes, int]) -> WordTable:
    counts = np.array(list(word_counts.values()), np.int64)
    return WordTable(*spell_long(list(word_counts)), counts)


def number_of(at: PairPositions, pair: bytes) -> int:
    pairs = zip(at.left[: at.num_pairs].tolist(), at.right[: at.num_pairs].tolist(), strict=True)
    return list(pairs).index((pair[0], pair[1]))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(word_counts=WORD_COUNTS)
def test_every_pair_of_bytes_is_numbered_and_counted(word_counts: dict[bytes, int]) -> None:
    at = PairPositions(table_of(word_counts))
    expected: Counter[tuple[int, int]] = Counter()
    for word, count in word_counts.items():
        for pair in pairwise(word):
            expected[pair] += count
    pairs = list(zip(at.left.tolist(), at.right.tolist(), strict=True))
    assert at.counts.dtype == np.int64
    assert len(pairs) == at.num_pairs
    assert dict(zip(pairs, at.counts.tolist(), strict=True)) == expected


@settings(deadline=None, derandomize=True, max_examples=300)
@given(word_counts=WORD_COUNTS)
def test_a_pair_is_found_where_it_stands(word_counts: dict[bytes, int]) -> None:
    at = PairPositions(table_of(word_counts))
    if not at.num_pairs:
        return
    found = at.find(list(range(at.num_pairs)), overlapping=False)
    assert np.array_equal(at.left[found.which], at.symbols[found.lefts])
    assert np.array_equal(at.right[found.which], at.symbols[found.rights])
    assert np.array_equal(at.pair_at[found.lefts], found.which)
    assert np.array_equal(at.pair_at[found.before], found.pairs_before)
    assert np.array_equal(at.pair_at[found.rights], found.pairs_after)
    assert np.array_equal(found.before + 1, found.lefts)
    assert np.array_equal(found.rights + 1, found.after)
    assert len(set(found.lefts.tolist())) == len(found.lefts)
    assert len(found.lefts) == sum(max(0, len(word) - 1) for word in word_counts)
    sums = np.zeros(at.num_pairs, np.int64)
    np.add.at(sums, found.which, found.weights)
    assert np.array_equal(sums, at.counts)


@pytest.mark.parametrize("length", range(2, 12))
def test_of_overlapping_occurrences_every_other_is_found(length: int) -> None:
    words = [b"a" * length, b"ba" + b"a" * length + b"b", b"aabaa"]
    at = PairPositions(table_of(dict.fromkeys(words, 1)))
    found = at.find([number_of(at, b"aa")], overlapping=True)
    lefts = found.lefts.tolist()
    assert all(second - first > 1 for first, second in pairwise(lefts))
    assert len(lefts) == length // 2 + (length + 1) // 2 + 2
    assert lefts[: length // 2] == list(range(1, length, 2))
    assert found.which.tolist() == [0] * len(lefts)


def test_words_do_not_touch() -> None:
    at = PairPositions(table_of({b"ab": 1, b"": 5, b"b": 3, b"cd": 2}))
    pairs = [bytes(pair) for pair in zip(at.left.tolist(), at.right.tolist(), strict=True)]
    assert sorted(pairs) == [b"ab", b"cd"]
    found = at.find([number_of(at, b"cd")], overlapping=False)
    assert found.pairs_before.tolist() == found.pairs_after.tolist() == [NONE]
    assert at.symbols[found.before].tolist() == at.symbols[found.after].tolist() == [NONE]


def test_a_position_whose_pair_has_changed_is_passed_over() -> None:
    at = PairPositions(table_of({b"abab": 1, b"ab": 2}))
    pair = number_of(at, b"ab")
    before = at.find([pair], overlapping=False)
    at.pair_at[before.lefts[1]] = NONE
    after = at.find([pair], overlapping=False)
    assert after.lefts.tolist() == np.delete(before.lefts, 1).tolist()


def test_new_pairs_are_found_by_their_numbers_however_many_come() -> None:
    rng = random.Random(0)
    at = PairPositions(table_of({bytes(rng.choices(b"ab", k=2000)): 7}))
    lists = {n: at.find([n], overlapping=False).lefts.tolist() for n in range(at.num_pairs)}
    counts = at.counts.tolist()
    for symbol in range(256, 256 + 9000):
        positions = np.array(sorted(rng.sample(range(1, 2000), k=12)))
        number = at.num_pairs
        counts += [35, 49]
        lists |= {number: positions[:5].tolist(), number + 1: positions[5:].tolist()}
        two = np.array([symbol, symbol])
        at.add(positions, np.array([0, 5]), np.array([35, 49]), two, np.array([97, 98]))
        assert at.num_pairs == number + 2
        for new in (number, number + 1):
            assert at.find([new], overlapping=False).lefts.tolist() == lists[new]
        assert at.right[number : number + 2].tolist() == [97, 98]
        assert at.left[number] == symbol
    assert at.counts[: at.num_pairs].tolist() == counts
    for number in range(4):  # of the bytes: found, where no new pair has come, at the old places
        still = at.pair_at[lists[number]] == number
        expected = np.array(lists[number])[still].tolist()
        assert at.find([number], overlapping=False).lefts.tolist() == expected


def test_adding_no_pairs_changes_nothing() -> None:
    at = PairPositions(table_of({b"ab": 1}))
    none = np.empty(0, np.int64)
    at.add(none, none, none, none, none)
    assert at.num_pairs == 1


def test_the_first_occurrences_are_those_of_the_first_pairs() -> None:
    at = PairPositions(table_of({b"abcabc": 3, b"bc": 1}))
    pairs = [number_of(at, pair) for pair in (b"bc", b"ab", b"ca")]
    found = at.find(pairs, overlapping=False)
    for count in range(4):
        first = found.first(count)
        some = at.find(pairs[:count], overlapping=False) if count else None
        assert first.which.tolist() == [n for n in found.which.tolist() if n < count]
        assert some is None or first.lefts.tolist() == some.lefts.tolist()


@pytest.mark.parametrize("word_counts", [{}, {b"a": 5}, {b"": 1, b"b": 1}], ids=str)
def test_words_without_pairs_have_none(word_counts: dict[bytes, int]) -> None:
    at = PairPositions(table_of(word_counts))
    assert at.num_pairs == len(at.counts) == 0
