"""The kind of every character, asked of `regex` itself and laid out byte by byte.

The patterns know characters only by kind: letter, number, white space, anything else. A table of
all code points, filled by the same `regex` that the plain form uses, keeps the array form on the
same version of Unicode. In UTF-8 each byte then gets the kind of the character it belongs to.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
KindArray = NDArray[np.uint8]

# White space is `<= LINE_END`; what `(?!\S)` allows to follow is `<= BARRIER`.
SPACE, OTHER_SPACE, LINE_END, BARRIER, LETTER, NUMBER, OTHER = range(7)

AFTER_BYTES = 4
"""How many bytes of BARRIER follow the text in `Kinds.padded`."""

_CODE_POINTS = 0x110000


class Kinds(NamedTuple):
    """The kinds of the bytes of a text.

    Attributes:
        padded: one BARRIER, the kind of each byte, `AFTER_BYTES` times BARRIER.
        wide_spaces: where white space of several bytes starts, and how many bytes it has.
    """

    padded: KindArray
    wide_spaces: list[tuple[IntArray, int]]


class Barriers(NamedTuple):
    """Stretches of a text that no word crosses or shares: special tokens, separators.

    Ascending and apart. Ordinary text ends before one and begins anew after it.
    """

    starts: IntArray
    lengths: IntArray

    def indices(self) -> IntArray:
        """Return the index of every byte of every barrier."""
        before = self.lengths.cumsum() - self.lengths
        indices = (self.starts - before).repeat(self.lengths)
        indices += np.arange(len(indices))
        return indices


NO_BARRIERS = Barriers(np.empty(0, np.int64), np.empty(0, np.int64))


@lru_cache(maxsize=1)
def kinds_of_code_points() -> KindArray:
    """Return the kind of each code point, from 0 to U+10FFFF."""
    # Through UTF-32, because joining a million one-character strings takes 80 MB.
    everything = np.arange(_CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    kinds = np.full(_CODE_POINTS, OTHER, np.uint8)
    for pattern, kind in ((r"\p{L}+", LETTER), (r"\p{N}+", NUMBER), (r"\s+", OTHER_SPACE)):
        for match in regex.finditer(pattern, everything):
            kinds[match.start() : match.end()] = kind
    kinds[ord(" ")] = SPACE
    kinds[[ord("\r"), ord("\n")]] = LINE_END
    return kinds


@lru_cache(maxsize=1)
def _kinds_of_ascii() -> bytes:
    return kinds_of_code_points()[:128].tobytes() + bytes([OTHER]) * 128


def classify(buffer: bytes, barriers: Barriers = NO_BARRIERS) -> Kinds:
    """Return the kinds of the bytes of `buffer`, which is UTF-8 outside its barriers."""
    size = len(buffer)
    padded = np.empty(1 + size + AFTER_BYTES, np.uint8)
    padded[0] = BARRIER
    padded[1 + size :] = BARRIER
    padded[1 : 1 + size] = np.frombuffer(buffer.translate(_kinds_of_ascii()), np.uint8)
    wide_spaces: list[tuple[IntArray, int]] = []
    if not buffer.isascii():
        _classify_wide(np.frombuffer(buffer, np.uint8), padded[1:], wide_spaces)
    if len(barriers.starts):
        padded[1 + barriers.indices()] = BARRIER
    return Kinds(padded, wide_spaces)


def _classify_wide(
    text: KindArray, kinds: KindArray, wide_spaces: list[tuple[IntArray, int]]
) -> None:
    """Set the kind of every byte of the characters of two, three and four bytes."""
    table = kinds_of_code_points()
    leads = np.flatnonzero((text >= 0xC2) & (text <= 0xF4))
    lead_bytes = text[leads]
    for length, least, most in ((2, 0xC2, 0xDF), (3, 0xE0, 0xEF), (4, 0xF0, 0xF4)):
        starts = leads[(lead_bytes >= least) & (lead_bytes <= most)]
        if not len(starts):
            continue
        code_points = (text[starts] & (0x7F >> length)).astype(np.uint32)
        for offset in range(1, length):
            code_points <<= 6
            code_points |= text[starts + offset] & 0x3F
        found = table[code_points]
        for offset in range(length):
            kinds[starts + offset] = found
        spaces = starts[found <= LINE_END]
        if len(spaces):
            wide_spaces.append((spaces, length))
