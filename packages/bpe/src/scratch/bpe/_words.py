"""A stream of bytes as words, one window at a time.

A *window* is a stretch of UTF-8 small enough for the processor's cache, all of whose words are
known. Where may it end? At any true beginning of a word: no pattern looks behind, so from there on
the words are those of a text that starts there. What is needed is only to know which beginnings
are true although more text will come, and that is what the rules of `_scan` say: a beginning
depends on a few bytes after it, and with CL100K on the rest of its run of white space.

For O200K such places are those of `_stream`; for a pattern of one's own, the special tokens.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ._classes import LINE_END, NO_BARRIERS, Barriers, IntArray, kinds_of_code_points
from ._patterns import compile_pattern
from ._scan import SCANNERS
from ._stream import last_safe_cut

WINDOW_BYTES = 2**18

SEPARATOR = -1
"""The special token that stands for the end of a text among others."""

_SEPARATOR_BYTE = b"\xff"  # never in UTF-8, so it is in no special token

# A beginning depends on its own character, and on the next one or three letters.
_AHEAD_BYTES = 8


class Window(NamedTuple):
    """Words of UTF-8 text, one after another; special tokens and separators are among them.

    Attributes:
        buffer: the text.
        starts: where each word begins in `buffer`, in bytes.
        lengths: of the words, in bytes; together they cover `buffer`.
        special_words: which of the words are special tokens, ascending.
        special_tokens: which special token each of them is.
    """

    buffer: bytes
    starts: IntArray
    lengths: IntArray
    special_words: IntArray
    special_tokens: IntArray


class WordScanner:
    """Finds the words of a pattern, and special tokens, in UTF-8 text."""

    def __init__(self, pattern: str, special_tokens: Sequence[str] = ()) -> None:
        self._pattern = pattern
        self._array_form = SCANNERS.get(pattern)
        self._special_tokens = tuple(special_tokens)
        encoded = [token.encode() for token in special_tokens]
        self._numbers = {token: number for number, token in enumerate(encoded)}
        self._longest_bytes = max(map(len, encoded), default=1)
        longest_first = sorted(encoded, key=len, reverse=True)
        self._specials = re.compile(b"|".join(map(re.escape, longest_first))) if encoded else None

    def windows(
        self, blocks: Iterable[bytes], *, window_bytes: int = WINDOW_BYTES
    ) -> Iterator[Window]:
        """Yield the words of the joined blocks, each of which is UTF-8 by itself."""
        pending: list[bytes] = []
        pending_bytes, wanted = 0, window_bytes
        for block in blocks:
            pending.append(block)
            pending_bytes += len(block)
            if pending_bytes <= wanted:
                continue
            buffer = pending[0] if len(pending) == 1 else b"".join(pending)
            position = 0
            while len(buffer) - position > wanted:
                end = _character_boundary(buffer, position + wanted)
                window = self.scan(buffer[position:end], final=False)
                position += len(window.buffer)
                wanted = window_bytes if window.buffer else 2 * wanted
                if window.buffer:
                    yield window
            pending = [buffer[position:]]
            pending_bytes = len(buffer) - position
        if pending_bytes:
            yield self.scan(b"".join(pending), final=True)

    def windows_of_texts(self, texts: Iterable[bytes]) -> Iterator[Window]:
        """Yield the words of texts that are apart, small ones many at a time, in any order."""
        group: list[bytes] = []
        gathered = 0
        for text in texts:
            if len(text) > WINDOW_BYTES:
                yield from self.windows([text])
                continue
            group.append(text)
            gathered += len(text)
            if gathered > WINDOW_BYTES:
                buffer, separators = join_texts(group)
                yield self.scan(buffer, separators=separators)
                group, gathered = [], 0
        if group:
            buffer, separators = join_texts(group)
            yield self.scan(buffer, separators=separators)

    def scan(
        self, buffer: bytes, *, final: bool = True, separators: Barriers = NO_BARRIERS
    ) -> Window:
        """Return the words of `buffer`; unless `final`, those that no text to come can change.

        `separators` are special tokens, too, of number `SEPARATOR`.
        """
        if self._array_form is None and not final:
            buffer, final = buffer[: self._safe_end(buffer)], True
        barriers, special_tokens = self._find_specials(buffer, final=final)
        if len(separators.starts):
            numbers = np.full(len(separators.starts), SEPARATOR)
            starts = np.concatenate([barriers.starts, separators.starts])
            order = starts.argsort(kind="stable")
            lengths = np.concatenate([barriers.lengths, separators.lengths])[order]
            barriers = Barriers(starts[order], lengths)
            special_tokens = np.concatenate([special_tokens, numbers])[order]
        if self._array_form is None:
            starts = self._find_words(buffer, barriers)
        else:
            starts = self._array_form(buffer, barriers)
        if not final:
            end = self._settled_end(buffer, starts, barriers)
            starts, buffer = starts[: np.searchsorted(starts, end)], buffer[:end]
        lengths = np.diff(starts, append=len(buffer))
        special_words = np.searchsorted(starts, barriers.starts)
        return Window(buffer, starts, lengths, special_words, special_tokens)

    def _find_specials(self, buffer: bytes, *, final: bool) -> tuple[Barriers, IntArray]:
        if self._specials is None:
            return NO_BARRIERS, NO_BARRIERS.starts
        # Nearer to the end one may only have begun, or be the beginning of a longer one.
        decided = len(buffer) if final else len(buffer) - self._longest_bytes
        found: list[tuple[int, int, int]] = []
        for match in self._specials.finditer(buffer):
            start, end = match.span()
            if start > decided:
                break
            found.append((start, end - start, self._numbers[match.group()]))
        if not found:
            return NO_BARRIERS, NO_BARRIERS.starts
        starts, lengths, numbers = np.array(found, np.int64).T
        return Barriers(starts, lengths), numbers

    def _settled_end(self, buffer: bytes, starts: IntArray, barriers: Barriers) -> int:
        """Return the last beginning of a word that no text to come can change, or 0."""
        certain = len(buffer) - self._longest_bytes - _AHEAD_BYTES
        nearest = int(np.searchsorted(starts, certain)) - 1
        # Back to an end of a run of white space, so that all runs before it are complete.
        while nearest > 0 and _is_inside_space(buffer, int(starts[nearest])):
            nearest -= 1
        start = int(starts[nearest]) if nearest > 0 else 0
        if len(barriers.starts):
            start = max(start, int(barriers.starts[-1] + barriers.lengths[-1]))
        return start

    def _safe_end(self, buffer: bytes) -> int:
        text = buffer.decode()
        cut = last_safe_cut(text, pattern=self._pattern, special_tokens=self._special_tokens)
        return len(text[:cut].encode())

    def _find_words(self, buffer: bytes, barriers: Barriers) -> IntArray:
        """The same with `regex`; what the pattern leaves out is one word a byte."""
        pattern = compile_pattern(self._pattern)
        ends = np.append(barriers.starts, len(buffer)).tolist()
        starts = np.append(0, barriers.starts + barriers.lengths).tolist()
        found: list[IntArray] = [barriers.starts]
        for start, end in zip(starts, ends, strict=True):
            text = buffer[start:end].decode()
            in_bytes = _byte_offsets(text)
            spans = [match.span() for match in pattern.finditer(text)]
            words = np.array([span for span in spans if span[0] < span[1]], np.int64).reshape(-1, 2)
            begins = np.ones(end - start, np.bool_)
            first, last = in_bytes[words[:, 0]], in_bytes[words[:, 1]]
            inside = Barriers(first, last - first).indices()
            begins[inside] = False
            begins[first] = True
            found.append(np.flatnonzero(begins) + start)
        return np.sort(np.concatenate(found))


def join_texts(texts: Sequence[bytes]) -> tuple[bytes, Barriers]:
    """Return the texts in one buffer, with a separator after each."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    starts = (lengths + 1).cumsum() - 1
    return _SEPARATOR_BYTE.join([*texts, b""]), Barriers(starts, np.ones_like(starts))


def _byte_offsets(text: str) -> IntArray:
    """Return where each character begins in UTF-8, and where the last one ends."""
    if text.isascii():
        return np.arange(len(text) + 1)
    encoded = np.frombuffer(text.encode(), np.uint8)
    return np.append(np.flatnonzero((encoded & 0xC0) != 0x80), len(encoded))


def _is_inside_space(buffer: bytes, position: int) -> bool:
    before = _character_boundary(buffer, position - 1)
    return _is_space(buffer, before) and _is_space(buffer, position)


def _is_space(buffer: bytes, position: int) -> bool:
    character = buffer[position : position + 4].decode(errors="replace")[0]
    return bool(kinds_of_code_points()[ord(character)] <= LINE_END)


def _character_boundary(buffer: bytes, position: int) -> int:
    """Return the start of the character at `position`."""
    while buffer[position] & 0xC0 == 0x80:
        position -= 1
    return position
