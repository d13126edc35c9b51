"""Beginnings of words as arrays, against `regex` on texts made to trip them up."""

import random
from collections.abc import Iterable, Iterator
from itertools import chain, islice, pairwise, product

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2
from scratch.bpe._classes import Barriers
from scratch.bpe._scan import SCANNERS
from scratch.bpe._words import join_texts

EACH = pytest.mark.parametrize("pattern", [GPT2, CL100K], ids=["gpt2", "cl100k"])

# Each kind in each length of UTF-8, the letters of contractions, the ends of lines.
NASTY = (
    " \t\r\n\x1c\x85\xa0\u3000\u200b'sStTdDmMlLvVeErR\u017f\u212aaA1\u00b2\u2463\U0001d7d8"
    "!./_\0\u0301\u00e9\u4e2d\U00020000\U0001f600"
)
NOT_SURROGATES = st.characters(exclude_categories=["Cs"])


def words_of(pattern: str, text: str) -> list[bytes]:
    return [word.encode() for word in regex.findall(pattern, text)]


def scanned(pattern: str, buffer: bytes, barriers: Barriers | None = None) -> list[bytes]:
    scan = SCANNERS[pattern]
    starts = (scan(buffer) if barriers is None else scan(buffer, barriers)).tolist()
    return [buffer[start:end] for start, end in pairwise([*starts, len(buffer)])]


def check_apart(pattern: str, texts: Iterable[str], *, at_once: int = 100_000) -> None:
    """Many texts in one buffer: what parts them must make each of them a text by itself."""
    remaining = iter(texts)
    while some := list(islice(remaining, at_once)):
        buffer, separators = join_texts([text.encode() for text in some])
        expected = [[*words_of(pattern, text), b"\xff"] for text in some]
        if scanned(pattern, buffer, separators) != list(chain.from_iterable(expected)):
            wrong = [text for text in some if scanned_alone_wrong(pattern, text)]
            raise AssertionError(f"wrong by themselves: {wrong[:5]!r}, else only beside others")


def scanned_alone_wrong(pattern: str, text: str) -> bool:
    return scanned(pattern, text.encode()) != words_of(pattern, text)


def every_text(alphabet: str, lengths: Iterable[int]) -> Iterator[str]:
    return ("".join(text) for n in lengths for text in product(alphabet, repeat=n))


@EACH
def test_every_text_of_up_to_two_nasty_characters_is_cut_as_by_regex(pattern: str) -> None:
    wrong = [text for text in every_text(NASTY, range(1, 3)) if scanned_alone_wrong(pattern, text)]
    assert wrong == []


@EACH
def test_every_text_of_three_nasty_characters_is_cut_as_by_regex(pattern: str) -> None:
    check_apart(pattern, every_text(NASTY, [3]))


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("alphabet", [" \n'sLa1!\u3000", " \r\n\xa0a1!", "'slve aR"], ids=repr)
def test_every_text_of_up_to_five_characters_is_cut_as_by_regex(
    pattern: str, alphabet: str
) -> None:
    check_apart(pattern, every_text(alphabet, range(1, 6)))


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("alphabet", [" \r\n\t\xa0\u3000a1!", "'sSle\u017fa !", " \n1!"], ids=repr)
def test_every_text_of_six_characters_is_cut_as_by_regex(pattern: str, alphabet: str) -> None:
    check_apart(pattern, every_text(alphabet, [6]))


@EACH
def test_long_random_texts_are_cut_as_by_regex(pattern: str) -> None:
    rng = random.Random(0)
    for _ in range(300):
        alphabet = rng.choices(NASTY, k=rng.choice([2, 3, 5, 20]))
        text = "".join(rng.choices(alphabet, k=rng.choice([10, 100, 1000])))
        assert scanned(pattern, text.encode()) == words_of(pattern, text), repr(text)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(text=st.text(NOT_SURROGATES) | st.text(NASTY, max_size=40))
@EACH
def test_any_text_is_cut_as_by_regex(pattern: str, text: str) -> None:
    assert scanned(pattern, text.encode()) == words_of(pattern, text)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    parts=st.lists(st.tuples(st.text(NASTY, max_size=8), st.text(NASTY, min_size=1, max_size=4)))
)
@EACH
def test_a_barrier_is_one_word_and_parts_what_stands_around(
    pattern: str, parts: list[tuple[str, str]]
) -> None:
    encoded = [part.encode() for pair in parts for part in pair]
    lengths = np.array([len(part) for part in encoded], np.int64)
    barriers = Barriers((lengths.cumsum() - lengths)[1::2], lengths[1::2])
    expected = [[*words_of(pattern, text), barrier.encode()] for text, barrier in parts]
    assert scanned(pattern, b"".join(encoded), barriers) == list(chain.from_iterable(expected))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(before=st.text(NASTY, max_size=6), inside=st.text(NASTY, min_size=1, max_size=4))
@EACH
def test_text_may_end_behind_a_barrier(pattern: str, before: str, inside: str) -> None:
    start, length = len(before.encode()), len(inside.encode())
    barriers = Barriers(np.array([start]), np.array([length]))
    for after in ("", "a", " ", "\n a", "'s", "\u3000"):
        expected = [*words_of(pattern, before), inside.encode(), *words_of(pattern, after)]
        assert scanned(pattern, (before + inside + after).encode(), barriers) == expected


@EACH
def test_no_text_has_no_words(pattern: str) -> None:
    assert SCANNERS[pattern](b"").tolist() == []


def test_of_other_scripts_only_the_long_s_is_in_contractions() -> None:
    fullmatch = regex.compile("(?i:[sdmtlvre])").fullmatch
    folding = [c for c in map(chr, range(0x110000)) if fullmatch(c)]
    assert folding == [*"DELMRSTVdelmrstv", "\u017f"]


@EACH
def test_every_character_of_plane_0_is_cut_as_by_regex_after_an_apostrophe(pattern: str) -> None:
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    check_apart(pattern, (f"a'{character}ea" for character in characters))


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("frame", ["a'{}e", " {}a", "a {}", "1{}'s", "!{}\na", "'l{}l", " {}  {}"])
def test_every_character_is_cut_as_by_regex(pattern: str, frame: str) -> None:
    characters = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    check_apart(pattern, (frame.replace("{}", character) for character in characters))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  b", ["a", " ", " b"]),
        ("a \u3000b", ["a", " ", "\u3000", "b"]),
        ("they'll'S", ["they", "'ll", "'", "S"]),
        ("'s 's ''s", ["'s", " '", "s", " ''", "s"]),
        ("12345 6", ["12345", " 6"]),
        ("!\n\na\n", ["!", "\n", "\n", "a", "\n"]),
    ],
    ids=repr,
)
def test_words_of_gpt2(text: str, words: list[str]) -> None:
    assert scanned(GPT2, text.encode()) == [word.encode() for word in words]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\t b", ["a", "\t", " b"]),
        ("a\u3000b!c!!d", ["a", "\u3000b", "!c", "!!", "d"]),
        ("they'LL'\u017fx", ["they", "'LL", "'\u017f", "x"]),
        ("1234567 8", ["123", "456", "7", " ", "8"]),
        ("!\n\n \n  a\n", ["!\n\n", " \n", " ", " a", "\n"]),
    ],
    ids=repr,
)
def test_words_of_cl100k(text: str, words: list[str]) -> None:
    assert scanned(CL100K, text.encode()) == [word.encode() for word in words]
