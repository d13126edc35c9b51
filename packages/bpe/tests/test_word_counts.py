"""Counting by sorting keys, against a `Counter` of the words of the plain form."""

import pickle
import random
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2, O200K, PATTERNS, _word_counts, _word_keys
from scratch.bpe._patterns import compile_pattern
from scratch.bpe._pretokenize import compile_special_tokens, find_words, split_special_tokens
from scratch.bpe._word_counts import WordCounts, WordTable
from scratch.bpe._word_keys import KeyArray, WordKeys
from scratch.bpe._words import Window, WordScanner

TEXTS = st.lists(
    st.text("ab \n<s>'1\0\u00e9\u4e2d", max_size=60)
    | st.text("a ", max_size=10)
    | st.sampled_from(["abcdefg", "abcdefgh", "abcdefghijklmno", "abcdefghijklmnop", "a" * 300]),
    max_size=10,
)
# Of 1 to 300 bytes, most of them with zero bytes at an end, or equal to another up to the length.
WORD = st.binary(min_size=1, max_size=18) | st.integers(1, 300).map(bytes)


def count_plainly(texts: Iterable[str], pattern: str) -> Counter[bytes]:
    specials, compiled = compile_special_tokens(("<s>",)), compile_pattern(pattern)
    return Counter(
        word.encode()
        for text in texts
        for ordinary, _ in split_special_tokens(text, specials)
        for word in find_words(ordinary, compiled)
    )


def keys_of(words: Sequence[bytes]) -> WordKeys:
    lengths = np.array([len(word) for word in words], np.int64)
    none = np.empty(0, np.int64)
    return WordKeys(Window(b"".join(words), lengths.cumsum() - lengths, lengths, none, none))


def counts_of(words: Sequence[bytes]) -> WordCounts:
    counts = WordCounts()
    counts.add(keys_of(words))
    return counts


def counter_of(table: WordTable) -> Counter[bytes]:
    """What a table says, each word once."""
    ends = table.lengths.cumsum().tolist()
    flat, lengths = table.flat.tobytes(), table.lengths.tolist()
    words = [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    assert len(set(words)) == len(words)
    assert len(flat) == sum(lengths)
    assert table.counts.dtype == np.int64
    return Counter(dict(zip(words, table.counts.tolist(), strict=True)))


@settings(deadline=None, derandomize=True, max_examples=120)
@given(texts=TEXTS, window_bytes=st.integers(4, 50))
@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K], ids=list(PATTERNS))
def test_counts_are_those_of_the_plain_form(
    pattern: str, texts: list[str], window_bytes: int
) -> None:
    counts = WordCounts()
    scanner = WordScanner(pattern, ("<s>",))
    for text in texts:
        for window in scanner.windows([text.encode()], window_bytes=window_bytes):
            counts.add(WordKeys(window))
    assert counter_of(counts.table()) == count_plainly(texts, pattern)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(windows=st.lists(st.lists(WORD, max_size=12), max_size=8), seed=st.integers(0, 2**32))
@pytest.mark.parametrize("first_merge", [0, 5, 2**17])
def test_words_add_up_in_any_order_and_by_any_way(
    first_merge: int, windows: list[list[bytes]], seed: int
) -> None:
    rng = random.Random(seed)
    parts = [WordCounts() for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_word_counts, "_FIRST_MERGE", first_merge)
        for words in windows:
            rng.choice(parts).add(keys_of(words))
        if rng.random() < 0.5:
            parts[1].merge()
        parts[2] = pickle.loads(pickle.dumps(parts[2]))
        rng.shuffle(parts)
        parts[0].update(parts[1])
        parts[0].update(parts[2])
        counted = counter_of(parts[0].table())
    assert counted == Counter(word for words in windows for word in words)


def test_counts_add_up_when_all_hashes_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(low: KeyArray, high: KeyArray) -> KeyArray:
        return np.zeros_like(low)

    monkeypatch.setattr(_word_keys, "mix", constant)
    rng = random.Random(0)
    windows = [[bytes(rng.choices(b"ab", k=rng.randrange(8, 11))) for _ in range(90)] * 2] * 3
    total = WordCounts()
    for words in windows:
        total.update(counts_of(words))
    assert counter_of(total.table()) == Counter(word for words in windows for word in words)


@pytest.mark.parametrize("word", [b"a", b"a\0", b"abcdefgh", bytes(15), b"x" * 16, b"y" * 300])
def test_counts_are_exact_beyond_32_and_53_bits(word: bytes) -> None:
    # Doubling by adding what has been counted so far to itself.
    counts = counts_of([word, b"other", word])
    for _ in range(60):
        counts.update(pickle.loads(pickle.dumps(counts)))
        counts.merge()
    counts.add(keys_of([word]))
    assert counter_of(counts.table()) == {word: 2**61 + 1, b"other": 2**60}


def test_adding_leaves_the_other_counts_alone() -> None:
    one, other = counts_of([b"a", b"abcdefgh", b"x" * 20]), counts_of([b"a", b"x" * 20])
    one.update(other)
    one.add(keys_of([b"a"]))
    one.merge()
    assert counter_of(other.table()) == {b"a": 1, b"x" * 20: 1}
    assert counter_of(one.table()) == {b"a": 3, b"abcdefgh": 1, b"x" * 20: 2}


def test_a_table_is_given_once() -> None:
    counts = counts_of([b"a", b"abcdefgh", b"x" * 20])
    assert len(counts.table().counts) == 3
    assert counter_of(counts.table()) == {}
    counts.add(keys_of([b"b"]))
    assert counter_of(counts.table()) == {b"b": 1}


@pytest.mark.parametrize("words", [[], [b"<s>"]], ids=str)
def test_no_words_make_an_empty_table(words: list[bytes]) -> None:
    counts = WordCounts()
    for window in WordScanner(GPT2, ("<s>",)).windows(words):
        counts.add(WordKeys(window))
    table = counts.table()
    assert [len(column) for column in table] == [0, 0, 0]
    assert table.flat.dtype == np.uint8


@pytest.mark.parametrize("by", ["adding", "updating"])
def test_memory_grows_with_distinct_words_only(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setattr(_word_counts, "_FIRST_MERGE", 100)
    counts = WordCounts()
    words = [b"%d" % number for number in range(50)] + [b"abcdefgh%d" % n for n in range(9)]
    keys = keys_of(words)
    sizes: list[int] = []
    for _ in range(200):
        if by == "adding":
            counts.add(keys)
        else:
            counts.update(counts_of(words))
        sizes.append(len(pickle.dumps(counts)))
    assert max(sizes) <= 6 * sizes[0]
    assert set(counter_of(counts.table()).values()) == {200}
