"""Short texts by looking up what was seen before, against the plain form."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import (
    CL100K,
    GPT2,
    O200K,
    PATTERNS,
    Vocabulary,
    _short_texts,
    train_bpe_from_iterator,
)
from scratch.bpe._encode import PlainEncoder
from scratch.bpe._patterns import compile_pattern
from scratch.bpe._pretokenize import cover_with_words
from scratch.bpe._short_texts import ShortTexts

NAMED = pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K], ids=list(PATTERNS))

# What either library takes for white space, what only one does, and what patterns treat apart.
NASTY = (
    " \t\r\n\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2003\u2028\u2029\u202f\u205f\u3000\u200b"
    "\ufeff'sStTlLvVaA1\xb2!/._\u0301\u017f\u4e2d\u01c5\U0001f600"
)


class Both:
    """Short texts and the plain form, with a vocabulary full of spaces, and with words to seed."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.plain = PlainEncoder(vocabulary)
        pattern = compile_pattern(vocabulary.pattern)
        texts = [token.decode(errors="ignore") for token in vocabulary.tokens.values()]
        known = {
            text: tuple(self.plain.encode(text))
            for text in texts
            if list(cover_with_words(text, pattern)) == [("", text)]
        }
        self.short = ShortTexts(vocabulary.pattern, self.plain, known)

    def check(self, text: str) -> None:
        expected = self.plain.encode(text)
        assert self.short.encode(text) == expected, text
        assert self.short.encode(text) == expected, f"{text!r}, the second time"


def learnt(pattern: str) -> Vocabulary:
    rng = random.Random(0)
    texts = ["".join(rng.choices(NASTY[:12] + "  \n\nsa'", k=60)) for _ in range(60)]
    return train_bpe_from_iterator(texts, vocab_size=600, pattern=pattern)


MakeBoth = Callable[[str], Both]


@pytest.fixture(scope="module")
def make_both() -> MakeBoth:
    """Makes it anew, from a vocabulary learnt once for each pattern."""
    vocabularies: dict[str, Vocabulary] = {}

    def make(pattern: str) -> Both:
        if pattern not in vocabularies:
            vocabularies[pattern] = learnt(pattern)
        return Both(vocabularies[pattern])

    return make


@NAMED
def test_every_text_of_up_to_two_nasty_characters_has_the_plain_ids(
    make_both: MakeBoth, pattern: str
) -> None:
    both = make_both(pattern)
    for length in range(3):
        for characters in product(NASTY, repeat=length):
            both.check("".join(characters))


@NAMED
@pytest.mark.parametrize("alphabet", [" \n\x1ca'", "\r\n !a", "\xa0\u3000 /\n", "\x85\x1e a1"])
def test_every_short_text_has_the_plain_ids(
    make_both: MakeBoth, pattern: str, alphabet: str
) -> None:
    both = make_both(pattern)
    for length in range(1, 6):
        for characters in product(alphabet, repeat=length):
            both.check("".join(characters))


@NAMED
@pytest.mark.parametrize("seed", range(8))
def test_random_texts_have_the_plain_ids(make_both: MakeBoth, pattern: str, seed: int) -> None:
    rng = random.Random(seed)
    both = make_both(pattern)
    for _ in range(100):
        alphabet = rng.choices(NASTY + " \n'a", k=rng.choice([2, 3, 6, 20]))
        both.check("".join(rng.choices(alphabet, k=rng.choice([3, 10, 100]))))


@pytest.mark.slow
@NAMED
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_many_random_texts_have_the_plain_ids(make_both: MakeBoth, pattern: str, seed: int) -> None:
    test_random_texts_have_the_plain_ids(make_both, pattern, seed)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
@NAMED
def test_any_texts_have_the_plain_ids(make_both: MakeBoth, pattern: str, texts: list[str]) -> None:
    both = make_both(pattern)
    for text in texts:
        both.check(text)


@pytest.mark.parametrize("pattern", [r"\w+|\s", r"[a-z]+", "x*", r"(?<=a).", r"(\w)(\s)?", "(?!)"])
def test_a_custom_pattern_has_the_plain_ids(make_both: MakeBoth, pattern: str) -> None:
    rng = random.Random(0)
    both = make_both(pattern)
    for _ in range(100):
        both.check("".join(rng.choices("ax \n\x1c\u4e2d!", k=rng.randrange(12))))


def test_texts_of_a_real_vocabulary_have_the_plain_ids(vocabulary: Vocabulary, corpus: str) -> None:
    both = Both(replace(vocabulary, special_tokens=()))
    rng = random.Random(0)
    for _ in range(300):
        start = rng.randrange(len(corpus) - 300)
        both.check(corpus[start : start + rng.randrange(300)])


@NAMED
def test_a_disputed_space_is_cut_as_by_regex(make_both: MakeBoth, pattern: str) -> None:
    for space in map(chr, range(0x1C, 0x20)):
        both = make_both(pattern)
        for text in ("a", f"{space}a", f"a{space}", f"a{space}a b", f" {space}", f"!{space}\n a"):
            both.check(text)
            both.check("a")


@NAMED
def test_a_disputed_token_among_the_known_words_does_no_harm(pattern: str) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"a\x1c", b"\x1ca", b"\x1c\x1c", b"!\x1c"]
    merges = tuple((token[:1], token[1:]) for token in tokens[256:])
    both = Both(Vocabulary(dict(enumerate(tokens)), merges, (), pattern))
    for characters in product("a\x1c! ", repeat=4):
        both.check("".join(characters))


def test_a_whole_word_is_found_as_a_word_and_not_as_a_part_of_one(vocabulary: Vocabulary) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b" ab", b"\n\n", b"aaaa"]
    both = Both(Vocabulary(dict(enumerate(tokens)), (), (), GPT2, tuple(tokens[256:])))
    for text in ("ab ab abc", "xab", "\n\nab", "ab\n\n ab\n\n", "aaaa aaaaa", " ab's"):
        both.check(text)
    assert both.short.encode("ab ab!") == [256, 257, ord("!")]


@NAMED
@pytest.mark.parametrize("most_kept", [0, 1, 5])
@pytest.mark.parametrize("most_chars", [0, 3, 1000])
def test_what_is_kept_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
    make_both: MakeBoth,
    pattern: str,
    most_kept: int,
    most_chars: int,
) -> None:
    rng = random.Random(0)
    both = make_both(pattern)
    most_kept += len(both.short._seed)
    monkeypatch.setattr(_short_texts, "_MOST_KEPT", most_kept)
    monkeypatch.setattr(_short_texts, "_MOST_CHARS", most_chars)
    for _ in range(200):
        both.check("".join(rng.choices("abcdef \n", [1] * 6 + [2, 1], k=rng.randrange(40))))
        for table in (both.short._words, both.short._units):
            assert len(table) <= max(most_kept, len(both.short._seed) + 1)
            assert all(key in both.short._seed or len(key) <= most_chars for key in table)
    if most_kept > len(both.short._seed) and most_chars:
        assert len(both.short._units) > len(both.short._seed)


@NAMED
def test_the_seed_is_never_changed(make_both: MakeBoth, pattern: str) -> None:
    both = make_both(pattern)
    before = dict(both.short._seed)
    assert len(before) > 50
    for text in ("new words here", "and  more\n\n of them", "\x1c"):
        both.check(text)
    assert both.short._seed == before


def test_a_text_of_units_seen_before_is_not_cut_into_words(
    monkeypatch: pytest.MonkeyPatch, make_both: MakeBoth
) -> None:
    both = make_both(GPT2)
    first = both.short.encode("some words, and more")

    def never(text: str) -> list[int]:
        raise AssertionError(text)

    monkeypatch.setattr(both.short, "_encode_words", never)
    assert both.short.encode("some words, and more") == first
    assert both.short.encode("some and more") == both.plain.encode("some and more")


@NAMED
def test_the_result_is_the_callers(make_both: MakeBoth, pattern: str) -> None:
    both = make_both(pattern)
    both.short.encode("a b").append(7)
    both.short.encode("a b").clear()
    both.check("a b")


@NAMED
def test_threads_get_the_plain_ids_while_tables_start_anew(
    monkeypatch: pytest.MonkeyPatch, make_both: MakeBoth, pattern: str
) -> None:
    both = make_both(pattern)
    monkeypatch.setattr(_short_texts, "_MOST_KEPT", len(both.short._seed) + 20)
    rng = random.Random(0)
    texts = ["".join(rng.choices("abc \n'!\x1c", k=30)) for _ in range(400)]
    expected = [both.plain.encode(text) for text in texts]
    barrier = threading.Barrier(4)

    def encode_all(_: int) -> list[list[int]]:
        barrier.wait(timeout=60)
        return [both.short.encode(text) for text in texts]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(encode_all, range(4)):
            assert found == expected
