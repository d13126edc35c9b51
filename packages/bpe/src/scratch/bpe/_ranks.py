"""Ranks and merges, two ways to say which parts of a word join.

tiktoken knows *ranks*, one number a token: two adjacent parts join if together they are a token,
the lowest rank first, the leftmost of equals; a word that is a token is that token at once. The
other files list *merges*, the pairs themselves, the first one first.

**One pair makes each token.** Joining only removes ends of parts. So when a word is joined and a
token z comes about in it, no part reached across the ends of z before, and within z the same
pairs joined in the same order as if z stood alone: which of them is next, the lowest and the
leftmost, does not depend on what stands around. Hence the last pair (x, y) of z alone is the only
one that ever makes z, and if z alone does not end as one token, nothing makes z in any word.

**These pairs, in the order of the ranks of their products, do what the ranks do.** Whatever ranks
join next in a word is one of these pairs, by the above. It is the first of all that ranks allow,
hence of the fewer that the merges allow: both take the same step, and so on to the end. Nothing
here asks for parts to have lower ranks than their product, as learnt ones have.
"""

import heapq
from collections.abc import Mapping
from itertools import pairwise

from ._encode import PlainEncoder, apply_merges
from ._vocabulary import Vocabulary

_GONE = -1


def merges_from_ranks(
    ranks: Mapping[bytes, int],
) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Return the merges that join as `ranks` do, and the tokens that only a whole word becomes.

    Both are in the order of rank.

    Raises:
        ValueError: if two tokens have the same rank.
    """
    merges: list[tuple[bytes, bytes]] = []
    whole_words: list[bytes] = []
    in_order = sorted(ranks, key=ranks.__getitem__)
    for before, token in pairwise(in_order):
        if ranks[before] == ranks[token]:
            raise ValueError(
                f"ranks must be distinct, got {ranks[token]} for {before!r} and {token!r}"
            )
    for token in in_order:
        if len(token) < 2:
            continue
        split = _last_split(token, ranks)
        if split:
            merges.append((token[:split], token[split:]))
        else:
            whole_words.append(token)
    return merges, whole_words


def unreached_tokens(vocabulary: Vocabulary) -> list[bytes]:
    """Return the tokens that merges do not make of their own bytes, and hence of none."""
    plain = PlainEncoder(vocabulary)

    def is_reached(token: bytes) -> bool:
        return len(apply_merges([plain.byte_ids[byte] for byte in token], plain.merges)) == 1

    return [token for token in plain.ids if not is_reached(token)]


def _last_split(token: bytes, ranks: Mapping[bytes, int]) -> int:
    """Return where the last two parts of `token` meet before they join, 0 if they never do.

    A part goes from its start to `end[start]`. A heap entry `(rank, start, stop)` says that the
    part at `start` and the next one, which ends at `stop`, are a token of that rank together.
    """
    length = len(token)
    end = [*range(1, length + 1), _GONE]
    before = list(range(-1, length))
    heap = [
        (rank, start, start + 2)
        for start in range(length - 1)
        if (rank := ranks.get(token[start : start + 2])) is not None
    ]
    heapq.heapify(heap)
    middle = 0
    while heap:
        _, start, stop = heapq.heappop(heap)
        if end[end[start]] != stop:
            continue  # one of the two has joined another part since
        middle = end[start]
        end[start], end[middle] = stop, _GONE
        before[stop] = start
        if stop < length and (rank := ranks.get(token[start : end[stop]])) is not None:
            heapq.heappush(heap, (rank, start, end[stop]))
        if start > 0 and (rank := ranks.get(token[before[start] : stop])) is not None:
            heapq.heappush(heap, (rank, before[start], stop))
    return middle if end[0] == length else 0
