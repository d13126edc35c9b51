"""The kind of each character, of each byte of text, and of what bars the way."""

import numpy as np
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe._classes import (
    AFTER_BYTES,
    BARRIER,
    LETTER,
    LINE_END,
    NO_BARRIERS,
    NUMBER,
    OTHER,
    OTHER_SPACE,
    SPACE,
    Barriers,
    classify,
    kinds_of_code_points,
)

CODE_POINTS = range(0x110000)
# One, two, three and four bytes of each kind that has them, and the edges of each length.
MIXED = (
    "a1!\0 \t\r\n\x1c\x7f\x80\x85\xa0\xb2\xe9\u0301\u07ff\u0800\u1680\u3000\u4e2d\u2463\uffff"
    "\U00010000\U0001d7d8\U00020000\U0001f600\U0010ffff"
)
ANY_TEXT = st.text(MIXED, max_size=20) | st.text(st.characters(exclude_categories=["Cs"]))


def test_kinds_are_those_of_regex_for_all_code_points() -> None:
    kinds = kinds_of_code_points()
    assert len(kinds) == len(CODE_POINTS)
    for expression, of_this_kind in (
        (r"\p{L}", kinds == LETTER),
        (r"\p{N}", kinds == NUMBER),
        (r"\s", kinds <= LINE_END),
        (r"[^\s\p{L}\p{N}]", kinds == OTHER),
    ):
        fullmatch = regex.compile(expression).fullmatch
        expected = [fullmatch(chr(code_point)) is not None for code_point in CODE_POINTS]
        assert of_this_kind.tolist() == expected, expression


def test_only_the_space_and_two_line_ends_are_kinds_of_their_own() -> None:
    kinds = kinds_of_code_points()
    assert np.flatnonzero(kinds == SPACE).tolist() == [ord(" ")]
    assert np.flatnonzero(kinds == LINE_END).tolist() == [ord("\n"), ord("\r")]
    assert not (kinds == BARRIER).any()
    assert kinds[ord("\t")] == OTHER_SPACE


@settings(deadline=None, derandomize=True, max_examples=300)
@given(text=ANY_TEXT)
def test_each_byte_has_the_kind_of_its_character(text: str) -> None:
    kinds = classify(text.encode())
    expected = [kinds_of_code_points()[ord(c)] for c in text for _ in c.encode()]
    assert kinds.padded.tolist() == [BARRIER, *expected, *[BARRIER] * AFTER_BYTES]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(text=ANY_TEXT)
def test_wide_spaces_are_those_of_several_bytes(text: str) -> None:
    found = [
        (start, length)
        for starts, length in classify(text.encode()).wide_spaces
        for start in starts.tolist()
    ]
    expected = [
        (len(text[:index].encode()), len(character.encode()))
        for index, character in enumerate(text)
        if character.isspace() and not character.isascii()
    ]
    assert sorted(found) == expected


def test_every_character_alone_has_its_kind() -> None:
    characters = [c for c in map(chr, CODE_POINTS) if not "\ud800" <= c <= "\udfff"]
    encoded = [character.encode() for character in characters]
    kinds = classify(b"".join(encoded)).padded[1:-AFTER_BYTES]
    expected = kinds_of_code_points()[list(map(ord, characters))]
    assert np.array_equal(kinds, expected.repeat(list(map(len, encoded))))


def test_no_text_has_no_kinds() -> None:
    assert classify(b"").padded.tolist() == [BARRIER] * (1 + AFTER_BYTES)


def test_the_bytes_of_barriers_are_barrier_whatever_they_are() -> None:
    buffer = "a\u3000bc ".encode() + b"\xff"  # no UTF-8 where the last barrier is
    barriers = Barriers(np.array([1, 4, 7]), np.array([3, 1, 1]))
    assert barriers.indices().tolist() == [1, 2, 3, 4, 7]
    padded = classify(buffer, barriers).padded[1:-AFTER_BYTES].tolist()
    assert padded == [LETTER, *[BARRIER] * 4, LETTER, SPACE, BARRIER]


def test_no_barriers_have_no_indices() -> None:
    assert NO_BARRIERS.indices().tolist() == []


def test_the_kinds_of_one_text_are_no_view_of_shared_ones() -> None:
    classify(b"a b").padded[:] = OTHER
    assert classify(b"a b").padded[1:-AFTER_BYTES].tolist() == [LETTER, SPACE, LETTER]
