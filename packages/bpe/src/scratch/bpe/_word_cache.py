"""Words seen before, and what they were encoded as: bounded tables of arrays.

A word's *value* stands for its ids. A key has two places, computed from it. The first comer keeps
the first place, so the tokens of the vocabulary and the frequent words, which come early, stay; the
second place goes to whoever comes last. What is pushed out is merely encoded anew, so the tables
never grow. Keys are compared in full: a value is found only for the very same word.
"""

import numpy as np
from numpy.typing import NDArray

from ._classes import IntArray
from ._word_keys import ABOVE_SHORT, KeyArray, mix

ValueArray = NDArray[np.uint32]

_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


class ShortWords:
    """Values of words of up to 7 bytes, by their keys."""

    def __init__(self, bits: int) -> None:
        self._shift = np.uint64(64 - bits)
        self._keys = [np.zeros(2**bits, np.uint64) for _ in range(2)]
        self._values = [np.zeros(2**bits, np.uint32) for _ in range(2)]

    def find(self, keys: KeyArray) -> tuple[ValueArray, IntArray, IntArray]:
        """Return the value of each key, which short words are not known, and which are longer."""
        at = self._hash(keys, 0)
        values = self._values[0][at]
        missing = (self._keys[0][at] != keys).nonzero()[0]
        wanted = keys[missing]
        longer = missing[wanted >= ABOVE_SHORT]
        is_short = (wanted < ABOVE_SHORT) & (wanted > 0)
        missing, wanted = missing[is_short], wanted[is_short]
        if len(missing):
            at = self._hash(wanted, 1)
            values[missing] = self._values[1][at]
            missing = missing[self._keys[1][at] != wanted]
        return values, missing, longer

    def insert(self, keys: KeyArray, values: ValueArray) -> None:
        """Remember distinct keys."""
        at = self._hash(keys, 0)
        chosen = (self._keys[0][at] == 0).nonzero()[0][::-1]  # of several, the first one stays
        self._put(0, at[chosen], keys[chosen], values[chosen])
        rest = np.flatnonzero(self._keys[0][at] != keys)
        self._put(1, self._hash(keys[rest], 1), keys[rest], values[rest])

    def _put(self, table: int, at: IntArray, keys: KeyArray, values: ValueArray) -> None:
        self._keys[table][at] = keys
        stays = self._keys[table][at] == keys
        self._values[table][at[stays]] = values[stays]

    def _hash(self, keys: KeyArray, table: int) -> IntArray:
        hashes = keys * _FACTORS[table]
        hashes >>= self._shift
        return hashes.view(np.int64)


class MediumWords:
    """Values of words of 8 to 15 bytes, by the two halves of their keys."""

    def __init__(self, bits: int) -> None:
        self._shift = np.uint64(64 - bits)
        self._lows = [np.zeros(2**bits, np.uint64) for _ in range(2)]
        self._highs = [np.zeros(2**bits, np.uint64) for _ in range(2)]
        self._values = [np.zeros(2**bits, np.uint32) for _ in range(2)]

    def find(self, low: KeyArray, high: KeyArray) -> tuple[ValueArray, IntArray]:
        """Return the value of each key, and which of them are not known."""
        mixed = mix(low, high)
        at = self._hash(mixed, 0)
        values = self._values[0][at]
        missing = np.flatnonzero((self._lows[0][at] != low) | (self._highs[0][at] != high))
        if len(missing):
            low, high = low[missing], high[missing]
            at = self._hash(mixed[missing], 1)
            values[missing] = self._values[1][at]
            missing = missing[(self._lows[1][at] != low) | (self._highs[1][at] != high)]
        return values, missing

    def insert(self, low: KeyArray, high: KeyArray, values: ValueArray) -> None:
        """Remember distinct keys."""
        mixed = mix(low, high)
        at = self._hash(mixed, 0)
        chosen = np.flatnonzero(self._highs[0][at] == 0)[::-1]  # of several, the first one stays
        self._put(0, at[chosen], low[chosen], high[chosen], values[chosen])
        rest = np.flatnonzero((self._lows[0][at] != low) | (self._highs[0][at] != high))
        self._put(1, self._hash(mixed[rest], 1), low[rest], high[rest], values[rest])

    def _put(
        self, table: int, at: IntArray, low: KeyArray, high: KeyArray, values: ValueArray
    ) -> None:
        self._lows[table][at] = low
        self._highs[table][at] = high
        stays = (self._lows[table][at] == low) & (self._highs[table][at] == high)
        self._values[table][at[stays]] = values[stays]

    def _hash(self, mixed: KeyArray, table: int) -> IntArray:
        hashes = mixed * _FACTORS[table]
        hashes >>= self._shift
        return hashes.view(np.int64)
