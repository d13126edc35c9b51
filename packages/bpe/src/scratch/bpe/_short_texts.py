r"""Short texts: cut them where it is cheap, and look the pieces up.

For a text of a few hundred characters the overhead of arrays is too much. The regular expressions
of the standard library are fast at `\s*\S+`, and where a run of white space begins is a safe cut
(see `_stream`; a line end is none in CL100K and O200K, so there the pieces run on). Such *units*
recur: what they were encoded as is kept, and so it is for the words of units not seen before. One
bounded table holds both, since a word that stands alone is a text of that one word: what ended
its match before, the end of the text ends as well. It starts with the tokens of the vocabulary.

The two libraries disagree on U+001C to U+001F, which the standard library takes for white space.
A unit that holds one may have been cut off wrongly. It is never kept, so it is never found, and a
text that has one is cut into words as a whole.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, count, islice, pairwise

from ._encode import PlainEncoder
from ._patterns import CL100K, GPT2, O200K, compile_pattern
from ._pretokenize import cover_with_words

_UNIT = re.compile(r"\s*\S+|\s+")
_UNIT_WITH_LINE_ENDS = re.compile(r"\s*\S+(?:[\r\n]\s*\S*)*|\s+")
_UNITS = {GPT2: _UNIT, CL100K: _UNIT_WITH_LINE_ENDS, O200K: _UNIT_WITH_LINE_ENDS}
_DISPUTED = re.compile("[\x1c-\x1f]")

_MOST_ADDED, _MOST_CHARS = 2**16, 64
# A merge is one number here, its rank before its product: one comparison finds the first merge.
_ID_BITS, _ID_MASK, _NO_MERGE = 32, 2**32 - 1, 2**62

Ids = tuple[int, ...]


class ShortTexts:
    """Encodes ordinary text by looking up its units.

    Args:
        pattern: the pre-tokenizer pattern.
        plain: encodes the words that are seen for the first time.
        known: words whose ids are known, and no text but words.
    """

    def __init__(self, pattern: str, plain: PlainEncoder, known: Mapping[str, Ids]) -> None:
        self._plain = plain
        self._merges = {
            pair: rank << _ID_BITS | product for pair, (rank, product) in plain.merges.items()
        }
        self._pattern = compile_pattern(pattern)
        units = _UNITS.get(pattern)
        self._find_units = None if units is None else units.findall
        self._known = {word: ids for word, ids in known.items() if not _DISPUTED.search(word)}
        self._num_seeds = len(self._known)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, which holds no surrogates."""
        if self._find_units is None:
            return self._encode_any(text)
        units: list[str] = self._find_units(text)
        try:
            return list(chain.from_iterable(map(self._known.__getitem__, units)))
        except KeyError:
            pass
        if _DISPUTED.search(text):
            return self._encode_any(text)
        found = dict(zip(units, map(self._known.get, units), strict=True))
        unknown = [unit for unit, ids in found.items() if ids is None]
        found.update(self._encode_units(unknown))
        return list(chain.from_iterable(map(found.__getitem__, units)))  # pyright: ignore[reportArgumentType]

    def _encode_units(self, units: Sequence[str]) -> dict[str, Ids]:
        """Encode units of one text, in its order, so that their words are those of all joined."""
        words: list[str] = self._pattern.findall("".join(units))
        known = list(map(self._known.get, words))
        unknown = [word for word, ids in zip(words, known, strict=True) if ids is None]
        new = {word: self._encode_word(word) for word in dict.fromkeys(unknown)}
        self._keep(new)
        found = [new[word] if ids is None else ids for word, ids in zip(words, known, strict=True)]
        number_at_end = dict(zip(accumulate(map(len, words)), count(1)))
        ends = map(number_at_end.__getitem__, accumulate(map(len, units)))
        result: dict[str, Ids] = {}
        begin = 0
        for unit, end in zip(units, ends, strict=True):
            result[unit] = tuple(chain.from_iterable(found[begin:end]))
            begin = end
        self._keep(result)
        return result

    def _encode_any(self, text: str) -> list[int]:
        """Encode word by word. Of a named pattern it keeps none: some may be disputed."""
        ids: list[int] = []
        for left_out, word in cover_with_words(text, self._pattern):
            if left_out:
                ids += [self._plain.byte_ids[byte] for byte in left_out.encode()]
            found = self._known.get(word)
            if found is None:
                found = self._encode_word(word)
                if self._find_units is None:
                    self._keep({word: found})
            ids += found
        return ids

    def _encode_word(self, word: str) -> Ids:
        """Apply the merges; in so short a word looking at all pairs is faster than a heap."""
        encoded = word.encode()
        if len(encoded) > _MOST_CHARS or encoded in self._plain.whole_words:
            return tuple(self._plain.encode_word(encoded))
        byte_ids, merge_of = self._plain.byte_ids, self._merges.get
        ids = list(map(byte_ids.__getitem__, encoded))
        merges = [merge_of(pair, _NO_MERGE) for pair in pairwise(ids)]
        while merges:
            first = min(merges)
            if first == _NO_MERGE:
                break
            at = merges.index(first)
            ids[at] = product = first & _ID_MASK
            del ids[at + 1], merges[at]
            if at:
                merges[at - 1] = merge_of((ids[at - 1], product), _NO_MERGE)
            if at < len(merges):
                merges[at] = merge_of((product, ids[at + 1]), _NO_MERGE)
        return tuple(ids)

    def _keep(self, new: dict[str, Ids]) -> None:
        if max(map(len, new), default=0) > _MOST_CHARS:
            new = {text: ids for text, ids in new.items() if len(text) <= _MOST_CHARS}
        if len(self._known) + len(new) > self._num_seeds + _MOST_ADDED:
            # The tokens of the vocabulary were the first to come. A new table, because
            # another thread may be looking at the old one.
            self._known = dict(islice(self._known.items(), self._num_seeds))
        self._known.update(islice(new.items(), _MOST_ADDED))
