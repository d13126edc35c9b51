"""Which stretches of text the named patterns call words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2, O200K, PATTERNS
from scratch.bpe._patterns import compile_pattern, resolve_pattern

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text(" \t\r\n\u00a0'sSa1!/\u0301")


def words(pattern: str, text: str) -> list[str]:
    return [match.group() for match in compile_pattern(pattern).finditer(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a word and more", ["a", " word", " and", " more"]),
        ("we'll they'd IT'S", ["we", "'ll", " they", "'d", " IT", "'", "S"]),
        ("in 1984, 12 of x2", ["in", " 1984", ",", " 12", " of", " x", "2"]),
        ("two  spaces", ["two", " ", " spaces"]),
        ("tab\tend\r\n\r\n", ["tab", "\t", "end", "\r\n\r\n"]),
        ("(x) != [y]", ["(", "x", ")", " !=", " [", "y", "]"]),
        ("nbsp\u00a0x \u00bd e\u0301", ["nbsp", "\u00a0", "x", " \u00bd", " e", "\u0301"]),
    ],
    ids=repr,
)
def test_gpt2_keeps_a_word_with_one_space_before_it(text: str, expected: list[str]) -> None:
    assert words(GPT2, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("we'll IT'S", ["we", "'ll", " IT", "'S"]),
        ("1234567 8", ["123", "456", "7", " ", "8"]),
        ("(word\tword", ["(word", "\tword"]),
        ("end.\r\n\r\nNext", ["end", ".\r\n\r\n", "Next"]),
        ("a  \n\n  b", ["a", "  \n\n", " ", " b"]),
        ("x'\u017f", ["x", "'\u017f"]),  # the long s folds to s
    ],
    ids=repr,
)
def test_cl100k_takes_digits_by_threes_and_line_ends_together(
    text: str, expected: list[str]
) -> None:
    assert words(CL100K, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("camelCaseName", ["camel", "Case", "Name"]),
        ("SHOUTed it's WE'LL", ["SHOUTed", " it's", " WE'LL"]),
        ("e\u0301te\u0301 x", ["e\u0301te\u0301", " x"]),
        ("a/\n/b ./\n./", ["a", "/\n/", "b", " ./\n", "./"]),
        ("12345", ["123", "45"]),
    ],
    ids=repr,
)
def test_o200k_ends_a_word_where_its_capitals_begin_again(text: str, expected: list[str]) -> None:
    assert words(O200K, text) == expected


@settings(deadline=None, derandomize=True, max_examples=200)
@given(text=ANY_TEXT)
@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K], ids=list(PATTERNS))
def test_the_named_patterns_leave_nothing_out(pattern: str, text: str) -> None:
    assert "".join(words(pattern, text)) == text


def test_a_name_stands_for_its_pattern() -> None:
    assert PATTERNS == {"gpt2": GPT2, "cl100k": CL100K, "o200k": O200K}
    assert [resolve_pattern(name) for name in PATTERNS] == [GPT2, CL100K, O200K]


def test_a_pattern_stands_for_itself() -> None:
    assert resolve_pattern(GPT2) == GPT2
    assert resolve_pattern(r"\w+|\W") == r"\w+|\W"


def test_a_name_is_spelt_exactly() -> None:
    assert resolve_pattern("GPT2") == "GPT2", "an expression that matches these four letters"


def test_what_is_neither_a_name_nor_an_expression_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pattern must be one of gpt2, cl100k, o200k or a reg"):
        resolve_pattern("(")
    with pytest.raises(ValueError, match=r"got '\[a-': .*"):
        resolve_pattern("[a-")


@pytest.mark.parametrize("pattern", [r"(?r)\w+", r"(?=ab\K)", r"a\\\Kb"])
def test_an_expression_that_goes_backwards_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern must search forwards"):
        resolve_pattern(pattern)


def test_a_backslash_before_a_capital_k_is_no_reset() -> None:
    assert resolve_pattern(r"a\\K") == r"a\\K"


@pytest.mark.parametrize("pattern", [b"x+", 5, None], ids=repr)
def test_a_pattern_that_is_no_string_is_refused(pattern: object) -> None:
    with pytest.raises(TypeError, match=r"pattern must be a string"):
        resolve_pattern(pattern)  # type: ignore[arg-type]
