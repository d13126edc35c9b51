r"""Short words as integers, so that arrays can hold, sort and compare them.

A word of up to 7 bytes fits into 64 bits together with its length, which tells `a` from `a\0`; one
of up to 15 bytes fits into twice 64 bits. Equal words have equal keys and different words have
different ones: nothing is hashed away. Of English text 99.7 % of the words are no longer than that.
"""

import numpy as np
from numpy.typing import NDArray

from ._classes import IntArray
from ._words import Window

KeyArray = NDArray[np.uint64]
ByteArray = NDArray[np.uint8]

SHORT_BYTES, MEDIUM_BYTES = 7, 15

_LENGTH_SHIFT = np.uint64(56)
_KEEP_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(8)], np.uint64)
_LENGTH_FIELDS = np.arange(9, dtype=np.uint64) << _LENGTH_SHIFT

ABOVE_SHORT = _LENGTH_FIELDS[8]
"""All keys of short words are less than this one."""

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: Fibonacci hashing
_FOLD = np.uint64(29)


class WordKeys:
    """The keys of the words of a window.

    Attributes:
        lengths: of all words, in bytes; 0 for special tokens, which are no words here.
        short: the key of every word, `ABOVE_SHORT` or more for longer ones, 0 for special tokens.
    """

    def __init__(self, window: Window) -> None:
        self._buffer, self._starts = window.buffer, window.starts
        self.lengths = window.lengths
        if len(window.special_words):
            self.lengths = window.lengths.copy()
            self.lengths[window.special_words] = 0
        # Every 8 bytes of the text, at whatever address: one unaligned load a word.
        size = len(window.buffer) + 8
        self._at = np.ndarray((size,), "<u8", window.buffer + bytes(16), 0, (1,))
        self.short: KeyArray = self._at[window.starts]
        self.short &= _KEEP_FIRST_BYTES.take(self.lengths, mode="clip")
        self.short |= _LENGTH_FIELDS.take(self.lengths, mode="clip")

    def medium(self, words: IntArray) -> tuple[KeyArray, KeyArray]:
        """Return both halves of the key of each of these words, which have 8 to 15 bytes."""
        starts, lengths = self._starts[words], self.lengths[words]
        high = self._at[starts + 8]
        high &= _KEEP_FIRST_BYTES[lengths - 8]
        high |= lengths.view(np.uint64) << _LENGTH_SHIFT
        return self._at[starts], high

    def long(self, words: IntArray) -> list[bytes]:
        """Return the bytes of each of these words, for there is no key for them."""
        begins = self._starts[words]
        ends = begins + self.lengths[words]
        pairs = zip(begins.tolist(), ends.tolist(), strict=True)
        return [self._buffer[begin:end] for begin, end in pairs]


def mix(low: KeyArray, high: KeyArray) -> KeyArray:
    """Return a 64-bit hash of two halves. Whoever uses it compares the halves themselves."""
    mixed = low * _ODD
    mixed ^= mixed >> _FOLD
    mixed += high
    return mixed


def sort_medium(low: KeyArray, high: KeyArray) -> tuple[IntArray, IntArray]:
    """Return an order in which equal words stand together, and where each group begins in it.

    Sorting one hash is faster than sorting two halves. Should two different words share a hash,
    which the comparison shows, the halves are sorted after all.
    """
    hashes = mix(low, high) * _ODD
    order = np.argsort(hashes)
    hashes, sorted_low, sorted_high = hashes[order], low[order], high[order]
    new_hash = differs(hashes)
    new_word = differs(sorted_low) | differs(sorted_high)
    if not np.array_equal(new_hash, new_word):
        order = np.lexsort((low, high))
        new_word = differs(low[order]) | differs(high[order])
    return order, np.flatnonzero(new_word)


def differs(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return for each value whether it differs from the one before; the first one does."""
    result = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=result[1:])
    return result


def spell_short(keys: KeyArray) -> tuple[ByteArray, IntArray]:
    """Return the bytes of all the words, joined, and the length of each."""
    lengths = (keys >> _LENGTH_SHIFT).view(np.int64)
    spelt = keys.astype("<u8").view(np.uint8).reshape(-1, 8)
    return spelt[np.arange(8) < lengths[:, None]], lengths


def spell_medium(low: KeyArray, high: KeyArray) -> tuple[ByteArray, IntArray]:
    """Return the bytes of all the words, joined, and the length of each."""
    lengths = (high >> _LENGTH_SHIFT).view(np.int64)
    spelt = np.stack([low, high], axis=1).astype("<u8").view(np.uint8).reshape(-1, 16)
    return spelt[np.arange(16) < lengths[:, None]], lengths


def spell_long(words: list[bytes]) -> tuple[ByteArray, IntArray]:
    """Return the bytes of all the words, joined, and the length of each."""
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    return np.frombuffer(b"".join(words), np.uint8), lengths
