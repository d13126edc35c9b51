"""Merges learnt many at a time, against those learnt one by one.

The words are made to have many pairs of equal count, pairs that share a token, and merged tokens
that touch: what a batch could get wrong. `in_batches` also asks for batches larger than `_Learner`
would dare by itself, for the rule that ends a batch must hold whatever its limit is.
"""

import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import _batched_merges
from scratch.bpe._batched_merges import _Learner, learn_merges_in_batches
from scratch.bpe._merges import learn_merges
from scratch.bpe._word_counts import WordTable
from scratch.bpe._word_keys import spell_long

WordCounts = dict[bytes, int]
Merges = list[tuple[bytes, bytes]]
Trainer = Callable[[WordCounts, int], Merges]

ALL = 10_000
"""More merges than any of these corpora has."""


def table_of(word_counts: WordCounts) -> WordTable:
    counts = np.array(list(word_counts.values()), np.int64)
    return WordTable(*spell_long(list(word_counts)), counts)


def learn(word_counts: WordCounts, max_merges: int, *, min_frequency: int = 1) -> Merges:
    return learn_merges_in_batches(table_of(word_counts), max_merges, min_frequency=min_frequency)


def in_batches(word_counts: WordCounts, limits: Iterable[int], *, max_merges: int = ALL) -> Merges:
    """Learn merges with these limits of a batch, and at last with limits of 512."""
    learner = _Learner(table_of(word_counts), 1)
    remaining = iter(limits)
    while len(learner.merges) < max_merges:
        learner._batch_limit = next(remaining, 512)
        if not learner.merge_batch(max_merges):
            break
    return learner.merges


def random_words(rng: random.Random) -> WordCounts:
    """Words of few letters, of repeated parts, of runs; with few different counts."""
    letters = rng.choice([b"a", b"ab", b"ab", b"abc", b"abcd", b"\0\xff", b"\0", bytes(range(256))])
    parts = [
        bytes(rng.choices(letters, k=rng.choice([1, 2, 2, 3, 5])))
        for _ in range(rng.randrange(1, 5))
    ]
    words: list[bytes] = []
    for _ in range(rng.choice([1, 2, 4, 8, 16])):
        kind = rng.randrange(4)
        if kind == 0:
            words.append(bytes(rng.choices(letters, k=rng.randrange(1, 14))))
        elif kind == 1:
            words.append(b"".join(rng.choices(parts, k=rng.randrange(1, 6))))
        elif kind == 2:
            words.append(rng.choice(parts) * rng.randrange(1, 9))
        else:
            words.append(rng.choice(parts) * rng.randrange(1, 9) + rng.choice(parts))
    counts = rng.choice(
        [[1], [1, 2], [1, 2, 3, 5], range(1, 50), [2**31, 2**31 - 1, 1], [2**40, 3]]
    )
    return {word: rng.choice(counts) for word in words}


def check(word_counts: WordCounts, rng: random.Random) -> None:
    expected = learn_merges(word_counts, ALL)
    assert learn(word_counts, ALL) == expected, word_counts
    limits = [rng.choice([1, 2, 3, 5, 512]) for _ in range(rng.choice([0, 30]))]
    assert in_batches(word_counts, limits) == expected, (word_counts, limits)


@pytest.mark.parametrize("seed", range(10))
def test_merges_are_those_of_one_at_a_time(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(120):
        check(random_words(rng), rng)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1040))
def test_merges_of_many_corpora_are_those_of_one_at_a_time(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        check(random_words(rng), rng)


@pytest.mark.parametrize("seed", range(10))
def test_merges_are_those_of_recounting(recount_every_time: Trainer, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(30):
        word_counts = random_words(rng)
        expected = recount_every_time(word_counts, 60)
        assert learn(word_counts, 60) == expected, word_counts
        assert in_batches(word_counts, [], max_merges=60) == expected, word_counts


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    word_counts=st.dictionaries(
        st.lists(st.sampled_from(b"abc"), max_size=10).map(bytes), st.integers(1, 3), max_size=8
    )
    | st.dictionaries(st.binary(max_size=12), st.integers(1, 2**40), max_size=8)
)
def test_any_words_give_the_merges_of_one_at_a_time(word_counts: WordCounts) -> None:
    expected = learn_merges(word_counts, ALL)
    assert learn(word_counts, ALL) == expected
    assert in_batches(word_counts, []) == expected


def many_words(rng: random.Random, letters: bytes, count: int, *, most: int = 2000) -> WordCounts:
    """Words that share their parts and differ in their counts: the batches grow long."""
    parts = [bytes(rng.choices(letters, k=rng.randrange(1, 4))) for _ in range(300)]
    words = [b"".join(rng.choices(parts, k=rng.randrange(1, 3))) for _ in range(count)]
    return {word: rng.randrange(1, most + 1) for word in words}


@pytest.mark.parametrize("most", [5, 100, 5000])
@pytest.mark.parametrize("seed", range(8))
def test_merges_of_many_words_are_those_of_one_at_a_time(seed: int, most: int) -> None:
    rng = random.Random(seed)
    letters = rng.choice([b"etaoinsh", bytes(range(97, 123)), bytes(range(256))])
    word_counts = many_words(rng, letters, rng.choice([200, 1000]), most=most)
    expected = learn_merges(word_counts, ALL)
    assert learn(word_counts, ALL) == expected
    assert in_batches(word_counts, []) == expected


def test_long_batches_are_made_at_all() -> None:
    # What these tests compare would be worth little if every batch were of one merge.
    learner = _Learner(table_of(many_words(random.Random(0), bytes(range(256)), 3000)), 1)
    sizes: list[int] = []
    while size := learner.merge_batch(ALL):
        sizes.append(size)
    assert sum(sizes) == len(learner.merges)
    assert max(sizes) > 20
    assert sum(sizes) > 5 * len(sizes)


@pytest.mark.parametrize(
    "words",
    [
        # (ab, c) ties with later pairs, before, between and after them in the order of bytes.
        [b"abc", b"xy", b"zz"],
        [b"abc", b"zy", b"aaq"],
        [b"abd", b"ac", b"b"],
        # c grows within the batch: (ab, cd) is greater than the pair that stands between.
        [b"abcd", b"abcd", b"abce", b"abq", b"abq"],
        [b"abcd", b"cdab", b"ab", b"cd", b"abce", b"ef"],
        # x grows within the batch: (xy, ab) where (y, a) stood.
        [b"xyab", b"xyab", b"yab", b"xy", b"ab", b"yz"],
        # Pairs that share a token on the same side.
        [b"ab", b"ac", b"ad", b"abac", b"adab"],
        [b"ab", b"cb", b"db", b"abcb", b"dbab"],
        # Merged tokens that touch, both ways and themselves.
        [b"abcd", b"cdab"],
        [b"abab", b"ababab", b"bab"],
        [b"abcdabcd", b"cdcd"],
        # Chains: what ends one pair begins the next.
        [b"abc", b"bcd", b"cda", b"dab"],
        # Runs, alone and beside pairs that are as frequent.
        [b"aa", b"aaa", b"aaaa", b"aaaaa", b"bb", b"bbb"],
        [b"aab", b"baa", b"aabaa", b"ab", b"ba"],
    ],
    ids=lambda words: b"_".join(words).decode(),
)
@pytest.mark.parametrize("weights", [(1,), (2, 1), (1, 2), (3, 1, 2)], ids=str)
def test_cases_in_which_a_batch_must_end_early(
    recount_every_time: Trainer, words: list[bytes], weights: tuple[int, ...]
) -> None:
    word_counts: WordCounts = {}
    for number, word in enumerate(words):
        word_counts[word] = word_counts.get(word, 0) + weights[number % len(weights)]
    expected = recount_every_time(word_counts, ALL)
    assert learn(word_counts, ALL) == expected
    assert in_batches(word_counts, []) == expected


def test_a_neighbour_that_grows_may_overtake_a_tie() -> None:
    # a+b 7, z+e 5; then m+q ties at 2 with e+ab, which is less, but becomes ze+ab, which is more.
    word_counts = {b"zeab": 2, b"ab": 5, b"ze": 3, b"mq": 2}
    expected = [(b"a", b"b"), (b"z", b"e"), (b"ze", b"ab"), (b"m", b"q")]
    assert learn_merges(word_counts, ALL) == expected
    assert in_batches(word_counts, []) == expected


@pytest.mark.parametrize("seed", range(4))
def test_any_number_of_merges_is_the_beginning_of_all(seed: int) -> None:
    rng = random.Random(seed)
    word_counts = many_words(rng, b"abcdef", 30)
    all_merges = learn_merges(word_counts, ALL)
    for max_merges in range(len(all_merges) + 3):
        assert learn(word_counts, max_merges) == all_merges[:max_merges]
        assert in_batches(word_counts, [], max_merges=max_merges) == all_merges[:max_merges]


def counts_of(merges: Merges, word_counts: WordCounts) -> list[int]:
    """How often each pair occurs when it is merged."""
    words = {word: [bytes([byte]) for byte in word] for word in word_counts}
    result: list[int] = []
    for left, right in merges:
        total = 0
        for word, tokens in words.items():
            position = 0
            occurrences = [
                i for i in range(len(tokens) - 1) if (tokens[i], tokens[i + 1]) == (left, right)
            ]
            total += word_counts[word] * len(occurrences)
            while position < len(tokens) - 1:
                if (tokens[position], tokens[position + 1]) == (left, right):
                    tokens[position : position + 2] = [left + right]
                position += 1
        result.append(total)
    return result


@pytest.mark.parametrize("seed", range(20))
def test_learning_stops_before_a_pair_that_is_rarer_than_wanted(seed: int) -> None:
    rng = random.Random(seed)
    word_counts = random_words(rng) | many_words(rng, b"abcd", 20)
    all_merges = learn_merges(word_counts, ALL)
    counts = counts_of(all_merges, word_counts)
    for least in {1, 2, 3, *rng.choices(counts, k=5), max(counts), max(counts) + 1}:
        expected = [
            merge for merge, count in zip(all_merges, counts, strict=True) if count >= least
        ]
        assert learn(word_counts, ALL, min_frequency=least) == expected


def test_counts_add_up_beyond_32_bits() -> None:
    # a+b occurs 2^32 times in all, in words of 2^31: it must not wrap around to nothing.
    word_counts = {b"xab": 2**31, b"aby": 2**31, b"zz": 2**32 - 1}
    assert learn(word_counts, 2) == [(b"a", b"b"), (b"z", b"z")]
    for base in (2**31 - 1, 2**31, 2**32, 2**53, 2**60):
        word_counts = {b"yz": base, b"ab": base + 1, b"mn": 1}
        assert learn(word_counts, 3) == [(b"a", b"b"), (b"y", b"z"), (b"m", b"n")]


def test_words_whose_counts_fit_32_bits_add_up_beyond() -> None:
    # No count is 2^31, so weights are narrow; the sums, of bytes and of merged tokens, are not.
    base = 2**31 - 1
    word_counts = {b"abc" + bytes([byte]): base for byte in range(100, 110)}
    word_counts |= {b"xyz": base, b"uxyz": base, b"xyzu": base}
    expected = learn_merges(word_counts, ALL)
    assert learn(word_counts, ALL) == expected
    assert in_batches(word_counts, []) == expected


@pytest.mark.parametrize("length", [1, 2, 3, 5, 64, 1000, 1023])
@pytest.mark.parametrize("period", [b"a", b"ab", b"aab", b"\0"], ids=repr)
def test_one_long_word_that_repeats_itself(period: bytes, length: int) -> None:
    word_counts = {(period * length)[:length]: 1}
    assert learn(word_counts, ALL) == learn_merges(word_counts, ALL)


@pytest.mark.parametrize(
    "word_counts", [{}, {b"a": 5}, {b"": 3}, {b"a": 1, b"b": 2, b"\0": 9}], ids=str
)
@pytest.mark.parametrize("max_merges", [0, 1, 100])
def test_without_pairs_nothing_is_learnt(word_counts: WordCounts, max_merges: int) -> None:
    assert learn(word_counts, max_merges) == []


def test_the_order_of_words_does_not_matter() -> None:
    rng = random.Random(2)
    items = list({bytes(rng.choices(b"abc", k=9)): rng.randrange(1, 4) for _ in range(60)}.items())
    forward = learn(dict(items), ALL)
    assert learn(dict(reversed(items)), ALL) == forward
    rng.shuffle(items)
    assert learn(dict(items), ALL) == forward


def test_the_words_are_left_alone() -> None:
    table = table_of({b"abab": 2, b"ab": 3})
    before = [column.copy() for column in table]
    learn_merges_in_batches(table, ALL)
    assert all(np.array_equal(*pair) for pair in zip(table, before, strict=True))


def test_progress_is_told_after_every_batch() -> None:
    told: list[int] = []
    table = table_of(many_words(random.Random(0), b"abcdefgh", 300))
    merges = learn_merges_in_batches(table, 150, progress=told.append)
    assert told == sorted(set(told))
    assert told[0] == 1
    assert told[-1] == len(merges) == 150


@pytest.mark.parametrize("most", [1, 2, 7])
def test_the_size_of_batches_changes_nothing(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    word_counts = many_words(random.Random(1), b"abcdefgh", 300)
    expected = learn(word_counts, ALL)
    monkeypatch.setattr(_batched_merges, "_MOST_AT_ONCE", most)
    assert learn(word_counts, ALL) == expected == learn_merges(word_counts, ALL)
