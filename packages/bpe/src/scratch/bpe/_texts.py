"""Texts as UTF-8, a piece at a time."""

from collections.abc import Iterable, Iterator, Sequence

from ._pretokenize import encode_utf8
from ._words import WINDOW_BYTES


def encode_slices(text: str) -> Iterator[bytes]:
    """Yield a long text as UTF-8, without a second copy of all of it."""
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        encode_utf8(text)
    for start in range(0, len(text), WINDOW_BYTES):
        yield encode_utf8(text[start : start + WINDOW_BYTES], offset=start)


def encode_chunks(chunks: Iterable[str]) -> Iterator[bytes]:
    index = 0
    for chunk in chunks:
        yield encode_utf8(chunk, name="text", offset=index)
        index += len(chunk)


def groups(texts: Sequence[bytes], size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of texts of about `size_bytes` together."""
    first, gathered = 0, 0
    for number, text in enumerate(texts):
        gathered += len(text)
        if gathered >= size_bytes:
            yield first, number + 1
            first, gathered = number + 1, 0
    if first < len(texts):
        yield first, len(texts)
