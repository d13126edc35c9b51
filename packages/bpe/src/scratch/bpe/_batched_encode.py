"""Applying merges, the array form: in all words of a batch at once, each at its own pace.

`_encode` joins, of all adjacent pairs of a word, the leftmost one whose merge has the lowest rank.
Here each round does that in every word: the ranks of all pairs lie in one array, the minimum of
each word is found, and all its occurrences in the word are joined, of overlapping ones (`aaa`)
every other, from the left. That is what one at a time would do, because joining makes only pairs
that hold the new symbol, and where every merge ranks after those that make its parts, as training
makes them, these rank after the occurrences still waiting. Other merges are left to `_encode`.

Two bytes that are adjacent inside no token never become part of one. Words are cut there first:
long words fall into short pieces. What is left after many rounds goes to the heap of `_encode`
too, so that the time stays near-linear in the length of a word.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ._classes import BoolArray, IntArray
from ._encode import apply_merges
from ._merge_table import MAX_MERGES, MAX_SYMBOLS, NO_MERGE, NO_SYMBOL, MergeTable, SymbolArray
from ._ranges import join_ranges
from ._word_keys import ByteArray

# A round for few symbols is dearer than the heap, and so are many rounds for long pieces.
_SOME_ROUNDS, _FEW_SYMBOLS, _MOST_ROUNDS = 32, 500, 1024
_MANY_DONE = 8


class BatchedMerges:
    """Applies the merges of a vocabulary to many words at once.

    Args:
        tokens: the bytes of each symbol.
        byte_symbols: the symbol of each byte.
        merges: pairs of symbols -> (rank, the symbol they make).
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        byte_symbols: Sequence[int],
        merges: Mapping[tuple[int, int], tuple[int, int]],
    ) -> None:
        if len(tokens) > MAX_SYMBOLS:
            raise ValueError(f"tokens must be at most {MAX_SYMBOLS}, got {len(tokens)}")
        if len(merges) > MAX_MERGES:
            raise ValueError(f"merges must be at most {MAX_MERGES}, got {len(merges)}")
        self._merges = merges
        self._byte_symbols = np.array(byte_symbols, np.int32)
        pairs = np.array(list(merges), np.int32).reshape(-1, 2)
        ranked = np.array(list(merges.values()), np.int64).reshape(-1, 2)
        ranks = np.argsort(np.argsort(ranked[:, 0])).astype(np.int32)  # without gaps
        self._products = np.empty(len(ranks), np.int32)
        self._products[ranks] = ranked[:, 1]
        self._table = MergeTable(pairs[:, 0], pairs[:, 1], ranks)
        first_made = np.full(len(tokens), -1, np.int64)
        np.maximum.at(first_made, ranked[:, 1], ranks)
        self._in_order = bool((first_made[pairs].max(axis=1, initial=-1) < ranks).all())
        all_bytes = self._byte_symbols
        self._byte_ranks = self._table.ranks(all_bytes.repeat(256), np.tile(all_bytes, 256))
        self._may_touch = _adjacent_bytes(
            [tokens[symbol] for symbol in set(self._products.tolist())]
        )

    def apply(self, flat: ByteArray, lengths: IntArray) -> tuple[SymbolArray, IntArray]:
        """Return the symbols of all the words, joined, and how many each has.

        `flat` holds the bytes of the words, joined; `lengths`, none of which is 0, their lengths.
        """
        if not len(lengths):
            return np.empty(0, np.int32), lengths
        word_ends = lengths.cumsum()
        begins = self.begins_piece(flat)
        begins[word_ends[:-1]] = True
        ranks = np.full(len(flat), NO_MERGE, np.int32)
        ranks[:-1] = self._byte_ranks[_byte_pairs(flat)]
        ranks[:-1][begins[1:]] = NO_MERGE
        starts = begins.nonzero()[0]
        piece_lengths = np.diff(starts, append=len(flat))
        symbols, counts = self._apply_to_pieces(self._byte_symbols[flat], ranks, piece_lengths)
        last_pieces = starts.searchsorted(word_ends) - 1
        return symbols, np.diff(counts.cumsum()[last_pieces], prepend=0)

    def begins_piece(self, flat: ByteArray) -> BoolArray:
        """Return for each byte whether no token can hold it together with the one before."""
        begins = np.ones(len(flat), np.bool_)
        np.logical_not(self._may_touch[_byte_pairs(flat)], out=begins[1:])
        return begins

    def _apply_to_pieces(
        self, symbols: SymbolArray, ranks: SymbolArray, lengths: IntArray
    ) -> tuple[SymbolArray, IntArray]:
        # Each piece is followed by NO_SYMBOL, so that no pair reaches into the next one.
        num_pieces = len(lengths)
        pieces = np.arange(num_pieces)
        at = np.arange(len(symbols)) + pieces.repeat(lengths)
        symbols = _spread(symbols, at, len(at) + num_pieces, NO_SYMBOL)
        ranks = _spread(ranks, at, len(at) + num_pieces, NO_MERGE)
        lengths = lengths + 1
        done: list[tuple[IntArray, SymbolArray, IntArray]] = []
        rounds = 0
        while len(pieces):
            lowest = np.minimum.reduceat(ranks, np.cumsum(lengths) - lengths)
            finished = lowest == NO_MERGE
            num_finished = np.count_nonzero(finished)
            if num_finished * _MANY_DONE > len(pieces):
                of_finished = np.repeat(finished, lengths)
                done.append((pieces[finished], symbols[of_finished], lengths[finished]))
                pieces, lowest, lengths = pieces[~finished], lowest[~finished], lengths[~finished]
                symbols, ranks = symbols[~of_finished], ranks[~of_finished]
                if not len(pieces):
                    break
            few_left = rounds >= _SOME_ROUNDS and len(symbols) < _FEW_SYMBOLS
            if few_left or rounds == _MOST_ROUNDS or not self._in_order:
                done.append((pieces, *self._apply_one_by_one(symbols, lengths)))
                break
            rounds += 1
            symbols, ranks, lengths = self._join(symbols, ranks, lengths, lowest)
        return _in_order_of_pieces(done, num_pieces)

    def _join(
        self, symbols: SymbolArray, ranks: SymbolArray, lengths: IntArray, lowest: SymbolArray
    ) -> tuple[SymbolArray, SymbolArray, IntArray]:
        """Join the pairs of the lowest rank in each piece."""
        joins = ranks == np.repeat(lowest, lengths)
        joins &= ranks != NO_MERGE
        at = np.flatnonzero(joins)
        overlaps = np.zeros(len(at), np.bool_)
        np.equal(at[1:], at[:-1] + 1, out=overlaps[1:])
        if overlaps.any():
            runs = np.flatnonzero(~overlaps)
            place = np.arange(len(at)) - runs[np.cumsum(~overlaps) - 1]
            joins[at[place % 2 == 1]] = False
            at = at[place % 2 == 0]
        symbols[at] = self._products[ranks[at]]
        kept = np.ones(len(symbols), np.bool_)
        kept[at + 1] = False
        lengths = lengths - np.add.reduceat(joins, np.cumsum(lengths) - lengths, dtype=np.int64)
        symbols, ranks = symbols[kept], ranks[kept]
        at -= np.arange(len(at))
        changed = np.concatenate([at, at[at > 0] - 1])
        ranks[changed] = self._table.ranks(symbols[changed], symbols[changed + 1])
        return symbols, ranks, lengths

    def _apply_one_by_one(
        self, symbols: SymbolArray, lengths: IntArray
    ) -> tuple[SymbolArray, IntArray]:
        results: list[SymbolArray] = []
        for piece in np.split(symbols, np.cumsum(lengths)[:-1]):
            joined = apply_merges(piece[:-1].tolist(), self._merges)
            results.append(np.array([*joined, NO_SYMBOL], np.int32))
        new_lengths = np.fromiter(map(len, results), np.int64, len(results))
        return np.concatenate(results), new_lengths


def _spread(values: SymbolArray, at: IntArray, size: int, between: np.int32) -> SymbolArray:
    result = np.full(size, between, np.int32)
    result[at] = values
    return result


def _in_order_of_pieces(
    done: list[tuple[IntArray, SymbolArray, IntArray]], num_pieces: int
) -> tuple[SymbolArray, IntArray]:
    """Put the pieces, which were finished in any order, in order, without what parts them."""
    pieces, symbols, lengths = map(np.concatenate, zip(*done, strict=True))
    place = np.empty(num_pieces, np.int64)
    place[pieces] = np.arange(num_pieces)
    begins = (lengths.cumsum() - lengths)[place]
    counts = lengths[place] - 1
    return symbols[join_ranges(begins, counts)], counts


def _byte_pairs(flat: ByteArray) -> NDArray[np.uint16]:
    """Return each byte and the next one as one number."""
    pairs = flat[:-1].astype(np.uint16)
    pairs <<= 8
    pairs |= flat[1:]
    return pairs


def _adjacent_bytes(tokens: Sequence[bytes]) -> BoolArray:
    """Return for each pair of bytes whether some token holds it."""
    result = np.zeros(2**16, np.bool_)
    flat = np.frombuffer(b"".join(tokens), np.uint8)
    if len(flat):
        inside = np.ones(len(flat), np.bool_)
        inside[np.cumsum(list(map(len, tokens))) - 1] = False
        result[_byte_pairs(flat)[inside[:-1]]] = True
    return result
