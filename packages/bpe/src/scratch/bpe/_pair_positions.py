"""Where the pairs of adjacent symbols stand, in arrays.

All distinct words lie one after another, a sentinel between them, one *position* for each byte.
Merging empties positions, and links lead past them to the next and the previous symbol. A *pair* is
known by a number. `pair_at` says which pair begins at a position; for each number there is its
count, its two symbols, and a slice of the arena that lists where it began when it was numbered. A
pair is numbered once, when one of its symbols is made, so nothing needs to be looked up by its
symbols; and a list is never mended: positions whose `pair_at` has changed are passed over.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._classes import IntArray
from ._word_counts import WordTable
from ._word_keys import differs

NONE = -1

Index = NDArray[np.intp]
Integers = NDArray[np.int32] | NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)


class Occurrences(NamedTuple):
    """Where some pairs stand, pair by pair, and what stands around.

    Attributes:
        which: which of the pairs asked for it is.
        lefts, rights: the positions of its two symbols.
        before, after: the positions next to them.
        pairs_before, pairs_after: the pair that begins at `before` and at `rights`, or NONE.
        weights: how often the word occurs.
    """

    which: Index
    lefts: Index
    rights: Index
    before: Index
    after: Index
    pairs_before: Index
    pairs_after: Index
    weights: IntArray

    def first(self, num_pairs: int) -> "Occurrences":
        """Return those of the first pairs."""
        count = self.which.searchsorted(num_pairs)
        return Occurrences(*(column[:count] for column in self))


class PairPositions:
    """The symbols of all words, and the pairs they form."""

    def __init__(self, words: WordTable) -> None:
        self._lay_out(words)
        self._number_byte_pairs()
        num_positions = len(self.symbols)
        self.after = np.arange(1, num_positions + 1, dtype=self._arena.dtype)
        self.after[-1] = num_positions - 1
        self.before = np.arange(-1, num_positions - 1, dtype=self._arena.dtype)
        self.before[0] = 0

    def _lay_out(self, words: WordTable) -> None:
        num_positions = len(words.flat) + len(words.lengths) + 1
        weight_type = np.int32 if words.counts.max(initial=0) < 2**31 else np.int64
        is_symbol = np.ones(num_positions, np.bool_)
        is_symbol[0] = False
        is_symbol[(words.lengths + 1).cumsum()] = False
        self.symbols = np.full(num_positions, NONE, np.int32)
        self.symbols[is_symbol] = words.flat
        self.weights = np.zeros(num_positions, weight_type)
        self.weights[is_symbol] = words.counts.astype(weight_type).repeat(words.lengths)

    def _number_byte_pairs(self) -> None:
        symbols = self.symbols
        index_type = np.int32 if len(symbols) < 2**31 else np.int64
        positions = ((symbols[:-1] >= 0) & (symbols[1:] >= 0)).nonzero()[0].astype(index_type)
        keys = symbols[positions].astype(np.uint16)
        keys <<= 8
        keys |= symbols[positions + 1].astype(np.uint16)
        order = keys.argsort(kind="stable")
        self._arena = positions[order]
        keys = keys[order]
        del order, positions
        firsts = differs(keys).nonzero()[0]
        self._arena_size, self.num_pairs = len(keys), len(firsts)
        # The lists lie in the arena in order of the pairs, so each ends where the next one begins.
        self._begins = np.append(firsts, len(keys))
        weights = self.weights[self._arena]
        self.counts = np.add.reduceat(weights, firsts, dtype=np.int64) if len(firsts) else firsts
        del weights
        self.left = (keys[firsts] >> 8).astype(np.int32)
        self.right = (keys[firsts] & 0xFF).astype(np.int32)
        self.pair_at = np.full(len(symbols), NONE, np.int32)
        numbers = np.arange(len(firsts), dtype=np.int32)
        self.pair_at[self._arena] = numbers.repeat(np.diff(self._begins))

    def find(self, pairs: list[int], *, overlapping: bool) -> Occurrences:
        """Return where the pairs stand; of those that may overlap (`aaa`), every other."""
        numbers = np.array(pairs)
        begins, ends = self._begins[numbers], self._begins[numbers + 1]
        slices = zip(begins.tolist(), ends.tolist(), strict=True)
        lefts = np.concatenate([self._arena[begin:end] for begin, end in slices]).astype(np.intp)
        which = np.arange(len(pairs)).repeat(ends - begins)
        stands = self.pair_at[lefts] == numbers[which]
        lefts, which = lefts[stands], which[stands]
        if overlapping:
            lefts = self._every_other(np.sort(lefts))
            which = which[: len(lefts)]
        rights = self.after[lefts].astype(np.intp)
        before = self.before[lefts].astype(np.intp)
        return Occurrences(
            which,
            lefts,
            rights,
            before,
            self.after[rights].astype(np.intp),
            self.pair_at[before].astype(np.intp),
            self.pair_at[rights].astype(np.intp),
            self.weights[lefts].astype(np.int64),
        )

    def _every_other(self, lefts: Index) -> Index:
        """Return, of each run of overlapping occurrences, the 1st, the 3rd, ..."""
        begins_run = np.ones(len(lefts), np.bool_)
        np.not_equal(self.after[lefts[:-1]], lefts[1:], out=begins_run[1:])
        runs = begins_run.nonzero()[0]
        place = np.arange(len(lefts)) - runs[begins_run.cumsum() - 1]
        return lefts[place % 2 == 0]

    def add(
        self, positions: Index, firsts: Index, counts: IntArray, left: Integers, right: Integers
    ) -> None:
        """Number new pairs. Those of `positions` from each of `firsts` on are of one pair."""
        added = len(firsts)
        if not added:
            return
        start, arena_start = self.num_pairs, self._arena_size
        self._make_room(start + added, arena_start + len(positions))
        numbers = slice(start, start + added)
        self.counts[numbers] = counts
        self.left[numbers] = left
        self.right[numbers] = right
        self._begins[numbers] = firsts + arena_start
        self._begins[start + added] = arena_start + len(positions)
        self._arena[arena_start : arena_start + len(positions)] = positions
        is_first = np.zeros(len(positions), np.int64)
        is_first[firsts] = 1
        self.pair_at[positions] = is_first.cumsum() + (start - 1)
        self.num_pairs += added
        self._arena_size += len(positions)

    def _make_room(self, pairs: int, positions: int) -> None:
        if pairs > len(self.counts):
            size = max(pairs, len(self.counts) * 3 // 2, 2**14)
            self.counts = _grown(self.counts, size)
            self._begins = _grown(self._begins, size + 1)
            self.left, self.right = _grown(self.left, size), _grown(self.right, size)
        if positions > len(self._arena):
            self._arena = _grown(self._arena, max(positions, len(self._arena) * 5 // 4))


def _grown(column: NDArray[Number], size: int) -> NDArray[Number]:
    longer = np.empty(size, column.dtype)
    longer[: len(column)] = column
    return longer
