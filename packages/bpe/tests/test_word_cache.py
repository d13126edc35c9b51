"""Tables that may forget a word, but never take one for another."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from scratch.bpe import _word_cache
from scratch.bpe._word_cache import MediumWords, ShortWords, ValueArray
from scratch.bpe._word_keys import ABOVE_SHORT, KeyArray, WordKeys, mix
from scratch.bpe._words import Window

NONE = np.empty(0, np.int64)


def keys_of(words: Sequence[bytes]) -> WordKeys:
    lengths = np.array([len(word) for word in words], np.int64)
    return WordKeys(Window(b"".join(words), lengths.cumsum() - lengths, lengths, NONE, NONE))


def short(words: Sequence[bytes]) -> KeyArray:
    return keys_of(words).short


def medium(words: Sequence[bytes]) -> tuple[KeyArray, KeyArray]:
    return keys_of(words).medium(np.arange(len(words)))


def numbers(values: Sequence[int]) -> ValueArray:
    return np.array(values, np.uint32)


class Short:
    """`ShortWords`, asked by words."""

    lengths = range(1, 8)

    def __init__(self, bits: int) -> None:
        self.table = ShortWords(bits)

    def find(self, words: Sequence[bytes]) -> tuple[list[int], list[int]]:
        values, missing, longer = self.table.find(short(words))
        assert longer.tolist() == []
        return values.tolist(), missing.tolist()

    def insert(self, words: Sequence[bytes], values: Sequence[int]) -> None:
        self.table.insert(short(words), numbers(values))


class Medium:
    """`MediumWords`, asked by words."""

    lengths = range(8, 16)

    def __init__(self, bits: int) -> None:
        self.table = MediumWords(bits)

    def find(self, words: Sequence[bytes]) -> tuple[list[int], list[int]]:
        values, missing = self.table.find(*medium(words))
        return values.tolist(), missing.tolist()

    def insert(self, words: Sequence[bytes], values: Sequence[int]) -> None:
        self.table.insert(*medium(words), numbers(values))


BOTH = pytest.mark.parametrize("kind", [Short, Medium])
Table = Short | Medium


def random_words(rng: random.Random, lengths: range, count: int, letters: bytes) -> list[bytes]:
    words = {bytes(rng.choices(letters, k=rng.choice(lengths))) for _ in range(count)}
    return rng.sample(sorted(words), k=len(words))


@BOTH
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 17])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_is_what_was_put_there_for_that_word(
    kind: type[Table], bits: int, seed: int
) -> None:
    rng = random.Random(seed)
    table, last_value = kind(bits), dict[bytes, int]()
    letters = rng.choice([b"\0\1", b"ab\0", bytes(range(256))])
    for _ in range(60):
        words = random_words(rng, table.lengths, rng.choice([1, 3, 20]), letters)
        values, missing = table.find(words)
        for number, word in enumerate(words):
            if number not in missing:
                assert values[number] == last_value[word]
        new = [words[number] for number in missing]
        values = [rng.randrange(2**32) for _ in new]
        table.insert(new, values)
        last_value.update(zip(new, values, strict=True))


@BOTH
def test_words_are_kept_while_there_is_room(kind: type[Table]) -> None:
    rng = random.Random(0)
    table = kind(14)
    words = random_words(rng, table.lengths, 500, bytes(range(256)))
    table.insert(words, range(len(words)))
    values, missing = table.find(words)
    assert len(missing) <= 5
    kept = sorted({*range(len(words))} - {*missing})
    assert [values[number] for number in kept] == kept


@BOTH
def test_a_new_table_knows_no_word(kind: type[Table]) -> None:
    table = kind(3)
    words = [bytes(table.lengths[0]), bytes(table.lengths[-1]), b"\xff" * table.lengths[0]]
    assert table.find(words)[1] == [0, 1, 2]


@BOTH
def test_the_first_comer_stays_and_the_last_one_is_found(kind: type[Table]) -> None:
    # Two places in all, and each word may stand in either: one for the first, one for the last.
    rng = random.Random(0)
    table = one_place(kind)
    words = random_words(rng, table.lengths, 30, b"abc")
    for value, word in enumerate(words):
        table.insert([word], [value])
        values, missing = table.find([words[0], word])
        assert values == [0, value]
        assert missing == []
    assert table.find(words)[1] == list(range(1, len(words) - 1))


@BOTH
def test_of_those_that_come_together_the_first_one_stays(kind: type[Table]) -> None:
    table = one_place(kind)
    words = random_words(random.Random(1), table.lengths, 30, b"abc")
    table.insert(words, range(len(words)))
    values, missing = table.find([words[0], words[-1]])
    assert values[0] == 0
    assert missing == []
    assert values[1] == len(words) - 1


def one_place(kind: type[Table]) -> Table:
    """A table in which all words have the same two places."""
    table = kind(1)
    table.table._hash = lambda keys, _: np.zeros(len(keys), np.int64)  # type: ignore[method-assign]
    return table


def test_longer_words_and_special_tokens_are_told_apart_from_short_ones() -> None:
    table = ShortWords(4)
    words = [b"a", b"abcdefgh", b"<s>", b"x" * 300, b"b"]
    keys = short(words)
    keys[2] = 0
    table.insert(keys[[0]], numbers([7]))
    values, missing, longer = table.find(keys)
    assert values[0] == 7
    assert missing.tolist() == [4]
    assert longer.tolist() == [1, 3]


@pytest.mark.parametrize("bits", [1, 3])
def test_special_tokens_and_longer_words_are_never_missing(bits: int) -> None:
    # Whatever stands where their keys lead: nothing, or a short word.
    rng = random.Random(bits)
    table = ShortWords(bits)
    for _ in range(20):
        words = random_words(rng, range(1, 8), 5, b"\0ab")
        table.insert(short(words), numbers(range(len(words))))
        keys = np.array([0, ABOVE_SHORT, ABOVE_SHORT | np.uint64(5), 0], np.uint64)
        _, missing, longer = table.find(keys)
        assert missing.tolist() == []
        assert longer.tolist() == [1, 2]


def test_medium_words_of_equal_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(low: KeyArray, high: KeyArray) -> KeyArray:
        return np.zeros_like(low)

    monkeypatch.setattr(_word_cache, "mix", constant)
    table = Medium(4)
    words = [b"abcdefgh", b"abcdefgi", b"abcdefgh\0", b"xbcdefgh"]
    table.insert(words[:2], [1, 2])
    assert table.find(words[:2]) == ([1, 2], [])
    assert table.find(words)[1] == [2, 3]


def test_half_a_key_does_not_find_a_word() -> None:
    table = Medium(1)
    table.insert([b"abcdefghij"], [5])
    same_low, same_high = b"abcdefghik", b"xbcdefghij"
    assert len(np.unique(mix(*medium([b"abcdefghij", same_low, same_high])))) == 3
    for word in (same_low, same_high, b"abcdefgh", b"abcdefghij\0"):
        assert table.find([word])[1] == [0]


@BOTH
def test_nothing_is_found_and_put_as_nothing(kind: type[Table]) -> None:
    table = kind(2)
    table.insert([], [])
    assert table.find([]) == ([], [])
