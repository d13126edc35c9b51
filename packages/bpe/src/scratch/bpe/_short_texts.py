r"""Short texts: cut them where it is cheap, and look the pieces up.

For a text of a few hundred characters the overhead of arrays is too much. The regular expressions
of the standard library are fast at `\s*\S+`, and where a run of white space begins is a safe cut
(see `_stream`; a line end is none in CL100K and O200K, so there the pieces run on). Such *units*
recur: what they were encoded as is kept, and so it is for the words of units not seen before.
Both tables are bounded, and start with the tokens of the vocabulary.

The two libraries disagree on U+001C to U+001F, which the standard library takes for white space.
A unit that holds one may have been cut off wrongly. It is never kept, so it is never found, and a
text that has one is cut into words as a whole.
"""

import re
from collections.abc import Mapping
from itertools import chain

from ._encode import PlainEncoder
from ._patterns import CL100K, GPT2, O200K, compile_pattern
from ._pretokenize import cover_with_words

_UNIT = re.compile(r"\s*\S+|\s+")
_UNIT_WITH_LINE_ENDS = re.compile(r"\s*\S+(?:[\r\n]\s*\S*)*|\s+")
_UNITS = {GPT2: _UNIT, CL100K: _UNIT_WITH_LINE_ENDS, O200K: _UNIT_WITH_LINE_ENDS}
_DISPUTED = re.compile("[\x1c-\x1f]")

_MOST_KEPT, _MOST_CHARS = 2**17, 64

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
        self._pattern = compile_pattern(pattern)
        units = _UNITS.get(pattern)
        self._find_units = None if units is None else units.findall
        self._seed = {word: ids for word, ids in known.items() if not _DISPUTED.search(word)}
        self._words, self._units = dict(self._seed), dict(self._seed)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, which holds no surrogates."""
        if self._find_units is None:
            return self._encode_words(text)
        units: list[str] = self._find_units(text)
        try:
            return list(chain.from_iterable(map(self._units.__getitem__, units)))
        except KeyError:
            pass
        if _DISPUTED.search(text):
            return self._encode_words(text)
        ids: list[int] = []
        known = self._units
        for unit in units:
            found = known.get(unit)
            if found is None:
                found = tuple(self._encode_words(unit))
                if len(unit) <= _MOST_CHARS:
                    if len(known) >= _MOST_KEPT:
                        known = self._units = dict(self._seed)
                    known[unit] = found
            ids += found
        return ids

    def _encode_words(self, text: str) -> list[int]:
        ids: list[int] = []
        known = self._words
        for left_out, word in cover_with_words(text, self._pattern):
            if left_out:
                ids += [self._plain.byte_ids[byte] for byte in left_out.encode()]
            found = known.get(word)
            if found is None:
                found = tuple(self._plain.encode_word(word.encode()))
                if len(word) <= _MOST_CHARS:
                    if len(known) >= _MOST_KEPT:
                        known = self._words = dict(self._seed)
                    known[word] = found
            ids += found
        return ids
