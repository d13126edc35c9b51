"""Documents: what the texts of all kinds of files come down to.

A document ends at an `<|endoftext|>`, at the end of its file, and in a `.jsonl` file at the end of
its line. Files are read from the beginning to the end, compressed or not, and never held as a
whole: a document arrives in pieces.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from scratch.bpe import read_blocks

from .json_lines import is_json_lines, read_json_lines

END_OF_TEXT = "<|endoftext|>"

_SEPARATOR = END_OF_TEXT.encode()


class Piece(NamedTuple):
    """Some of the text of a document, never none.

    Attributes:
        begins: whether it is the first piece of its document.
        data: the text in UTF-8; only all pieces together need to be whole characters.
    """

    begins: bool
    data: bytes


@dataclass(frozen=True)
class Document:
    """The text of one document, in UTF-8."""

    data: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.data)

    def read(self) -> Iterator[str]:
        yield self.data.decode()


@dataclass(frozen=True)
class Corpus:
    """The documents of some files, in order; empty ones are left out.

    Each loop over it reads the files again, and holds one document at a time.

    Attributes:
        paths: plain text, or text compressed with gzip or zstd; `.jsonl` files hold JSON lines.
        json_field: where the text is in a line of a `.jsonl` file.
    """

    paths: tuple[Path, ...]
    json_field: str = "text"

    def __iter__(self) -> Iterator[Document]:
        """Yield each document as a whole. Raises as `pieces`."""
        parts: list[bytes] = []
        for piece in self.pieces():
            if piece.begins and parts:
                yield Document(b"".join(parts))
                parts.clear()
            parts.append(piece.data)
        if parts:
            yield Document(b"".join(parts))

    def pieces(self) -> Iterator[Piece]:
        """Yield the documents piece by piece.

        Raises:
            ValueError: if a file is not UTF-8, or a line is not JSON with a text in it, naming the
                place.
            OSError: if a file cannot be read.
        """
        for path in self.paths:
            if is_json_lines(path):
                for text in read_json_lines(path, self.json_field):
                    yield from split_at_separators([text])
            else:
                yield from split_at_separators(read_blocks(path))


def find_documents(paths: Sequence[Path], *, json_field: str = "text") -> Corpus:
    """Return the documents of the files.

    Raises:
        ValueError: if there is no file, one is a directory or a pipe, or there is no text in them.
        OSError: if a file cannot be read.
    """
    corpus = Corpus(tuple(paths), json_field)
    if not corpus.paths:
        raise ValueError("files must name at least one text file, got none")
    for path in corpus.paths:
        path.stat()  # a file that is not there is told before the others are read
        if path.is_dir():
            raise ValueError(f"files must be files, got the directory {path}; name those in it")
        if not path.is_file():  # each loop over a pipe would find what the last one left
            raise ValueError(
                f"files must be files that can be read again, got the pipe or device {path}; "
                "write what comes from it to a file"
            )
    if next(corpus.pieces(), None) is None:
        raise ValueError(f"files must hold some text, got none in {', '.join(map(str, paths))}")
    return corpus


def split_at_separators(blocks: Iterable[bytes]) -> Iterator[Piece]:
    """Yield the documents of one text, which arrives in blocks that end anywhere."""
    begins, held = True, b""
    for block in blocks:
        *ended, rest = (held + block).split(_SEPARATOR)
        for data in ended:
            if data:
                yield Piece(begins, data)
            begins = True
        cut = len(rest) - _begun_bytes(rest)
        held = rest[cut:]
        if cut:
            yield Piece(begins, rest[:cut])
            begins = False
    if held:
        yield Piece(begins, held)


def _begun_bytes(text: bytes) -> int:
    """Return how many of the last bytes may be the beginning of a separator."""
    for size in range(min(len(_SEPARATOR) - 1, len(text)), 0, -1):
        if text.endswith(_SEPARATOR[:size]):
            return size
    return 0
