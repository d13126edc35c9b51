"""Cuts that change nothing, and files read as they stand."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2, O200K, PATTERNS, _stream
from scratch.bpe._patterns import compile_pattern
from scratch.bpe._pretokenize import compile_special_tokens, find_words, split_special_tokens
from scratch.bpe._stream import cut_margin, last_safe_cut, read_text, safe_blocks, safe_cuts

NAMED = pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K], ids=list(PATTERNS))

# Each kind of space, letter, digit and mark that some pattern treats in a way of its own.
NASTY = (
    " \t\r\n\u00a0\u3000\u0085\u001c\u200b'sStlLlaA1\u00b2!./_\u0301\U0001f600\u017f\u4e2d\u01c5"
)
CUSTOM = [r"\w+|\s", r"(\w)(\s)?", "x*", r"^\w+|\S$", r"(?<=a).", r"a\b|.", "(?s).+", r"\s+(?!\S)"]
SPECIAL_TOKENS = [
    (),
    ("aa",),
    ("a", "aa", "aaa"),
    ("s s", " s", "s"),
    (" ", "  "),
    ("\n\n", "!\n"),
    ("aba", "ab", " ab"),
    ("<|endoftext|>", "<|endoftext|><|endoftext|>"),
]


def pieces(text: str, pattern: str, special_tokens: tuple[str, ...]) -> list[str]:
    """Everything that pre-tokenizing yields, in order."""
    found: list[str] = []
    for ordinary, special in split_special_tokens(text, compile_special_tokens(special_tokens)):
        found += find_words(ordinary, compile_pattern(pattern))
        found += [] if special is None else [f"special {special}"]
    return found


def regroup(
    chunks: list[str], pattern: str, special_tokens: tuple[str, ...] = (), block_chars: int = 1
) -> list[str]:
    return list(
        safe_blocks(chunks, pattern=pattern, special_tokens=special_tokens, block_chars=block_chars)
    )


CHUNKS = st.lists(
    st.text(NASTY, max_size=6)
    | st.text("a b\n", max_size=6)
    | st.sampled_from(
        ["aa", "ab", "s s", "<|endof", "text|>", "<|endoftext|>", "'ll", "!\n", "  "]
    ),
    max_size=12,
)
SPECIALS = st.sampled_from(SPECIAL_TOKENS) | st.lists(
    st.text("ab s\n", min_size=1, max_size=4), unique=True, max_size=4
).map(tuple)


def check_blocks(
    chunks: list[str], pattern: str, special_tokens: tuple[str, ...], block_chars: int
) -> None:
    text = "".join(chunks)
    blocks = regroup(chunks, pattern, special_tokens, block_chars)
    parts = [piece for block in blocks for piece in pieces(block, pattern, special_tokens)]
    assert "".join(blocks) == text
    assert parts == pieces(text, pattern, special_tokens)


@settings(deadline=None, derandomize=True, max_examples=240)
@given(chunks=CHUNKS, special_tokens=SPECIALS, block_chars=st.integers(1, 12))
@NAMED
def test_block_by_block_equals_the_whole(
    pattern: str, chunks: list[str], special_tokens: tuple[str, ...], block_chars: int
) -> None:
    check_blocks(chunks, pattern, special_tokens, block_chars)


@settings(deadline=None, derandomize=True, max_examples=320)
@given(
    pattern=st.sampled_from(CUSTOM),
    chunks=CHUNKS,
    special_tokens=SPECIALS,
    block_chars=st.integers(1, 12),
)
def test_block_by_block_equals_the_whole_for_custom_patterns(
    pattern: str, chunks: list[str], special_tokens: tuple[str, ...], block_chars: int
) -> None:
    check_blocks(chunks, pattern, special_tokens, block_chars)


def check_cut(text: str, seen: int, pattern: str, special_tokens: tuple[str, ...]) -> None:
    """Cut `text` where its first `seen` characters say, and compare with the whole."""
    cut = last_safe_cut(text[:seen], pattern=pattern, special_tokens=special_tokens)
    before, after = (pieces(part, pattern, special_tokens) for part in (text[:cut], text[cut:]))
    assert before + after == pieces(text, pattern, special_tokens), (text, seen, cut)


@settings(deadline=None, derandomize=True, max_examples=240)
@given(chunks=CHUNKS, special_tokens=SPECIALS, data=st.data())
@NAMED
def test_a_cut_is_safe_whatever_follows(
    pattern: str, chunks: list[str], special_tokens: tuple[str, ...], data: st.DataObject
) -> None:
    text = "".join(chunks)
    seen = data.draw(st.integers(0, len(text)))
    check_cut(text, seen, pattern, special_tokens)


def check_every_short_text(pattern: str, alphabet: str, length: int) -> None:
    for characters in product(alphabet, repeat=length):
        for seen in range(1, length):
            check_cut("".join(characters), seen, pattern, ("s a", "a!"))


@NAMED
def test_no_short_text_has_an_unsafe_cut(pattern: str) -> None:
    check_every_short_text(pattern, " \nas'!/1", 4)


@pytest.mark.slow
@NAMED
def test_no_text_of_five_characters_has_an_unsafe_cut(pattern: str) -> None:
    check_every_short_text(pattern, " \n\tas'!/1A", 5)


@NAMED
def test_a_cut_before_a_space_changes_nothing(pattern: str) -> None:
    assert last_safe_cut("low lower", pattern=pattern) == len("low")
    assert regroup(["low low", "er"], pattern) == ["low", " lower"]


@NAMED
def test_no_cut_falls_inside_a_run_of_spaces(pattern: str) -> None:
    assert last_safe_cut("low   ", pattern=pattern) == len("low")
    assert last_safe_cut("   low", pattern=pattern) == 0


@pytest.mark.parametrize("pattern", [CL100K, O200K])
def test_no_cut_falls_between_punctuation_and_a_line_end(pattern: str) -> None:
    assert last_safe_cut("!\n", pattern=pattern) == 0
    assert last_safe_cut("!\n", pattern=GPT2) == len("!")


def test_a_custom_pattern_is_cut_at_special_tokens_only() -> None:
    custom = r"\w+ \w+|\W"
    assert last_safe_cut("low low low", pattern=custom, special_tokens=("<s>",)) == 0
    assert last_safe_cut("low<s>low low", pattern=custom, special_tokens=("<s>",)) == len("low<s>")


def test_a_special_token_that_may_be_the_beginning_of_a_longer_one_waits() -> None:
    cuts = [
        last_safe_cut("x<s>" + more, pattern="x|y", special_tokens=("<s>", "<s><s>"))
        for more in ("", "<", "<s", "<s>", "<s>y", "y", "<sy")
    ]
    assert cuts == [0, 0, 0, len("x<s><s>"), len("x<s><s>"), 0, len("x<s>")]


@NAMED
def test_a_special_token_cut_into_chunks_stays_whole(pattern: str) -> None:
    text = "x <a b>y <a b>"
    for size in range(1, len(text)):
        chunks = [text[start : start + size] for start in range(0, len(text), size)]
        for block_chars in range(1, 8):
            blocks = regroup(chunks, pattern, ("<a b>",), block_chars)
            assert "".join(blocks).count("<a b>") == sum(b.count("<a b>") for b in blocks) == 2


@NAMED
@pytest.mark.parametrize(
    "line", ["some words here ", "a;b;c\n", "word\n", "\u4e2d\u3002\n", '{"x":1}\r\n']
)
def test_blocks_stay_small_where_text_has_spaces_or_lines(pattern: str, line: str) -> None:
    blocks = regroup([line] * 5000, pattern, block_chars=100)
    assert max(map(len, blocks)) <= 2 * 100 + len(line)


def test_blocks_are_not_much_smaller_than_asked() -> None:
    blocks = regroup(list("a bc " * 1000), GPT2, block_chars=100)
    assert all(len(block) >= 90 for block in blocks[:-1])


def test_a_chunk_is_not_joined_with_all_the_others_first() -> None:
    consumed = 0

    def endless() -> Iterator[str]:
        nonlocal consumed
        while True:
            consumed += 1
            yield "some words "

    next(safe_blocks(endless(), pattern=GPT2, block_chars=1000))
    assert consumed <= 1000 / len("some words ") + 1


def test_the_search_for_a_cut_takes_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    searched_chars = 0

    def counted(text: str, *, pattern: str, special_tokens: tuple[str, ...] = ()) -> int:
        nonlocal searched_chars
        searched_chars += len(text)
        return last_safe_cut(text, pattern=pattern, special_tokens=special_tokens)

    monkeypatch.setattr(_stream, "last_safe_cut", counted)
    text = "a" * 100_000
    assert regroup(["a"] * len(text), GPT2, block_chars=10) == [text]
    assert searched_chars <= 2 * len(text)


def test_no_text_makes_no_block() -> None:
    assert regroup([], GPT2) == []
    assert regroup(["", ""], GPT2) == []


@pytest.mark.parametrize("chunk", [b"low", None, 5], ids=repr)
def test_a_chunk_that_is_no_string_is_refused(chunk: object) -> None:
    with pytest.raises(TypeError, match=f"text must come as strings, got {type(chunk).__name__}: "):
        regroup(["low", chunk], GPT2)  # type: ignore[list-item]


UNUSUAL = "\ufeffBOM\r\nlone\rend\n\u2028\u00e9\u20ac\U0001f600\ufeff\0\x1a end\r\n"


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 4, 5, 7, 2**20])
def test_a_file_is_read_as_it_stands(tmp_path: Path, block_bytes: int) -> None:
    (tmp_path / "file").write_bytes(UNUSUAL.encode())
    blocks = list(read_text(tmp_path / "file", block_bytes=block_bytes))
    assert "".join(blocks) == UNUSUAL
    assert all(blocks)


@pytest.mark.parametrize("block_bytes", [1, 3, 2**20])
def test_a_part_of_a_file_is_the_text_between_two_bytes(tmp_path: Path, block_bytes: int) -> None:
    (tmp_path / "file").write_bytes(UNUSUAL.encode())
    ends = [len(UNUSUAL[:index].encode()) for index in range(len(UNUSUAL) + 1)]
    for start in range(len(ends)):
        for stop in range(start, len(ends)):
            blocks = read_text(
                tmp_path / "file",
                start_byte=ends[start],
                stop_byte=ends[stop],
                block_bytes=block_bytes,
            )
            assert "".join(blocks) == UNUSUAL[start:stop]


def test_a_part_may_end_where_the_file_does(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"low lower")
    assert list(read_text(tmp_path / "file", start_byte=4)) == ["lower"]
    assert list(read_text(tmp_path / "file", start_byte=4, stop_byte=1000)) == ["lower"]
    assert list(read_text(tmp_path / "file", start_byte=1000)) == []


def test_the_offset_of_a_bad_byte_counts_from_the_start_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"low \xff lower")
    with pytest.raises(ValueError, match="got byte 0xff at byte offset 4: "):
        list(read_text(tmp_path / "file", start_byte=2, block_bytes=1))


@pytest.mark.parametrize("form", [str, Path])
def test_a_path_may_be_a_string(tmp_path: Path, form: type) -> None:
    (tmp_path / "file").write_text("low")
    assert list(read_text(form(tmp_path / "file"))) == ["low"]


def test_an_empty_file_has_no_text(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert list(read_text(tmp_path / "file")) == []


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 4, 5, 2**20])
@pytest.mark.parametrize(
    ("data", "byte", "offset"),
    [
        (b"\xff", "ff", 0),
        (b"ok \xe9 latin", "e9", 3),
        ("\u20ac\u20ac".encode() + b"\x80", "80", 6),
        ("ab\U0001f600".encode()[:-1], "f0", 2),  # the file ends inside a character
        (b"abc\xed\xa0\x80", "ed", 3),  # an encoded surrogate
    ],
    ids=repr,
)
def test_a_file_that_is_not_utf8_is_refused(
    tmp_path: Path, data: bytes, byte: str, offset: int, block_bytes: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    where = f"{path} must be UTF-8, got byte 0x{byte} at byte offset {offset}: "
    with pytest.raises(ValueError, match=where):
        list(read_text(path, block_bytes=block_bytes))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(read_text(tmp_path / "nowhere"))


def check_cuts(text: str, start: int, stop: int, pattern: str, specials: tuple[str, ...]) -> None:
    """Cut `text` wherever its middle says, and compare with the whole."""
    whole = pieces(text, pattern, specials)
    cuts = list(safe_cuts(text[start:stop], pattern=pattern, special_tokens=specials))
    assert cuts == sorted(set(cuts))
    for cut in cuts:
        sides = text[: start + cut], text[start + cut :]
        before, after = (pieces(side, pattern, specials) for side in sides)
        assert before + after == whole, (text, start, stop, cut)


@settings(deadline=None, derandomize=True, max_examples=160)
@given(chunks=CHUNKS.map(lambda chunks: chunks * 3), special_tokens=SPECIALS, data=st.data())
@NAMED
def test_a_cut_in_the_middle_is_safe_whatever_stands_around(
    pattern: str, chunks: list[str], special_tokens: tuple[str, ...], data: st.DataObject
) -> None:
    text = "".join(chunks)
    start = data.draw(st.integers(0, min(9, len(text))))
    stop = data.draw(st.integers(max(start, len(text) - 9), len(text)))
    check_cuts(text, start, stop, pattern, special_tokens)


@settings(deadline=None, derandomize=True, max_examples=160)
@given(
    pattern=st.sampled_from(CUSTOM),
    chunks=CHUNKS.map(lambda chunks: chunks * 3),
    special_tokens=SPECIALS,
    data=st.data(),
)
def test_a_cut_in_the_middle_is_safe_for_custom_patterns(
    pattern: str, chunks: list[str], special_tokens: tuple[str, ...], data: st.DataObject
) -> None:
    text = "".join(chunks)
    start = data.draw(st.integers(0, min(9, len(text))))
    stop = data.draw(st.integers(max(start, len(text) - 9), len(text)))
    check_cuts(text, start, stop, pattern, special_tokens)


@NAMED
@pytest.mark.parametrize("special_tokens", [(), ("s a", "a!")])
def test_no_short_text_is_cut_in_the_middle_unsafely(
    pattern: str, special_tokens: tuple[str, ...]
) -> None:
    around = "z" * cut_margin(special_tokens)
    for characters in product(" \nas'!/1", repeat=4):
        text = around + "".join(characters) + around
        check_cuts(text, 0, len(text), pattern, special_tokens)


@NAMED
def test_cuts_are_where_words_begin_with_a_space(pattern: str) -> None:
    text = "some words here and there"
    cuts = list(safe_cuts(text, pattern=pattern))
    assert [text[cut:].split()[0] for cut in cuts] == ["words", "here", "and", "there"]
    assert [text[cut] for cut in cuts] == [" "] * 4


@NAMED
def test_no_cut_is_near_either_end(pattern: str) -> None:
    for special_tokens in ((), ("<s>",), ("<s>", "<a longer one>")):
        margin = cut_margin(special_tokens)
        assert margin == 2 * max(map(len, special_tokens), default=0) + 4
        cuts = list(safe_cuts("a " * 100, pattern=pattern, special_tokens=special_tokens))
        assert [cut for cut in range(1, 200, 2) if margin <= cut <= 200 - margin] == cuts


@NAMED
def test_no_cut_is_inside_what_may_be_a_special_token(pattern: str) -> None:
    text = "x" * 20 + "a b c" + "x" * 20
    for special_tokens, expected in (
        (("b c", "a b"), []),
        (("a b",), [23]),
        (("b c",), [21]),
        (("b", "a", " "), [21, 23]),
    ):
        assert list(safe_cuts(text, pattern=pattern, special_tokens=special_tokens)) == expected


def test_for_a_custom_pattern_cuts_are_ends_that_no_special_token_crosses() -> None:
    def ends(middle: str, *special_tokens: str) -> list[str]:
        text = "x" * 20 + middle + "x" * 20
        cuts = safe_cuts(text, pattern="(?s).+", special_tokens=special_tokens)
        return [text[20:cut] for cut in cuts]

    assert ends("<s> y <s>", "<s>") == ["<s>", "<s> y <s>"]
    assert ends("<s><s>", "<s>") == ["<s>", "<s><s>"]
    assert ends("<s><s>", "<s>", "<s><s>") == ["<s><s>"]
    assert ends("abc", "ab", "bc") == []  # bc is not one, but nobody knows that here
    assert ends("abc", "abc", "b") == ["abc"]
    assert ends("aaa", "aa") == []
    assert ends("no special token", "<s>") == []


@pytest.mark.parametrize("pattern", [GPT2, "(?s).+"], ids=["gpt2", "custom"])
@pytest.mark.parametrize(
    ("middle", "special_tokens"),
    [
        ("abc", ("ab", "bc")),
        ("<s><s>", ("<s>", "<s><s>")),
        ("a a a a a a a", ("a a",)),
        ("abcde", ()),
    ],
    ids=str,
)
def test_what_is_cut_in_two_where_the_text_begins_or_ends_is_not_trusted(
    pattern: str, middle: str, special_tokens: tuple[str, ...]
) -> None:
    text = "y" * 16 + middle + "z" * 16
    for start in range(len(text)):
        for stop in range(start, len(text) + 1):
            check_cuts(text, start, stop, pattern, special_tokens)


def test_many_special_tokens_that_overlap_take_no_longer() -> None:
    for pattern in (GPT2, "(?s).+"):
        assert list(safe_cuts("a ba" * 50_000, pattern=pattern, special_tokens=("a b", "aa"))) == []
