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


@settings(deadline=None, derandomize=True, max_examples=60)
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


@pytest.mark.parametrize("word", [b"ab", b"a\x1c", b" ab"], ids=repr)
def test_whole_words_need_not_be_among_the_known_ones(word: bytes) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b" ab", b"a\x1c"]
    both = Both(Vocabulary(dict(enumerate(tokens)), ((b"a", b"b"),), (), r"[ab\x1c ]+", (word,)))
    for known in ({}, {"ab": tuple(both.plain.encode("ab"))}):
        both.short = ShortTexts(r"[ab\x1c ]+", both.plain, known)
        for text in ("ab", " ab", "a\x1c", "abab", "ab!ab", "-a\x1c-"):
            both.check(text)
    assert both.short.encode(word.decode()) == [tokens.index(word)]


def test_a_whole_word_is_found_as_a_word_and_not_as_a_part_of_one(vocabulary: Vocabulary) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b" ab", b"\n\n", b"aaaa"]
    both = Both(Vocabulary(dict(enumerate(tokens)), (), (), GPT2, tuple(tokens[256:])))
    for text in ("ab ab abc", "xab", "\n\nab", "ab\n\n ab\n\n", "aaaa aaaaa", " ab's"):
        both.check(text)
    assert both.short.encode("ab ab!") == [256, 257, ord("!")]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most_chars", [0, 3, 64])
def test_merges_in_any_order_are_applied_as_in_the_plain_form(
    monkeypatch: pytest.MonkeyPatch, seed: int, most_chars: int
) -> None:
    monkeypatch.setattr(_short_texts, "_MOST_CHARS", most_chars)
    rng = random.Random(seed)
    for _ in range(10):
        parts = [b"a", b"b", b"c"]
        merges: list[tuple[bytes, bytes]] = []
        for _ in range(rng.choice([1, 4, 30])):
            merges.append((rng.choice(parts), rng.choice(parts)))
            parts.append(b"".join(merges[-1]))
        if seed % 2:
            rng.shuffle(merges)
        tokens = [bytes([byte]) for byte in range(256)] + sorted({*parts} - {b"a", b"b", b"c"})
        both = Both(Vocabulary(dict(enumerate(tokens)), tuple(merges)))
        for _ in range(20):
            words = ("".join(rng.choices("abc", k=rng.randrange(1, 20))) for _ in range(4))
            both.check(" ".join(words))


@NAMED
@pytest.mark.parametrize("most_added", [0, 1, 5])
@pytest.mark.parametrize("most_chars", [0, 3, 1000])
def test_what_is_kept_is_bounded_and_the_seeds_are_never_lost(
    monkeypatch: pytest.MonkeyPatch,
    make_both: MakeBoth,
    pattern: str,
    most_added: int,
    most_chars: int,
) -> None:
    monkeypatch.setattr(_short_texts, "_MOST_ADDED", most_added)
    monkeypatch.setattr(_short_texts, "_MOST_CHARS", most_chars)
    rng = random.Random(0)
    both = make_both(pattern)
    seeds = dict(both.short._known)
    sizes: set[int] = set()
    for _ in range(200):
        both.check("".join(rng.choices("abcdef \n\x1c", [9] * 6 + [15, 9, 1], k=rng.randrange(40))))
        added = {text for text in both.short._known if text not in seeds}
        assert seeds.items() <= both.short._known.items()
        assert all(len(text) <= most_chars for text in added)
        assert not any("\x1c" in text for text in added)
        sizes.add(len(added))
    assert max(sizes) <= most_added
    assert (max(sizes) > 0) == (most_chars > 0 and most_added > 0)


def test_a_custom_pattern_keeps_its_words_in_bounds(
    monkeypatch: pytest.MonkeyPatch, make_both: MakeBoth
) -> None:
    monkeypatch.setattr(_short_texts, "_MOST_ADDED", 5)
    rng = random.Random(0)
    both = make_both(r"\w+")
    seeds = dict(both.short._known)
    for _ in range(200):
        both.check("".join(rng.choices("abc !\x1c", k=rng.randrange(30))))
        assert seeds.items() <= both.short._known.items()
        assert len(both.short._known) <= len(seeds) + 5


def test_a_text_of_units_seen_before_is_not_cut_into_words(make_both: MakeBoth) -> None:
    both = make_both(GPT2)
    first = both.short.encode("some words, and more")
    both.short._pattern = None  # type: ignore[assignment]
    assert both.short.encode("some words, and more") == first
    assert both.short.encode("some and more") == both.plain.encode("some and more")


@NAMED
def test_any_units_of_a_text_may_have_been_seen_before(make_both: MakeBoth, pattern: str) -> None:
    # Then those that have not are no longer next to one another.
    rng = random.Random(0)
    for _ in range(60):
        both = make_both(pattern)
        texts = ["".join(rng.choices("ab  \n\r'!/\xa0", k=rng.randrange(2, 30))) for _ in range(6)]
        for text in texts:
            both.check(text)
        both.check("".join(texts))
        both.check(" ".join(reversed(texts)))


class NotYet(dict[str, tuple[int, ...]]):
    """What is in it has only just been put there, by another thread."""

    def __getitem__(self, key: str) -> tuple[int, ...]:
        raise KeyError(key)


@NAMED
def test_another_thread_may_have_kept_the_units_meanwhile(
    make_both: MakeBoth, pattern: str
) -> None:
    both = make_both(pattern)
    text = "a b, and\n  more "
    both.check(text)
    both.short._known = NotYet(both.short._known)
    assert both.short.encode(text) == both.plain.encode(text)


@NAMED
@pytest.mark.parametrize("alphabet", [" \n'a!", "\r\t sA1", "\xa0\u3000/l'"])
def test_a_word_that_stands_alone_is_a_text_of_that_one_word(pattern: str, alphabet: str) -> None:
    # Which is why words and units may share a table.
    compiled = compile_pattern(pattern)
    for length in range(1, 6):
        for characters in product(alphabet, repeat=length):
            for word in compiled.findall("".join(characters)):
                assert compiled.findall(word) == [word]


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
    monkeypatch.setattr(_short_texts, "_MOST_ADDED", 20)
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
