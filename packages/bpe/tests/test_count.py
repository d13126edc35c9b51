"""Counting words, the plain form."""

from collections import Counter

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2
from scratch.bpe._count import count_words

BLOCKS = st.lists(st.text("ab \n<s>'1\u00e9\u4e2d", max_size=40), max_size=8)


def count_slowly(blocks: list[str], pattern: str, special_tokens: list[str]) -> Counter[bytes]:
    """The definition; these special tokens do not overlap."""
    ordinary = list(blocks)
    for token in special_tokens:
        ordinary = [part for text in ordinary for part in text.split(token)]
    return Counter(
        match.group().encode()
        for text in ordinary
        for match in regex.finditer(pattern, text)
        if match.group()
    )


@settings(deadline=None, derandomize=True, max_examples=60)
@given(blocks=BLOCKS)
@pytest.mark.parametrize("pattern", [GPT2, CL100K, r"(a)|b+", "a*"])
@pytest.mark.parametrize("special_tokens", [(), ("<s>",)], ids=["plain", "special"])
def test_counts_are_those_of_every_word(
    blocks: list[str], pattern: str, special_tokens: tuple[str, ...]
) -> None:
    counted = count_words(blocks, pattern=pattern, special_tokens=special_tokens)
    assert counted == count_slowly(blocks, pattern, list(special_tokens))


def test_special_tokens_part_words_and_count_for_nothing() -> None:
    counted = count_words(["low<s>low <s>"], pattern=GPT2, special_tokens=("<s>",))
    assert counted == {b"low": 2, b" ": 1}


def test_nothing_to_count_is_no_error() -> None:
    assert count_words([], pattern=GPT2) == Counter()
    assert count_words(["", ""], pattern=GPT2) == Counter()
