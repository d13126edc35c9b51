"""Stop strings: the same cut wherever the pieces end, and nothing of it is passed on."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scratch.trainer.using.stop_strings import StopStrings

TEXTS = st.text("abc", max_size=12)
STRINGS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


def cut_by_loop(text: str, strings: list[str]) -> tuple[str, bool]:
    """Oracle: look after each character whether the text now ends with a stop string."""
    for end in range(1, len(text) + 1):
        complete = [string for string in strings if text[:end].endswith(string)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(st.lists(TEXTS, max_size=6), STRINGS)
@example(["ab", "cab"], ["bca"])
@example(["abcab"], ["bcc", "ca"])
@settings(max_examples=200, deadline=None)
def test_pieces_are_cut_where_a_loop_over_characters_cuts(
    pieces: list[str], strings: list[str]
) -> None:
    stop = StopStrings(strings)
    passed = [stop.feed(piece) for piece in pieces]
    found = stop.found
    passed.append(stop.finish())
    assert ("".join(passed), found) == cut_by_loop("".join(pieces), strings)


@given(st.lists(TEXTS, max_size=6), STRINGS)
@settings(max_examples=100, deadline=None)
def test_what_is_passed_on_is_certain_and_nothing_more_is_held_back(
    pieces: list[str], strings: list[str]
) -> None:
    stop = StopStrings(strings)
    text, passed = "", ""
    for piece in pieces:
        text += piece
        passed += stop.feed(piece)
        if stop.found:
            return
        # Whatever follows, the cut is not before this.
        futures = [cut_by_loop(text + string, strings)[0] for string in ["", *_ends(strings)]]
        assert all(future.startswith(passed) for future in futures)
        held = text.removeprefix(passed)
        assert not held or any(string.startswith(held) for string in strings)


def _ends(strings: list[str]) -> list[str]:
    return [string[start:] for string in strings for start in range(len(string))]


def test_without_stop_strings_all_is_passed_on_at_once() -> None:
    stop = StopStrings([])
    assert [stop.feed("a"), stop.feed(""), stop.feed("bc"), stop.finish()] == ["a", "", "bc", ""]


def test_of_several_that_are_complete_at_once_the_longest_counts() -> None:
    stop = StopStrings(["c", "bc"])
    assert [stop.feed("ab"), stop.feed("c"), stop.finish()] == ["a", "", ""]


def test_nothing_follows_a_stop_string() -> None:
    stop = StopStrings(["."])
    assert [stop.feed("a. b"), stop.feed("c"), stop.finish()] == ["a", "", ""]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop must hold texts of at least one character"):
        StopStrings(["a", ""])
