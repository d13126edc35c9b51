"""What words are encoded as: every word is looked up, and the unseen ones are encoded together.

A word's *value* is its id if it has one. Else it is the number of a *span* of ids, plus `SPAN`. A
span may have any length, none included; what is once in a span stays there, so a value means the
same as long as the tables exist.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._batched_encode import BatchedMerges
from ._classes import IntArray
from ._ranges import join_ranges
from ._word_cache import MediumWords, ShortWords, ValueArray
from ._word_keys import (
    MEDIUM_BYTES,
    ByteArray,
    KeyArray,
    WordKeys,
    sort_medium,
    spell_long,
    spell_medium,
    spell_short,
)
from ._words import Window

IdArray = NDArray[np.uint32]

SPAN = np.uint32(2**31)
NOTHING = SPAN  # span 0, which is empty

_UNKNOWN = 2**32 - 1
_NONE = np.empty(0, np.int64)

_SHORT_BITS, _MEDIUM_BITS = 17, 17
_LONG_WORDS, _LONG_BYTES = 2**16, 128
_MOST_SPAN_IDS = 2**21


class Unseen:
    """Words that are in no table, and the places that wait for their values."""

    def __init__(self) -> None:
        self.short: list[tuple[ValueArray, IntArray, KeyArray]] = []
        self.medium: list[tuple[ValueArray, IntArray, KeyArray, KeyArray]] = []
        self.long: list[tuple[ValueArray, IntArray, list[bytes]]] = []


class WordIds:
    """The tables, which start with the tokens of the vocabulary.

    Args:
        tokens: the bytes of each symbol.
        ids: the id of each symbol.
        merges: what applies the merges, to symbols.
        whole_words: the id of each word that is one token although no merges lead there.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        ids: IdArray,
        merges: BatchedMerges,
        whole_words: Mapping[bytes, int],
    ) -> None:
        self._ids, self._merges, self._whole_words = ids, merges, whole_words
        self._short, self._medium = ShortWords(_SHORT_BITS), MediumWords(_MEDIUM_BITS)
        self._long: dict[bytes, int] = {}
        self._span_begins = np.zeros(2**10, np.int64)
        self._span_lengths = np.zeros(2**10, np.int64)
        self._span_ids = np.zeros(2**12, np.uint32)
        self._num_spans, self._num_span_ids = 1, 0
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        starts = lengths.cumsum() - lengths
        unseen = Unseen()
        self.look_up(Window(b"".join(tokens), starts, lengths, _NONE, _NONE), unseen)
        self.encode(unseen)

    @property
    def is_full(self) -> bool:
        """Whether it is time for new tables: spans are never given up."""
        return self._num_span_ids > _MOST_SPAN_IDS

    def encode(self, unseen: Unseen) -> None:
        """Encode what is unseen in one batch, and fill in the values that wait for it."""
        self._fill_in(unseen, self._encode_words)

    def look_up(self, window: Window, unseen: Unseen) -> ValueArray:
        keys = WordKeys(window)
        values, missing, longer = self._short.find(keys.short)
        if len(missing):
            unseen.short.append((values, missing, keys.short[missing]))
        is_medium = keys.lengths[longer] <= MEDIUM_BYTES
        medium, long = longer[is_medium], longer[~is_medium]
        if len(medium):
            low, high = keys.medium(medium)
            values[medium], missing = self._medium.find(low, high)
            if len(missing):
                unseen.medium.append((values, medium[missing], low[missing], high[missing]))
        if len(long):
            words = keys.long(long)
            known = [self._long.get(word, _UNKNOWN) for word in words]
            found = np.array(known, np.uint32)
            values[long] = found
            missing = (found == _UNKNOWN).nonzero()[0]
            if len(missing):
                unseen.long.append((values, long[missing], [words[i] for i in missing.tolist()]))
        return values

    def _fill_in(self, unseen: Unseen, encode: Callable[[ByteArray, IntArray], ValueArray]) -> None:
        """Encode what is unseen, each word once, remember it, and fill in the values."""
        keys = _joined(keys for *_, keys in unseen.short)
        low = _joined(low for _, _, low, _ in unseen.medium)
        high = _joined(high for *_, high in unseen.medium)
        long = list(dict.fromkeys(word for *_, words in unseen.long for word in words))
        if not (len(keys) or len(low) or long):
            return
        keys, which_key = np.unique(keys, return_inverse=True)
        order, firsts = sort_medium(low, high)
        which_pair = np.empty(len(order), np.int64)
        which_pair[order] = np.arange(len(firsts)).repeat(np.diff(firsts, append=len(order)))
        low, high = low[order[firsts]], high[order[firsts]]

        spelt = (spell_short(keys), spell_medium(low, high), spell_long(long))
        flat = np.concatenate([letters for letters, _ in spelt])
        lengths = np.concatenate([lengths for _, lengths in spelt])
        values = encode(flat, lengths)
        short, medium, rest = np.split(values, [len(keys), len(keys) + len(low)])
        self._short.insert(keys, short)
        self._medium.insert(low, high, medium)
        _fill(((waiting, at) for waiting, at, _ in unseen.short), short[which_key])
        _fill(((waiting, at) for waiting, at, *_ in unseen.medium), medium[which_pair])
        value_of = dict(zip(long, rest.tolist(), strict=True))
        for waiting, at, words in unseen.long:
            waiting[at] = [value_of[word] for word in words]
        if len(self._long) + len(value_of) > _LONG_WORDS:
            self._long.clear()
        self._long.update((w, v) for w, v in value_of.items() if len(w) <= _LONG_BYTES)

    def _encode_words(self, flat: ByteArray, lengths: IntArray) -> ValueArray:
        """Return a value for each word, put together from the values of its pieces."""
        ends = lengths.cumsum()
        if self._whole_words:  # a piece is no word, and what it spells may be one as a whole
            values = self._encode_pieces(flat, lengths)
            self._put_whole_words(flat, ends, values)
            return values
        begins = self._merges.begins_piece(flat)
        begins[ends[:-1]] = True
        starts = begins.nonzero()[0]
        piece_lengths = np.diff(starts, append=len(flat))
        pieces = Window(flat.tobytes(), starts, piece_lengths, _NONE, _NONE)
        unseen = Unseen()
        piece_values = self.look_up(pieces, unseen)
        self._fill_in(unseen, self._encode_pieces)
        ids, id_ends = self.spread(piece_values)
        last_pieces = starts.searchsorted(ends) - 1
        values = piece_values[last_pieces]
        several = np.diff(last_pieces, prepend=-1) > 1
        counts = np.diff(id_ends[last_pieces], prepend=0)
        values[several] = self._add_spans(ids[several.repeat(counts)], counts[several])
        return values

    def _encode_pieces(self, flat: ByteArray, lengths: IntArray) -> ValueArray:
        symbols, counts = self._merges.apply(flat, lengths)
        ids = self._ids[symbols]
        values = ids[counts.cumsum() - 1]
        several = counts > 1
        values[several] = self._add_spans(ids[several.repeat(counts)], counts[several])
        return values

    def _put_whole_words(self, flat: ByteArray, ends: IntArray, values: ValueArray) -> None:
        text = flat.tobytes()
        begin = 0
        for number, end in enumerate(ends.tolist()):
            whole = self._whole_words.get(text[begin:end])
            if whole is not None:
                values[number] = whole
            begin = end

    def _add_spans(self, ids: IdArray, lengths: IntArray) -> ValueArray:
        """Return the values of new spans that hold these ids, one after another."""
        start, ids_start = self._num_spans, self._num_span_ids
        self._num_spans += len(lengths)
        self._num_span_ids += len(ids)
        self._span_begins = _with_room(self._span_begins, self._num_spans)
        self._span_lengths = _with_room(self._span_lengths, self._num_spans)
        self._span_ids = _with_room(self._span_ids, self._num_span_ids)
        self._span_ids[ids_start : self._num_span_ids] = ids
        self._span_begins[start : self._num_spans] = lengths.cumsum() - lengths + ids_start
        self._span_lengths[start : self._num_spans] = lengths
        return np.arange(start, self._num_spans, dtype=np.uint32) | SPAN

    def spread(self, values: ValueArray) -> tuple[IdArray, IntArray]:
        """Return the ids that the values stand for, and how many there are up to each value."""
        several = (values >= SPAN).nonzero()[0]
        counts = np.ones(len(values), np.int64)
        spans = (values[several] ^ SPAN).astype(np.intp)
        lengths, begins = self._span_lengths[spans], self._span_begins[spans]
        counts[several] = lengths
        ends = counts.cumsum()
        if not len(several):
            return values, ends
        starts = ends - counts
        ids = np.empty(int(ends[-1]) + 1, np.uint32)
        ids[starts] = values  # those of spans are overwritten, empty ones by what follows
        into = join_ranges(starts[several], lengths)
        ids[into] = self._span_ids[join_ranges(begins, lengths)]
        return ids[:-1], ends


def _joined(arrays: Iterable[KeyArray]) -> KeyArray:
    return np.concatenate([np.empty(0, np.uint64), *arrays])


def _fill(waiting: Iterable[tuple[ValueArray, IntArray]], values: ValueArray) -> None:
    start = 0
    for target, at in waiting:
        target[at] = values[start : start + len(at)]
        start += len(at)


def _with_room(column: NDArray[Any], size: int) -> NDArray[Any]:
    if size <= len(column):
        return column
    longer = np.zeros(max(size, 2 * len(column)), column.dtype)
    longer[: len(column)] = column
    return longer
