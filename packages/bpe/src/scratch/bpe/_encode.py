"""Encoding, the plain form: find the words, and apply the merges to each in order of creation.

Of all adjacent pairs the one whose merge was created first is joined first, the leftmost of equal
ones. A heap of `(rank, position)` finds it, links to the next and previous symbol keep a merge
from moving the rest, so a word of n bytes takes O(n log n) time, whatever it is made of.
"""

import heapq
from collections.abc import Mapping, Sequence
from itertools import pairwise

from ._patterns import compile_pattern
from ._pretokenize import compile_special_tokens, cover_with_words, split_special_tokens
from ._vocabulary import Vocabulary

_GONE = -1

MergeTable = Mapping[tuple[int, int], tuple[int, int]]
"""A pair of ids -> (rank of its merge, id of the product)."""


class PlainEncoder:
    """The definition of encoding, to read, and to hold every faster form against.

    Attributes:
        ids: the id of each token.
        byte_ids: the id of each single byte.
        merges: the merges of the vocabulary, by pairs of ids.
        special_ids: the id of each special token.
        whole_words: the ids of words that are tokens although no merges lead there.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.ids = ids = dict[bytes, int]()
        for token_id, token in vocabulary.tokens.items():
            ids.setdefault(token, token_id)  # where two ids spell the same bytes, the lower one
        self.byte_ids = [ids[bytes([byte])] for byte in range(256)]
        self.special_ids = {token: ids[token.encode()] for token in vocabulary.special_tokens}
        self.whole_words = {token: ids[token] for token in vocabulary.whole_words}
        self.merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(vocabulary.merges):
            self.merges.setdefault((ids[left], ids[right]), (rank, ids[left + right]))
        self._pattern = compile_pattern(vocabulary.pattern)
        self._specials = compile_special_tokens(vocabulary.special_tokens)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        ids: list[int] = []
        for ordinary, special in split_special_tokens(text, self._specials):
            for left_out, word in cover_with_words(ordinary, self._pattern):
                ids += [self.byte_ids[byte] for byte in left_out.encode()]
                if word:
                    ids += self.encode_word(word.encode())
            if special is not None:
                ids.append(self.special_ids[special])
        return ids

    def encode_word(self, word: bytes) -> list[int]:
        """Return the ids of one word."""
        whole = self.whole_words.get(word)
        if whole is not None:
            return [whole]
        return apply_merges([self.byte_ids[byte] for byte in word], self.merges)


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
