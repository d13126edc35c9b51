"""JSON lines: every text arrives, and a line that holds none is told by its number."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.trainer.data.json_lines import is_json_lines, read_json_lines, split_lines

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)

ANY = settings(deadline=None, derandomize=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "posts.jsonl"


@ANY
@given(st.lists(st.sampled_from([b"a", b"bc\n", b"\n", b"\r\n", b"\n\nd", b""])))
def test_lines_are_found_wherever_the_blocks_end(blocks: list[bytes]) -> None:
    *lines, rest = b"".join(blocks).split(b"\n")
    assert list(split_lines(blocks)) == [*lines, rest][: len(lines) + bool(rest)]


@ANY
@given(texts=st.lists(TEXT), ascii_only=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_every_text_arrives_in_order(
    texts: list[str], ascii_only: bool, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "posts.jsonl"
    lines = (json.dumps({"id": 1, "text": text}, ensure_ascii=ascii_only) for text in texts)
    path.write_bytes("".join(line + end for line in lines).encode())
    assert [text.decode() for text in read_json_lines(path, "text")] == texts


def test_a_text_may_lie_deeper(path: Path) -> None:
    path.write_text('{"message": {"body": "hello"}, "text": 1}')
    assert list(read_json_lines(path, "message.body")) == [b"hello"]


def test_a_byte_order_mark_is_no_obstacle(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbf{"text": "hello"}\n')
    assert list(read_json_lines(path, "text")) == [b"hello"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a', r"must be JSON, got Unterminated string .* at column 10"),
        ('["a"]', "must be a JSON object as a whole, got a list"),
        ('"a"', "must be a JSON object as a whole, got a text"),
        (
            '{"title": "a", "n": 1}',
            "must have its text at 'text', got 'title', 'n' as a whole; .*field",
        ),
        ("{}", "must have its text at 'text', got no field as a whole"),
        ('{"text": null}', "must have a text at 'text', got null"),
        ('{"text": 3}', "must have a text at 'text', got 3"),
        ('{"text": {"a": 1}}', "must have a text at 'text', got an object"),
        (
            r'{"text": "ab\ud83d"}',
            "must be text that UTF-8 can spell, got an unpaired surrogate at character 2",
        ),
        ("[" * 100_000, "must be JSON that can be read"),
        ('{"text": ' + "1" * 5000 + "}", "must be JSON that can be read"),
    ],
    ids=[
        "cut",
        "list",
        "text",
        "other",
        "empty",
        "null",
        "number",
        "object",
        "half",
        "deep",
        "big",
    ],
)
def test_a_bad_line_is_told_with_file_and_number(path: Path, line: str, message: str) -> None:
    path.write_text('{"text": "good"}\n\n' + line + '\n{"text": "good"}\n')
    texts = read_json_lines(path, "text")
    assert next(texts) == b"good"
    with pytest.raises(ValueError, match=rf"posts\.jsonl, line 3 {message}"):
        next(texts)


def test_a_missing_object_on_the_way_is_told(path: Path) -> None:
    path.write_text('{"message": "hello"}\n')
    with pytest.raises(ValueError, match="must be a JSON object at 'message', got a text"):
        list(read_json_lines(path, "message.body"))


def test_lines_that_are_not_utf8_are_told_with_their_place(path: Path) -> None:
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(ValueError, match=r"posts\.jsonl must be UTF-8, .* at byte offset 10"):
        list(read_json_lines(path, "text"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", True), ("a.b.JSONL", True), ("a.jsonl.gz", True), ("a.jsonl.zst", True),
        ("a.txt", False), ("a.json", False), ("a.jsonl.txt", False), ("a.gz", False),
        ("jsonl", False),
    ],
)  # fmt: skip
def test_json_lines_are_told_by_the_name(name: str, expected: Any) -> None:
    assert is_json_lines(Path(name)) is expected
