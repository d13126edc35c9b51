"""Holding out: by the rules, without loss, never inside a character, always the same."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.trainer.data.corpus import END_OF_TEXT, Corpus
from scratch.trainer.data.hold_out import TextSize, write_texts

TEXT = st.lists(
    st.sampled_from(["one line\n", "win\r\n", "naïve", "漢字", "🙃", "\n", " "]),
    min_size=1,
    max_size=12,
).map("".join)
FRACTIONS = st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5])

# Each example waits for the disk.
ANY = settings(deadline=None, derandomize=True, max_examples=40)
Split = tuple[list[str], list[str]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that is shared by all examples of a property."""
    return tmp_path_factory.mktemp("texts")


def split(
    folder: Path, documents: list[str], fraction: float, held_out: list[str] | None = None
) -> Split:
    """Return the documents of both texts, having checked that what is told of them is true."""

    def corpus(name: str, texts: list[str]) -> Corpus:
        (folder / name).write_bytes(END_OF_TEXT.join(texts).encode())
        return Corpus((folder / name,))

    sizes = write_texts(
        corpus("all.txt", documents),
        None if held_out is None else corpus("held-out.txt", held_out),
        fraction,
        folder / "train.txt",
        folder / "validation.txt",
        progress=lambda *_: None,
    )
    texts: list[list[str]] = []
    for name, size in zip(("train", "validation"), sizes, strict=True):
        text = (folder / f"{name}.txt").read_bytes().decode()
        before, *found = text.split(END_OF_TEXT)
        assert before == ""
        assert "" not in found
        assert size == TextSize(len(found), len("".join(found).encode()))
        texts.append(found)
    return texts[0], texts[1]


def share(number: int) -> float:
    digest = hashlib.blake2b(str(number).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def expected(documents: list[str], fraction: float) -> Split:
    """Return what the rules say, of texts in memory."""
    chosen = [share(number) < fraction for number in range(len(documents))]
    if len(documents) >= 20 and any(chosen) and not all(chosen):
        train, held_out = (
            [text for text, out in zip(documents, chosen, strict=True) if out is wanted]
            for wanted in (False, True)
        )
        return train, held_out
    keep = round(sum(len(text.encode()) for text in documents) * (1 - fraction))
    parts: list[tuple[bytes, bytes]] = []
    for text in documents:
        data = text.encode()
        cut = min(len(data), max(0, keep))
        keep -= len(data)
        if 0 < cut < len(data):
            least = max(0, cut - max(4, min(2**16, len(data) - cut)))
            line_end = data.rfind(b"\n", least, cut) + 1
            while not line_end and cut > least and data[cut] & 0xC0 == 0x80:
                cut -= 1
            cut = line_end or cut
        parts.append((data[:cut], data[cut:]))
    train, held_out = ([part[n].decode() for part in parts if part[n]] for n in (0, 1))
    return train, held_out


@ANY
@given(documents=st.lists(TEXT, min_size=1, max_size=40), fraction=FRACTIONS)
def test_the_split_follows_the_rules(folder: Path, documents: list[str], fraction: float) -> None:
    train, held_out = split(folder, documents, fraction)
    assert (train, held_out) == expected(documents, fraction)
    assert sorted("".join([*train, *held_out])) == sorted("".join(documents)), "nothing is lost"


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_of_many_documents_about_that_share_is_held_out_whole(
    folder: Path, fraction: float
) -> None:
    train, held_out = split(folder, list(map(str, range(2000))), fraction)
    numbers = list(map(int, held_out))
    assert sorted([*map(int, train), *numbers]) == list(range(2000))
    assert numbers == sorted(numbers)
    assert len(held_out) / 2000 == pytest.approx(fraction, rel=0.2)
    assert min(numbers) < 200  # from all over the text
    assert max(numbers) > 1800


def test_of_few_documents_the_end_of_the_text_is_held_out_after_a_line(folder: Path) -> None:
    lines = [f"line {number:02}\n" for number in range(100)]
    first, second = "".join(lines[:40]), "".join(lines[40:])
    train, held_out = split(folder, [first, second], 0.25)
    assert train == [first, "".join(lines[40:75])]
    assert held_out == ["".join(lines[75:])]


def test_line_ends_of_windows_are_not_parted(folder: Path) -> None:
    train, held_out = split(folder, ["a line\r\n" * 50], 0.3)
    assert set("".join(train).split("\r\n")) == {"a line", ""}
    assert set("".join(held_out).split("\r\n")) == {"a line", ""}


@pytest.mark.parametrize("fraction", [0.1, 0.11, 0.12, 0.13, 0.3])
def test_a_text_without_lines_is_cut_between_two_characters(folder: Path, fraction: float) -> None:
    (train,), (held_out,) = split(folder, ["🙃" * 100], fraction)
    assert train + held_out == "🙃" * 100
    assert len(held_out.encode()) == pytest.approx(400 * fraction, abs=4)


@pytest.mark.parametrize("lines", [0, 1, 3000])
def test_a_cut_far_into_a_long_document_is_the_same_as_in_memory(folder: Path, lines: int) -> None:
    text = "".join(f"{number} {'x' * 300}{'🙃' * 40}\n" for number in range(3000))
    if lines < 3000:
        text = text.replace("\n", " ") + "\nend" * lines
    assert split(folder, ["first", text], 0.4) == expected(["first", text], 0.4)


def test_a_long_last_line_is_not_held_out_whole(folder: Path) -> None:
    train, held_out = split(folder, ["Title\n" + "a very long line " * 2000], 0.05)
    assert len("".join(held_out)) < 0.2 * len("".join(train))


def test_nothing_is_held_out_if_nothing_is_asked_for(folder: Path) -> None:
    assert split(folder, list("abc" * 10), 0) == (list("abc" * 10), [])


def test_other_files_are_held_out_whole(folder: Path) -> None:
    assert split(folder, ["a", "b"], 0.5, held_out=["c", "d"]) == (["a", "b"], ["c", "d"])
