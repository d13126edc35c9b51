"""Learning merges: join the most frequent adjacent pair, again and again.

The definition recounts every pair after every merge. A merge changes only the words that contain
its pair, so this form keeps

* `pair_counts`, the count of each adjacent pair over all words,
* `words_with`, for each pair the words that contain (or once contained) it,
* a heap of `(-count, pair)`, whose entries may be out of date: the count of a pair that already
  stands in the heap can only fall, because every merge makes pairs only with its own new token;
  so an entry found stale goes back with its present count, and the top is the maximum.
"""

import heapq
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

_COMPLEMENT = bytes(255 - byte for byte in range(256))

Pair = tuple[int, int]


def learn_merges(word_counts: Mapping[bytes, int], max_merges: int) -> list[tuple[bytes, bytes]]:
    """Return up to `max_merges` merges in order of creation, fewer if no pair is left.

    Each joins the pair with the highest count; of several, the one that is greatest as a tuple of
    byte strings. Overlapping occurrences join left to right: `aaa` becomes `aa a`.
    """
    tokens = [bytes([byte]) for byte in range(256)]
    order = [descending(token) for token in tokens]
    words = [list(word) for word in word_counts]
    frequencies = list(word_counts.values())

    pair_counts: defaultdict[Pair, int] = defaultdict(int)
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, (word, frequency) in enumerate(zip(words, frequencies, strict=True)):
        for pair in pairwise(word):
            pair_counts[pair] += frequency
            words_with[pair].add(index)

    def entry(pair: Pair) -> tuple[int, str, str, Pair]:
        return -pair_counts[pair], order[pair[0]], order[pair[1]], pair

    heap = [entry(pair) for pair in pair_counts]
    heapq.heapify(heap)
    merges: list[tuple[bytes, bytes]] = []
    while heap and len(merges) < max_merges:
        negative_count, _, _, pair = heapq.heappop(heap)
        if pair not in pair_counts:
            continue
        if -negative_count != pair_counts[pair]:
            heapq.heappush(heap, entry(pair))
            continue
        left, right = tokens[pair[0]], tokens[pair[1]]
        merges.append((left, right))
        merged = len(tokens)
        tokens.append(left + right)
        order.append(descending(left + right))

        new_pairs: set[Pair] = set()
        for index in words_with.pop(pair):
            old, frequency = words[index], frequencies[index]
            new = merge_pair(old, pair, merged)
            if len(new) == len(old):
                continue
            words[index] = new
            for old_pair in pairwise(old):
                pair_counts[old_pair] -= frequency
            for new_pair in pairwise(new):
                pair_counts[new_pair] += frequency
                if merged in new_pair:
                    words_with[new_pair].add(index)
                    new_pairs.add(new_pair)
            for old_pair in pairwise(old):
                if pair_counts.get(old_pair) == 0:
                    del pair_counts[old_pair]
                    words_with.pop(old_pair, None)
        for new_pair in new_pairs:
            if new_pair in pair_counts:
                heapq.heappush(heap, entry(new_pair))
    return merges


def merge_pair(word: list[int], pair: Pair, merged: int) -> list[int]:
    """Return `word` with each occurrence of `pair` replaced by `merged`, from left to right."""
    left, right = pair
    result: list[int] = []
    position, last = 0, len(word) - 1
    while position <= last:
        if word[position] == left and position < last and word[position + 1] == right:
            result.append(merged)
            position += 2
        else:
            result.append(word[position])
            position += 1
    return result


def descending(token: bytes) -> str:
    """Return a key that sorts byte strings from greatest to least, for a heap that pops the least.

    Complementing each byte turns their order around. A proper prefix is less than what it begins,
    so its key must be greater: hence the end mark above all bytes.
    """
    return token.translate(_COMPLEMENT).decode("latin-1") + "\u0100"
