"""Files in parts: together they are the files, and each has its own words."""

import gzip
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2, O200K, PATTERNS, _parts
from scratch.bpe._parts import Part, split_into_parts
from scratch.bpe._patterns import compile_pattern
from scratch.bpe._pretokenize import compile_special_tokens, cover_with_words, split_special_tokens
from scratch.bpe._stream import cut_margin

NAMED = pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K], ids=list(PATTERNS))
WINDOWS = (1, 100, 2**16)

CUSTOM = [r"\w+|\s", r"(\w)(\s)?", "x*", r"^\w+|\S$", r"(?<=a).", r"a\b|.", "(?s).+", r"\s+(?!\S)"]
SPECIAL_TOKENS = [
    (),
    ("aa",),
    ("a", "aa", "aaa"),
    ("s s", " s", "s"),
    (" ", "  "),
    ("\n\n", "!\n"),
    ("aba", "ab", " ab"),
    ("\u4e2d ", "\u3000a", "\U0001f600\U0001f600"),
    ("<|end of text|>", "<|end of text|><|end of text|>"),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts") / "file"


def words(data: bytes, pattern: str, special_tokens: tuple[str, ...]) -> list[str]:
    """Special tokens, words, and what the pattern leaves out, character by character."""
    found: list[str] = []
    specials = compile_special_tokens(special_tokens)
    for ordinary, special in split_special_tokens(data.decode(errors="replace"), specials):
        for left_out, word in cover_with_words(ordinary, compile_pattern(pattern)):
            found += [*left_out, word]
        found.append(f"special {special}")
    return [word for word in found if word not in ("", "special None")]


def split(
    path: Path, part_bytes: int, pattern: str = GPT2, special_tokens: tuple[str, ...] = ()
) -> list[Part]:
    return list(
        split_into_parts(
            [path], part_bytes=part_bytes, pattern=pattern, special_tokens=special_tokens
        )
    )


def check_parts(path: Path, part_bytes: int, pattern: str, special_tokens: tuple[str, ...]) -> int:
    """Compare the parts with the whole, and tell how many there are."""
    data = path.read_bytes()
    parts = split(path, part_bytes, pattern, special_tokens)
    assert parts[0].start == 0
    assert parts[-1].stop == len(data)
    assert all(part.path == str(path) for part in parts)
    assert all(one.stop == other.start for one, other in pairwise(parts))
    assert [part.size for part in parts] == [part.stop - part.start for part in parts]
    assert all(part.size >= part_bytes for part in parts[:-1])
    found = [
        word
        for part in parts
        for word in words(data[part.start : part.stop], pattern, special_tokens)
    ]
    assert found == words(data, pattern, special_tokens)
    return len(parts)


# Each kind of space, letter, digit and mark that some pattern treats in a way of its own.
NASTY = (
    " \t\r\n\u00a0\u3000\u0085\u001c\u200b'sStlLlaA1\u00b2!./_\u0301\U0001f600\u017f\u4e2d\u01c5"
)
TEXTS = st.lists(
    st.text(NASTY, max_size=8)
    | st.text("a b\n", max_size=8)
    | st.sampled_from(["aa", "ab", "s s", "<|end", " of text|>", "<|end of text|>", "'ll", "!\n"])
    | st.sampled_from(["a" * 40, " " * 40, "\u3000" * 9, "\u4e2d" * 30, "\U0001f600" * 20])
    | st.binary(max_size=3),
    max_size=60,
).map(lambda pieces: b"".join(p if isinstance(p, bytes) else p.encode() for p in pieces))
SPECIALS = st.sampled_from(SPECIAL_TOKENS) | st.lists(
    st.text("ab s\n\u4e2d\u3000", min_size=1, max_size=4), unique=True, max_size=4
).map(tuple)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    data=TEXTS,
    special_tokens=SPECIALS,
    part_bytes=st.integers(1, 12) | st.integers(13, 200),
    window_bytes=st.sampled_from(WINDOWS),
)
@NAMED
def test_the_words_of_the_parts_are_those_of_the_whole(
    path: Path,
    pattern: str,
    data: bytes,
    special_tokens: tuple[str, ...],
    part_bytes: int,
    window_bytes: int,
) -> None:
    path.write_bytes(b"\n" + data)  # what begins like this is not compressed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parts, "_WINDOW_BYTES", window_bytes)
        check_parts(path, part_bytes, pattern, special_tokens)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    pattern=st.sampled_from(CUSTOM),
    data=TEXTS,
    special_tokens=SPECIALS,
    part_bytes=st.integers(1, 12) | st.integers(13, 200),
    window_bytes=st.sampled_from(WINDOWS),
)
def test_the_words_of_the_parts_are_those_of_the_whole_for_custom_patterns(
    path: Path,
    pattern: str,
    data: bytes,
    special_tokens: tuple[str, ...],
    part_bytes: int,
    window_bytes: int,
) -> None:
    path.write_bytes(b"\n" + data)  # what begins like this is not compressed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parts, "_WINDOW_BYTES", window_bytes)
        check_parts(path, part_bytes, pattern, special_tokens)


@NAMED
@pytest.mark.parametrize("special_tokens", [(), ("<|endoftext|>", "e old", "\n\n", "\u3000")])
@pytest.mark.parametrize("part_bytes", [1, 2, 3, 50, 1000])
def test_a_corpus_in_parts_has_the_same_words(
    path: Path, corpus: str, pattern: str, special_tokens: tuple[str, ...], part_bytes: int
) -> None:
    path.write_bytes(corpus[:3000].encode())
    assert check_parts(path, part_bytes, pattern, special_tokens) > 3000 / (part_bytes + 200)


@NAMED
@pytest.mark.parametrize("mark", [" ", "\u00a0", "\u3000"], ids=["one", "two", "three"])
@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u4e2d", "\U0001f600", "!"])
def test_the_only_place_is_found_wherever_windows_end(
    path: Path, pattern: str, mark: str, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_parts, "_WINDOW_BYTES", 1)
    for before in range(30, 80):
        left, right = (letter * before).encode(), (mark + letter * 40).encode()
        path.write_bytes(left + right)
        for part_bytes in (1, 2, 3, 4, 5):
            parts = split(path, part_bytes, pattern)
            assert [part.size for part in parts] == [len(left), len(right)]


@pytest.mark.parametrize("letter", ["a", "\U0001f600"])
def test_the_only_special_token_is_found_wherever_windows_end(
    path: Path, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_parts, "_WINDOW_BYTES", 1)
    for before in range(30, 130):
        left, right = (letter * before + "<s>").encode(), (letter * 40).encode()
        path.write_bytes(left + right)
        parts = split(path, 3, r"(?s).+", ("<s>", "<s><s>"))
        assert [part.size for part in parts] == [len(left), len(right)]


@NAMED
@pytest.mark.parametrize("line", ["some words here ", "a;b;c\n", "\u4e2d\u3002\n", '{"x":1}\r\n'])
def test_parts_are_about_as_long_as_asked(path: Path, pattern: str, line: str) -> None:
    path.write_bytes(line.encode() * 2000)
    sizes = [part.size for part in split(path, 1000, pattern)]
    most = 1000 + 4 * cut_margin(()) + len(line.encode())
    assert all(1000 <= size <= most for size in sizes[:-1])
    assert sizes[-1] <= most + 4 * cut_margin(())


@NAMED
@pytest.mark.parametrize(
    ("text", "special_tokens"),
    [("\u4e2d" * 3000, ()), (" " * 3000, ()), ("a b" * 1000, ("a b", "ba"))],
    ids=["no space", "only spaces", "special tokens"],
)
def test_a_file_without_any_safe_cut_stays_whole(
    path: Path,
    pattern: str,
    text: str,
    special_tokens: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = path.write_bytes(text.encode())
    for window_bytes in WINDOWS:
        monkeypatch.setattr(_parts, "_WINDOW_BYTES", window_bytes)
        parts = split(path, 10, pattern, special_tokens)
        assert parts == [Part(str(path), 0, size, size)]


def test_for_a_custom_pattern_only_special_tokens_cut(path: Path) -> None:
    path.write_bytes(b"low lower\n" * 100 + b"<s>" + b"low lower\n" * 100)
    assert len(split(path, 10, r"\w+|\W")) == 1
    assert [part.size for part in split(path, 10, r"\w+|\W", ("<s>",))] == [1003, 1000]


def test_a_file_shorter_than_a_part_is_one(path: Path) -> None:
    path.write_bytes(b"low lower ")
    for part_bytes in (10, 11, 10**9):
        assert split(path, part_bytes) == [Part(str(path), 0, 10, 10)]


def test_little_of_a_file_is_read_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"x" * 2**20)
    sizes: list[int] = []
    original = _parts.safe_cuts

    def watch(text: str, **rest: Any) -> Iterator[int]:
        sizes.append(len(text))
        return original(text, **rest)

    monkeypatch.setattr(_parts, "safe_cuts", watch)
    assert len(split(path, 1000)) == 1
    assert max(sizes) == 2**16
    assert len(sizes) <= 2**20 / 2**16 + 1  # and everything only once


def test_files_come_in_order_and_an_empty_one_is_a_part(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "words").write_bytes(b"low " * 25)
    paths = [tmp_path / "empty", str(tmp_path / "words"), tmp_path / "empty"]
    parts = list(split_into_parts(paths, part_bytes=60, pattern=GPT2))
    assert [Path(part.path).name for part in parts] == ["empty", "words", "words", "empty"]
    assert [part.start for part in parts] == [0, 0, parts[1].stop, 0]
    assert sum(part.size for part in parts) == 100


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gzip", "zstd"]
)
def test_a_compressed_file_is_one_part(path: Path, pack: Any) -> None:
    size = path.write_bytes(pack(" ".join(map(str, range(1000))).encode()))
    assert split(path, 10) == [Part(str(path), 0, None, size)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_one_part_and_nothing_is_read_of_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert split(tmp_path / "pipe", 10) == [Part(str(tmp_path / "pipe"), 0, None, 0)]


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs /proc")
def test_a_file_without_a_size_is_one_part_without_an_end() -> None:
    assert split(Path("/proc/version"), 10) == [Part("/proc/version", 0, None, 0)]


def test_a_missing_file_is_an_error_when_its_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"low")
    paths = [tmp_path / "words", tmp_path / "nowhere"]
    parts = split_into_parts(paths, part_bytes=10, pattern=GPT2)
    next(parts)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        next(parts)
