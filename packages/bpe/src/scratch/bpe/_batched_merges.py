"""Learning merges, the array form: as many merges at a time as cannot disturb one another.

`_pair_positions` knows where every pair of adjacent symbols stands. To merge a pair is to join its
occurrences, to lower the counts of the pairs that stood beside them, and to number the new ones.

One merge at a time, numpy's overhead would eat all the gain. So a batch of pairs is taken from the
heap, in the exact order of `_merges`: greatest count first, of equal counts the greatest bytes.
Which prefix of the batch may be merged at once?

* No pair may begin with a token with which an earlier one ends, nor the other way round, so that
  their occurrences never overlap; and a pair of equal tokens, whose occurrences overlap
  one another, is merged alone.
* Nothing that the earlier merges create may come before the later ones. Merging (a, b) creates the
  pairs of `ab` with its neighbours. (ab, c) can only stand where (a, b) stood before c, so its
  count is at most the count of those places, and that bound holds at whatever moment between
  the merges of the batch one looks: these only take away from it. If the bound is less than
  the count of a later pair in the batch, then that pair comes first anyhow; so it does if they are
  equal and the bytes of (ab, c) are the lesser ones, unless c itself may grow within the batch.
  The first pair of which this cannot be said ends the batch.

The counts of pairs that exist already only fall, and those of the batch itself do not even that:
by the first rule no merge of the batch touches an occurrence of another. So the merges are exactly
those of one at a time.
"""

import heapq
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ._classes import BoolArray, IntArray
from ._merges import descending
from ._pair_positions import NONE, Index, Integers, Occurrences, PairPositions
from ._word_counts import WordTable
from ._word_keys import differs

_MOST_AT_ONCE = 512
_BEFORE, _AFTER = 0, 1

_Candidate = tuple[int, str, str, int, int, int]
"""-count, order of the left token, of the right one; the pair, its left and its right symbol."""


class _Neighbours(NamedTuple):
    """The new pairs of a batch, by merge, by the pair that stood there before, and by side.

    Attributes:
        positions: where each new pair begins, group by group.
        firsts: where each group begins in `positions`.
        counts: of each group.
        merges: which merge of the batch makes it, ascending.
        old_pairs: the pair that stood there before.
        sides: on which side of the merged token the neighbour is.
    """

    positions: Index
    firsts: Index
    counts: IntArray
    merges: IntArray
    old_pairs: IntArray
    sides: IntArray

    def first(self, num_merges: int) -> "_Neighbours":
        """Return those that the first merges of the batch make."""
        groups = int(self.merges.searchsorted(num_merges))
        if groups == len(self.merges):
            return self
        positions = self.positions[: self.firsts[groups]]
        return _Neighbours(positions, *(column[:groups] for column in self[1:]))


def learn_merges_in_batches(
    words: WordTable,
    max_merges: int,
    *,
    min_frequency: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[bytes, bytes]]:
    """Return what `learn_merges` returns; stop before a pair that is rarer than `min_frequency`.

    `progress` is told after every batch how many merges there are.
    """
    learner = _Learner(words, min_frequency)
    del words  # which are laid out anew
    while len(learner.merges) < max_merges and learner.merge_batch(max_merges):
        if progress is not None:
            progress(len(learner.merges))
    return learner.merges


class _Learner:
    def __init__(self, words: WordTable, min_frequency: int) -> None:
        self.merges: list[tuple[bytes, bytes]] = []
        self._tokens = [bytes([byte]) for byte in range(256)]
        self._order = [descending(token) for token in self._tokens]
        self._at = PairPositions(words)
        # The heap holds the pairs that occur `_threshold` times and more; `_fill_heap` lowers it.
        self._heap: list[_Candidate] = []
        self._min_frequency = min_frequency
        self._threshold = int(self._at.counts.max(initial=0)) + 1
        self._batch_limit = 1

    def merge_batch(self, max_merges: int) -> int:
        """Learn the next merges, at most up to `max_merges` in all; return how many."""
        batch = self._select(min(self._batch_limit, max_merges - len(self.merges)))
        if not batch:
            return 0
        overlapping = batch[0][4] == batch[0][5]
        found = self._at.find([candidate[3] for candidate in batch], overlapping=overlapping)
        neighbours = None
        self._batch_limit = min(_MOST_AT_ONCE, 2 * self._batch_limit)
        if len(batch) > 1:
            neighbours = self._group_by_old_pair(found)
            length = self._safe_prefix(batch, neighbours)
            if length < len(batch):
                for candidate in batch[length:]:
                    heapq.heappush(self._heap, candidate)
                batch = batch[:length]
                found, neighbours = found.first(length), neighbours.first(length)
                self._batch_limit = 2 * length
        self._apply(batch, found, neighbours)
        return len(batch)

    def _select(self, most: int) -> list[_Candidate]:
        """Pop pairs in order, as long as none may overlap another."""
        batch: list[_Candidate] = []
        lefts: set[int] = set()
        rights: set[int] = set()
        counts = self._at.counts
        while len(batch) < most and (self._heap or self._fill_heap()):
            candidate = heapq.heappop(self._heap)
            negative_count, _, _, pair, left, right = candidate
            count = int(counts[pair])
            if count != -negative_count:
                if count >= self._threshold:
                    heapq.heappush(self._heap, (-count, *candidate[1:]))
                continue
            if batch and (left in rights or right in lefts or left == right):
                heapq.heappush(self._heap, candidate)
                break
            batch.append(candidate)
            lefts.add(left)
            rights.add(right)
            if left == right:
                break
        return batch

    def _fill_heap(self) -> bool:
        """Lower the threshold until some pair reaches it; return False if none is left."""
        while not self._heap and self._threshold > self._min_frequency:
            below = self._threshold
            lower = below // 2 if below > 64 else below * 3 // 4
            self._threshold = max(self._min_frequency, lower)
            counts = self._at.counts[: self._at.num_pairs]
            self._heap += self._candidates((counts >= self._threshold) & (counts < below))
            heapq.heapify(self._heap)
        return bool(self._heap)

    def _candidates(self, chosen: BoolArray, start: int = 0) -> list[_Candidate]:
        """Return the entries of the chosen ones among the pairs from `start` on."""
        pairs = chosen.nonzero()[0] + start
        order = self._order
        columns = (self._at.counts[pairs], pairs, self._at.left[pairs], self._at.right[pairs])
        return [
            (-count, order[left], order[right], pair, left, right)
            for count, pair, left, right in zip(*(c.tolist() for c in columns), strict=True)
        ]

    def _group_by_old_pair(self, found: Occurrences) -> _Neighbours:
        has_before = (found.pairs_before >= 0).nonzero()[0]
        has_after = (found.pairs_after >= 0).nonzero()[0]
        chosen = np.concatenate([has_before, has_after])
        keys = np.concatenate([found.pairs_before[has_before], found.pairs_after[has_after]])
        keys <<= 1
        keys[len(has_before) :] |= _AFTER
        keys |= found.which[chosen] << 33
        order = keys.argsort()
        keys = keys[order]
        firsts = differs(keys).nonzero()[0]
        positions = np.concatenate([found.before[has_before], found.lefts[has_after]])[order]
        keys = keys[firsts]
        counts = _sum_groups(found.weights[chosen[order]], firsts)
        return _Neighbours(positions, firsts, counts, keys >> 33, keys >> 1 & 0xFFFFFFFF, keys & 1)

    def _safe_prefix(self, batch: list[_Candidate], neighbours: _Neighbours) -> int:
        """Return how many of the batch come before everything that the batch creates."""
        negative_counts = np.array([candidate[0] for candidate in batch])
        later = neighbours.merges + 1
        created = -neighbours.counts
        # Behind its own merge, the first that is rarer, and the first that is not more frequent.
        rarer = np.maximum(negative_counts.searchsorted(created, "right"), later)
        equal = np.maximum(negative_counts.searchsorted(created, "left"), later)
        safe = min(int(rarer.min(initial=len(batch))), len(batch))
        for tie in ((equal < rarer) & (equal < safe)).nonzero()[0].tolist():
            rival, end = int(equal[tie]), min(safe, int(rarer[tie]))
            order = self._order_of_created(batch, neighbours, tie)
            if order is not None:
                rival = bisect_left(batch, order, rival, end, key=lambda entry: entry[1:3])
            if rival < end:
                safe = rival
        return safe

    def _order_of_created(
        self, batch: list[_Candidate], neighbours: _Neighbours, group: int
    ) -> tuple[str, str] | None:
        """Return the order of the pair that a group will be; None if the batch may change it."""
        _, left_order, right_order, *_ = batch[int(neighbours.merges[group])]
        merged = left_order[:-1] + right_order
        pair = int(neighbours.old_pairs[group])
        if neighbours.sides[group] == _AFTER:
            other = int(self._at.right[pair])
            grows = any(candidate[4] == other for candidate in batch)
            return None if grows else (merged, self._order[other])
        other = int(self._at.left[pair])
        grows = any(candidate[5] == other for candidate in batch)
        return None if grows else (self._order[other], merged)

    def _apply(
        self, batch: list[_Candidate], found: Occurrences, neighbours: _Neighbours | None
    ) -> None:
        """Merge the occurrences, and number the pairs that come about."""
        first_symbol = len(self._tokens)
        for _, left_order, right_order, _, left, right in batch:
            parts = self._tokens[left], self._tokens[right]
            self.merges.append(parts)
            self._tokens.append(parts[0] + parts[1])
            self._order.append(left_order[:-1] + right_order)

        at = self._at
        at.symbols[found.lefts] = first_symbol + found.which
        at.symbols[found.rights] = NONE
        at.after[found.lefts] = found.after
        at.before[found.after] = found.lefts
        at.pair_at[found.lefts] = NONE
        at.pair_at[found.rights] = NONE
        known_pairs = at.num_pairs
        symbols_after = at.symbols[found.after]
        if neighbours is None or (symbols_after >= first_symbol).any():
            self._add_pairs(found, symbols_after, first_symbol)
        else:
            np.subtract.at(at.counts, neighbours.old_pairs, neighbours.counts)
            merged = first_symbol + neighbours.merges
            is_before = neighbours.sides == _BEFORE
            left = np.where(is_before, at.left[neighbours.old_pairs], merged)
            right = np.where(is_before, merged, at.right[neighbours.old_pairs])
            at.add(neighbours.positions, neighbours.firsts, neighbours.counts, left, right)
        at.counts[[candidate[3] for candidate in batch]] = 0
        frequent = at.counts[known_pairs : at.num_pairs] >= self._threshold
        for candidate in self._candidates(frequent, known_pairs):
            heapq.heappush(self._heap, candidate)

    def _add_pairs(self, found: Occurrences, symbols_after: Integers, first_symbol: int) -> None:
        """Number the new pairs by what is there now, because merged tokens touch one another.

        The pair of two merged tokens belongs to the left one; nothing stands before the right one
        but what the left merge has swallowed.
        """
        at = self._at
        symbols_before = at.symbols[found.before]
        has_before = (symbols_before >= 0).nonzero()[0]
        has_after = (symbols_after >= 0).nonzero()[0]
        chosen = np.concatenate([has_before, has_after])
        weights = found.weights[chosen]
        old = np.concatenate([found.pairs_before[has_before], found.pairs_after[has_after]])
        np.subtract.at(at.counts, old, weights)
        merged = first_symbol + found.which
        left = np.concatenate([symbols_before[has_before], merged[has_after]], dtype=np.int64)
        right = np.concatenate([merged[has_before], symbols_after[has_after]], dtype=np.int64)
        positions = np.concatenate([found.before[has_before], found.lefts[has_after]])
        keys = left << 32 | right
        order = keys.argsort()
        keys = keys[order]
        firsts = differs(keys).nonzero()[0]
        keys = keys[firsts]
        counts = _sum_groups(weights[order], firsts)
        at.add(positions[order], firsts, counts, keys >> 32, keys & 0xFFFFFFFF)


def _sum_groups(weights: IntArray, firsts: Index) -> IntArray:
    return np.add.reduceat(weights, firsts) if len(firsts) else firsts
