"""Decoding: ids to bytes with one gather, and to text as the bytes come.

A character may take several tokens. `StreamDecoder` holds bytes back until the character they begin
is complete, so what it has given out never changes.
"""

import codecs
import operator
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ._classes import IntArray
from ._ranges import join_ranges

_FEW = 64
_AT_ONCE = 2**15  # bounds the indices, of which there is one a byte


class Decoder:
    """The bytes of each id, for one id and for many at once."""

    def __init__(self, tokens: Mapping[int, bytes]) -> None:
        self._tokens = tokens = dict(sorted(tokens.items()))
        self.vocab_size = max(tokens) + 1
        ids = np.fromiter(tokens, np.int64, len(tokens))
        lengths = np.fromiter(map(len, tokens.values()), np.int64, len(tokens))
        self._is_dense = len(ids) == self.vocab_size
        if self._is_dense:  # with gaps, a table of all ids might be huge
            self._flat = np.frombuffer(b"".join(tokens.values()), np.uint8)
            self._lengths = lengths
            self._starts = lengths.cumsum() - lengths

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one id. Raises as `Tokenizer.token_bytes` does."""
        try:
            return self._tokens[operator.index(token_id)]
        except TypeError:
            raise TypeError(f"ids must be whole numbers, got {token_id!r}") from None
        except KeyError:
            raise ValueError(
                f"ids must be in the vocabulary of {len(self._tokens)} tokens "
                f"(0 to {self.vocab_size - 1}), got {operator.index(token_id)}"
            ) from None

    def decode_bytes(self, ids: Iterable[int] | NDArray[np.integer[Any]]) -> bytes:
        """Return the bytes of all ids."""
        array = self._as_array(ids) if self._is_dense else None
        if array is None:
            return b"".join(map(self.token_bytes, ids))
        is_bad = array.view(np.uint64) >= self.vocab_size  # a negative id is a great one
        if is_bad.any():
            self.token_bytes(int(array[is_bad.argmax()]))
        parts = range(0, len(array), _AT_ONCE)
        return b"".join([self._gather(array[start : start + _AT_ONCE]) for start in parts])

    def _gather(self, ids: IntArray) -> bytes:
        at = join_ranges(self._starts[ids], self._lengths[ids])
        return self._flat[at].tobytes()

    @staticmethod
    def _as_array(ids: Iterable[int] | NDArray[np.integer[Any]]) -> IntArray | None:
        """Return many ids as an array, or None where they are few, or not whole numbers."""
        array: NDArray[Any]
        if isinstance(ids, np.ndarray):
            array = cast("NDArray[Any]", ids)
        elif isinstance(ids, (list, tuple)) and len(ids) >= _FEW:
            try:
                array = np.array(ids)
            except (ValueError, OverflowError):
                return None
        else:
            return None
        if array.ndim != 1 or array.dtype.kind not in "iu":
            return None
        if array.dtype.itemsize == 8 and array.dtype.kind == "u" and (array >= 2**63).any():
            return None
        return array.astype(np.int64)


class SupportsTokenBytes(Protocol):
    """What a `StreamDecoder` asks of a tokenizer."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one id."""
        ...


class StreamDecoder:
    """Decodes ids as they come, and never gives out half a character.

    >>> from scratch.bpe import StreamDecoder, Tokenizer
    >>> tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])
    >>> stream = StreamDecoder(tokenizer)
    >>> [stream.feed(token_id) for token_id in "é!".encode()]
    ['', 'é', '!']
    >>> stream.finish()
    ''

    Bytes that are no UTF-8 become U+FFFD, just as in `Tokenizer.decode`: the parts, joined, are
    what it returns for all ids.
    """

    def __init__(self, tokenizer: SupportsTokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """Return the text that one more id completes, which may be empty.

        Raises:
            ValueError: if the vocabulary has no such id; the stream is as before.
        """
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """Return U+FFFD if the last character is not complete, and start anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
