"""Encoding one word: apply the merges in order of creation.

Of all adjacent pairs the one whose merge was created first is joined first, the leftmost of equal
ones. A heap of `(rank, position)` finds it, links to the next and previous symbol keep a merge
from moving the rest, so a word of n bytes takes O(n log n) time, whatever it is made of.
"""

import heapq
from collections.abc import Mapping, Sequence
from itertools import pairwise

_GONE = -1

MergeTable = Mapping[tuple[int, int], tuple[int, int]]
"""A pair of ids -> (rank of its merge, id of the product)."""


def apply_merges(symbols: Sequence[int], merges: MergeTable) -> list[int]:
    """Return the ids left when no adjacent pair of `symbols` has a merge any more."""
    ids = list(symbols)
    after = [*range(1, len(ids)), _GONE]
    before = list(range(-1, len(ids) - 1))
    heap = [
        (merge[0], position)
        for position, pair in enumerate(pairwise(ids))
        if (merge := merges.get(pair))
    ]
    heapq.heapify(heap)
    while heap:
        rank, left = heapq.heappop(heap)
        right = after[left]
        if right == _GONE:
            continue
        merge = merges.get((ids[left], ids[right]))
        if merge is None or merge[0] != rank:
            continue  # one of the two has been merged with another neighbour since
        ids[left], ids[right] = merge[1], _GONE
        after[left] = following = after[right]
        after[right] = _GONE
        if following != _GONE:
            before[following] = left
            if merge := merges.get((ids[left], ids[following])):
                heapq.heappush(heap, (merge[0], left))
        preceding = before[left]
        if preceding != _GONE and (merge := merges.get((ids[preceding], ids[left]))):
            heapq.heappush(heap, (merge[0], preceding))
    return [token_id for token_id in ids if token_id != _GONE]
