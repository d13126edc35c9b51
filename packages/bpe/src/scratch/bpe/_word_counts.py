"""How often each word occurs, the array form: sort the keys and measure the runs.

Each window's keys are sorted and their runs of equal keys counted. What the windows found is kept
side by side and merged the same way whenever it has doubled, so memory grows with the number of
distinct words, and each word takes part in a logarithmic number of merges. Counts are 64 bits wide.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from ._classes import IntArray
from ._word_keys import (
    ABOVE_SHORT,
    MEDIUM_BYTES,
    SHORT_BYTES,
    ByteArray,
    KeyArray,
    WordKeys,
    differs,
    sort_medium,
    spell_long,
    spell_medium,
    spell_short,
)

_FIRST_MERGE = 2**18


class WordTable(NamedTuple):
    """Distinct words and their counts, ready to learn merges from.

    Attributes:
        flat: the bytes of all words, joined.
        lengths: of each word, in bytes.
        counts: of each word.
    """

    flat: ByteArray
    lengths: IntArray
    counts: IntArray


class WordCounts:
    """Counts of words, to which more can be added. Picklable, and small when pickled."""

    def __init__(self) -> None:
        self._short: list[tuple[KeyArray, IntArray]] = []
        self._medium: list[tuple[KeyArray, KeyArray, IntArray]] = []
        self._long: Counter[bytes] = Counter()
        self._unmerged, self._merge_at = 0, _FIRST_MERGE

    def add(self, keys: WordKeys) -> None:
        """Count the words of one window."""
        lengths = keys.lengths
        # Sorting puts special tokens, whose key is 0, first, and longer words last.
        ordered = np.sort(keys.short)
        short = ordered[ordered.searchsorted(1) : ordered.searchsorted(ABOVE_SHORT)]
        if len(short):
            firsts = differs(short).nonzero()[0]
            self._short.append((short[firsts], np.diff(firsts, append=len(short))))
            self._unmerged += len(firsts)
        longer = (lengths > SHORT_BYTES).nonzero()[0]
        is_medium = lengths[longer] <= MEDIUM_BYTES
        low, high = keys.medium(longer[is_medium])
        if len(low):
            order, firsts = sort_medium(low, high)
            chosen = order[firsts]
            counts = np.diff(firsts, append=len(order))
            self._medium.append((low[chosen], high[chosen], counts))
            self._unmerged += len(firsts)
        self._long.update(keys.long(longer[~is_medium]))
        self._merge_when_doubled()

    def update(self, other: "WordCounts") -> None:
        """Add all that another has counted."""
        self._short += other._short
        self._medium += other._medium
        self._long.update(other._long)
        self._unmerged += other._unmerged
        self._merge_when_doubled()

    def merge(self) -> None:
        """Hold each word once."""
        if len(self._short) > 1:
            keys, counts = map(np.concatenate, zip(*self._short, strict=True))
            order = np.argsort(keys)
            keys = keys[order]
            firsts = np.flatnonzero(differs(keys))
            self._short = [(keys[firsts], np.add.reduceat(counts[order], firsts))]
        if len(self._medium) > 1:
            low, high, counts = map(np.concatenate, zip(*self._medium, strict=True))
            order, firsts = sort_medium(low, high)
            chosen = order[firsts]
            totals = np.add.reduceat(counts[order], firsts)
            self._medium = [(low[chosen], high[chosen], totals)]
        self._unmerged = sum(len(counts) for *_, counts in (*self._short, *self._medium))
        self._merge_at = max(_FIRST_MERGE, 2 * self._unmerged)

    def table(self) -> WordTable:
        """Return all words with their counts, and forget them here."""
        self.merge()
        spelt = [spell_short(keys) for keys, _ in self._short]
        spelt += [spell_medium(low, high) for low, high, _ in self._medium]
        counts = [counts for *_, counts in (*self._short, *self._medium)]
        spelt.append(spell_long(list(self._long)))
        counts.append(np.fromiter(self._long.values(), np.int64, len(self._long)))
        self.__init__()
        return WordTable(
            np.concatenate([letters for letters, _ in spelt]),
            np.concatenate([lengths for _, lengths in spelt]),
            np.concatenate(counts),
        )

    def _merge_when_doubled(self) -> None:
        if self._unmerged > self._merge_at:
            self.merge()
