"""Which text is held out, and the texts that are left: one file to train on, one to validate.

Of many documents, about a fraction is chosen by a hash of their number. Of few, the end of the text
is held out, cut after a line where there is one. Both files hold each document after an
`<|endoftext|>`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scratch.train import atomic_write

from .corpus import END_OF_TEXT, Corpus, Piece

# A cut moves back to a line end by no more than this, and than the text that is held out.
_LINE_SEARCH_BYTES = 2**16

# Below this, holding out whole documents would be too coarse: the end of the text is held out.
_FEW_DOCUMENTS = 20

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is (0 if nobody knows)."""

_Labelled = Iterable[tuple[bool, Piece]]  # whether it is held out


@dataclass
class TextSize:
    """How much text there is; the separators do not count as bytes of it."""

    documents: int = 0
    bytes: int = 0


def write_texts(
    corpus: Corpus,
    held_out: Corpus | None,
    fraction: float,
    train_path: Path,
    validation_path: Path,
    *,
    progress: Progress,
) -> tuple[TextSize, TextSize]:
    """Write the text to train on and the text to validate on; return how much each is.

    Args:
        corpus: all documents, or those to train on if there is a `held_out`.
        held_out: documents to validate on.
        fraction: how much of `corpus` to hold out if there is no `held_out`.
        train_path, validation_path: the files to write.
        progress: called with "read" and the bytes of text so far.

    Raises:
        ValueError: if the files cannot be understood.
        OSError: if a file cannot be read or written.
    """

    def write(labelled: _Labelled) -> tuple[TextSize, TextSize]:
        return _write(labelled, train_path, validation_path, progress)

    if held_out is not None:
        return write(_all_of(corpus, held_out))
    if fraction == 0:
        return write(_all_of(corpus, None))
    train, validation = write(_by_number(corpus.pieces(), fraction))
    documents = train.documents + validation.documents
    if documents < _FEW_DOCUMENTS or not train.documents or not validation.documents:
        near = round((train.bytes + validation.bytes) * (1 - fraction))
        return write(_after(corpus.pieces(), find_cut(corpus.pieces(), near)))
    return train, validation


def find_cut(pieces: Iterable[Piece], near: int) -> int:
    """Return where to cut the text: a place between two documents, or two lines, or two characters.

    Places are counted in bytes of text from its beginning; the cut is at `near` or a little before.
    """
    before, after = b"", b""  # the text around `near`, of the document in which it lies
    position = 0
    for begins, data in pieces:
        if begins and position >= near:
            break
        if begins:
            before = b""
        size = max(0, near - position)
        before = (before + data[:size])[-_LINE_SEARCH_BYTES:]
        after += data[size:]
        if len(after) >= _LINE_SEARCH_BYTES:
            break
        position += len(data)
    if not before or not after:
        return near
    search_bytes = max(4, min(_LINE_SEARCH_BYTES, len(after)))  # 4: one character
    before = before[-search_bytes:]
    if line_end := before.rfind(b"\n") + 1:
        return near - len(before) + line_end
    text, cut = before + after[:1], len(before)
    while cut > 0 and text[cut] & 0xC0 == 0x80:
        cut -= 1
    return near - len(before) + cut


def _all_of(train: Corpus, held_out: Corpus | None) -> Iterator[tuple[bool, Piece]]:
    for is_held_out, corpus in ((False, train), (True, held_out)):
        if corpus is not None:
            for piece in corpus.pieces():
                yield is_held_out, piece


def _by_number(pieces: Iterable[Piece], fraction: float) -> Iterator[tuple[bool, Piece]]:
    number, is_held_out = -1, False
    for piece in pieces:
        if piece.begins:
            number += 1
            is_held_out = _share(number) < fraction
        yield is_held_out, piece


def _after(pieces: Iterable[Piece], cut: int) -> Iterator[tuple[bool, Piece]]:
    position = 0
    for begins, data in pieces:
        size = max(0, min(len(data), cut - position))
        if size:
            yield False, Piece(begins, data[:size])
        if size < len(data):
            # What follows the cut begins a document, if only the rest of one.
            yield True, Piece(begins or position + size == cut, data[size:])
        position += len(data)


def _write(
    labelled: _Labelled, train_path: Path, validation_path: Path, progress: Progress
) -> tuple[TextSize, TextSize]:
    separator = END_OF_TEXT.encode()
    sizes = TextSize(), TextSize()
    with ExitStack() as stack:
        files: list[IO[bytes]] = [
            stack.enter_context(atomic_write(path)) for path in (train_path, validation_path)
        ]
        for is_held_out, (begins, data) in labelled:
            file, size = files[is_held_out], sizes[is_held_out]
            if begins:
                file.write(separator)
                size.documents += 1
            file.write(data)
            size.bytes += len(data)
            progress("read", sizes[0].bytes + sizes[1].bytes, 0)
    return sizes


def _share(number: int) -> float:
    """Return a number in [0, 1) that looks drawn, always the same for one `number`."""
    digest = hashlib.blake2b(str(number).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
