"""Documents: found whole, held out without loss, never cut inside a character."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch.trainer.corpus import END_OF_TEXT, Document, find_documents, hold_out, stream

TEXT = st.lists(
    st.sampled_from(
        ["one line\n", "win\r\n", "naïve", "漢字", "🙃", "\n", " ", "<|", "endoftext|>"]
    ),
    max_size=30,
).map("".join)
FRACTIONS = st.floats(0.01, 0.5)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that is shared by all examples of a property."""
    return tmp_path_factory.mktemp("corpus")


def write(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    return paths


def read(documents: Sequence[Document]) -> list[str]:
    return ["".join(document.read()) for document in documents]


@given(texts=st.lists(TEXT, min_size=1, max_size=6), files=st.integers(1, 3))
def test_documents_are_the_texts_between_the_separators(
    folder: Path, texts: list[str], files: int
) -> None:
    texts = [text for text in texts if END_OF_TEXT not in text]
    paths = write(folder, *(END_OF_TEXT.join(texts[n::files]) for n in range(files)))
    expected = [text for n in range(files) for text in texts[n::files] if text]
    if expected:
        documents = find_documents(paths)
        assert read(documents) == expected
        assert [d.num_bytes for d in documents] == [len(text.encode()) for text in expected]
    else:
        with pytest.raises(ValueError, match="files must hold some text"):
            find_documents(paths)


@given(texts=st.lists(TEXT, min_size=1, max_size=40), fraction=FRACTIONS)
def test_holding_out_loses_nothing_and_takes_nothing_twice(
    folder: Path, texts: list[str], fraction: float
) -> None:
    documents = find_documents(write(folder, END_OF_TEXT.join(["x", *texts])))
    train, held_out = hold_out(documents, fraction)
    spans = sorted((part.start, part.stop) for part in [*train, *held_out])
    assert all(start < stop for start, stop in spans)
    assert sum(stop - start for start, stop in spans) == sum(d.num_bytes for d in documents)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))
    pieces = {part.start: text for part in [*train, *held_out] for text in read([part])}
    assert "".join(pieces[start] for start, _ in spans) == "".join(read(documents))


@given(texts=st.lists(TEXT, min_size=1, max_size=40), fraction=FRACTIONS)
def test_the_same_text_is_held_out_every_time(
    folder: Path, texts: list[str], fraction: float
) -> None:
    documents = find_documents(write(folder, END_OF_TEXT.join(["x", *texts])))
    assert hold_out(documents, fraction) == hold_out(list(documents), fraction)


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_of_many_documents_about_that_share_is_held_out_whole(
    folder: Path, fraction: float
) -> None:
    documents = find_documents(write(folder, END_OF_TEXT.join(map(str, range(2000)))))
    train, held_out = hold_out(documents, fraction)
    assert sorted([*train, *held_out], key=lambda d: d.start) == documents
    assert len(held_out) / len(documents) == pytest.approx(fraction, rel=0.2)
    numbers = list(map(int, read(held_out)))
    assert min(numbers) < 200  # from all over the text
    assert max(numbers) > 1800


def test_of_few_documents_the_end_of_the_text_is_held_out_after_a_line(folder: Path) -> None:
    lines = [f"line {number:02}\n" for number in range(100)]
    first, second = "".join(lines[:40]), "".join(lines[40:])
    documents = find_documents(write(folder, first + END_OF_TEXT, second))
    train, held_out = hold_out(documents, 0.25)
    assert read(train) == [first, "".join(lines[40:75])]
    assert read(held_out) == ["".join(lines[75:])]


def test_line_ends_of_windows_are_not_parted(folder: Path) -> None:
    documents = find_documents(write(folder, "a line\r\n" * 50))
    train, held_out = hold_out(documents, 0.3)
    assert set("".join(read(train)).split("\r\n")) == {"a line", ""}
    assert set("".join(read(held_out)).split("\r\n")) == {"a line", ""}


@pytest.mark.parametrize("fraction", [0.1, 0.11, 0.12, 0.13, 0.3])
def test_a_text_without_lines_is_cut_between_two_characters(folder: Path, fraction: float) -> None:
    (document,) = find_documents(write(folder, "🙃" * 100))
    (train,), (held_out,) = hold_out([document], fraction)
    assert "".join(read([train, held_out])) == "🙃" * 100
    assert held_out.num_bytes == pytest.approx(400 * fraction, abs=4)


def test_a_long_last_line_is_not_held_out_whole(folder: Path) -> None:
    documents = find_documents(write(folder, "Title\n" + "a very long line " * 2000))
    _, held_out = hold_out(documents, 0.05)
    assert sum(d.num_bytes for d in held_out) < 0.2 * sum(d.num_bytes for d in documents)


def test_nothing_is_held_out_if_nothing_is_asked_for(folder: Path) -> None:
    documents = find_documents(write(folder, END_OF_TEXT.join("abc" * 10)))
    assert hold_out(documents, 0) == (documents, [])


def test_every_document_of_a_stream_follows_a_separator(folder: Path) -> None:
    documents = find_documents(write(folder, f"a{END_OF_TEXT}{END_OF_TEXT}b", "c"))
    assert "".join(stream(documents)) == f"{END_OF_TEXT}a{END_OF_TEXT}b{END_OF_TEXT}c"


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


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no-such-file\.txt"):
        find_documents([folder / "no-such-file.txt"])


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
