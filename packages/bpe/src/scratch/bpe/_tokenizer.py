"""The tokenizer: text to ids and back, without loss."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from os import PathLike
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ._batched_encode import BatchedMerges
from ._decode import Decoder
from ._encode import PlainEncoder
from ._encode_files import encode_files
from ._encoder import Encoder
from ._gpt2 import read_gpt2_files, write_gpt2_files
from ._huggingface import read_huggingface, write_huggingface
from ._manifest import ShardManifest
from ._npy import id_type
from ._patterns import GPT2
from ._pretokenize import (
    check_special_tokens,
    compile_special_tokens,
    encode_utf8,
    split_special_tokens,
)
from ._read import Errors
from ._short_texts import ShortTexts
from ._stream import StrPath
from ._texts import encode_chunks, encode_slices, groups
from ._tiktoken import read_tiktoken, write_tiktoken
from ._vocabulary import Vocabulary, check_tokens
from ._words import WINDOW_BYTES, WordScanner, join_texts
from ._workers import Progress

# Below, looking up units is faster than arrays are.
_SHORT_CHARS = 2048
# A stream is encoded in smaller windows than a text: less memory, and ids come sooner.
_STREAM_WINDOW_BYTES = 2**16
_MOST_ID = 2**31 - 1

TokenIds = NDArray[np.uint16 | np.uint32]


class Tokenizer:
    """Encodes text as the ids of a vocabulary, and decodes them. Immutable; safe to share.

    Threads may use one at the same time, and processes too: forked, or by pickling.

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
        whole_words: tokens that a word becomes when it is spelt just so, whatever the merges say.

    Raises:
        ValueError: if the vocabulary is incomplete, an id is 2**31 or more, or a special token is
            empty or given twice.
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str = GPT2,
        whole_words: Sequence[bytes] = (),
    ) -> None:
        specials = check_special_tokens(() if special_tokens is None else special_tokens)
        tokens = dict(vocab)
        check_tokens(tokens)
        known = set(tokens.values())
        for token in specials:
            if token.encode() not in known:
                tokens[max(tokens, default=-1) + 1] = token.encode()
        self._prepare(Vocabulary(tokens, tuple(merges), specials, pattern, tuple(whole_words)))

    def _prepare(self, vocabulary: Vocabulary) -> None:
        """Make all tables."""
        if max(vocabulary.tokens) > _MOST_ID:
            raise ValueError(f"ids must be less than 2**31, got {max(vocabulary.tokens)}")
        self._vocabulary = vocabulary
        plain = PlainEncoder(vocabulary)
        self._special_ids = plain.special_ids
        self._decoder = Decoder(vocabulary.tokens)
        self._id_type = id_type(self.vocab_size)
        self._specials = compile_special_tokens(vocabulary.special_tokens)
        self._scanner = WordScanner(vocabulary.pattern, vocabulary.special_tokens)
        self._ordinary_scanner = WordScanner(vocabulary.pattern)

        # The merges know symbols, which have no gaps, and of ids that spell the same only one.
        symbols = {token_id: symbol for symbol, token_id in enumerate(plain.ids.values())}
        merges = plain.merges
        if any(token_id != symbol for token_id, symbol in symbols.items()):
            merges = {
                (symbols[left], symbols[right]): (rank, symbols[product])
                for (left, right), (rank, product) in plain.merges.items()
            }
        tokens = list(plain.ids)
        self._encoder = Encoder(
            tokens,
            np.fromiter(symbols, np.uint32, len(symbols)),
            BatchedMerges(tokens, [symbols[each] for each in plain.byte_ids], merges),
            plain.whole_words,
            list(self._special_ids.values()),
        )
        self._short_texts = ShortTexts(vocabulary.pattern, plain, self._known_words(tokens))

    def _known_words(self, tokens: Sequence[bytes]) -> dict[str, tuple[int, ...]]:
        """Return the tokens that are words by themselves, with their ids."""
        texts: list[str] = []
        for token in tokens:
            try:
                texts.append(token.decode())
            except UnicodeDecodeError:
                continue
        buffer, separators = join_texts([text.encode() for text in texts])
        window = self._ordinary_scanner.scan(buffer, separators=separators)
        ids, stops = self._encoder.encode_parted(window)
        is_single = (np.diff(stops, prepend=0) == 1).tolist()
        last_ids = ids[stops - 1].tolist()
        return {
            text: (token_id,)
            for text, single, token_id in zip(texts, is_single, last_ids, strict=True)
            if single
        }

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary) -> Self:
        """Return the tokenizer of a vocabulary, with its special tokens and its pattern."""
        tokenizer = cls.__new__(cls)
        tokenizer._prepare(vocabulary)  # which has been checked already
        return tokenizer

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

    @classmethod
    def from_tiktoken(
        cls,
        path: StrPath,
        *,
        pattern: str,
        special_tokens: Mapping[str, int] = MappingProxyType({}),
    ) -> Self:
        """Read a `.tiktoken` file of ranks, which tells neither the pattern nor special tokens."""
        return cls.from_vocabulary(
            read_tiktoken(path, pattern=pattern, special_tokens=special_tokens)
        )

    @classmethod
    def from_huggingface(cls, path: StrPath) -> Self:
        """Read a `tokenizer.json`. Raises `ValueError` if it means what no `Tokenizer` does."""
        return cls.from_vocabulary(read_huggingface(path))

    def save(self, path: StrPath) -> None:
        """Write one versioned JSON file with all that this tokenizer is."""
        self._vocabulary.save(path)

    def to_files(self, vocab_filepath: StrPath, merges_filepath: StrPath) -> None:
        """Write `vocab.json` and `merges.txt` in the format of GPT-2.

        This and the other formats are checked before they are written: what reads them gives the
        same ids. Raises `ValueError` with the reason if the format cannot say what this is.
        """
        write_gpt2_files(self._vocabulary, vocab_filepath, merges_filepath)

    def to_tiktoken(self, path: StrPath) -> None:
        """Write a `.tiktoken` file of ranks, without special tokens. Checked as `to_files`."""
        write_tiktoken(self._vocabulary, path)

    def to_huggingface(self, path: StrPath) -> None:
        """Write a `tokenizer.json` for `tokenizers` and `transformers`. Checked as `to_files`."""
        write_huggingface(self._vocabulary, path)

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id: the number of rows that an embedding needs."""
        return self._decoder.vocab_size

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
        return self._decoder.token_bytes(token_id)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`.

        Raises:
            ValueError: if it holds an unpaired surrogate, naming its index.
        """
        if isinstance(text, str) and len(text) < _SHORT_CHARS:  # pyright: ignore[reportUnnecessaryIsInstance]
            return self._encode_short(text)
        return self.encode_to_numpy(text).tolist()

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of `text`, in which special tokens are text like any other.

        For text from strangers, who shall not be able to write the end of a document.

        Raises:
            ValueError: if it holds an unpaired surrogate, naming its index.
        """
        if isinstance(text, str) and len(text) < _SHORT_CHARS:  # pyright: ignore[reportUnnecessaryIsInstance]
            encode_utf8(text)
            return self._short_texts.encode(text)
        return self._encode_array(text, self._ordinary_scanner).tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text. Many short texts at once are faster than one by one.

        Raises:
            ValueError: if one holds an unpaired surrogate, naming the text and the index.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of strings, got a single string")
        try:
            encoded = list(map(str.encode, texts))
        except (TypeError, UnicodeEncodeError):  # which of them?
            encoded = [encode_utf8(text, name=f"texts[{i}]") for i, text in enumerate(texts)]
        result: list[list[int]] = []
        for first, last in groups(encoded, WINDOW_BYTES):
            buffer, separators = join_texts(encoded[first:last])
            window = self._scanner.scan(buffer, separators=separators)
            ids, stops = self._encoder.encode_parted(window)
            flat = ids.tolist()
            result += [flat[start:stop] for start, stop in pairwise([0, *stops.tolist()])]
        return result

    def encode_iterable(self, chunks: Iterable[str]) -> Iterator[int]:
        """Yield the ids of the joined chunks, however they are cut, without joining them all.

        Lazy, and in bounded memory for the named patterns. A custom pattern is cut only at special
        tokens, so text is held back until one comes.

        Raises:
            ValueError: when an unpaired surrogate is met, naming its index in the joined text.
        """
        windows = self._scanner.windows(encode_chunks(chunks), window_bytes=_STREAM_WINDOW_BYTES)
        for ids in self._encoder.encode(windows, at_once=1):
            yield from ids.tolist()

    def encode_to_numpy(self, text: str) -> TokenIds:
        """Return the ids of `text` as an array, of `uint16` if all ids fit, else of `uint32`.

        Raises:
            ValueError: as `encode`.
        """
        return self._encode_array(text, self._scanner)

    def encode_blocks(self, blocks: Iterable[bytes]) -> Iterator[TokenIds]:
        """Yield the ids of the joined blocks, each of which is UTF-8 by itself, as arrays.

        The fastest way through a long text, and lazy: `read_blocks` reads files into blocks.

        Raises:
            UnicodeDecodeError: perhaps, if a block is not UTF-8; it is not checked again.
        """
        for ids in self._encoder.encode(self._scanner.windows(blocks)):
            yield ids.astype(self._id_type)

    def encode_files(
        self,
        paths: StrPath | Sequence[StrPath],
        out: StrPath,
        *,
        end_of_file: str | None = None,
        shard_bytes: int = 2**26,
        workers: int | None = None,
        executor: Executor | None = None,
        errors: Errors = "strict",
        progress: Progress | None = None,
    ) -> ShardManifest:
        """Encode files, plain or compressed, to `.npy` shards in the folder `out`.

        One manifest, written last, tells of all shards. If the folder holds some of the same files'
        shards already, of a call that was interrupted, only those that are missing are made. Memory
        does not grow with the files.

        Args:
            paths: one file or several; each is a text by itself.
            out: a folder; it is made if need be.
            end_of_file: a special token to put after every file.
            shard_bytes: about how much text goes into one shard. A compressed file is not cut.
            workers: processes. By default one for small inputs, else one a core.
            executor: encodes in place of processes of our own; any `concurrent.futures.Executor`
                whose workers see the files and the folder.
            errors: "strict" refuses files that are not UTF-8, "replace" reads U+FFFD there.
            progress: called with "encode", the bytes that are done and the bytes in all.

        Raises:
            ValueError: if a value is out of range, a file is not UTF-8, or the folder holds shards
                of other files or settings.
            ImportError: if a file is compressed with zstd and the extra `zstd` is missing.
            OSError: if a file cannot be read or written.
        """
        return encode_files(
            self,
            [paths] if isinstance(paths, (str, PathLike)) else paths,
            out,
            end_of_file=end_of_file,
            shard_bytes=shard_bytes,
            workers=workers,
            executor=executor,
            errors=errors,
            progress=progress,
        )

    def count_tokens(self, text: str) -> int:
        """Return how many ids `text` has. Raises `ValueError` as `encode` does."""
        if len(text) < _SHORT_CHARS:
            return len(self.encode(text))
        windows = self._scanner.windows(encode_slices(text))
        return sum(len(ids) for ids in self._encoder.encode(windows))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD.

        An array, or a long list, is decoded much faster than one id at a time.

        Raises:
            ValueError: naming the first id that the vocabulary lacks.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of `ids`, exactly. Raises `ValueError` as `decode` does."""
        return self._decoder.decode_bytes(ids)

    def _encode_short(self, text: str) -> list[int]:
        encode_utf8(text)
        if self._specials is None or not self._specials.search(text):
            return self._short_texts.encode(text)
        ids: list[int] = []
        for ordinary, special in split_special_tokens(text, self._specials):
            ids += self._short_texts.encode(ordinary)
            if special is not None:
                ids.append(self._special_ids[special])
        return ids

    def _encode_array(self, text: str, scanner: WordScanner) -> TokenIds:
        windows = scanner.windows(encode_slices(text))
        parts = [ids.astype(self._id_type) for ids in self._encoder.encode(windows)]
        return np.concatenate([np.empty(0, self._id_type), *parts])

    def __repr__(self) -> str:
        specials = list(self._special_ids)
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens={specials})"

    def __reduce__(self) -> tuple[Callable[[Vocabulary], Self], tuple[Vocabulary]]:
        return type(self).from_vocabulary, (self._vocabulary,)
