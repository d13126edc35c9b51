"""Documents: found whole in all kinds of files, wherever the blocks that they come in end."""

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.trainer.data.corpus import (
    END_OF_TEXT,
    Corpus,
    Document,
    find_documents,
    split_at_separators,
)

PARTS = st.lists(
    st.sampled_from(["one line\n", "win\r\n", "naïve", "漢字", "🙃", "<|", "endoftext|>", "<|end"])
)

ANY = settings(deadline=None, derandomize=True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that is shared by all examples of a property."""
    return tmp_path_factory.mktemp("corpus")


def write(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    return paths


def read(documents: Iterable[Document]) -> list[str]:
    return ["".join(document.read()) for document in documents]


@ANY
@given(parts=PARTS, sizes=st.lists(st.integers(1, 20), min_size=1))
def test_documents_are_found_wherever_the_blocks_end(parts: list[str], sizes: list[int]) -> None:
    text = "".join(parts).encode()
    blocks: list[bytes] = []
    while sum(map(len, blocks)) < len(text):
        start = sum(map(len, blocks))
        blocks.append(text[start : start + sizes[len(blocks) % len(sizes)]])
    found: list[bytes] = []
    for begins, data in split_at_separators(blocks):
        assert data
        if begins:
            found.append(b"")
        found[-1] += data
    assert found == [part for part in text.split(END_OF_TEXT.encode()) if part]


@ANY
@given(texts=st.lists(PARTS.map("".join), min_size=1, max_size=6), files=st.integers(1, 3))
def test_documents_are_the_texts_between_the_separators(
    folder: Path, texts: list[str], files: int
) -> None:
    texts = [text for text in texts if END_OF_TEXT not in text]
    paths = write(folder, *(END_OF_TEXT.join(texts[n::files]) for n in range(files)))
    expected = [text for n in range(files) for text in texts[n::files] if text]
    if expected:
        documents = find_documents(paths)
        assert read(documents) == expected
        assert read(documents) == expected, "a second loop finds them again"
        assert [d.num_bytes for d in documents] == [len(text.encode()) for text in expected]
    else:
        with pytest.raises(ValueError, match="files must hold some text"):
            find_documents(paths)


def test_all_kinds_of_files_hold_the_same_documents(tmp_path: Path) -> None:
    texts = [f"document {number}, naïve 漢字 🙃\r\n" * 9999 for number in range(4)]
    plain = END_OF_TEXT.join(texts).encode()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    contents = {
        "a.txt": plain,
        "a.txt.gz": gzip.compress(plain),
        "a.zst": zstandard.compress(plain),
        "b.jsonl": lines,
        "b.jsonl.gz": gzip.compress(lines),
        "b.jsonl.zst": zstandard.compress(lines),
        "a.dat": gzip.compress(plain),  # compression is told by the content
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert read(find_documents([tmp_path / name])) == texts, name
    assert read(find_documents([tmp_path / "b.jsonl", tmp_path / "a.zst"])) == texts + texts


def test_a_separator_within_a_line_parts_documents_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": f"a{END_OF_TEXT}b"}) + '\n{"body": "c"}')
    assert read(find_documents([tmp_path / "a.jsonl"], json_field="body")) == ["a", "b", "c"]


def test_a_long_document_arrives_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * 3_000_000)
    pieces = list(Corpus((tmp_path / "long.txt",)).pieces())
    assert len(pieces) > 5
    assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)


def test_line_ends_and_byte_order_marks_stay(folder: Path) -> None:
    text = "\ufeffone\r\ntwo\rthree\n"
    assert read(find_documents(write(folder, text))) == [text]


def test_a_corpus_without_files_is_refused() -> None:
    with pytest.raises(ValueError, match="files must name at least one text file, got none"):
        find_documents([])


@pytest.mark.parametrize("text", ["", END_OF_TEXT, 3 * END_OF_TEXT])
def test_a_corpus_without_text_is_refused(folder: Path, text: str) -> None:
    paths = write(folder, text, "")
    with pytest.raises(ValueError, match=r"files must hold some text, got none in .*0\.txt, .*1"):
        find_documents(paths)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_since_it_cannot_be_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"files that can be read again, got the pipe .*pipe"):
        find_documents([tmp_path / "pipe"])


def test_a_missing_file_is_named_before_any_is_read(folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(FileNotFoundError, match=r"no-such-file\.txt"):
        find_documents([folder / "bad.txt", folder / "no-such-file.txt"])


def test_a_directory_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got the directory .*; name those in it"):
        find_documents([tmp_path])


@pytest.mark.parametrize(
    ("content", "offset"),
    [(b"abc\xffdef", 3), (b"abc<|endoftext|>d\xe2\x82", 17), (b"\xe2\x82<|endoftext|>abc", 0)],
)
def test_text_that_is_not_utf8_is_refused_by_file_and_byte(
    folder: Path, content: bytes, offset: int
) -> None:
    path = folder / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.txt must be UTF-8, .* at byte offset {offset}: "):
        read(find_documents([path]))
