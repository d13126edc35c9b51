"""Which merge joins two symbols, for many pairs at once: a hash table of arrays.

An entry packs a pair and the rank of its merge into 64 bits and stands in one of two places, each
computed from the pair: *cuckoo hashing* (Pagh and Rodler, 2004). Looking up is two gathers and two
comparisons, and exact, because the whole pair is compared. Filling moves entries
between their two places until all have one; a table that cannot be filled is doubled.
"""

import numpy as np
from numpy.typing import NDArray

from ._word_keys import KeyArray

SymbolArray = NDArray[np.int32]

NO_MERGE = np.int32(2**31 - 1)
"""The rank of a pair without a merge: above all others."""

MAX_SYMBOLS = 2**21 - 2
"""Symbols are 0 .. MAX_SYMBOLS - 1."""

MAX_MERGES = 2**22 - 1
"""Ranks are 0 .. MAX_MERGES - 1."""

NO_SYMBOL = np.int32(MAX_SYMBOLS)
"""Stands between words, and is in no pair."""

_SYMBOL_BITS, _RANK_BITS = np.uint64(21), np.uint64(22)
_RANK_MASK = np.uint64(2**22 - 1)
_EMPTY = np.uint64(2**64 - 1)
_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_MOVES = 200


class MergeTable:
    """An exact map from pairs of symbols to ranks."""

    def __init__(self, left: SymbolArray, right: SymbolArray, ranks: SymbolArray) -> None:
        pairs = left.astype(np.uint64) << _SYMBOL_BITS | right.astype(np.uint64)
        entries = pairs << _RANK_BITS | ranks.astype(np.uint64)
        bits = max(8, (3 * len(entries)).bit_length())
        while not self._fill(entries, bits):
            bits += 1

    def ranks(self, left: SymbolArray, right: SymbolArray) -> SymbolArray:
        """Return the rank of each pair, `NO_MERGE` where there is none."""
        pairs = left.astype(np.uint64)
        pairs <<= _SYMBOL_BITS
        pairs |= right.astype(np.uint64)
        first = self._places[0][self._hash(pairs, 0)]
        second = self._places[1][self._hash(pairs, 1)]
        entries = np.where(first >> _RANK_BITS == pairs, first, second)
        result = (entries & _RANK_MASK).astype(np.int32)
        result[entries >> _RANK_BITS != pairs] = NO_MERGE
        return result

    def _fill(self, entries: KeyArray, bits: int) -> bool:
        self._shift = np.uint64(64 - bits)
        self._places = [np.full(2**bits, _EMPTY), np.full(2**bits, _EMPTY)]
        homeless = entries
        for move in range(_MOVES):
            if not len(homeless):
                return True
            places = self._places[move % 2]
            at = self._hash(homeless >> _RANK_BITS, move % 2)
            evicted = places[at]
            places[at] = homeless  # of several at one place, the last one stays
            stays = places[at] == homeless
            evicted = evicted[stays]
            homeless = np.concatenate([homeless[~stays], evicted[evicted != _EMPTY]])
        return False

    def _hash(self, pairs: KeyArray, which: int) -> NDArray[np.int64]:
        hashes = pairs * _FACTORS[which]
        hashes >>= self._shift
        return hashes.view(np.int64)
