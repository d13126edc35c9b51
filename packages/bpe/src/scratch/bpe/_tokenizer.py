"""The tokenizer: text to ids and back, without loss."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from ._encode import apply_merges
from ._patterns import GPT2, compile_pattern
from ._pretokenize import (
    check_special_tokens,
    check_surrogates,
    compile_special_tokens,
    cover_with_words,
    split_special_tokens,
)
from ._stream import StrPath, safe_blocks
from ._vocabulary import Vocabulary, check_tokens, read_gpt2_files

# Words seen before are looked up. The cache is emptied when full, and long words stay outside.
_CACHE_WORDS = 2**15
_CACHE_WORD_CHARS = 64


class Tokenizer:
    """Encodes text as the ids of a vocabulary, and decodes them. Immutable; safe to share.

    >>> from scratch.bpe import Tokenizer, train_bpe_from_iterator
    >>> vocabulary = train_bpe_from_iterator(["low lower lowest"] * 9, vocab_size=260)
    >>> tokenizer = Tokenizer.from_vocabulary(vocabulary)
    >>> ids = tokenizer.encode("a low tower")
    >>> tokenizer.decode(ids)
    'a low tower'

    Args:
        vocab: the bytes of each id, all 256 single bytes and every merge's product among them.
        merges: pairs of tokens in order of creation.
        special_tokens: strings that are one token each wherever they stand; where several start at
            one place the longest wins. Those that the vocabulary lacks are appended after its
            greatest id, in the given order. With `None`, special tokens are ordinary text.
        pattern: a name in `PATTERNS` or a regular expression. No merge crosses the words that it
            matches; text that it leaves out is encoded byte by byte, so that nothing is lost.

    Raises:
        ValueError: if the vocabulary is incomplete, or a special token is empty or given twice.
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str = GPT2,
    ) -> None:
        specials = check_special_tokens(() if special_tokens is None else special_tokens)
        tokens = dict(vocab)
        check_tokens(tokens)
        known = set(tokens.values())
        for token in specials:
            if token.encode() not in known:
                tokens[max(tokens, default=-1) + 1] = token.encode()
        self._vocabulary = Vocabulary(tokens, tuple(merges), specials, pattern)

        self._tokens = self._vocabulary.tokens
        ids: dict[bytes, int] = {}
        for token_id, token in self._tokens.items():
            ids.setdefault(token, token_id)  # where two ids spell the same bytes, the lower one
        self._byte_ids = [ids[bytes([byte])] for byte in range(256)]
        self._special_ids = {token: ids[token.encode()] for token in specials}
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(self._vocabulary.merges):
            self._merges.setdefault((ids[left], ids[right]), (rank, ids[left + right]))
        self._pattern = compile_pattern(self._vocabulary.pattern)
        self._specials = compile_special_tokens(specials)
        self._cache: dict[str, tuple[int, ...]] = {}

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary) -> Self:
        """Return the tokenizer of a vocabulary, with its special tokens and its pattern."""
        return cls(
            vocabulary.tokens,
            vocabulary.merges,
            vocabulary.special_tokens,
            pattern=vocabulary.pattern,
        )

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read a file written by `save`. Raises `ValueError` if it is not one."""
        return cls.from_vocabulary(Vocabulary.load(path))

    @classmethod
    def from_files(
        cls,
        vocab_filepath: StrPath,
        merges_filepath: StrPath,
        special_tokens: Sequence[str] | None = None,
    ) -> Self:
        """Read `vocab.json` and `merges.txt` in the format of GPT-2, whose pattern is assumed."""
        specials = check_special_tokens(() if special_tokens is None else special_tokens)
        vocab, merges = read_gpt2_files(vocab_filepath, merges_filepath, specials)
        return cls(vocab, merges, specials)

    def save(self, path: StrPath) -> None:
        """Write one versioned JSON file with all that this tokenizer is."""
        self._vocabulary.save(path)

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id: the number of rows that an embedding needs."""
        return max(self._tokens) + 1

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The id of each special token."""
        return MappingProxyType(self._special_ids)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token; the id may be a whole number of any kind.

        Raises:
            TypeError: if it is not a whole number.
            ValueError: if the vocabulary has no such id.
        """
        try:
            return self._tokens[operator.index(token_id)]
        except TypeError:
            raise TypeError(f"ids must be whole numbers, got {token_id!r}") from None
        except KeyError:
            raise ValueError(
                f"ids must be in the vocabulary of {len(self._tokens)} tokens "
                f"(0 to {self.vocab_size - 1}), got {operator.index(token_id)}"
            ) from None

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`.

        Raises:
            ValueError: if it holds an unpaired surrogate, naming its index.
        """
        check_surrogates(text)
        return self._encode(text)

    def encode_iterable(self, chunks: Iterable[str]) -> Iterator[int]:
        """Yield the ids of the joined chunks, however they are cut, without joining them all.

        Lazy, and in bounded memory for the named patterns. A custom pattern is cut only at special
        tokens, so text is held back until one comes.

        Raises:
            ValueError: when an unpaired surrogate is met, naming its index in the joined text.
        """
        index = 0
        for block in safe_blocks(
            chunks,
            pattern=self._vocabulary.pattern,
            special_tokens=self._vocabulary.special_tokens,
        ):
            check_surrogates(block, offset=index)
            index += len(block)
            yield from self._encode(block)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: naming the first id that the vocabulary lacks.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of `ids`, exactly. Raises `ValueError` as `decode` does."""
        return b"".join(map(self.token_bytes, ids))

    def __repr__(self) -> str:
        specials = list(self._special_ids)
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens={specials})"

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for ordinary, special in split_special_tokens(text, self._specials):
            for left_out, word in cover_with_words(ordinary, self._pattern):
                if left_out:
                    ids.extend(self._byte_ids[byte] for byte in left_out.encode())
                if word:
                    ids.extend(self._encode_word(word))
            if special is not None:
                ids.append(self._special_ids[special])
        return ids

    def _encode_word(self, word: str) -> Sequence[int]:
        if (known := self._cache.get(word)) is not None:
            return known
        ids = apply_merges([self._byte_ids[byte] for byte in word.encode()], self._merges)
        if len(word) <= _CACHE_WORD_CHARS:
            if len(self._cache) >= _CACHE_WORDS:
                self._cache.clear()
            self._cache[word] = tuple(ids)
        return ids
