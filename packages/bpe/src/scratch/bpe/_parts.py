"""Files in parts that several processes work on, cut where a cut changes nothing.

A part of a file is read from the middle, so nothing is known of what comes before it. The places
of `_stream` do not need to know: they are told by the characters beside them. But a special
token must not be cut in two, so no place counts that lies inside anything which might be one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import fspath
from pathlib import Path
from typing import Self

from ._read import is_compressed
from ._stream import StrPath, cut_margin, safe_cuts

_WINDOW_BYTES = 2**16


@dataclass(frozen=True)
class Part:
    """A part of a file, in bytes.

    Attributes:
        path: the file.
        start, stop: where the part begins and ends; `stop` is None for the only part of a file
            that is compressed, or of which nobody knows how long it is.
        size: how many bytes of the file it is.
    """

    path: str
    start: int
    stop: int | None
    size: int

    def absolute(self) -> Self:
        """Return the same for whoever works in another directory."""
        return replace(self, path=fspath(Path(self.path).absolute()))


def split_into_parts(
    paths: Sequence[StrPath],
    *,
    part_bytes: int,
    pattern: str,
    special_tokens: tuple[str, ...] = (),
) -> Iterator[Part]:
    """Yield parts of about `part_bytes` that cover all files in order.

    A part is longer where there is no safe place to cut. An empty file is one part, too.
    """
    for path in paths:
        name = fspath(path)
        size = Path(path).stat().st_size
        if not size or not Path(path).is_file() or is_compressed(path):
            yield Part(name, 0, None, size)
            continue
        start = 0
        while size - start > part_bytes:
            cut = _find_cut(Path(path), start + part_bytes, size, pattern, special_tokens)
            if cut is None:
                break
            yield Part(name, start, cut, cut - start)
            start = cut
        yield Part(name, start, size, size - start)


def _find_cut(
    path: Path, near: int, size: int, pattern: str, special_tokens: tuple[str, ...]
) -> int | None:
    """Return the first safe cut after `near`, in bytes, or None if there is none."""
    # Windows overlap by both their margins, of characters that may have four bytes.
    overlap_bytes = 2 * 4 * cut_margin(special_tokens)
    window_bytes = max(_WINDOW_BYTES, 2 * overlap_bytes)
    with path.open("rb") as file:
        for start in range(near, size, window_bytes - overlap_bytes):
            file.seek(start)
            # Bytes that are no UTF-8, or a character cut in two, become one character each.
            text = file.read(window_bytes).decode("utf-8", "surrogateescape")
            for cut in safe_cuts(text, pattern=pattern, special_tokens=special_tokens):
                return start + len(text[:cut].encode("utf-8", "surrogateescape"))
    return None
