"""Words window by window, whatever the chunks, against those of the whole text."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2, O200K, PATTERNS, _words
from scratch.bpe._patterns import compile_pattern
from scratch.bpe._pretokenize import compile_special_tokens, cover_with_words, split_special_tokens
from scratch.bpe._words import SEPARATOR, Window, WordScanner, join_texts

NAMED = pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K], ids=list(PATTERNS))

NASTY = " \t\r\n\xa0\u3000\x85\x1c\u200b'sStlLaA1\xb2!/_\u0301\U0001f600\u017f\u4e2d\u01c5"
CUSTOM = [
    r"\w+|\s",
    r"(\w)(\s)?",
    r"(?:(a)|(b))+",
    "x*",
    r"\b|(?=a)",
    r"^\w+|\S$",
    r"(?<=a).",
    r"a\b|.",
    "(?s).+",
    r"\s+(?!\S)",
    "(?!)",
]
SPECIAL_TOKENS = st.sampled_from(
    [
        (),
        ("<|end|>",),
        ("<|end|>", "<|end|><|end|>", "end"),
        ("a", "aa", "aaa"),
        ("s s", " s", "s"),
        (" ", "  ", "\n\n"),
        ("!\n", "\n!"),
        ("aba", "ab", " ab"),
        ("\u3000", "\U0001f600"),
        ("aaaa", "\u4e2d\u4e2d"),  # the longest in characters is not the longest in bytes
        ("\u4e2da", "b\u4e2d\u4e2d\u4e2d", "bb"),
    ]
) | st.lists(st.text("ab s\n\u4e2d", min_size=1, max_size=4), unique=True, max_size=4).map(tuple)
CHUNKS = st.lists(
    st.text(NASTY, max_size=6)
    | st.text("a b\n", max_size=8)
    | st.text("1'sl ", max_size=8)
    | st.sampled_from(
        ["aaaa", "\u4e2d\u4e2d", "s s", "<|e", "nd|>", "<|end|>", "'ll", "!\n", "  "]
    ),
    max_size=12,
)

Words = list[tuple[bytes, int | None]]
"""The bytes of each word, and which special token it is, if it is one."""


def plain_words(text: str, pattern: str, special_tokens: Sequence[str] = ()) -> Words:
    words: Words = []
    compiled, specials = compile_pattern(pattern), compile_special_tokens(tuple(special_tokens))
    for ordinary, special in split_special_tokens(text, specials):
        for left_out, word in cover_with_words(ordinary, compiled):
            words += [(bytes([byte]), None) for byte in left_out.encode()]
            words += [(word.encode(), None)] if word else []
        if special is not None:
            words.append((special.encode(), special_tokens.index(special)))
    return words


def words_of(windows: Iterable[Window]) -> Words:
    words: Words = []
    for window in windows:
        ends = window.starts + window.lengths
        assert ends.tolist() == [*window.starts[1:].tolist(), len(window.buffer)]
        assert window.starts[0] == 0
        assert (np.diff(window.special_words) > 0).all()
        numbers = dict(
            zip(window.special_words.tolist(), window.special_tokens.tolist(), strict=True)
        )
        spans = zip(window.starts.tolist(), ends.tolist(), strict=True)
        words += [(window.buffer[s:e], numbers.get(word)) for word, (s, e) in enumerate(spans)]
    return words


def check(
    chunks: Sequence[str], pattern: str, special_tokens: Sequence[str], window_bytes: int
) -> None:
    scanner = WordScanner(pattern, special_tokens)
    windows = scanner.windows(map(str.encode, chunks), window_bytes=window_bytes)
    assert words_of(windows) == plain_words("".join(chunks), pattern, special_tokens)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(chunks=CHUNKS, special_tokens=SPECIAL_TOKENS, window_bytes=st.integers(4, 40))
@NAMED
def test_words_of_windows_are_those_of_the_whole(
    pattern: str, chunks: list[str], special_tokens: tuple[str, ...], window_bytes: int
) -> None:
    check(chunks, pattern, special_tokens, window_bytes)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    pattern=st.sampled_from(CUSTOM),
    chunks=CHUNKS,
    special_tokens=SPECIAL_TOKENS,
    window_bytes=st.integers(4, 40),
)
def test_words_of_windows_are_those_of_the_whole_for_custom_patterns(
    pattern: str, chunks: list[str], special_tokens: tuple[str, ...], window_bytes: int
) -> None:
    check(chunks, pattern, special_tokens, window_bytes)


@NAMED
@pytest.mark.parametrize("seed", range(12))
def test_long_texts_in_small_windows_have_the_words_of_the_whole(pattern: str, seed: int) -> None:
    # The text goes on long enough for a window to end at every kind of beginning.
    rng = random.Random(seed)
    for _ in range(6):
        alphabet = rng.choices(NASTY, k=rng.choice([2, 3, 5, 20]))
        pieces = [*alphabet, *rng.choices(["a", " a", "!", "\n", "<|end|>", "<|end|>" * 2], k=3)]
        chunks = ["".join(rng.choices(pieces, k=rng.randrange(1, 40))) for _ in range(8)]
        check(chunks, pattern, ("<|end|>", "<|end|><|end|>"), rng.choice([4, 16, 30, 64, 100]))


@pytest.mark.parametrize("pattern", CUSTOM)
@pytest.mark.parametrize("special_tokens", [(), ("b a",), ("\u4e2d", "aaaaa")], ids=str)
def test_long_texts_have_the_words_of_the_whole_for_custom_patterns(
    pattern: str, special_tokens: tuple[str, ...]
) -> None:
    rng = random.Random(0)
    for window_bytes in (16, 64, 64, 200):
        pieces, weights = (
            ["a", "b", " ", "\n", *special_tokens],
            [9] * 4 + [1] * len(special_tokens),
        )
        chunks = ["".join(rng.choices(pieces, weights, k=30)) for _ in range(12)]
        check(chunks, pattern, special_tokens, window_bytes)


@NAMED
@pytest.mark.parametrize("seed", range(10))
def test_runs_of_white_space_longer_than_a_window_are_cut_as_in_the_whole(
    pattern: str, seed: int
) -> None:
    # What begins a word in a run may depend on a line end that comes windows later.
    rng = random.Random(seed)
    for _ in range(6):
        pieces = [
            "a",
            "!",
            "/",
            "1",
            " ",
            "\n",
            "\r\n",
            "\n\n\n",
            "\t" * 15,
            "\u3000" * 9,
            " " * 12,
        ]
        chunks = rng.choices(pieces, [1] * 5 + [3] * 6, k=40)
        check(chunks, pattern, (), rng.choice([4, 16, 30, 64, 100]))


@pytest.mark.slow
@NAMED
@pytest.mark.parametrize("seed", range(1000, 1150))
def test_many_long_texts_in_small_windows_have_the_words_of_the_whole(
    pattern: str, seed: int
) -> None:
    test_long_texts_in_small_windows_have_the_words_of_the_whole(pattern, seed)


@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K, r"\w+|\s"])
@pytest.mark.parametrize("window_bytes", [4, 5, 7, 12, 17])
def test_a_special_token_cut_by_chunks_stays_whole(pattern: str, window_bytes: int) -> None:
    text = "x <a b>y <a b><a\u3000b> <a"
    for size in range(1, len(text)):
        chunks = [text[start : start + size] for start in range(0, len(text), size)]
        check(chunks, pattern, ("<a b>", "<a\u3000b>", "<a b><a"), window_bytes)


@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K, r"\w+|\s"])
def test_a_special_token_longer_than_others_in_characters_or_in_bytes_stays_whole(
    pattern: str,
) -> None:
    text = "xxaaaabcc\u4e2d\u4e2dd"
    for window_bytes in range(4, 16):
        for size in range(1, 10):
            chunks = [text[start : start + size] for start in range(0, len(text), size)]
            check(chunks, pattern, ("aaaa", "\u4e2d\u4e2d"), window_bytes)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(texts=st.lists(st.text(NASTY, max_size=10)), special_tokens=SPECIAL_TOKENS)
@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K, r"(\w)+|\s", r"(?<=a).|b$|^a"])
def test_texts_side_by_side_have_the_words_of_each(
    pattern: str, texts: list[str], special_tokens: tuple[str, ...]
) -> None:
    buffer, separators = join_texts([text.encode() for text in texts])
    window = WordScanner(pattern, special_tokens).scan(buffer, separators=separators)
    expected = [
        [*plain_words(text, pattern, special_tokens), (b"\xff", SEPARATOR)] for text in texts
    ]
    assert words_of([window] if texts else []) == list(chain.from_iterable(expected))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(texts=st.lists(st.text(NASTY, max_size=30), max_size=12), special_tokens=SPECIAL_TOKENS)
@pytest.mark.parametrize("pattern", [GPT2, O200K, r"\w+"])
def test_windows_of_texts_have_the_words_of_each_text(
    pattern: str, texts: list[str], special_tokens: tuple[str, ...]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_words, "WINDOW_BYTES", 40)
        scanner = WordScanner(pattern, special_tokens)
        windows = list(scanner.windows_of_texts(map(str.encode, texts)))
    words = Counter(word for word in words_of(windows) if word[1] != SEPARATOR)
    assert words == Counter(
        chain.from_iterable(plain_words(text, pattern, special_tokens) for text in texts)
    )


def test_small_texts_share_windows_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_words, "WINDOW_BYTES", 1000)
    windows = list(WordScanner(GPT2).windows_of_texts([b"low lower"] * 1000))
    assert max(len(window.buffer) for window in windows) <= 1.2 * 1000
    assert len(windows) <= 10


@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K, r"\w+"])
def test_no_text_has_no_words(pattern: str) -> None:
    scanner = WordScanner(pattern, ("<s>",))
    assert list(scanner.windows([])) == []
    assert list(scanner.windows([b"", b""])) == []
    assert [len(column) for column in scanner.scan(b"")] == [0] * 5
    empty, separators = join_texts([])
    assert [len(column) for column in scanner.scan(empty, separators=separators)] == [0] * 5


def test_special_tokens_are_known_by_their_place() -> None:
    windows = WordScanner(GPT2, ("<s>", "<t>")).windows([b"a<t>b<s>"])
    assert words_of(windows) == [(b"a", None), (b"<t>", 1), (b"b", None), (b"<s>", 0)]


def test_a_custom_pattern_gives_each_byte_that_it_leaves_out_a_word() -> None:
    window = WordScanner(r"[a-z]+").scan("ab-\u4e2dc".encode())
    assert [word for word, _ in words_of([window])] == [
        b"ab", b"-", b"\xe4", b"\xb8", b"\xad", b"c",
    ]  # fmt: skip


@NAMED
@pytest.mark.parametrize(
    "line",
    [
        "some words here ",
        "a;b;c\n",
        "word\n",
        "\u4e2d\u3002\n",
        '{"x":1}\r\n',
        " a",
        "a\u3000\u4e2d",
    ],
    ids=repr,
)
def test_windows_stay_small_where_text_has_spaces_or_lines(pattern: str, line: str) -> None:
    blocks = [line.encode()] * 3000
    sizes = [len(w.buffer) for w in WordScanner(pattern).windows(blocks, window_bytes=100)]
    assert max(sizes) <= 2 * 100 + len(line.encode())


@NAMED
def test_a_window_ends_before_a_word_that_begins_with_a_space(pattern: str) -> None:
    window = WordScanner(pattern).scan(b"low low low low low", final=False)
    assert len(window.buffer) > 0


def test_a_block_is_not_joined_with_all_the_others_first() -> None:
    consumed = 0

    def endless() -> Iterable[bytes]:
        nonlocal consumed
        while True:
            consumed += 1
            yield b"some words, "

    next(WordScanner(GPT2).windows(endless(), window_bytes=1000))
    assert consumed <= 2 * 1000 / len("some words, ") + 2


def test_the_search_for_an_end_takes_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned_bytes = 0
    scan = WordScanner.scan

    def counted(self: WordScanner, buffer: bytes, *, final: bool = True) -> Window:
        nonlocal scanned_bytes
        scanned_bytes += len(buffer)
        return scan(self, buffer, final=final)

    monkeypatch.setattr(WordScanner, "scan", counted)
    text = b"a" * 100_000
    windows = WordScanner(GPT2).windows((b"a" for _ in text), window_bytes=10)
    assert words_of(windows) == [(text, None)]
    assert scanned_bytes <= 3 * len(text)
