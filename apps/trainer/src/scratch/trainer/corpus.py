"""Documents: where they lie in the files, and which of them are held out.

Files are never loaded as a whole. A document is a span of bytes between two separators.
"""

import hashlib
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scratch.bpe import read_text

END_OF_TEXT = "<|endoftext|>"

# A cut moves back to a line end by no more than this, and than the text that is held out.
_LINE_SEARCH_BYTES = 2**16

# Below this, holding out whole documents would be too coarse: the end of the text is held out.
_FEW_DOCUMENTS = 20


@dataclass(frozen=True, slots=True)
class Document:
    """Bytes `start .. stop - 1` of a UTF-8 file."""

    path: Path
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start

    def read(self) -> Iterator[str]:
        """Yield the text in blocks. Raises `ValueError` naming file and byte if it is not UTF-8."""
        return read_text(self.path, start_byte=self.start, stop_byte=self.stop)


def find_documents(paths: Sequence[Path]) -> list[Document]:
    """Return the documents of the files, in order; empty ones are left out.

    Raises:
        ValueError: if there is no file, or no text in them.
        OSError: if a file cannot be read.
    """
    if not paths:
        raise ValueError("files must name at least one text file, got none")
    documents = [document for path in paths for document in _documents_of(path)]
    if not documents:
        raise ValueError(f"files must hold some text, got none in {', '.join(map(str, paths))}")
    return documents


def hold_out(
    documents: Sequence[Document], fraction: float
) -> tuple[list[Document], list[Document]]:
    """Return `(training documents, held-out documents)`.

    Of many documents, about `fraction` are chosen by a hash of their number. Of few, the end of the
    text is held out, cut after a line where there is one.
    """
    if fraction == 0:
        return list(documents), []
    if len(documents) >= _FEW_DOCUMENTS:
        chosen = [_share(number) < fraction for number in range(len(documents))]
        if any(chosen) and not all(chosen):
            pairs = list(zip(documents, chosen, strict=True))
            return [d for d, out in pairs if not out], [d for d, out in pairs if out]
    keep_bytes = round(sum(d.num_bytes for d in documents) * (1 - fraction))
    train: list[Document] = []
    held_out: list[Document] = []
    for document in documents:
        cut = document.start + min(document.num_bytes, max(0, keep_bytes))
        if document.start < cut < document.stop:
            cut = _line_end_before(document, cut)
        keep_bytes -= document.num_bytes
        train.append(Document(document.path, document.start, cut))
        held_out.append(Document(document.path, cut, document.stop))
    return [d for d in train if d.num_bytes], [d for d in held_out if d.num_bytes]


def stream(documents: Iterable[Document]) -> Iterator[str]:
    """Yield the text of all documents in blocks, each document after an `<|endoftext|>`."""
    for document in documents:
        yield END_OF_TEXT
        yield from document.read()


def _documents_of(path: Path) -> Iterator[Document]:
    separator = END_OF_TEXT.encode()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = 0
            while (stop := content.find(separator, start)) >= 0:
                if stop > start:
                    yield Document(path, start, stop)
                start = stop + len(separator)
            if start < size:
                yield Document(path, start, size)


def _share(number: int) -> float:
    """Return a number in [0, 1) that looks drawn, always the same for one `number`."""
    digest = hashlib.blake2b(str(number).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _line_end_before(document: Document, cut: int) -> int:
    """Return an index a little before `cut` after a line end, or at least before a character."""
    search_bytes = max(4, min(_LINE_SEARCH_BYTES, document.stop - cut))  # 4: one character
    start = max(document.start, cut - search_bytes)
    with document.path.open("rb") as file:
        file.seek(start)
        before = file.read(cut - start + 1)
    line_end = before.rfind(b"\n", 0, cut - start)
    if line_end >= 0:
        return start + line_end + 1
    while cut > start and before[cut - start] & 0xC0 == 0x80:
        cut -= 1
    return cut
