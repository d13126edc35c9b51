"""Cutting at special tokens, then finding words."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe._patterns import compile_pattern
from scratch.bpe._pretokenize import (
    check_special_tokens,
    compile_special_tokens,
    cover_with_words,
    encode_utf8,
    find_words,
    split_special_tokens,
)

SPECIAL_TOKENS = st.lists(st.text("ab <|.*", min_size=1, max_size=4), unique=True, max_size=5)
PATTERNS = [
    r"\w+",
    r"(\w)(?:(\w)|\s)?",
    r"x*",
    r"(?=a)|b",
    r"\b",
    r"^.|.$",
    r"(?<=a)b",
    r"(?<=a)b+?",
    r"(?s).+",
    r"(?!)",
]


def split(text: str, *special_tokens: str) -> list[tuple[str, str | None]]:
    return list(split_special_tokens(text, compile_special_tokens(special_tokens)))


def leftmost_longest(text: str, special_tokens: list[str]) -> Iterator[tuple[str, str | None]]:
    """Split character by character, without regular expressions."""
    ordinary, position = "", 0
    while position < len(text):
        here = [token for token in special_tokens if text.startswith(token, position)]
        if here:
            longest = max(here, key=len)
            yield ordinary, longest
            ordinary, position = "", position + len(longest)
        else:
            ordinary += text[position]
            position += 1
    yield ordinary, None


@settings(deadline=None, derandomize=True, max_examples=150)
@given(text=st.text("ab <|.*", max_size=30), special_tokens=SPECIAL_TOKENS)
def test_special_tokens_split_leftmost_longest(text: str, special_tokens: list[str]) -> None:
    assert split(text, *special_tokens) == list(leftmost_longest(text, special_tokens))


def test_without_special_tokens_text_stays_whole() -> None:
    assert compile_special_tokens(()) is None
    assert split("a <s> b") == [("a <s> b", None)]


def test_the_longest_special_token_wins_in_any_order_of_naming() -> None:
    expected = [("x", "<s><s>"), ("", "<s>"), ("y", None)]
    assert split("x<s><s><s>y", "<s>", "<s><s>") == expected
    assert split("x<s><s><s>y", "<s><s>", "<s>") == expected


def test_the_leftmost_special_token_wins_over_a_longer_one() -> None:
    assert split("xabcde", "ab", "bcde") == [("x", "ab"), ("cde", None)]


@pytest.mark.parametrize("token", [".*", "[a]", "\\d", "(", "a|b", "^", "#\n", "\0001", " "])
def test_a_special_token_is_no_expression(token: str) -> None:
    assert split(f"aa{token}aa", token) == [("aa", token), ("aa", None)]
    assert split("XYZ", token) == [("XYZ", None)]


@settings(deadline=None, derandomize=True, max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("abx \n", max_size=20))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_words_and_what_is_left_out_cover_the_text(pattern: str, text: str) -> None:
    covered = list(cover_with_words(text, compile_pattern(pattern)))
    assert "".join(left_out + word for left_out, word in covered) == text
    assert [word for _, word in covered if word] == list(find_words(text, compile_pattern(pattern)))


def test_words_are_whole_matches_and_never_empty() -> None:
    assert list(find_words("axxb xa", compile_pattern("x*(a)?"))) == ["a", "xx", "xa"]


def test_text_between_words_is_kept_apart() -> None:
    covered = list(cover_with_words("--ab-c--", compile_pattern(r"\w+")))
    assert covered == [("--", "ab"), ("-", "c"), ("--", "")]


def test_special_tokens_come_back_as_a_tuple() -> None:
    assert check_special_tokens(["<b>", "<a>"]) == ("<b>", "<a>")
    assert check_special_tokens(()) == ()


def test_a_generator_of_special_tokens_is_read_once_and_kept() -> None:
    assert check_special_tokens(token for token in ["<a>", "<b>"]) == ("<a>", "<b>")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["<a>", ""], ids=repr)
def test_one_string_is_no_sequence_of_special_tokens(text: str) -> None:
    with pytest.raises(
        TypeError, match=rf"special_tokens must be a sequence .* write \['{text}'\]"
    ):
        check_special_tokens(text)


@pytest.mark.parametrize("token", [b"<a>", None, 5], ids=repr)
def test_a_special_token_that_is_no_string_is_refused(token: object) -> None:
    with pytest.raises(TypeError, match=f"special_tokens must be strings, got {token!r}"):
        check_special_tokens(["<b>", token])  # type: ignore[list-item]


def test_an_empty_special_token_is_refused() -> None:
    with pytest.raises(ValueError, match="special_tokens must not be empty strings, got ''"):
        check_special_tokens(["<a>", ""])


def test_a_repeated_special_token_is_refused() -> None:
    with pytest.raises(ValueError, match="special_tokens must be distinct, got '<a>' twice"):
        check_special_tokens(["<a>", "<b>", "<a>"])


def test_a_special_token_with_an_unpaired_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"special_tokens must not .* got '\\ud800' at index 2"):
        check_special_tokens(["<a\ud800>"])


@pytest.mark.parametrize(("text", "index"), [("\udfff", 0), ("ab\ud800", 2), ("\ud83d\ude00", 0)])
def test_an_unpaired_surrogate_is_named_with_its_index(text: str, index: int) -> None:
    rule = r"text must not contain unpaired surrogates, got '\\ud[0-9a-f]{3}' at index"
    with pytest.raises(ValueError, match=rf"{rule} {index}$"):
        encode_utf8(text)
    with pytest.raises(ValueError, match=rf"{rule} {index + 100}$"):
        encode_utf8(text, offset=100)


def test_every_other_character_is_fine() -> None:
    encode_utf8("\0a\u00e9\u20ac\ufffd\uffff\U0001f600\U0010ffff")
