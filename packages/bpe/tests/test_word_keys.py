"""Keys that tell every two words apart, and spell them again."""

import random
from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import _word_keys
from scratch.bpe._word_keys import (
    ABOVE_SHORT,
    MEDIUM_BYTES,
    SHORT_BYTES,
    KeyArray,
    WordKeys,
    differs,
    mix,
    sort_medium,
    spell_long,
    spell_medium,
    spell_short,
)
from scratch.bpe._words import Window

# Zero bytes at either end, and halves that are equal or swapped, are what keys may confuse.
WORDS = st.lists(
    st.binary(min_size=1, max_size=20)
    | st.lists(st.sampled_from([0, 1, 255]), min_size=1, max_size=17).map(bytes)
    | st.integers(1, 300).map(bytes),
    max_size=20,
)


def window_of(words: Sequence[bytes], special_words: Iterable[int] = ()) -> Window:
    lengths = np.array([len(word) for word in words], np.int64)
    specials = np.array(list(special_words), np.int64)
    return Window(
        b"".join(words), lengths.cumsum() - lengths, lengths, specials, np.zeros_like(specials)
    )


def is_medium(word: bytes) -> bool:
    return SHORT_BYTES < len(word) <= MEDIUM_BYTES


def medium_of(words: Sequence[bytes]) -> tuple[KeyArray, KeyArray]:
    return WordKeys(window_of(words)).medium(np.arange(len(words)))


def key_of_each(words: Sequence[bytes]) -> list[object]:
    """The key of each word, of whatever kind."""
    keys = WordKeys(window_of(words))
    medium = [number for number, word in enumerate(words) if is_medium(word)]
    long = [number for number, word in enumerate(words) if len(word) > MEDIUM_BYTES]
    result: list[object] = keys.short.tolist()
    low, high = keys.medium(np.array(medium, np.int64))
    for number, halves in zip(medium, zip(low.tolist(), high.tolist(), strict=True), strict=True):
        result[number] = halves
    for number, word in zip(long, keys.long(np.array(long, np.int64)), strict=True):
        result[number] = word
    return result


def cut(flat: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    assert flat.dtype == np.uint8
    ends = lengths.cumsum().tolist()
    return [
        flat[end - length : end].tobytes()
        for end, length in zip(ends, lengths.tolist(), strict=True)
    ]


@settings(deadline=None, derandomize=True, max_examples=160)
@given(words=WORDS)
def test_words_are_equal_if_and_only_if_their_keys_are(words: list[bytes]) -> None:
    keys = key_of_each(words)
    for (one, key), (other, other_key) in product(zip(words, keys, strict=True), repeat=2):
        assert (one == other) == (key == other_key)


@pytest.mark.parametrize("byte", [b"\0", b"\1", b"\xff"])
def test_runs_of_one_byte_of_every_length_have_keys_of_their_own(byte: bytes) -> None:
    words = [byte * length for length in range(1, 301)]
    assert len(set(key_of_each(words))) == 300


def test_every_word_of_one_or_two_bytes_has_a_key_of_its_own() -> None:
    words = [bytes(word) for n in (1, 2) for word in product(range(256), repeat=n)]
    short = WordKeys(window_of(words)).short
    assert len(np.unique(short)) == len(words)
    assert (short > 0).all()
    assert (short < ABOVE_SHORT).all()


@settings(deadline=None, derandomize=True, max_examples=80)
@given(words=WORDS)
def test_a_key_does_not_depend_on_what_stands_around(words: list[bytes]) -> None:
    assert key_of_each(words) == [key_of_each([word])[0] for word in words]


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_the_key_tells_which_words_are_short(byte: bytes) -> None:
    keys = WordKeys(window_of([byte * length for length in range(1, 301)])).short
    assert (keys > 0).all()
    assert np.array_equal(keys < ABOVE_SHORT, np.arange(1, 301) <= SHORT_BYTES)


def test_special_tokens_are_no_words() -> None:
    window = window_of([b"ab", b"<s>", b"c", b"<|endoftext|>"], special_words=[1, 3])
    keys = WordKeys(window)
    assert keys.lengths.tolist() == [2, 0, 1, 0]
    assert keys.short[[1, 3]].tolist() == [0, 0]
    assert keys.short[[0, 2]].tolist() == WordKeys(window_of([b"ab", b"c"])).short.tolist()
    assert window.lengths.tolist() == [2, 3, 1, 13]


@settings(deadline=None, derandomize=True, max_examples=120)
@given(words=WORDS)
def test_spelling_is_the_inverse(words: list[bytes]) -> None:
    short = [word for word in words if len(word) <= SHORT_BYTES]
    medium = [word for word in words if is_medium(word)]
    assert cut(*spell_short(WordKeys(window_of(short)).short)) == short
    assert cut(*spell_medium(*medium_of(medium))) == medium
    assert cut(*spell_long(words)) == words


def test_nothing_is_spelt_as_nothing() -> None:
    none = np.empty(0, np.uint64)
    for spelt in (spell_short(none), spell_medium(none, none), spell_long([])):
        assert [len(column) for column in spelt] == [0, 0]
    assert len(WordKeys(window_of([])).short) == 0


def constant(low: KeyArray, high: KeyArray) -> KeyArray:
    return np.zeros_like(low)


def only_low(low: KeyArray, high: KeyArray) -> KeyArray:
    return low & np.uint64(0xFF)


@pytest.mark.parametrize("hash_function", [mix, constant, only_low])
@pytest.mark.parametrize("seed", range(10))
def test_sorting_groups_equal_words_even_if_hashes_collide(
    monkeypatch: pytest.MonkeyPatch, hash_function: object, seed: int
) -> None:
    monkeypatch.setattr(_word_keys, "mix", hash_function)
    rng = random.Random(seed)
    words = [
        bytes(rng.choices([0, 97, 255], k=rng.randrange(8, 16))) for _ in range(rng.randrange(40))
    ]
    words += rng.choices(words or [b"12345678"], k=60)
    order, firsts = sort_medium(*medium_of(words))
    assert sorted(order.tolist()) == list(range(len(words)))
    groups = [[words[i] for i in group] for group in np.split(order, firsts[1:])]
    assert all(len(set(group)) == 1 for group in groups)
    assert len({group[0] for group in groups}) == len(groups) == len(set(words))


def test_sorting_no_words_gives_no_groups() -> None:
    none = np.empty(0, np.uint64)
    order, firsts = sort_medium(none, none)
    assert len(order) == len(firsts) == 0


def test_the_hash_depends_on_both_halves() -> None:
    words = [bytes(8), bytes(9), bytes(7) + b"\1", bytes(8) + b"\1", b"\1" + bytes(7)]
    assert len(np.unique(mix(*medium_of(words)))) == len(words)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], []), ([5], [True]), ([5, 5, 0, 0, 5], [True, False, True, False, True])],
    ids=str,
)
def test_a_value_differs_from_the_one_before(values: list[int], expected: list[bool]) -> None:
    assert differs(np.array(values, np.int64)).tolist() == expected
